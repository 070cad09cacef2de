//! Doors for the fuzz targets under `fuzz/`: each takes any bytes and must return. Not for users.

use std::sync::OnceLock;

use crate::clock::{Clock, Timestamp};
use crate::content::Store;
use crate::content::keys::{SurahNumber, User, UserHash, UserId, Verse};
use crate::key::{KeyRef, Namespace, Tag};
use crate::pattern::Pattern;

pub fn key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = KeyRef::parse(text) {
        assert!(text.starts_with(key.namespace()) || !text.contains(':'), "a namespace is a beginning");
        assert!(Namespace::parse(key.namespace()).is_ok(), "the namespace of a key is one");
    }
    if let Ok(tag) = Tag::parse(text) {
        assert_eq!(tag.as_str(), text);
    }
}

pub fn pattern(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (pattern, key) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(pattern) = Pattern::parse(pattern) {
        std::hint::black_box(pattern.matches(key));
    }
}

pub fn disk_record(bytes: &[u8]) {
    if let Ok(entry) = crate::disk::record::decode(bytes) {
        let mut again = Vec::new();
        let has_room = crate::disk::record::encode(&entry, &mut again).is_some();
        assert!(has_room && again == bytes, "a record that was read is the one that was written");
    }
}

pub fn settings(bytes: &[u8]) {
    crate::server::config::drive(bytes);
}

pub fn jwt(bytes: &[u8]) {
    crate::server::jwt::drive(bytes);
}

pub fn http_request(bytes: &[u8]) {
    crate::server::wire::drive::request(bytes);
}

pub fn http_connection(bytes: &[u8]) {
    crate::server::wire::drive::connection(bytes);
}

pub fn batch(bytes: &[u8]) {
    crate::server::drive_batch(bytes);
}

pub fn import(bytes: &[u8]) {
    let mut archive = bytes;
    if store().import_archive(&mut archive, &mut |_| ()).is_ok() {
        assert_eq!(
            store().counts().map(|counts| counts.surahs).ok(),
            Some(114),
            "an import keeps every surah"
        );
    }
}

pub fn document(bytes: &[u8]) {
    let store = store();
    if let Ok(number) = SurahNumber::new(112) {
        drop(store.put_surah(number, bytes, None));
        drop(store.put_surah(number, bytes, Some("en")));
    }
    drop(store.put_translation("en", bytes));
    drop(store.put_reciter("a", bytes));
    if let (Ok(id), Ok(verse)) = (UserId::parse("fuzz"), Verse::parse("2:255")) {
        let user = User { id, hash: UserHash(7) };
        drop(store.bookmarks().put_all(&user, bytes, None));
        drop(store.bookmarks().put(&user, verse, bytes, None));
    }
}

/// One store for the whole run, in a file of this process.
#[expect(clippy::expect_used, reason = "without a store there is nothing to fuzz")]
fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let file = std::env::temp_dir().join(format!("hifz-fuzz-{}.redb", std::process::id()));
        let clock = Clock::manual(Timestamp::from_millis(1));
        let store = Store::open(&file, clock).expect("a store in the temporary directory");
        // It lives on without its name, and goes with the process.
        std::fs::remove_file(&file).expect("the file that was just made");
        store
    })
}
