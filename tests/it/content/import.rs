//! Import and export: the package `quran-json`, hifz's own exports, and archives that must be refused.
//!
//! Without `HIFZ_TEST_QURAN_JSON` the package is a complete one made here from the embedded text; with it, the tarball
//! at that path (what `npm pack quran-json` fetches). The assertions are the same.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hifz::content::{ImportReport, Imported, Progress, Store};
use hifz::keys::SurahNumber;
use hifz::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tar::{Archive, Builder, EntryType, Header};

use super::{load, store, surah, targets, try_load};

/// The files of a package by their path.
type Files = BTreeMap<String, Vec<u8>>;

/// The same in the order of the archive.
type FileList = Vec<(String, Vec<u8>)>;

fn import(store: &Store, mut bytes: &[u8]) -> Result<ImportReport> {
    store.import_archive(&mut bytes, &mut |_| {})
}

fn export(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.export(&mut bytes).unwrap();
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn header(kind: EntryType, path: &str, size: usize) -> Header {
    let mut header = Header::new_gnu();
    // Written by hand, because the builder refuses the paths that are tried here.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size as u64);
    header.set_cksum();
    header
}

/// A tarball of `files`, and then of `further` entries as they are.
fn tarball(files: &Files, further: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, content) in files {
        builder.append(&header(EntryType::Regular, path, content.len()), content.as_slice()).unwrap();
    }
    for (kind, path, content) in further {
        builder.append(&header(*kind, path, content.len()), *content).unwrap();
    }
    gzip(&builder.into_inner().unwrap())
}

fn unpacked(bytes: &[u8]) -> Files {
    let mut archive = Archive::new(GzDecoder::new(bytes));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), content)
    });
    entries.collect()
}

fn book(store: &Store, column: Option<(&str, &str)>) -> Vec<u8> {
    let chapters = SurahNumber::all().map(|number| {
        let surah = store.surah(number, None).unwrap().unwrap();
        let verses = surah.ayahs.iter().map(|ayah| {
            let mut verse = json!({"id": ayah.number, "text": format!("\u{6dd} {}", ayah.text)});
            if let Some((field, word)) = column {
                verse[field] = json!(format!("{word} {number}:{} \"ü\" \u{1f54b}", ayah.number));
            }
            verse
        });
        let verses = verses.collect::<Vec<_>>();
        json!({"id": number.get(), "name": surah.summary.name, "type": "meccan", "total_verses": verses.len(),
               "verses": verses})
    });
    Value::from(chapters.collect::<Vec<_>>()).to_string().into_bytes()
}

/// A complete package made from the embedded text.
fn package() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut files = Files::new();
    for id in ["bn", "en", "es", "fr", "id", "ru", "sv", "tr", "ur", "zh"] {
        files.insert(format!("package/dist/quran_{id}.json"), book(&store, Some(("translation", id))));
    }
    let latin = book(&store, Some(("transliteration", "latin")));
    files.insert("package/dist/quran_transliteration.json".into(), latin);
    files.insert("package/dist/quran.json".into(), book(&store, None));
    files.insert("package/dist/chapters/1.json".into(), b"never read".to_vec());
    files.insert("package/package.json".into(), br#"{"name":"quran-json","version":"3.1.2"}"#.to_vec());
    files
}

/// A package with the Arabic text only.
fn small_package() -> Files {
    static FILES: LazyLock<Files> = LazyLock::new(|| {
        let mut files = package();
        files.retain(|path, _| !path.contains("dist/quran_"));
        files
    });
    FILES.clone()
}

fn tested_package() -> Vec<u8> {
    match std::env::var_os("HIFZ_TEST_QURAN_JSON") {
        Some(path) => std::fs::read(path).expect("HIFZ_TEST_QURAN_JSON names the tarball of quran-json"),
        None => tarball(&package(), &[]),
    }
}

/// Compares every text of every book of the package with what the store serves.
fn assert_all_texts(store: &Store, files: &Files) {
    let mut texts = 0;
    for (path, content) in files {
        let Some(name) = path.strip_prefix("package/dist/quran").and_then(|name| name.strip_suffix(".json"))
        else {
            continue;
        };
        let translation = name.strip_prefix('_');
        let field = match translation {
            None => "text",
            Some("transliteration") => "transliteration",
            Some(_) => "translation",
        };
        for chapter in serde_json::from_slice::<Vec<Value>>(content).unwrap() {
            let number = chapter["id"].as_u64().unwrap();
            let found = store.surah(surah(number), translation).unwrap().unwrap();
            let verses = chapter["verses"].as_array().unwrap();
            assert_eq!(found.ayahs.len(), verses.len(), "{path} {number}");
            for (ayah, verse) in found.ayahs.iter().zip(verses) {
                let served = if translation.is_some() {
                    ayah.translation.as_deref()
                } else {
                    Some(ayah.text.as_str())
                };
                assert_eq!(served, verse[field].as_str(), "{path} {number}:{}", ayah.number);
                texts += 1;
            }
        }
    }
    assert_eq!(texts, 12 * 6236, "twelve books, whole");
}

#[test]
fn the_package_is_imported_with_every_text_byte_for_byte_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let bytes = tested_package();
    let mut last = None;
    let report = store
        .import_archive(&mut bytes.as_slice(), &mut |progress: &Progress| last = Some(progress.clone()))
        .unwrap();
    assert_eq!((report.of, report.version.as_str()), (Imported::QuranJson, "3.1.2"));
    assert_eq!((report.surahs_changed, report.texts_changed, report.translations.len()), (114, 11 * 114, 11));
    assert!(last.unwrap().bytes_read <= bytes.len() as u64);
    assert_all_texts(&store, &unpacked(&bytes));
    let change = report.change.unwrap();
    assert_eq!(targets(&change), ["quran:*", "translation:*", "translations:*"]);
    assert_eq!(store.pending_changes().unwrap(), [change]);
    assert_eq!(store.counts().unwrap().translations_available, 11);
    let shown = load(&store, "quran:surah:36:en").unwrap();
    let ayahs = shown["ayahs"].as_array().unwrap();
    assert_eq!(ayahs.len(), 83);
    assert!(ayahs.iter().all(|ayah| ayah["text"].is_string() && ayah["translation"].is_string()));
    assert_eq!((&shown["edition"], &shown["transliteration"]), (&json!("uthmani"), &json!("Ya-Sin")));
    let source = &load(&store, "quran:surahs").unwrap()["source"];
    assert!(source["notice"].as_str().unwrap().contains("CC BY-SA 4.0"), "{source}");
    assert_eq!(load(&store, "translation:en").unwrap()["licence"], "CC-BY-SA-4.0");

    let before = export(&store);
    let again = import(&store, &bytes).unwrap();
    assert_eq!((again.surahs_changed, again.texts_changed, again.change), (0, 0, None));
    assert!(export(&store) == before);
}

#[test]
fn an_unpacked_package_is_imported_as_its_tarball_is() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = tested_package();
    for (path, content) in &unpacked(&bytes) {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let (of_folder, of_archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (of_folder, of_archive) = (store(of_folder.path()), store(of_archive.path()));
    let report = of_folder.import_dir(&folder.path().join("package"), &mut |_| {}).unwrap();
    assert_eq!((report.surahs_changed, report.texts_changed), (114, 11 * 114));
    import(&of_archive, &bytes).unwrap();
    assert!(export(&of_folder) == export(&of_archive));

    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("package/dist/quran_xx.json")).unwrap();
    let error = of_folder.import_dir(&folder.path().join("package"), &mut |_| {}).unwrap_err();
    assert_eq!(error.place(), Some("dist/quran_xx.json"));
    assert_eq!(
        of_folder.import_dir(Path::new("/nowhere"), &mut |_| {}).unwrap_err().kind(),
        ErrorKind::DocumentInvalid
    );
}

#[test]
fn a_translation_that_was_deleted_comes_back_by_an_import_and_an_edited_one_keeps_its_description() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    store.delete_translation("en").unwrap();
    store.delete_surah(surah(2), None).unwrap();
    let mut edited = load(&store, "translation:ur").unwrap();
    edited["name"] = json!("ours");
    store.put_translation("ur", edited.to_string().as_bytes()).unwrap();
    import(&store, &tarball(&package(), &[])).unwrap();
    assert_eq!(load(&store, "quran:surah:2:en").unwrap()["ayahs"].as_array().unwrap().len(), 286);
    assert_eq!(load(&store, "translation:ur").unwrap()["name"], "ours");
}

#[test]
fn an_export_reads_back_identically_and_replaces_what_was_there() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (store(one.path()), store(two.path()));
    import(&one, &tarball(&package(), &[])).unwrap();
    one.delete_reciter("al-husary-murattal").unwrap();
    one.delete_surah(surah(2), Some("en")).unwrap();
    one.delete_translation("ur").unwrap();
    one.delete_surah(surah(5), None).unwrap();
    let mut edited = load(&one, "quran:surah:112").unwrap();
    edited["ayahs"][0]["text"] = json!("\u{200f}\"\\ \u{1f54b}");
    one.put_surah(surah(112), edited.to_string().as_bytes(), None).unwrap();

    let bytes = export(&one);
    assert!(bytes == export(&one), "the same content gives the same bytes");
    let notice = unpacked(&bytes).remove("hifz-export/NOTICE").unwrap();
    let notice = String::from_utf8(notice).unwrap();
    assert!(notice.contains("CC BY-SA 4.0") && notice.contains("Knut Bernström"), "{notice}");
    let notice = unpacked(&export(&two)).remove("hifz-export/NOTICE").unwrap();
    assert!(String::from_utf8(notice).unwrap().contains("CHANGING IT IS NOT ALLOWED"));

    let report = import(&two, &bytes).unwrap();
    assert_eq!(report.of, Imported::Export);
    assert_eq!(report.deleted, 3, "a reciter, a translation and a surah");
    let names = targets(report.change.as_ref().unwrap());
    assert_eq!(names, ["quran:*", "reciter:*", "reciters:*", "translation:*", "translations:*"]);
    assert!(export(&two) == bytes);
    for key in ["quran:surahs", "quran:surah:112", "quran:surah:36:en", "reciters:list", "translations:list"]
    {
        assert_eq!(
            try_load(&one, key).unwrap().unwrap().body,
            try_load(&two, key).unwrap().unwrap().body,
            "{key}"
        );
    }
    assert!(try_load(&two, "quran:surah:5").unwrap().is_none());
    assert_eq!(import(&two, &bytes).unwrap().change, None);

    let folder = tempfile::tempdir().unwrap();
    Archive::new(GzDecoder::new(bytes.as_slice())).unpack(folder.path()).unwrap();
    let three = tempfile::tempdir().unwrap();
    let three = store(three.path());
    three.import_dir(&folder.path().join("hifz-export"), &mut |_| {}).unwrap();
    assert!(export(&three) == bytes);
}

#[test]
fn an_export_that_was_tampered_with_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut bytes = export(&store);
    let in_checksum = bytes.len() - 6;
    bytes[in_checksum] ^= 1;
    assert_refused(&store, &bytes, None, "");
    // Files as they came, so that the manifest stays first.
    let files = unpacked(&export(&store));
    let rebuilt = |change: &dyn Fn(&mut FileList)| {
        let mut list = files.clone().into_iter().collect::<Vec<_>>();
        list.sort_by_key(|(path, _)| (path != "hifz-export/manifest.json", path.clone()));
        change(&mut list);
        let list = list.iter().map(|(path, content)| (EntryType::Regular, path.as_str(), content.as_slice()));
        tarball(&Files::new(), &list.collect::<Vec<_>>())
    };
    import(&store, &rebuilt(&|_| {})).unwrap();
    let place = |list: &[(String, Vec<u8>)]| {
        list.iter().position(|(path, _)| path.ends_with("surah/007.json")).unwrap()
    };
    let missing = rebuilt(&|list| drop(list.remove(place(list))));
    assert_refused(&store, &missing, Some("surah/007.json"), "missing");
    let changed = rebuilt(&|list| {
        let at = place(list);
        list[at].1.push(b' ');
    });
    assert_refused(&store, &changed, Some("surah/007.json"), "digest");
    let added = rebuilt(&|list| list.push(("hifz-export/surah/115.json".into(), b"{}".to_vec())));
    assert_refused(&store, &added, Some("surah/115.json"), "not in the manifest");
    let newer = rebuilt(&|list| list[0].1 = br#"{"format":"hifz-export","version":2,"files":{}}"#.to_vec());
    assert_refused(&store, &newer, Some("manifest.json: version"), "another version");
    let foreign = rebuilt(&|list| list[0].1 = br#"{"format":"x","version":1,"files":{}}"#.to_vec());
    assert_refused(&store, &foreign, Some("manifest.json: format"), "hifz-export");
    assert_untouched(&store);
}

/// Checks that `store` is as it was seeded: what any refusal before left behind would show.
fn assert_untouched(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    assert!(export(store) == export(&super::store(folder.path())), "a refused import changes nothing");
}

/// Imports `bytes`, and checks the refusal and that nothing was noted.
fn assert_refused(store: &Store, bytes: &[u8], place: Option<&str>, why: &str) -> Error {
    let error = import(store, bytes).expect_err("it is refused");
    assert!(matches!(error.kind(), ErrorKind::DocumentInvalid | ErrorKind::DocumentTooLarge), "{error:?}");
    assert!(error.message().contains(why), "{error}, expected {why:?}");
    if place.is_some() {
        assert_eq!(error.place(), place, "{error}");
    }
    assert_eq!(store.pending_changes().unwrap(), []);
    error
}

#[test]
fn archives_that_are_none_or_lead_out_of_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let named = (EntryType::Regular, "package/package.json", &br#"{"name":"quran-json","version":"1"}"#[..]);
    let with = |kind, path: &str, content: &[u8]| tarball(&Files::new(), &[named, (kind, path, content)]);
    let file = EntryType::Regular;
    for bytes in [&b""[..], b"PK\x03\x04 a zip", b"{}"] {
        assert_refused(&store, bytes, None, "not a gzip archive");
    }
    assert_refused(&store, &gzip(b"not a tar, but longer than nothing"), None, "");
    assert_refused(&store, &gzip(&[b'x'; 2048]), None, "");
    assert_refused(&store, &gzip(b""), None, "neither");
    assert_refused(&store, &tarball(&Files::from([("package/a".into(), vec![])]), &[]), None, "neither");
    for path in [
        "/etc/passwd",
        "../x",
        "package/../../x",
        "package/a/../b",
        "package//x",
        "package\\..\\x",
        "..",
        "a/..",
    ] {
        assert_refused(&store, &with(file, path, b"x"), Some(path), "leads out");
    }
    let long = format!("{}/../../../etc/passwd\0", "a".repeat(120));
    assert_refused(&store, &with(EntryType::GNULongName, "././@LongLink", long.as_bytes()), None, "");
    let tail = [(EntryType::GNULongName, "././@LongLink", long.as_bytes()), (file, "short", b"x")];
    assert_refused(&store, &tarball(&Files::new(), &tail), None, "leads out");
    let pax = b"26 path=/absolute/evil.js\n";
    let tail = [(EntryType::XHeader, "pax", &pax[..]), (file, "short", b"x")];
    assert_refused(&store, &tarball(&Files::new(), &tail), Some("/absolute/evil.js"), "leads out");
    assert_refused(&store, &with(EntryType::XHeader, "pax", b"999 path=x\n"), None, "extended header");
    assert_refused(&store, &with(EntryType::XHeader, "pax", &vec![b'1'; 70_000]), None, "more than");
    assert_refused(&store, &with(EntryType::Symlink, "package/l", b""), Some("package/l"), "link");
    assert_refused(&store, &with(EntryType::Link, "package/l", b""), Some("package/l"), "link");
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
        assert_refused(&store, &with(kind, "package/d", b""), Some("package/d"), "neither a file");
    }
    let again = tarball(&small_package(), &[(file, "package/dist/quran.json", b"[]")]);
    assert_refused(&store, &again, Some("package/dist/quran.json"), "twice");
    assert_refused(&store, &with(file, "./package/package.json", b"{}"), None, "twice");
    assert_untouched(&store);
}

#[test]
fn archives_that_are_cut_or_damaged_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let good = tarball(&small_package(), &[]);
    for cut in [1, 9, 20, good.len() / 3, good.len() / 2, good.len() - 9, good.len() - 1] {
        assert_refused(&store, &good[..cut], None, "");
    }
    let mut trailing = good.clone();
    trailing.extend_from_slice(b"hidden");
    assert_refused(&store, &trailing, None, "after its end");
    for at in [good.len() / 4, good.len() / 2, good.len() - 7, good.len() - 3] {
        let mut damaged = good.clone();
        damaged[at] ^= 0x20;
        assert_refused(&store, &damaged, None, "");
    }
    assert_untouched(&store);
    import(&store, &good).unwrap();
}

#[test]
fn archives_that_are_too_large_are_refused_without_being_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut files = small_package();
    let mut spaces = files["package/dist/quran.json"].clone();
    spaces.resize(13 << 20, b' ');
    files.insert("package/dist/quran.json".into(), spaces);
    let error = assert_refused(&store, &tarball(&files, &[]), Some("package/dist/quran.json"), "the most is");
    assert_eq!(error.kind(), ErrorKind::DocumentTooLarge);
    // A bomb: a file of which the header promises more than any archive may inflate to.
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for at in 0..30 {
        let size = 10 << 20;
        let head = header(EntryType::Regular, &format!("package/{at}"), size);
        builder.append(&head, std::io::repeat(0).take(size as u64)).unwrap();
    }
    let bomb = builder.into_inner().unwrap().finish().unwrap();
    let error = assert_refused(&store, &bomb, None, "once inflated");
    assert_eq!(error.kind(), ErrorKind::DocumentTooLarge);
    let mut many = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for at in 0..=20_000 {
        many.append(&header(EntryType::Regular, &format!("package/{at}"), 0), &b""[..]).unwrap();
    }
    let error =
        assert_refused(&store, &many.into_inner().unwrap().finish().unwrap(), None, "more than 20000 files");
    assert_eq!(error.kind(), ErrorKind::DocumentTooLarge);
    assert_untouched(&store);
}

#[test]
fn books_of_another_shape_are_refused_with_the_place_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let refuse = |name: &str, change: &dyn Fn(&mut Value), place: &str, why: &str| {
        let mut files = small_package();
        let path = format!("package/dist/{name}.json");
        let content = files.get(&path).cloned().unwrap_or_else(|| book(&store, Some(("translation", "t"))));
        let mut content = serde_json::from_slice(&content).unwrap();
        change(&mut content);
        files.insert(path, content.to_string().into_bytes());
        let place = format!("dist/{name}.json{}{place}", if place.is_empty() { "" } else { ": " });
        assert_refused(&store, &tarball(&files, &[]), Some(&place), why);
    };
    let pop = |value: &mut Value| drop(value.as_array_mut().unwrap().pop());
    refuse("quran", &|b| *b = json!({}), "", "invalid type");
    refuse("quran", &|b| pop(b), "", "113 surahs");
    refuse("quran", &|b| b.as_array_mut().unwrap().push(json!(1)), "[114]", "");
    refuse("quran", &|b| b.as_array_mut().unwrap().swap(3, 4), "[3].id", "expected 4, got 5");
    refuse("quran", &|b| pop(&mut b[1]["verses"]), "[1].verses", "expected 286, got 285");
    refuse("quran", &|b| b[1]["total_verses"] = json!(285), "[1].total_verses", "expected 286");
    refuse("quran", &|b| b[1]["verses"][4]["id"] = json!(6), "[1].verses[4].id", "expected 5, got 6");
    refuse("quran", &|b| b[1]["verses"][4]["text"] = json!(6), "[1].verses[4].text", "invalid type");
    refuse("quran", &|b| b[1]["verses"][4]["text"] = json!(""), "[1].verses[4].text", "is empty");
    refuse(
        "quran_en",
        &|b| b[8]["verses"][2]["translation"] = json!(null),
        "[8].verses[2].translation",
        "is missing",
    );
    refuse("quran_en", &|b| b[8]["verses"] = json!("x"), "[8].verses", "invalid type");

    assert_untouched(&store);
    let mut files = small_package();
    files.insert("package/package.json".into(), br#"{"name":"left-pad","version":"1"}"#.to_vec());
    assert_refused(&store, &tarball(&files, &[]), Some("package.json: name"), "expected quran-json");
    files.remove("package/package.json");
    assert_refused(&store, &tarball(&files, &[]), None, "neither");
    let mut files = small_package();
    files.remove("package/dist/quran.json");
    assert_refused(&store, &tarball(&files, &[]), Some("dist/quran.json"), "missing");
    let mut files = small_package();
    files.insert("package/dist/quran_xx.json".into(), b"{}".to_vec());
    let report = import(&store, &tarball(&files, &[])).unwrap();
    assert_eq!(report.skipped, ["dist/quran_xx.json"]);
}
