//! The disk tier as its callers see it, with crashes, faults and damage.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use super::backend::Fuse;
use super::kit::{NOW, delete, key, killed_copy, open_with, options};
use super::{Disk, DiskOptions, DiskState, Floor, Truth, open};
use crate::clock::{Clock, Timestamp};
use crate::datadir::DataDir;
use crate::entry::{Entry, Parts};
use crate::error::ErrorKind;
use crate::key::{Key, Namespace, Tag};

fn open_at(path: &Path) -> (Disk, Truth) {
    open_with(path, options(), Fuse::none())
}

fn entry(text: &str, body: &[u8], sequence: u64) -> Entry {
    tagged(text, body, &["tag"], sequence)
}

fn tagged(text: &str, body: &[u8], tags: &[&str], sequence: u64) -> Entry {
    let parts = Parts { head: b"head", body, tags, stored_at: NOW, expires_at: Timestamp::NEVER, sequence };
    Entry::new(key(text), &parts)
}

fn body(disk: &Disk, text: &str) -> Option<Vec<u8>> {
    disk.get(key(text)).map(|entry| entry.body().to_vec())
}

#[test]
fn what_was_flushed_comes_back_after_a_close_and_after_a_kill() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    let first = truth.first_sequence;
    for number in 0..100 {
        disk.put(&entry(&format!("a:{number}"), format!("body {number}").as_bytes(), first + number));
    }
    assert_eq!(body(&disk, "a:7").unwrap(), b"body 7", "found before it is written");
    disk.flush().unwrap();
    assert_eq!(body(&disk, "a:7").unwrap(), b"body 7", "found after it is written");
    assert_eq!(disk.status().entries, 100);
    let killed = killed_copy(temp.path());
    disk.close().unwrap();
    disk.close().unwrap();
    drop(disk);
    for path in [temp.path(), killed.path()] {
        let (disk, again) = open_at(path);
        assert!(again.first_sequence > first + 100, "sequences never repeat");
        assert_eq!(disk.status().state, DiskState::Healthy);
        for number in 0..100 {
            assert_eq!(body(&disk, &format!("a:{number}")).unwrap(), format!("body {number}").as_bytes());
        }
        assert_eq!(body(&disk, "a:100"), None);
        let mut seen = Vec::new();
        disk.recover(&mut |entry, _| {
            seen.push(entry.sequence() - first);
            if seen.len() == 50 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(seen, (50..100).rev().collect::<Vec<_>>(), "most recently written first");
    }
}

#[test]
fn an_acknowledged_delete_or_invalidation_survives_a_kill_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    let first = truth.first_sequence;
    for name in ["del:1", "ns:1", "other:1"] {
        disk.put(&entry(name, b"old", first + 1));
    }
    disk.put(&tagged("tagged:1", b"old", &["t"], first + 1));
    disk.flush().unwrap();
    delete(&disk, "del:1", first + 2);
    disk.raise(Floor::Namespace(Namespace::parse("ns").unwrap()), first + 3).unwrap();
    disk.raise(Floor::Tag(Tag::parse("t").unwrap()), first + 4).unwrap();
    let killed = killed_copy(temp.path());
    disk.flush().unwrap();
    let later = killed_copy(temp.path());
    for path in [killed.path(), later.path()] {
        // Twice in a row.
        for _ in 0..2 {
            let (disk, truth) = open_at(path);
            for name in ["del:1", "ns:1", "tagged:1"] {
                assert_eq!(body(&disk, name), None, "{name}");
            }
            assert_eq!(body(&disk, "other:1").unwrap(), b"old");
            assert_eq!(truth.floors.len(), 2);
            let mut keys = Vec::new();
            disk.recover(&mut |entry, _| {
                keys.push(entry.key().to_string());
                ControlFlow::Continue(())
            });
            assert_eq!(keys, ["other:1"]);
        }
    }
}

#[test]
fn a_put_older_than_its_delete_is_dead_in_any_order() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    let first = truth.first_sequence;
    delete(&disk, "a:1", first + 10);
    disk.put(&entry("a:1", b"late", first + 5));
    assert_eq!(body(&disk, "a:1"), None);
    disk.flush().unwrap();
    disk.put(&entry("a:1", b"late", first + 6));
    disk.flush().unwrap();
    assert_eq!(body(&disk, "a:1"), None, "also after its grave was settled");
    assert_eq!(disk.status().refused, 2);
    disk.put(&entry("a:1", b"new", first + 11));
    delete(&disk, "a:1", first + 9);
    assert_eq!(body(&disk, "a:1").unwrap(), b"new", "a newer one lives");
    disk.put(&entry("a:1", b"older", first + 10));
    disk.flush().unwrap();
    assert_eq!(body(&disk, "a:1").unwrap(), b"new");
    disk.raise(Floor::All, first + 12).unwrap();
    assert_eq!(body(&disk, "a:1"), None);
}

#[test]
fn a_damaged_foreign_or_newer_file_is_set_aside_and_persistence_resumes() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    for number in 0..200 {
        disk.put(&entry(&format!("a:{number}"), &[7; 3000], truth.first_sequence + number));
    }
    disk.close().unwrap();
    drop(disk);
    let bulk = fs::read(temp.path().join("cache.redb")).unwrap();
    let zeroed = [&bulk[..4096], &vec![0; bulk.len() - 4096]].concat();
    for (what, bytes) in [
        ("truncated", &bulk[..bulk.len() / 2]),
        ("cut within its header", &bulk[..100]),
        ("foreign", b"SQLite format 3\0 and so on".as_slice()),
        ("zeroed", &zeroed),
        ("zeros", &[0; 8192]),
    ] {
        for name in ["cache.redb", "cache-truth.redb"] {
            let copy = killed_copy(temp.path());
            fs::write(copy.path().join(name), bytes).unwrap();
            let (disk, truth) = open_at(copy.path());
            for number in 0..200 {
                let found = body(&disk, &format!("a:{number}"));
                assert!(found.is_none_or(|body| body == [7; 3000]), "{what} {name}");
            }
            let first = truth.first_sequence;
            disk.put(&entry("b:1", b"resumed", first + 1000));
            disk.flush().unwrap();
            assert!(copy.path().join("quarantine").join(name).exists(), "{what} {name}");
            disk.close().unwrap();
            drop(disk);
            assert_eq!(body(&open_at(copy.path()).0, "b:1").unwrap(), b"resumed", "{what} {name}");
        }
    }
}

#[test]
fn a_bulk_without_its_own_truth_is_not_believed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for temp in [&one, &two] {
        let (disk, truth) = open_at(temp.path());
        disk.put(&entry("a:1", b"old", truth.first_sequence));
        disk.close().unwrap();
    }
    fs::copy(one.path().join("cache.redb"), two.path().join("cache.redb")).unwrap();
    fs::remove_file(one.path().join("cache-truth.redb")).unwrap();
    for temp in [&one, &two] {
        let (disk, _) = open_at(temp.path());
        assert_eq!(body(&disk, "a:1"), None);
        assert!(temp.path().join("quarantine/cache.redb").exists());
    }
}

#[test]
fn an_older_copy_of_the_bulk_beside_a_newer_truth_is_not_believed() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    disk.put(&entry("a:1", b"old", truth.first_sequence));
    disk.flush().unwrap();
    let old = killed_copy(temp.path());
    delete(&disk, "a:1", truth.first_sequence + 1);
    disk.close().unwrap();
    drop(disk);
    fs::copy(old.path().join("cache.redb"), temp.path().join("cache.redb")).unwrap();
    assert_eq!(body(&open_at(temp.path()).0, "a:1"), None);
}

#[test]
fn a_flipped_bit_in_the_file_never_yields_a_wrong_byte() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    for number in 0..40 {
        disk.put(&entry(&format!("a:{number}"), &[9; 1500], truth.first_sequence + number));
    }
    disk.close().unwrap();
    drop(disk);
    let bytes = fs::read(temp.path().join("cache.redb")).unwrap();
    let copy = killed_copy(temp.path());
    let records = bytes.windows(4).enumerate().filter(|(_, window)| window == b"head").map(|(at, _)| at);
    let marks: Vec<usize> = records.flat_map(|at| [at - 30, at - 5, at, at + 200]).take(24).collect();
    assert!(marks.len() >= 8);
    let others = (0..16).map(|step| bytes.len() / 16 * step + 77);
    for at in marks.iter().copied().chain(others) {
        let mut mutated = bytes.clone();
        mutated[at] ^= 4;
        fs::write(copy.path().join("cache.redb"), &mutated).unwrap();
        fs::copy(temp.path().join("cache-truth.redb"), copy.path().join("cache-truth.redb")).unwrap();
        let (disk, _) = open_at(copy.path());
        for number in 0..40 {
            let name = format!("a:{number}");
            if let Some(entry) = disk.get(key(&name)) {
                assert_eq!(
                    (entry.key(), entry.body(), entry.head()),
                    (key(&name), &[9; 1500][..], &b"head"[..])
                );
            }
        }
    }
}

#[test]
fn the_queue_is_bounded_and_a_dropped_overwrite_does_not_bring_the_older_value_back() {
    let temp = tempfile::tempdir().unwrap();
    let options = DiskOptions { queue_bytes_max: 10_000, ..options() };
    let (disk, truth) = open_with(temp.path(), options, Fuse::none());
    let first = truth.first_sequence;
    disk.put(&entry("a:1", b"old", first));
    disk.flush().unwrap();
    disk.put(&entry("a:1", &vec![1; 20_000], first + 1));
    assert_eq!(disk.status().dropped, 1);
    assert!(disk.status().queued_bytes <= 10_000);
    assert_eq!(body(&disk, "a:1"), None);
    disk.flush().unwrap();
    assert_eq!(body(&disk, "a:1"), None);
    assert_eq!(disk.status().entries, 0);
}

#[test]
fn the_file_stays_within_its_bound_by_dropping_the_oldest() {
    let temp = tempfile::tempdir().unwrap();
    let options = DiskOptions { bytes_max: 8 << 20, ..options() };
    let (disk, truth) = open_with(temp.path(), options, Fuse::none());
    for round in 0..40 {
        for number in 0..64 {
            let sequence = round * 64 + number;
            let name = format!("a:{sequence}");
            disk.put(&entry(&name, &vec![1; 10_000], truth.first_sequence + sequence));
        }
        disk.flush().unwrap();
        assert!(disk.status().file_bytes <= 8 << 20, "{:?}", disk.status());
    }
    let status = disk.status();
    assert!(status.evicted > 0 && status.live_bytes > 2 << 20, "{status:?}");
    assert!(body(&disk, "a:2559").is_some() && body(&disk, "a:0").is_none());
    assert_eq!(status.state, DiskState::Healthy);
}

#[test]
fn an_expired_entry_is_not_found_and_one_from_the_future_neither() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    for (name, stored_at, expires_at) in [("a:old", 0, 1_000_000), ("a:future", 1_000_001, 2_000_000)] {
        let parts = Parts {
            head: b"",
            body: b"",
            tags: &[],
            stored_at: Timestamp::from_millis(stored_at),
            expires_at: Timestamp::from_millis(expires_at),
            sequence: truth.first_sequence,
        };
        disk.put(&Entry::new(key(name), &parts));
    }
    disk.flush().unwrap();
    assert_eq!((body(&disk, "a:old"), body(&disk, "a:future")), (None, None));
    disk.flush().unwrap();
    assert_eq!(disk.status().entries, 0, "what was found expired gives its space back");
}

#[test]
fn what_expires_gives_its_space_back_without_being_read_once_its_grace_is_over() {
    let temp = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW);
    let dir = DataDir::open(temp.path()).unwrap();
    let (disk, truth) = open::open(&dir, options(), clock.clone(), Fuse::none()).unwrap();
    disk.set_grace("stale", Duration::from_secs(10));
    for number in 0..300 {
        for (namespace, seconds) in [("short", 1), ("stale", 1), ("long", 100)] {
            let name = format!("{namespace}:{number}");
            let expires_at = NOW.after(Duration::from_secs(seconds));
            let sequence = truth.first_sequence + number;
            let parts = Parts { head: b"", body: &[1; 500], tags: &[], stored_at: NOW, expires_at, sequence };
            disk.put(&Entry::new(key(&name), &parts));
        }
        if number % 50 == 0 {
            disk.flush().unwrap();
        }
    }
    disk.tidy().unwrap();
    assert_eq!(disk.status().entries, 900);
    clock.advance(Duration::from_secs(2));
    assert_eq!(body(&disk, "short:1"), None);
    assert!(body(&disk, "stale:1").is_some(), "it may still be served stale");
    clock.advance(Duration::from_secs(10));
    disk.tidy().unwrap();
    let status = disk.status();
    assert!(status.entries <= 302 && status.expired >= 598, "{status:?}");
    assert!(body(&disk, "long:299").is_some());
    clock.advance(Duration::from_secs(100));
    disk.tidy().unwrap();
    assert_eq!((disk.status().entries, disk.status().live_bytes), (0, 0));
    disk.close().unwrap();
    assert!(fs::metadata(temp.path().join("cache.redb")).unwrap().len() < 2 << 20);
}

#[test]
fn an_older_value_stays_dead_through_evictions_rewrites_and_restarts() {
    let temp = tempfile::tempdir().unwrap();
    let options = DiskOptions { bytes_max: 8 << 20, ..options() };
    let mut newest = HashMap::new();
    let mut state = 1_u64;
    for _ in 0..6 {
        let (disk, truth) = open_with(temp.path(), options.clone(), Fuse::none());
        for step in 0..3000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let name = format!("k:{}", (state >> 33) % 900);
            let sequence = truth.first_sequence + step;
            if (state >> 40).is_multiple_of(12) {
                delete(&disk, &name, sequence);
                newest.remove(&name);
            } else {
                let bytes = usize::try_from((state >> 45) % 6000).unwrap();
                disk.put(&entry(&name, &[&sequence.to_le_bytes()[..], &vec![0; bytes]].concat(), sequence));
                newest.insert(name, sequence);
            }
            if step % 40 == 0 {
                disk.flush().unwrap();
                assert!(disk.status().file_bytes <= 8 << 20, "{:?}", disk.status());
            }
        }
        let check = |disk: &Disk, when: &str| {
            let mut found = 0;
            for number in 0..900 {
                let name = format!("k:{number}");
                if let Some(body) = body(disk, &name) {
                    let sequence = u64::from_le_bytes(body[..8].try_into().unwrap());
                    assert_eq!(Some(&sequence), newest.get(&name), "{name} {when}");
                    found += 1;
                }
            }
            assert!(found > 300, "{found} {when}");
        };
        check(&disk, "running");
        let killed = killed_copy(temp.path());
        disk.close().unwrap();
        drop(disk);
        check(&open_with(killed.path(), options.clone(), Fuse::none()).0, "killed");
    }
}

#[test]
fn a_disk_that_fails_at_any_write_undoes_nothing_and_recovers() {
    for writes in 0..60 {
        let temp = tempfile::tempdir().unwrap();
        let fuse = Fuse::none();
        let (disk, truth) = open_with(temp.path(), options(), fuse.clone());
        let first = truth.first_sequence;
        disk.put(&entry("a:keep", b"kept", first));
        disk.put(&entry("a:dead", b"dead", first + 1));
        disk.flush().unwrap();
        fuse.set(writes);
        disk.put(&entry("a:new", b"new", first + 2));
        let flushed = disk.flush();
        let deleted = disk.delete(&[Key::parse("a:dead").unwrap()], first + 3);
        assert!(deleted.is_ok(), "unlinking needs no space: {deleted:?}");
        // What was written may go with a bulk that had to be unlinked; what waits may not.
        let may_be_lost = flushed.is_ok();
        if let Err(error) = flushed {
            assert_eq!(error.kind(), ErrorKind::DiskFailed);
        }
        assert_eq!(body(&disk, "a:dead"), None);
        let is_new = |body: Option<Vec<u8>>| body.map_or(may_be_lost, |body| body == b"new");
        assert!(is_new(body(&disk, "a:new")), "after write {writes}");
        assert!(body(&disk, "a:keep").is_none_or(|body| body == b"kept"), "after write {writes}");
        let killed = killed_copy(temp.path());
        assert_eq!(body(&open_at(killed.path()).0, "a:dead"), None, "killed after write {writes}");
        fuse.set(u64::MAX);
        disk.put(&entry("a:after", b"after", first + 4));
        disk.flush().or_else(|_| disk.flush()).unwrap();
        assert_eq!(disk.status().state, DiskState::Healthy, "after write {writes}");
        disk.close().unwrap();
        drop(disk);
        let (disk, _) = open_at(temp.path());
        assert_eq!(body(&disk, "a:dead"), None);
        assert_eq!(body(&disk, "a:after").unwrap(), b"after");
        assert!(is_new(body(&disk, "a:new")), "after write {writes}");
    }
}

#[test]
fn an_open_on_a_failing_disk_is_degraded_and_recovers_without_older_values() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    disk.put(&entry("a:1", b"old", truth.first_sequence));
    disk.close().unwrap();
    drop(disk);
    for writes in 0..6 {
        let copy = killed_copy(temp.path());
        let fuse = Fuse::none();
        fuse.set(writes);
        let (disk, truth) = open_with(copy.path(), options(), fuse.clone());
        disk.put(&entry("a:1", b"new", truth.first_sequence + 1));
        assert!(disk.flush().is_err(), "{writes}");
        assert!(matches!(disk.status().state, DiskState::Degraded(_)));
        assert_eq!(body(&disk, "a:1").unwrap(), b"new");
        let killed = killed_copy(copy.path());
        assert_eq!(body(&open_at(killed.path()).0, "a:1"), None, "an overwrite was acknowledged, {writes}");
        fuse.set(u64::MAX);
        disk.flush().or_else(|_| disk.flush()).unwrap();
        disk.close().unwrap();
        drop(disk);
        let (disk, again) = open_at(copy.path());
        assert!(again.first_sequence > truth.first_sequence);
        assert_eq!(body(&disk, "a:1").unwrap(), b"new", "{writes}");
    }
}

#[test]
fn an_acknowledged_overwrite_does_not_bring_the_older_value_back_after_a_kill() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, truth) = open_at(temp.path());
    let first = truth.first_sequence;
    for round in 0..4 {
        let at = first + round * 10;
        disk.put(&entry("a:1", b"old", at));
        disk.put(&entry("a:2", b"stays", at + 1));
        disk.flush().unwrap();
        disk.put(&entry("a:1", b"new", at + 2));
        let killed = killed_copy(temp.path());
        for _ in 0..2 {
            let (disk, _) = open_at(killed.path());
            assert_eq!(body(&disk, "a:1"), None, "round {round}");
            assert_eq!(body(&disk, "a:2").unwrap(), b"stays");
        }
        let (again, truth) = open_at(killed.path());
        again.put(&entry("a:1", b"newest", truth.first_sequence));
        again.close().unwrap();
        drop(again);
        assert_eq!(body(&open_at(killed.path()).0, "a:1").unwrap(), b"newest");
    }
    disk.flush().unwrap();
    let marks = ["cache-marks-0.log", "cache-marks-1.log"].map(|name| temp.path().join(name));
    let marks_bytes: u64 = marks.iter().filter_map(|path| fs::metadata(path).ok()).map(|it| it.len()).sum();
    assert!(marks_bytes <= 64, "marks are emptied: {marks_bytes}");
}

#[test]
fn a_directory_that_vanishes_costs_persistence_until_it_is_back() {
    let temp = tempfile::tempdir().unwrap();
    let (here, away) = (temp.path().join("here"), temp.path().join("away"));
    for comes_back_empty in [false, true] {
        let (disk, truth) = open_at(&here);
        let first = truth.first_sequence;
        disk.put(&entry("a:1", b"one", first));
        disk.flush().unwrap();
        fs::rename(&here, &away).unwrap();
        disk.put(&entry("a:2", b"two", first + 1));
        assert!(disk.flush().is_err());
        assert!(matches!(disk.status().state, DiskState::Degraded(_)));
        assert_eq!(body(&disk, "a:2").unwrap(), b"two");
        let error = disk.delete(&[Key::parse("a:1").unwrap()], first + 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DiskFailed, "what could come back is not said to be dead");
        if comes_back_empty {
            fs::create_dir(&here).unwrap();
        } else {
            fs::rename(&away, &here).unwrap();
        }
        disk.flush().or_else(|_| disk.flush()).unwrap();
        assert_eq!(disk.status().state, DiskState::Healthy);
        disk.close().unwrap();
        drop(disk);
        let (disk, _) = open_at(&here);
        assert_eq!(body(&disk, "a:1"), None);
        assert_eq!(body(&disk, "a:2").unwrap(), b"two");
    }
}
