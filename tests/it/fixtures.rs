//! Files that earlier versions wrote, opened by this one.
//!
//! `fixtures/store-1.tgz` is a data directory of the first version with the formats of today: bulk 2, truth 2, record 1,
//! content 1. A version that changes a format adds another, written by
//! `cargo test --test it -- --ignored fixtures::writes_another`, and keeps this one readable or sets it aside.

use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hifz::clock::{Clock, Timestamp};
use hifz::content::Store;
use hifz::{Cache, DataDir, SetOptions, keys::SurahNumber};
use tempfile::tempdir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/store-1.tgz")
}

fn open(folder: &Path) -> Cache {
    let cache = Cache::builder().memory(8 << 20).disk(64 << 20).data_dir(DataDir::open(folder).unwrap());
    cache.open().unwrap()
}

#[test]
fn a_store_of_the_first_version_is_opened_warm_and_what_was_dead_stays_dead() {
    let temp = tempdir().unwrap();
    let archive = std::fs::File::open(fixture()).unwrap();
    tar::Archive::new(GzDecoder::new(archive)).unpack(temp.path()).unwrap();
    let store = Store::open(&temp.path().join("content.redb"), Clock::system()).unwrap();
    let first = store.surah(SurahNumber::new(1).unwrap(), None).unwrap().unwrap();
    assert_eq!(first.ayahs.len(), 7);
    assert_eq!(store.verify().unwrap().damaged, Vec::<String>::new());
    let cache = open(temp.path());
    for number in 0..300 {
        let entry = cache.get(format!("kept:{number}").as_str()).unwrap().unwrap();
        assert_eq!(entry.body(), body(number));
        assert_eq!(entry.tags().collect::<Vec<_>>(), ["fixture"]);
    }
    let large = cache.get("large:1").unwrap().unwrap();
    assert!(large.body().len() == 300_000 && large.body().iter().all(|byte| *byte == 9));
    for dead in ["deleted:1", "namespace:1", "tagged:1", "pattern:one:x", "overwritten:0"] {
        assert!(cache.get(dead).unwrap().is_none(), "{dead}");
    }
    assert_eq!(cache.get("overwritten:1").unwrap().unwrap().body(), b"new");
    assert!(!temp.path().join("quarantine").exists());
    cache.close().unwrap();
}

fn body(number: usize) -> Vec<u8> {
    format!("value {number} ").into_bytes().repeat(1 + number % 50)
}

#[test]
#[ignore = "writes the archive that the test above reads"]
fn writes_another() {
    let temp = tempdir().unwrap();
    let data = temp.path().join("data");
    let cache = open(&data);
    drop(Store::open(&data.join("content.redb"), Clock::system()).unwrap());
    let forever = || SetOptions::new().until(Timestamp::NEVER);
    for number in 0..300 {
        let name = format!("kept:{number}");
        cache.set_with(name.as_str(), body(number), &forever().tags(["fixture"])).unwrap();
    }
    cache.set_with("large:1", vec![9; 300_000], &forever()).unwrap();
    for dead in ["deleted:1", "namespace:1", "pattern:one:x", "overwritten:1"] {
        cache.set_with(dead, "old", &forever()).unwrap();
    }
    cache.set_with("tagged:1", "old", &forever().tags(["dead"])).unwrap();
    cache.flush().unwrap();
    assert!(cache.delete("deleted:1").unwrap());
    cache.invalidate_namespace("namespace").unwrap();
    cache.invalidate_tag("dead").unwrap();
    cache.delete_pattern("pattern:*:x").unwrap();
    cache.set_with("overwritten:1", "new", &forever()).unwrap();
    cache.close().unwrap();
    drop(cache);
    let out = GzEncoder::new(std::fs::File::create(fixture()).unwrap(), Compression::best());
    let mut archive = tar::Builder::new(out);
    for name in ["cache.redb", "cache-truth.redb", "content.redb"] {
        archive.append_path_with_name(data.join(name), name).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
}
