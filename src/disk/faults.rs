//! The fault matrix of the files: whatever is done to them, no wrong byte, no older value, and persistence resumes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::backend::Fuse;
use super::{Disk, DiskOptions, DiskState, Durability, Floor, open};
use crate::clock::{Clock, Timestamp};
use crate::datadir::DataDir;
use crate::entry::{Entry, Parts};
use crate::key::{Key, KeyRef, Namespace};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn open_at(path: &Path) -> (Disk, u64) {
    let options = DiskOptions {
        bytes_max: 16 << 20,
        durability: Durability::Interval,
        flush_interval: Duration::from_hours(1),
        queue_bytes_max: 1 << 20,
        index_bytes_max: 1 << 20,
    };
    let dir = DataDir::open(path).unwrap();
    let (disk, truth) = open::open(&dir, options, Clock::manual(NOW), Fuse::hasty()).unwrap();
    (disk, truth.first_sequence)
}

/// In memory where the system has such a place.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn put(disk: &Disk, name: &str, body: &[u8], sequence: u64) {
    let parts = Parts { head: b"", body, tags: &[], stored_at: NOW, expires_at: Timestamp::NEVER, sequence };
    disk.put(&Entry::new(KeyRef::parse(name).unwrap(), &parts));
}

/// What stands under a key after its last write.
fn body_of(name: &str) -> Vec<u8> {
    let repeats = 20 + name.len() * 37 + usize::from(*name.as_bytes().last().unwrap()) * 11;
    name.bytes().cycle().take(repeats).collect()
}

const KEYS: u64 = 120;

/// Files with live, overwritten, deleted and invalidated entries.
fn sound_files() -> tempfile::TempDir {
    let folder = folder();
    let (disk, first) = open_at(folder.path());
    for round in 0..3 {
        for number in 0..KEYS {
            let name = format!("live:{number}");
            let body = if round == 2 { body_of(&name) } else { b"older".to_vec() };
            put(&disk, &name, &body, first + round * 1000 + number);
            put(&disk, &format!("dead:{number}"), b"dead", first + round * 1000 + number);
            put(&disk, &format!("gone:{number}"), b"gone", first + round * 1000 + number);
        }
        disk.flush().unwrap();
    }
    let dead: Vec<Key> = (0..KEYS).map(|number| Key::parse(format!("dead:{number}")).unwrap()).collect();
    disk.delete(&dead, first + 5000).unwrap();
    disk.raise(Floor::Namespace(Namespace::parse("gone").unwrap()), first + 5001).unwrap();
    disk.close().unwrap();
    folder
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = folder();
    for name in ["cache.redb", "cache-truth.redb"] {
        fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    to
}

/// How many live entries were found, after all that must hold was seen to hold.
fn check(folder: &Path, what: &str) -> u64 {
    let (disk, first) = open_at(folder);
    let mut found = 0;
    for number in 0..KEYS {
        let get = |name: &str| disk.get(KeyRef::parse(name).unwrap()).map(|entry| entry.body().to_vec());
        let live = format!("live:{number}");
        if let Some(body) = get(&live) {
            assert_eq!(body, body_of(&live), "{live} {what}");
            found += 1;
        }
        assert_eq!(get(&format!("dead:{number}")), None, "{what}");
        assert_eq!(get(&format!("gone:{number}")), None, "{what}");
    }
    if found == KEYS {
        // It is used as it is, and what that is like is seen elsewhere.
        return found;
    }
    put(&disk, "after:1", b"resumed", first + 1);
    disk.flush().or_else(|_| disk.flush()).or_else(|_| disk.flush()).unwrap();
    assert_eq!(disk.status().state, DiskState::Healthy, "{what}");
    disk.close().unwrap();
    drop(disk);
    let (disk, _) = open_at(folder);
    let resumed = disk.get(KeyRef::parse("after:1").unwrap()).map(|entry| entry.body().to_vec());
    assert_eq!(resumed.as_deref(), Some(&b"resumed"[..]), "{what}");
    found
}

/// A stream of numbers that is the same in every run.
fn numbers() -> impl FnMut(usize) -> usize {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap() % below
    }
}

#[test]
fn five_hundred_flipped_bits_yield_no_wrong_byte() {
    let sound = sound_files();
    assert_eq!(check(copy(sound.path()).path(), "sound"), KEYS);
    let (mut number, mut found) = (numbers(), 0);
    for round in 0..500_u32 {
        let copy = copy(sound.path());
        // One in ten in the truth, where a flip would bring the dead back.
        let name = if round % 10 == 0 { "cache-truth.redb" } else { "cache.redb" };
        let mut bytes = fs::read(copy.path().join(name)).unwrap();
        // Most of the file is empty: rather where something stands.
        let used: Vec<usize> = (0..bytes.len() / 512)
            .filter(|at| bytes[at * 512..][..512].iter().any(|byte| *byte != 0))
            .collect();
        let at = used[number(used.len())] * 512 + number(512);
        bytes[at] ^= 1 << number(8);
        fs::write(copy.path().join(name), &bytes).unwrap();
        found += check(copy.path(), &format!("bit in byte {at} of {name}"));
    }
    assert!(found > KEYS * 100, "one bit does not cost everything every time: {found}");
}

#[test]
fn two_hundred_zeroed_pages_and_twenty_cuts_yield_no_wrong_byte() {
    let sound = sound_files();
    let mut number = numbers();
    for round in 0..220 {
        let copy = copy(sound.path());
        let name = if round % 10 == 0 { "cache-truth.redb" } else { "cache.redb" };
        let mut bytes = fs::read(copy.path().join(name)).unwrap();
        let what = if round < 200 {
            let page = number(bytes.len() / 4096);
            bytes[page * 4096..][..4096].fill(0);
            format!("page {page} of {name} zeroed")
        } else {
            bytes.truncate(number(bytes.len()));
            format!("{name} cut to {}", bytes.len())
        };
        fs::write(copy.path().join(name), &bytes).unwrap();
        check(copy.path(), &what);
    }
}

#[test]
fn a_file_of_a_newer_format_is_set_aside_unchanged() {
    let sound = sound_files();
    let newer = 3_u64;
    let table: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("bulk");
    let database = redb::Database::open(sound.path().join("cache.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(table).unwrap().insert("meta", newer.to_le_bytes().as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    let before = fs::read(sound.path().join("cache.redb")).unwrap();
    assert_eq!(check(sound.path(), "newer"), 0);
    assert_eq!(fs::read(sound.path().join("quarantine/cache.redb")).unwrap().len(), before.len());
}

#[test]
fn a_removed_an_empty_and_a_foreign_file_cost_only_warmth() {
    let sound = sound_files();
    for (name, bytes) in [
        ("cache.redb", None),
        ("cache-truth.redb", None),
        ("cache.redb", Some(Vec::new())),
        ("cache-truth.redb", Some(Vec::new())),
        ("cache.redb", Some(b"SQLite format 3\0".to_vec())),
        ("cache-truth.redb", Some(vec![0x7F; 70_000])),
    ] {
        let copy = copy(sound.path());
        let path = copy.path().join(name);
        match &bytes {
            None => fs::remove_file(path).unwrap(),
            Some(bytes) => fs::write(path, bytes).unwrap(),
        }
        assert_eq!(check(copy.path(), name), 0);
        let quarantined: u64 = fs::read_dir(copy.path().join("quarantine"))
            .map_or(0, |folder| folder.map(|file| file.unwrap().metadata().unwrap().len()).sum());
        assert!(quarantined <= 16 << 20, "{quarantined}");
    }
}

#[test]
fn a_second_process_in_a_directory_made_anew_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("data");
    let (disk, first) = open_at(&path);
    put(&disk, "live:1", b"first", first);
    disk.flush().unwrap();
    fs::remove_dir_all(&path).unwrap();
    // Another process, which has the directory to itself.
    let (second, second_first) = open_at(&path);
    put(&second, "live:1", b"second", second_first);
    second.flush().unwrap();
    put(&disk, "live:2", b"first", first + 1);
    assert!(disk.flush().is_err());
    let DiskState::Degraded(reason) = disk.status().state else { panic!("{:?}", disk.status()) };
    assert!(reason.contains("one process a data directory"), "{reason}");
    disk.delete(&[Key::parse("live:1").unwrap()], first + 2).unwrap_err();
    disk.close().unwrap_err();
    drop(disk);
    let get = |name: &str| second.get(KeyRef::parse(name).unwrap()).map(|entry| entry.body().to_vec());
    assert_eq!((get("live:1"), get("live:2")), (Some(b"second".to_vec()), None));
    second.close().unwrap();
}
