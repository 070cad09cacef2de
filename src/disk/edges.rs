//! Where two things meet: moved deadlines and a full queue, removals and overwrites, tidying and recovery.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::backend::{Act, Fuse};
use super::batch::Plan;
use super::bulk::Meta;
use super::catalog::Look;
use super::intake::Arrived;
use super::kit::{self, NOW, delete, key, killed_copy, opened, until};
use super::log::MarkLog;
use super::queue::Ops;
use super::record::fingerprint;
use super::state::{Shared, half};
use super::tidy::Tidying;
use super::{Disk, DiskOptions, DiskState, Floor, Kept};
use crate::clock::Timestamp;
use crate::entry::Entry;
use crate::key::Key;

/// With a queue that is soon full.
fn options() -> DiskOptions {
    DiskOptions { queue_bytes_max: 1 << 20, ..kit::options() }
}

fn open_at(path: &Path) -> (Disk, u64) {
    opened(path, options(), Fuse::none())
}

/// Until when the record of `key` is kept after a kill at this instant.
fn deadline_after_kill(path: &Path, text: &str) -> Option<Timestamp> {
    let killed = killed_copy(path);
    open_at(killed.path()).0.get(key(text)).map(|entry| entry.expires_at())
}

#[test]
fn a_deadline_that_was_moved_nearer_never_gives_way_to_the_later_one() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:nearer", b"value", first, 1000));
    disk.put(&until("a:over", b"value", first + 1, 1000));
    disk.put(&until("a:full", b"value", first + 2, 1000));
    disk.flush().unwrap();
    // The same writes with other deadlines.
    disk.put(&until("a:nearer", b"value", first, 10));
    disk.put(&until("a:over", b"value", first + 1, 0));
    // Nothing is taken out of the queue before this is let go of.
    let slot = disk.shared.bulk.write();
    for number in 0..200 {
        disk.put(&until(&format!("b:{number}"), &[0; 10_000], first + 10 + number, 1000));
    }
    assert!(disk.status().dropped > 0);
    disk.put(&until("a:full", b"value", first + 2, 10));
    drop(slot);
    disk.flush().unwrap();
    let soon = Some(NOW.after(Duration::from_secs(10)));
    assert_eq!(deadline_after_kill(temp.path(), "a:nearer"), soon);
    assert_eq!(deadline_after_kill(temp.path(), "a:over"), None, "it was over before it was written");
    assert!(deadline_after_kill(temp.path(), "a:full").is_none_or(|at| Some(at) == soon));
}

#[test]
fn a_write_that_comes_too_late_to_be_kept_takes_what_is_older_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:1", b"old", first, 1000));
    disk.flush().unwrap();
    // More deletes than are remembered, all later than the write that comes now.
    for part in 0..5 {
        let keys: Vec<Key> =
            (0..16_384).map(|number| Key::parse(&*format!("d{part}:{number}")).unwrap()).collect();
        disk.delete(&keys, first + 100 + part).unwrap();
        disk.flush().unwrap();
    }
    disk.put(&until("a:1", b"new", first + 1, 1000));
    assert_eq!(disk.status().refused, 1);
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None, "its mark is left at once");
    disk.flush().unwrap();
    assert!(disk.get(key("a:1")).is_none());
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None);
}

#[test]
fn an_overwrite_after_a_removal_that_was_not_written_leaves_its_mark() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:1", b"old", first, 1000));
    disk.flush().unwrap();
    disk.forget(key("a:1"), first + 1);
    disk.put(&until("a:1", b"new", first + 2, 1000));
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None, "the older value does not come back");
    disk.flush().unwrap();
    assert_eq!(disk.get(key("a:1")).unwrap().body(), b"new");
}

#[test]
fn an_overwrite_after_a_deadline_was_moved_leaves_its_mark() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:1", b"old", first, 1000));
    disk.flush().unwrap();
    disk.put(&until("a:1", b"old", first, 2000));
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), Some(NOW.after(Duration::from_secs(1000))));
    disk.put(&until("a:1", b"new", first + 1, 1000));
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None, "the older value does not come back");
    // The same while the first write is on its way to the disk, which this test stands for now.
    disk.flush().unwrap();
    disk.put(&until("a:2", b"old", first + 2, 1000));
    drop(disk.shared.queue().take());
    let marks = || MarkLog::open(temp.path(), Fuse::none()).1;
    let is_marked = |sequence: u64| marks().contains(&(fingerprint(key("a:2")), sequence));
    disk.put(&until("a:2", b"old", first + 2, 2000));
    disk.put(&until("a:2", b"new", first + 3, 1000));
    assert!(is_marked(first + 3));
    // What is newer than all that may be in the file needs no second one.
    disk.put(&until("a:2", b"newer", first + 4, 1000));
    assert!(!is_marked(first + 4));
    disk.shared.queue().give_back("a test");
}

#[test]
fn a_put_that_another_one_has_left_a_mark_for_returns_when_the_mark_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:1", b"old", first, 1000));
    disk.flush().unwrap();
    // Nobody can leave a mark now.
    let log = disk.shared.log.lock();
    let (is_first_in, has_mark) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            is_first_in.store(true, Ordering::SeqCst);
            disk.put(&until("a:1", b"new", first + 1, 1000));
        });
        scope.spawn(|| {
            while !is_first_in.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            disk.put(&until("a:1", b"newer", first + 2, 1000));
            assert!(has_mark.load(Ordering::SeqCst), "a kill now would bring the oldest back");
        });
        // Time enough for one that would not wait; how long it really takes does not matter.
        std::thread::park_timeout(Duration::from_millis(50));
        has_mark.store(true, Ordering::SeqCst);
        drop(log);
    });
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None);
}

#[test]
fn a_key_on_its_way_into_the_queue_while_the_bits_are_made_anew_is_known_afterwards() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    let (old, new) = (until("a:1", b"old", first, 1000), until("a:1", b"new", first + 1, 1000));
    // A put that came before the index was known, and what the writer does just then.
    let on_its_way = fingerprint(old.key());
    disk.shared.intake.lock().doubt();
    assert_eq!(disk.shared.intake.lock().put(on_its_way, &mut old.clone()), Arrived::Unsettled);
    disk.shared.trust_index();
    disk.put_over(on_its_way, &old, Kept::IfItFits);
    disk.flush().unwrap();
    disk.put(&new);
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None, "the overwrite left its mark");
}

/// Puts where the bits look known although nothing of the key is anywhere, as one key in some hundred does.
#[test]
fn a_key_that_merely_looks_known_waits_in_order_and_its_overwrites_are_marked_from_the_batch_on() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    let marks = || MarkLog::open(temp.path(), Fuse::none()).1;
    let put = |body: &[u8], sequence: u64| {
        disk.shared.intake.lock().note(fingerprint(key("a:1")));
        disk.put(&until("a:1", body, sequence, 1000));
    };
    put(b"one", first);
    put(b"three", first + 2);
    put(b"two", first + 1);
    assert!(marks().is_empty(), "nothing of it is anywhere yet");
    assert_eq!(disk.get(key("a:1")).unwrap().body(), b"three");
    delete(&disk, "a:1", first + 3);
    put(b"five", first + 5);
    disk.flush().unwrap();
    assert_eq!(disk.get(key("a:1")).unwrap().body(), b"five");
    // On its way to the disk, which this test stands for now.
    let new = until("b:1", b"old", first + 6, 1000);
    disk.shared.intake.lock().note(fingerprint(new.key()));
    disk.put(&new);
    drop(disk.shared.queue().take());
    disk.put(&until("b:1", b"new", first + 7, 1000));
    assert_eq!(marks(), [(fingerprint(new.key()), first + 7)], "the batch may be on disk at any moment");
    disk.shared.queue().give_back("a test");
    disk.put(&until("b:2", b"old", first + 8, 1000));
    disk.put(&until("b:2", b"new", first + 9, 1000));
    assert_eq!(marks().len(), 2, "what failed may be in the file all the same");
    disk.flush().unwrap();
    assert_eq!(disk.get(key("b:1")).unwrap().body(), b"new");
    disk.put(&until("b:1", b"newer", first + 10, 1000));
    assert_eq!(deadline_after_kill(temp.path(), "b:1"), None, "it is on disk, so its overwrite left a mark");
}

#[test]
fn keys_that_look_known_keep_the_bound_of_the_queue() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) =
        opened(temp.path(), DiskOptions { queue_bytes_max: 20_000, ..options() }, Fuse::none());
    // Nothing is taken out of the queue before this is let go of.
    let _slot = disk.shared.bulk.write();
    for number in 0..100 {
        let entry = until(&format!("a:{number}"), &[7; 500], first + number, 1000);
        disk.shared.intake.lock().note(fingerprint(entry.key()));
        disk.put(&entry);
    }
    let status = disk.status();
    assert!(status.dropped > 0 && status.queued_bytes <= 20_000, "{status:?}");
    assert_eq!(status.queued as u64 + status.dropped, 100);
}

#[test]
fn who_waits_for_a_key_while_the_index_is_read_goes_on_when_the_key_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    for (number, name) in (0..).zip(["a:oldest", "a:middle", "a:newest"]) {
        disk.put(&until(name, name.as_bytes(), first + number, 1000));
        disk.flush().unwrap();
    }
    // As the writer does after an open, newest group first, one step at a time.
    let shared = &disk.shared;
    let slot = shared.bulk.read();
    let bulk = slot.as_ref().unwrap();
    let mut groups = bulk.describe(&bulk.groups().unwrap()).unwrap().into_iter();
    shared.catalog.write().begin_loading(0);
    let mut step = || {
        let (directory, notes, rows) = groups.next().unwrap();
        assert!(shared.catalog.write().load(&directory, notes.as_ref(), &rows));
        shared.tell_loaded();
    };
    std::thread::scope(|scope| {
        let asked = ["a:newest", "a:middle", "a:none"]
            .map(|name| scope.spawn(|| shared.look(fingerprint(key(name)))));
        let [newest, middle, none] = asked;
        step();
        assert!(matches!(newest.join().unwrap(), Look::Here(_)));
        assert!(!middle.is_finished() && !none.is_finished() && shared.catalog.read().is_loading());
        step();
        assert!(matches!(middle.join().unwrap(), Look::Here(_)));
        step();
        assert!(!none.is_finished(), "that there is nothing is known at the end only");
        shared.catalog.write().end_loading();
        shared.tell_loaded();
        assert_eq!(none.join().unwrap(), Look::Nowhere);
    });
    drop(slot);
    assert_eq!(disk.get(key("a:oldest")).unwrap().body(), b"a:oldest");
}

#[test]
fn an_overwrite_that_finds_no_room_takes_the_older_record_with_it_even_from_a_group_that_is_moved() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    // So many small groups that the next batch writes them anew.
    let names: Vec<String> = (0..33).map(|number| format!("a:{number}")).collect();
    for (number, name) in (0..).zip(&names) {
        disk.put(&until(name, b"old", first + number, 1000));
        disk.flush().unwrap();
    }
    // Nothing is taken out of the queue before this is let go of.
    let slot = disk.shared.bulk.write();
    for number in 0..100 {
        disk.put(&until(&format!("b:{number}"), &[1; 11_000], first + 100 + number, 1000));
    }
    for (number, name) in (0..).zip(&names) {
        disk.put(&until(name, &[b'n'; 11_000], first + 300 + number, 1000));
    }
    assert!(disk.status().dropped > 30);
    drop(slot);
    disk.flush().unwrap();
    let killed = killed_copy(temp.path());
    let after = open_at(killed.path()).0;
    for name in &names {
        assert!(disk.get(key(name)).is_none_or(|entry| entry.body() != b"old"), "{name}");
        assert!(after.get(key(name)).is_none_or(|entry| entry.body() != b"old"), "{name} after a kill");
    }
}

#[test]
fn what_is_overwritten_while_another_file_takes_the_place_of_the_one_given_up_does_not_come_back() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    // The writer cannot put another file there before this is let go of.
    let slot = disk.shared.bulk.read();
    for name in ["a:full", "a:killed"] {
        disk.put(&until(name, b"old", first, 1000));
    }
    disk.shared.discard_bulk().unwrap();
    // Time enough for one that would take what waits before that; how long it really takes does not matter.
    std::thread::park_timeout(Duration::from_millis(50));
    disk.put(&until("a:full", &vec![1; 2 << 20], first + 1, 1000));
    assert_eq!(disk.status().dropped, 1);
    disk.put(&until("a:killed", b"new", first + 2, 1000));
    drop(slot);
    disk.flush().or_else(|_| disk.flush()).unwrap();
    assert!(disk.get(key("a:full")).is_none());
    assert_eq!(disk.get(key("a:killed")).unwrap().body(), b"new");
    let killed = killed_copy(temp.path());
    assert!(open_at(killed.path()).0.get(key("a:full")).is_none());
}

#[test]
fn marks_for_a_file_that_is_no_more_kill_nothing() {
    let temp = tempfile::tempdir().unwrap();
    // As a run leaves it whose disk failed from the open to the end: the next one begins with the same numbers.
    let first = 1 << 40;
    MarkLog::open(temp.path(), Fuse::none()).0.leave(fingerprint(key("a:1")), first + 100).unwrap();
    let (disk, again) = open_at(temp.path());
    assert_eq!(again, first);
    disk.put(&until("a:1", b"value", first + 1, 1000));
    disk.flush().unwrap();
    assert!(disk.get(key("a:1")).is_some());
}

#[test]
fn of_a_file_that_is_given_up_nothing_is_shown_any_more() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:1", b"value", first, 1000));
    disk.flush().unwrap();
    let shown = || {
        let mut shown = disk.page(0, 10).entries.len();
        disk.walk(10, &mut |_| shown += 1);
        shown
    };
    assert_eq!(shown(), 2);
    // The writer has not heard of it yet.
    disk.shared.begin_discarded();
    assert_eq!(shown(), 0);
}

#[test]
fn what_is_taken_out_while_a_walk_or_a_page_goes_on_is_not_shown() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    for (number, name) in (0..).zip(["a:1", "a:2", "a:3"]) {
        disk.put(&until(name, b"value", first + number, 1000));
    }
    disk.flush().unwrap();
    disk.forget(key("a:2"), first + 10);
    let mut shown = Vec::new();
    disk.walk(10, &mut |entry| {
        shown.push(entry.key().to_string());
        // It has been read by now, and what takes it out waits no more.
        disk.flush().unwrap();
    });
    assert_eq!(shown, ["a:1", "a:3"]);
    // The same with a page: whoever read the file first would ask only now what waits.
    disk.forget(key("a:3"), first + 11);
    let mut queue = disk.shared.queue();
    let page = std::thread::scope(|scope| {
        let paging = scope.spawn(|| disk.page(0, 10));
        std::thread::park_timeout(Duration::from_millis(50));
        // As the writer does it.
        let half = half(fingerprint(key("a:3")));
        let Look::Here(found) = disk.shared.catalog.read().look(half) else { panic!("it lies there") };
        disk.shared.catalog.write().bury(half, found.place);
        queue.take();
        queue.finish();
        drop(queue);
        paging.join().unwrap()
    });
    let shown: Vec<String> = page.entries.values().map(|entry| entry.key().to_string()).collect();
    assert_eq!(shown, ["a:1"]);
}

#[test]
fn who_overwrites_what_is_being_given_up_returns_when_its_file_is_gone() {
    let ways: [fn(&Shared) -> crate::Result<()>; 2] = [Shared::discard_bulk, Shared::quarantine_bulk];
    for give_up in ways {
        let (temp, fuse) = (tempfile::tempdir().unwrap(), Fuse::none());
        let (disk, first) = opened(temp.path(), options(), fuse.clone());
        disk.put(&until("a:1", b"old", first, 1000));
        disk.flush().unwrap();
        let is_gone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // The file's going cannot be noted before this is over.
            let hold = || {
                scope.spawn(|| give_up(&disk.shared).unwrap());
                while !disk.shared.is_discarded() {
                    std::thread::yield_now();
                }
                scope.spawn(|| {
                    disk.put(&until("a:1", b"new", first + 1, 1000));
                    assert!(is_gone.load(Ordering::SeqCst), "a kill now would bring the older back");
                });
                // As long as it takes one that does not wait; how long it really takes does not matter.
                std::thread::park_timeout(Duration::from_millis(50));
                is_gone.store(true, Ordering::SeqCst);
                Ok(())
            };
            fuse.tape().record("a test", &Act::Sync, hold).unwrap();
        });
    }
}

#[test]
fn what_is_given_up_is_known_until_that_is_durable() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    for (number, name) in (0..).zip(["a:cold", "a:hot", "a:colder"]) {
        disk.put(&until(name, b"value", first + number, 1000));
    }
    disk.flush().unwrap();
    disk.cool();
    disk.note_use(key("a:hot"), 255);
    let shared = &disk.shared;
    let slot = shared.bulk.read();
    let bulk = slot.as_ref().unwrap();
    let group = bulk.groups().unwrap()[0];
    // As the writer does when there is no room; a kill before the commit leaves the file as it was.
    let ops = Ops::default();
    let mut plan = Plan::new(shared, bulk, &ops, Meta { next_group: group + 1, ..Meta::default() });
    plan.tidy(&Tidying { evicted: vec![group], ..Tidying::default() }).unwrap();
    assert_eq!(plan.evicted, 2);
    assert!(shared.may_contain(fingerprint(key("a:cold"))), "an overwrite now must leave its mark");
    plan.finish(false);
    plan.settle();
    assert!(!shared.may_contain(fingerprint(key("a:cold"))));
    assert!(shared.may_contain(fingerprint(key("a:hot"))));
}

#[test]
fn what_expired_before_it_was_overwritten_does_not_come_back_with_a_clock_that_is_set_back() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:1", b"old", first, 10));
    // With something in its group that stays.
    disk.put(&until("a:stays", b"old", first + 1, 1000));
    disk.flush().unwrap();
    disk.shared.clock.advance(Duration::from_secs(20));
    disk.tidy().unwrap();
    assert_eq!(disk.status().expired, 1);
    disk.put(&until("a:1", b"new", first + 2, 1000));
    // Whoever opens the copy has the time of the start again.
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None);
    assert!(deadline_after_kill(temp.path(), "a:stays").is_some());
}

#[test]
fn what_has_expired_is_known_until_that_is_durable() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    disk.put(&until("a:1", b"old", first, 10));
    disk.put(&until("a:2", b"old", first + 1, 10));
    disk.put(&until("a:stays", b"old", first + 2, 1000));
    disk.flush().unwrap();
    disk.shared.clock.advance(Duration::from_secs(20));
    let shared = &disk.shared;
    let slot = shared.bulk.read();
    let bulk = slot.as_ref().unwrap();
    // As the writer does before it commits; nothing here takes a new group's place.
    let ops = Ops::default();
    let mut plan = Plan::new(shared, bulk, &ops, Meta { next_group: 9, ..Meta::default() });
    plan.expire().unwrap();
    assert_eq!(plan.expired, 2);
    assert!(!shared.may_contain(fingerprint(key("a:1"))), "nobody need look for it");
    disk.put(&until("a:1", b"new", first + 3, 1000));
    assert_eq!(deadline_after_kill(temp.path(), "a:1"), None, "a kill before the commit");
    // The same write with another deadline waits, which has left no mark for itself.
    disk.put(&until("a:2", b"old", first + 1, 2000));
    disk.put(&until("a:2", b"new", first + 4, 1000));
    assert_eq!(deadline_after_kill(temp.path(), "a:2"), None, "nor over one that waits");
    assert!(plan.finish(false), "it is noted at once");
    plan.settle();
    drop(slot);
    assert_eq!(shared.sequence_max(fingerprint(key("a:1"))), None);
    assert!(shared.sequence_max(fingerprint(key("a:stays"))).is_some());
}

#[test]
fn what_is_moved_while_it_is_recovered_is_recovered_all_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    // Many small groups, which tidying joins.
    for number in 0..=30 {
        disk.put(&until(&format!("a:{number}"), &[1; 2000], first + number, 1000));
        disk.flush().unwrap();
    }
    disk.close().unwrap();
    drop(disk);
    let (disk, again) = open_at(temp.path());
    let mut seen = Vec::new();
    disk.recover(&mut |entry, _| {
        if seen.is_empty() {
            // Enough more of them that all are written anew, now.
            for number in 0..40 {
                disk.put(&until(&format!("b:{number}"), &[1; 2000], again + number, 1000));
                disk.flush().unwrap();
            }
        }
        seen.push(entry.sequence() - first);
        ControlFlow::Continue(())
    });
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..=30).collect::<Vec<_>>());
}

#[test]
fn what_is_written_over_while_it_is_recovered_is_not_the_last_of_its_key() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, first) = open_at(temp.path());
    let names = ["a:stays", "a:new", "a:touched", "a:forgotten", "a:written", "a:none"];
    for (number, name) in (0..).zip(names) {
        disk.put(&until(name, b"old", first + number, 1000));
    }
    disk.close().unwrap();
    drop(disk);
    let (disk, again) = open_at(temp.path());
    let mut last = Vec::new();
    disk.recover(&mut |entry, is_last| {
        // The group has been read: from here on these are copies.
        if last.is_empty() {
            disk.put(&until("a:written", b"new", again, 1000));
            disk.flush().unwrap();
            disk.put(&until("a:new", b"new", again + 1, 1));
            disk.put(&until("a:touched", b"old", first + 2, 1));
            disk.forget(key("a:forgotten"), again + 2);
        }
        last.push((entry.key().to_string(), is_last()));
        ControlFlow::Continue(())
    });
    last.retain(|(_, is_last)| *is_last);
    last.sort();
    assert_eq!(last, [("a:none".to_owned(), true), ("a:stays".to_owned(), true)]);
    let shown = disk.page(0, 100).entries;
    let shown = |name: &str| shown.values().find(|entry| entry.key() == key(name)).map(Entry::body);
    assert_eq!((shown("a:new"), shown("a:forgotten")), (Some(&b"new"[..]), None));
}

#[test]
fn deletes_while_the_disk_fails_are_bounded_and_give_the_file_up_in_the_end() {
    let temp = tempfile::tempdir().unwrap();
    let fuse = Fuse::none();
    let options = DiskOptions { queue_bytes_max: 64 << 10, ..options() };
    let (disk, first) = opened(temp.path(), options, fuse.clone());
    disk.put(&until("a:1", b"old", first, 1000));
    disk.flush().unwrap();
    fuse.set(0);
    for number in 0..4000 {
        disk.put(&until(&format!("c:{number}"), b"new", first + 10 + number, 1000));
        delete(&disk, &format!("c:{number}"), first + 10_000 + number);
    }
    let status = disk.status();
    assert!(status.queued_bytes <= 2 * (64 << 10), "{status:?}");
    assert!(disk.get(key("a:1")).is_none_or(|entry| entry.body() == b"old"));
    fuse.set(u64::MAX);
    disk.put(&until("a:2", b"after", first + 20_000, 1000));
    disk.flush().or_else(|_| disk.flush()).unwrap();
    assert_eq!(disk.status().state, DiskState::Healthy);
    assert_eq!(disk.get(key("a:2")).unwrap().body(), b"after");
    disk.raise(Floor::All, first + 30_000).unwrap();
    assert!(disk.get(key("a:2")).is_none());
}
