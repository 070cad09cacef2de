//! Bits flipped and pages zeroed in `content.redb`: whatever it is, the file is refused with a way out, or a document is
//! refused as damaged, or nothing is noticed because nothing was there; never a wrong verse, never a panic. What was
//! built in can be restored, unless the file itself no longer holds together.

use std::fs;

use hifz::ErrorKind;
use hifz::content::Store;
use serde_json::Value;

use super::{clock, store, try_load};

/// What is asked for after each damage, and the right answers.
const ASKED: [&str; 6] = [
    "quran:surah:1",
    "quran:surah:36",
    "quran:surah:114",
    "quran:surahs",
    "reciters:list",
    "translations:list",
];

/// What came of all the damage.
#[derive(Debug, Default)]
struct Seen {
    refused: u32,
    damaged: u32,
    restored: u32,
    beyond: u32,
    untouched: u32,
}

#[test]
fn no_flipped_bit_and_no_zeroed_page_is_ever_served_and_what_was_built_in_can_be_restored() {
    let rounds: usize = std::env::var("HIFZ_FLIPS").map_or(60, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let right: Vec<Value> = {
        let store = store(folder.path());
        ASKED.iter().map(|key| super::load(&store, key).unwrap()).collect()
    };
    let file = folder.path().join("content.redb");
    let sound = fs::read(&file).unwrap();
    let (mut random, mut seen) = (0x9E37_79B9_7F4A_7C15_u64, Seen::default());
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut bytes = sound.clone();
        let at = usize::try_from(random >> 8).unwrap() % bytes.len();
        if round % 7 < 2 {
            let page = at / 4096 * 4096;
            bytes[page..(page + 4096).min(sound.len())].fill(0);
        } else {
            bytes[at] ^= 1 << (random % 8);
        }
        fs::write(&file, &bytes).unwrap();
        look(&file, &right, &mut seen, round);
    }
    assert!(seen.damaged > 0 && seen.restored > 0 && seen.untouched > 0, "{seen:?}");
}

fn look(file: &std::path::Path, right: &[Value], seen: &mut Seen, round: usize) {
    let store = match Store::open(file, clock()) {
        Ok(store) => store,
        Err(error) => {
            let said = error.to_string();
            assert!(
                said.contains("to recover") || error.kind() == ErrorKind::ContentDamaged,
                "{round}: {said}"
            );
            seen.refused += 1;
            return;
        }
    };
    let check = |store: &Store, must_be_there: bool| {
        for (key, right) in ASKED.iter().zip(right) {
            match try_load(store, key) {
                Ok(Some(loaded)) => {
                    let found: Value = serde_json::from_slice(&loaded.body).unwrap();
                    assert_eq!(&found, right, "{key} in round {round}");
                }
                Ok(None) => panic!("{key} is said not to exist in round {round}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ContentDamaged, "{key} in round {round}: {error:?}");
                    assert!(!must_be_there, "{key} is still damaged in round {round}: {error:?}");
                }
            }
        }
    };
    check(&store, false);
    match store.verify() {
        Ok(verified) if verified.damaged.is_empty() => seen.untouched += 1,
        Ok(_) => {
            seen.damaged += 1;
            match store.repair() {
                Ok(repaired) if repaired.left.is_empty() => {
                    seen.restored += 1;
                    assert!(store.verify().unwrap().damaged.is_empty(), "round {round}");
                    check(&store, true);
                }
                // A page of the tree itself: only the last export helps.
                Ok(_) => seen.beyond += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ContentDamaged, "round {round}: {error:?}");
                    seen.beyond += 1;
                }
            }
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ContentDamaged, "round {round}: {error:?}");
            seen.beyond += 1;
        }
    }
}
