//! The content store through its public surface: first start, changes with their outbox, restarts, damage.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test says what failed by panicking")]

mod damage;
mod import;

use std::borrow::Cow;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use hifz::clock::{Clock, Timestamp};
use hifz::content::{Change, Store, Target};
use hifz::keys::{self, SurahNumber};
use hifz::source::{Ask, Load, Loaded, Room, Source};
use hifz::{ErrorKind, Key, Result};
use serde_json::{Value, json};

const START_MS: u64 = 1_700_000_000_000;

fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(START_MS))
}

/// A store in `folder`; a new one begins as a copy of one that was seeded once, which is faster.
fn store(folder: &Path) -> Store {
    static SEEDED: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(&folder.path().join("content.redb"), clock()).unwrap());
        fs::read(folder.path().join("content.redb")).unwrap()
    });
    let file = folder.join("content.redb");
    if !file.exists() {
        fs::write(file, &*SEEDED).unwrap();
    }
    Store::open(&folder.join("content.redb"), clock()).expect("the store opens")
}

fn surah(number: u64) -> SurahNumber {
    SurahNumber::new(number).unwrap()
}

fn try_load(store: &Store, key: &str) -> Result<Option<Loaded>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let key = Key::parse(key).unwrap();
    let room = Room::alone(u64::MAX);
    match runtime.block_on(store.load(Ask::new(key.as_key_ref(), &room)))? {
        Load::Value(loaded) => Ok(Some(loaded)),
        _ => Ok(None),
    }
}

fn load(store: &Store, key: &str) -> Option<Value> {
    let loaded = try_load(store, key).unwrap()?;
    assert_eq!(loaded.content_type, "application/json");
    Some(serde_json::from_slice(&loaded.body).unwrap())
}

fn targets(change: &Change) -> Vec<String> {
    let text = |target: &Target| match target {
        Target::Key(key) => key.to_string(),
        Target::Namespace(namespace) => format!("{namespace}:*"),
    };
    let mut targets = change.targets.iter().map(text).collect::<Vec<_>>();
    targets.sort();
    targets
}

#[test]
fn the_first_start_seeds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("content.redb"), clock()).unwrap();
    let counts = store.counts().unwrap();
    assert_eq!((counts.surahs, counts.ayahs), (114, 6236));
    assert!(counts.reciters >= 25);
    assert_eq!((counts.translations, counts.translations_available), (11, 0));
    assert_eq!(store.pending_changes().unwrap(), []);
    assert_eq!(store.verify().unwrap().damaged, Vec::<String>::new());
    let mode = fs::metadata(folder.path().join("content.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "nothing half-made is left beside it");
}

#[test]
fn the_store_answers_every_built_in_key_in_the_shapes_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let two = load(&store, "quran:surah:2").unwrap();
    assert_eq!(two["ayahs"].as_array().unwrap().len(), 286);
    assert_eq!(two["ayah_count"], 286);
    assert_eq!((&two["number"], &two["revelation"]), (&json!(2), &json!("medinan")));
    assert_eq!((&two["transliteration"], &two["meaning"]), (&json!("Al-Baqarah"), &json!("The Cow")));
    assert_eq!(two["ayahs"][0], json!({"number": 1, "text": "الم"}));
    let list = load(&store, "quran:surahs").unwrap();
    assert_eq!(list["surahs"].as_array().unwrap().len(), 114);
    assert!(list["surahs"][0].get("ayahs").is_none());
    let notice = list["source"]["notice"].as_str().unwrap();
    assert!(notice.contains("CHANGING IT IS NOT ALLOWED") && notice.contains("tanzil.net"));
    assert_eq!(list["source"]["url"], "https://tanzil.net");
    let reciters = load(&store, "reciters:list").unwrap();
    for reciter in reciters["reciters"].as_array().unwrap() {
        let key = format!("reciter:{}", reciter["id"].as_str().unwrap());
        assert_eq!(load(&store, &key).as_ref(), Some(reciter));
    }
    let translations = load(&store, "translations:list").unwrap();
    for translation in translations["translations"].as_array().unwrap() {
        assert_eq!(translation["available"], false);
        let key = format!("translation:{}", translation["id"].as_str().unwrap());
        assert_eq!(load(&store, &key).as_ref(), Some(translation));
    }
    let loaded = try_load(&store, "quran:surah:1").unwrap().unwrap();
    assert_eq!(
        (loaded.tags, loaded.modified_at.unwrap().as_millis()),
        (vec![Cow::Borrowed("surahs")], START_MS)
    );
}

#[test]
fn what_does_not_exist_is_none_and_what_is_not_loaded_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for key in
        ["quran:surah:115", "quran:surah:1:xx", "reciter:nobody", "translation:xx", "other:key", "plain"]
    {
        assert!(try_load(&store, key).unwrap().is_none(), "{key}");
    }
    let error = try_load(&store, "quran:surah:1:en").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TranslationNotAvailable);
    assert_eq!(store.surah(surah(1), Some("en")).unwrap_err().kind(), ErrorKind::TranslationNotAvailable);
    assert!(store.surah(surah(1), Some("No Id")).unwrap().is_none());
}

#[test]
fn a_changed_surah_is_served_new_and_names_exactly_what_depends_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let store = Store::open(&folder.path().join("content.redb"), clock.clone()).unwrap();
    let mut document = load(&store, "quran:surah:112").unwrap();
    document["ayahs"][1]["text"] = json!("نص جديد");
    document["ayahs"].as_array_mut().unwrap().pop();
    clock.advance(Duration::from_secs(1));
    let written = store.put_surah(surah(112), document.to_string().as_bytes(), None).unwrap();
    assert!(!written.made);
    document["ayah_count"] = json!(3);
    assert_eq!(load(&store, "quran:surah:112").unwrap(), document);
    assert_eq!(
        try_load(&store, "quran:surahs").unwrap().unwrap().modified_at.unwrap().as_millis(),
        START_MS + 1000
    );
    assert_eq!(
        try_load(&store, "quran:surah:1").unwrap().unwrap().modified_at.unwrap().as_millis(),
        START_MS
    );
    let mut expected = vec!["quran:surah:112".to_owned(), "quran:surahs".to_owned()];
    for id in ["bn", "en", "es", "fr", "id", "ru", "sv", "tr", "transliteration", "ur", "zh"] {
        expected.push(format!("quran:surah:112:{id}"));
    }
    expected.sort();
    assert_eq!(targets(&written.change), expected);
    assert_eq!(store.pending_changes().unwrap(), [written.change]);
}

#[test]
fn a_refused_document_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let before = load(&store, "quran:surah:1").unwrap();
    let mut document = before.clone();
    document["ayahs"][3]["text"] = json!(7);
    let error = store.put_surah(surah(1), document.to_string().as_bytes(), None).unwrap_err();
    assert_eq!((error.kind(), error.place()), (ErrorKind::DocumentInvalid, Some("ayahs[3].text")));
    let error = store.put_surah(surah(2), before.to_string().as_bytes(), None).unwrap_err();
    assert_eq!(error.place(), Some("number"));
    let error = store.put_reciter("Not A Slug", b"{}").unwrap_err();
    assert_eq!((error.kind(), error.place()), (ErrorKind::DocumentInvalid, Some("id")));
    assert_eq!(load(&store, "quran:surah:1").unwrap(), before);
    assert_eq!(store.pending_changes().unwrap(), []);
}

#[test]
fn the_texts_of_a_translation_are_put_and_deleted_one_surah_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut document = load(&store, "quran:surah:112").unwrap();
    for ayah in document["ayahs"].as_array_mut().unwrap() {
        ayah["translation"] = json!(format!("ayah {}", ayah["number"]));
    }
    let bytes = document.to_string();
    let written = store.put_surah(surah(112), bytes.as_bytes(), Some("en")).unwrap();
    assert!(written.made);
    assert_eq!(targets(&written.change), ["quran:surah:112:en", "translation:en", "translations:list"]);
    assert_eq!(load(&store, "quran:surah:112:en").unwrap(), document);
    assert_eq!(load(&store, "translation:en").unwrap()["available"], true);
    assert_eq!(
        store.put_surah(surah(112), bytes.as_bytes(), Some("xx")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    document["ayahs"].as_array_mut().unwrap().pop();
    let error = store.put_surah(surah(112), document.to_string().as_bytes(), Some("en")).unwrap_err();
    assert_eq!((error.kind(), error.place()), (ErrorKind::DocumentInvalid, Some("ayahs")));
    let change = store.delete_surah(surah(112), Some("en")).unwrap();
    assert_eq!(targets(&change), ["quran:surah:112:en", "translation:en", "translations:list"]);
    assert_eq!(
        try_load(&store, "quran:surah:112:en").unwrap_err().kind(),
        ErrorKind::TranslationNotAvailable
    );
    assert_eq!(store.delete_surah(surah(112), Some("en")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn reciters_and_translations_are_made_changed_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let document =
        json!({"id": "new-one", "name": "N", "name_arabic": "ن", "style": "murattal", "riwayah": "qalun"});
    let bytes = document.to_string();
    let written = store.put_reciter("new-one", bytes.as_bytes()).unwrap();
    assert!(written.made);
    assert_eq!(targets(&written.change), ["reciter:new-one", "reciters:list"]);
    assert!(!store.put_reciter("new-one", bytes.as_bytes()).unwrap().made);
    assert_eq!(load(&store, "reciter:new-one").unwrap(), document);
    let document = json!({
        "id": "de", "name": "Deutsch", "language": "de", "direction": "ltr", "source": "s", "licence": "l",
        "available": true,
    });
    let written = store.put_translation("de", document.to_string().as_bytes()).unwrap();
    assert!(written.made && targets(&written.change).contains(&"quran:surah:7:de".to_owned()));
    assert_eq!(load(&store, "translation:de").unwrap()["available"], false, "read-only");
    let change = store.delete_translation("de").unwrap();
    assert_eq!(change.targets.len(), 2 + 114);
    assert!(load(&store, "translation:de").is_none() && load(&store, "quran:surah:7:de").is_none());
    assert_eq!(store.delete_translation("de").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.delete_reciter("nobody").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn what_was_deleted_stays_deleted_and_the_outbox_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let changes = {
        let store = store(folder.path());
        let changes = vec![
            store.delete_surah(surah(2), None).unwrap(),
            store.delete_reciter("al-husary-murattal").unwrap(),
            store.delete_translation("ur").unwrap(),
        ];
        assert_eq!(store.delete_surah(surah(2), None).unwrap_err().kind(), ErrorKind::NotFound);
        changes
    };
    let again = store(folder.path());
    for key in ["quran:surah:2", "reciter:al-husary-murattal", "translation:ur"] {
        assert!(load(&again, key).is_none(), "{key}");
    }
    assert_eq!(again.counts().unwrap().surahs, 113);
    assert_eq!(again.pending_changes().unwrap(), changes);
    again.change_done(changes[0].id).unwrap();
    again.change_done(changes[0].id).unwrap();
    assert_eq!(again.pending_changes().unwrap(), changes[1..]);
    for change in &changes {
        again.change_done(change.id).unwrap();
    }
    let document = json!({
        "number": 2, "name": "البقرة", "transliteration": "x", "meaning": "x", "revelation": "medinan",
        "ayahs": [{"number": 1, "text": "الم"}],
    });
    let written = again.put_surah(surah(2), document.to_string().as_bytes(), None).unwrap();
    assert!(written.made && written.change.id > changes[2].id, "a number is never given twice");
}

#[test]
fn a_file_that_cannot_be_trusted_stops_the_start_and_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("content.redb");
    for bytes in [&b""[..], b"not a database", &[0; 8192]] {
        fs::write(&file, bytes).unwrap();
        let error = Store::open(&file, clock()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DiskNotTrusted, "{error}");
        assert!(error.message().contains("to recover"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), bytes);
    }
    fs::remove_file(&file).unwrap();
    drop(redb::Database::create(&file).unwrap());
    assert_eq!(
        Store::open(&file, clock()).unwrap_err().kind(),
        ErrorKind::DiskNotTrusted,
        "a foreign database"
    );
}

#[test]
fn a_second_store_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = store(folder.path());
    let error = Store::open(&folder.path().join("content.redb"), clock()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
}

#[test]
fn a_store_that_was_not_finished_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hifz-content.new"), b"half of something").unwrap();
    let store = Store::open(&folder.path().join("content.redb"), clock()).unwrap();
    assert_eq!(store.counts().unwrap().surahs, 114);
}

#[test]
fn a_flipped_byte_is_never_served_and_a_put_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let good = load(&store(folder.path()), "quran:surah:108").unwrap();
    let file = folder.path().join("content.redb");
    let needle = good["ayahs"][2]["text"].as_str().unwrap().as_bytes();
    let mut bytes = Vec::new();
    fs::File::open(&file).unwrap().read_to_end(&mut bytes).unwrap();
    let places = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    let mut disk = fs::OpenOptions::new().write(true).open(&file).unwrap();
    for (at, _) in places {
        disk.seek(SeekFrom::Start(at as u64)).unwrap();
        disk.write_all(&[needle[0] ^ 1]).unwrap();
    }
    drop(disk);
    let store = store(folder.path());
    let error = try_load(&store, "quran:surah:108").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentDamaged);
    assert_eq!(store.verify().unwrap().damaged, ["surah/108"]);
    assert!(load(&store, "quran:surah:109").is_some(), "the others are served");
    store.put_surah(surah(108), good.to_string().as_bytes(), None).unwrap();
    assert_eq!(load(&store, "quran:surah:108").unwrap(), good);
    assert_eq!(store.verify().unwrap().damaged, Vec::<String>::new());
}

#[test]
fn keys_made_from_checked_arguments_are_the_keys_of_the_contract() {
    let en = keys::TranslationId::parse("en").unwrap();
    assert_eq!(keys::surah(surah(36), Some(&en)).as_str(), "quran:surah:36:en");
    assert_eq!(keys::surahs().namespace(), "quran");
}
