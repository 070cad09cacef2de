//! Stored compressed, served as stored: every coding carries the same text, has a tag of its own, and survives a
//! restart; clients that take none are served all the same.

use std::io::{Read as _, Write as _};

use tempfile::tempdir;

use crate::common::{Reply, Server};

const SURAH: &str = "/api/v1/surahs/2";

fn get(server: &Server, path: &str, accepted: &str, more: &[(&str, &str)]) -> Reply {
    let headers: Vec<_> = [("Accept-Encoding", accepted)].into_iter().chain(more.iter().copied()).collect();
    server.send("GET", path, &headers, b"")
}

fn decoded(coding: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        None => plain.extend_from_slice(body),
        Some("gzip") => drop(flate2::read::GzDecoder::new(body).read_to_end(&mut plain).unwrap()),
        Some("zstd") => plain = zstd::stream::decode_all(body).unwrap(),
        Some("br") => brotli::DecompressorWriter::new(&mut plain, 4096).write_all(body).unwrap(),
        Some(other) => panic!("{other} is no coding of ours"),
    }
    plain
}

#[test]
fn every_coding_carries_the_same_text_under_a_tag_of_its_own() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let plain = server.get(SURAH);
    assert_eq!(plain.header("content-encoding"), None);
    let mut tags = vec![plain.header("etag").unwrap().to_owned()];
    for (accepted, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip, br", Some("br")),
        ("gzip", Some("gzip")),
        ("gzip;q=0.5, br;q=0.9", Some("br")),
        ("deflate", None),
        ("identity, gzip;q=0", None),
        ("*;q=0, gzip", Some("gzip")),
        ("identity;q=0, br;q=0.1", Some("br")),
    ] {
        let reply = get(&server, SURAH, accepted, &[]);
        assert_eq!((reply.status, reply.header("content-encoding")), (200, coding), "{accepted}");
        assert!(reply.is_hit(), "{accepted}");
        assert_eq!(reply.header("vary"), Some("accept-encoding"));
        assert_eq!(reply.header("content-length").unwrap(), reply.body.len().to_string());
        assert!(decoded(coding, &reply.body) == plain.body, "{accepted}");
        let head = server.send("HEAD", SURAH, &[("Accept-Encoding", accepted)], b"");
        assert_eq!(head.header("content-length"), reply.header("content-length"));
        assert_eq!((head.header("etag"), head.body.len()), (reply.header("etag"), 0));
        tags.push(reply.header("etag").unwrap().to_owned());
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4, "{tags:?}");
    assert_eq!(get(&server, SURAH, "*;q=0", &[]).status, 406);
}

#[test]
fn a_condition_may_name_any_form_the_client_takes_and_a_range_is_of_the_form_it_names() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let [zstd, gzip] = ["zstd", "gzip"].map(|coding| get(&server, SURAH, coding, &[]));
    let (zstd_tag, gzip_tag) = (zstd.header("etag").unwrap(), gzip.header("etag").unwrap());
    let same = get(&server, SURAH, "gzip, zstd", &[("If-None-Match", gzip_tag)]);
    assert_eq!((same.status, same.header("etag")), (304, Some(gzip_tag)));
    assert_eq!(get(&server, SURAH, "zstd", &[("If-None-Match", gzip_tag)]).status, 200);
    assert_eq!(server.send("GET", SURAH, &[("If-None-Match", zstd_tag)], b"").status, 304);
    let part = get(&server, SURAH, "gzip", &[("Range", "bytes=10-19"), ("If-Range", gzip_tag)]);
    assert_eq!((part.status, part.header("content-encoding")), (206, Some("gzip")));
    assert_eq!(part.body, gzip.body[10..20]);
    assert_eq!(part.header("content-range").unwrap(), format!("bytes 10-19/{}", gzip.body.len()));
    let whole = get(&server, SURAH, "zstd", &[("Range", "bytes=10-19"), ("If-Range", gzip_tag)]);
    assert_eq!((whole.status, whole.body.len()), (200, zstd.body.len()));
    // Whoever read any form may change what it shows.
    let authorization = format!("Bearer {}", server.token);
    let put = |tag: &str| {
        let headers = [("Authorization", authorization.as_str()), ("If-Match", tag)];
        server.send("PUT", SURAH.replace("api", "admin").as_str(), &headers, &server.get(SURAH).body).status
    };
    assert_eq!((put(gzip_tag), put("\"other\"")), (200, 412));
}

#[test]
fn the_forms_survive_a_restart_and_what_is_small_has_none() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let before = ["zstd", "br", "gzip"].map(|coding| get(&server, SURAH, coding, &[]));
    assert_eq!(server.terminate(), 0);
    let server = Server::start(directory.path());
    for (coding, before) in ["zstd", "br", "gzip"].into_iter().zip(before) {
        let after = get(&server, SURAH, coding, &[]);
        assert!(after.is_hit());
        assert_eq!((after.header("etag"), after.body == before.body), (before.header("etag"), true));
    }
    let small = get(&server, "/api/v1/surahs/2/ayahs/1", "gzip, br", &[]);
    assert_eq!((small.status, small.header("content-encoding")), (200, None));
    assert_eq!(get(&server, "/api/v1/translations/en", "gzip", &[]).header("content-encoding"), None);
}

#[test]
fn a_namespace_that_keeps_only_the_compressed_form_serves_the_same() {
    let directory = tempdir().unwrap();
    let (plain, ayah) = {
        let server = Server::start(directory.path());
        let plain = server.get(SURAH);
        let ayah = server.get("/api/v1/surahs/2/ayahs/255").body;
        (plain, ayah)
    };
    let other = tempdir().unwrap();
    std::fs::write(other.path().join("hifz.toml"), "[namespaces.quran]\ncompressed_only = true\n").unwrap();
    let server = Server::start(other.path());
    for _ in 0..2 {
        let gzip = get(&server, SURAH, "gzip, br", &[]);
        assert_eq!(gzip.header("content-encoding"), Some("gzip"));
        assert!(decoded(Some("gzip"), &gzip.body) == plain.body);
        let reply = server.get(SURAH);
        assert_eq!((reply.header("content-encoding"), reply.header("etag")), (None, plain.header("etag")));
        assert!(reply.body == plain.body);
        let part = get(&server, SURAH, "identity", &[("Range", "bytes=5-9")]);
        assert_eq!((part.status, part.body == plain.body[5..10]), (206, true));
        assert_eq!(
            server.send("GET", SURAH, &[("If-None-Match", plain.header("etag").unwrap())], b"").status,
            304
        );
        assert!(server.get("/api/v1/surahs/2/ayahs/255").body == ayah);
    }
    // Who reads the cache itself, one by one, in a batch or by the command line, reads the text too.
    let raw = server.admin("GET", "/admin/v1/entries/quran%3Asurah%3A2", b"");
    assert!(raw.body == plain.body);
    let batch = server.admin("POST", "/admin/v1/entries/get", br#"{"keys":["quran:surah:2"]}"#).json();
    let document: serde_json::Value = serde_json::from_slice(&plain.body).unwrap();
    assert_eq!(batch["entries"]["quran:surah:2"]["value"], document);
    let printed = |flags: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hifz"));
        command.args(["get", "quran:surah:2", "--data-dir"]).arg(other.path()).args(flags);
        command.current_dir(other.path()).output().unwrap().stdout
    };
    let all_printed = || {
        assert!(printed(&[]) == plain.body);
        let shown: serde_json::Value = serde_json::from_slice(&printed(&["--json"])).unwrap();
        assert_eq!(shown["value"], document);
    };
    all_printed();
    assert_eq!(server.terminate(), 0);
    all_printed();
}
