//! Lists of bookmarks of megabytes, many at once: the process keeps to its limit, and each is answered or told to wait.

use std::fmt::Write as _;
use std::path::Path;
use std::thread;

use base64::Engine as _;
use serde_json::json;
use tempfile::tempdir;

use crate::common::{Reply, Server, eventually};
use crate::reload;
use crate::users::{ask, token};

const USERS: usize = 10;

/// How many ayahs the surahs have: notes enough for five megabytes in the first forty.
const AYAHS: [u16; 114] = [
    7, 286, 200, 176, 120, 165, 206, 75, 129, 109, 123, 111, 43, 52, 99, 128, 111, 110, 98, 135, 112, 78,
    118, 64, 77, 227, 93, 88, 69, 60, 34, 30, 73, 54, 45, 83, 182, 88, 75, 85, 54, 53, 89, 59, 37, 35, 38,
    29, 18, 45, 60, 49, 62, 55, 78, 96, 29, 22, 24, 13, 14, 11, 11, 18, 12, 12, 30, 52, 52, 44, 28, 28, 20,
    56, 40, 31, 50, 40, 46, 42, 29, 19, 36, 25, 22, 17, 19, 26, 30, 20, 15, 21, 11, 8, 8, 19, 5, 8, 8, 11,
    11, 8, 3, 9, 5, 4, 7, 3, 6, 3, 5, 4, 5, 6,
];

/// How many surahs the list of [`list`] has.
const SURAHS: usize = 40;

/// A list of five megabytes that no coding makes much smaller.
fn list() -> String {
    list_of(0x0620, 620, SURAHS)
}

/// A list of notes of so many characters, from `first` on, on every ayah of the first surahs.
fn list_of(first: u32, note_chars: usize, surahs: usize) -> String {
    let (mut list, mut state) = (String::from("{\"bookmarks\":["), 1_u32);
    for (surah, ayahs) in (1..).zip(&AYAHS[..surahs]) {
        for ayah in 1..=*ayahs {
            let comma = if (surah, ayah) == (1, 1) { "" } else { "," };
            write!(list, "{comma}{{\"surah\":{surah},\"ayah\":{ayah},\"note\":\"").unwrap();
            for _ in 0..note_chars {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                list.push(char::from_u32(first + (state >> 16) % 42).unwrap());
            }
            list.push_str("\"}");
        }
    }
    list + "]}"
}

/// A line of what the kernel says of the process, in bytes.
fn status(server: &Server, name: &str) -> u64 {
    let path = format!("/proc/{}/status", server.pid());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// What a server with next to nothing in it holds.
fn base(directory: &Path) -> u64 {
    let first = Server::start_with(directory, &["--memory", "16MB"]);
    assert_eq!(first.get("/api/v1/surahs/1").status, 200);
    let base = status(&first, "VmRSS:");
    assert_eq!(first.terminate(), 0);
    base
}

/// Answered, or told when to come back.
fn is_answered(reply: &Reply) {
    match reply.status {
        200 | 201 | 204 => {}
        503 => {
            // On a slow machine a load may also take longer than its source is given.
            let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
            assert!(["BUSY", "SOURCE_TIMED_OUT", "SOURCE_UNAVAILABLE"].contains(&code.as_str()), "{code}");
            assert!(reply.header("retry-after").is_some());
        }
        _ => panic!("{} {}", reply.status, reply.json()),
    }
}

#[test]
fn large_lists_read_and_changed_by_many_at_once_keep_the_process_within_its_limit() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let directory = tempdir().unwrap();
    let base = base(directory.path());

    let server = Server::start_with(directory.path(), &["--memory", "32MB"]);
    let list = list();
    assert!((4_500_000..6_000_000).contains(&list.len()), "{}", list.len());
    let users: Vec<_> = (0..USERS)
        .map(|number| {
            let user = format!("user{number}");
            (token(directory.path(), &user), format!("/api/v1/users/{user}/bookmarks"))
        })
        .collect();
    for (token, place) in &users {
        assert_eq!(ask(&server, token, "PUT", place, &list).status, 201);
    }
    thread::scope(|scope| {
        for (token, place) in &users {
            let server = &server;
            scope.spawn(move || {
                for note in ["one", "two"] {
                    is_answered(&ask(server, token, "GET", place, ""));
                    let one = format!("{place}/2:255");
                    is_answered(&ask(server, token, "PUT", &one, &json!({"note": note}).to_string()));
                }
                is_answered(&ask(server, token, "DELETE", &format!("{place}/2:254"), ""));
            });
        }
    });
    // Nothing small ever waited for them, and each of them is whole.
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
    let (token, place) = &users[0];
    // It may have been told to come back with this.
    eventually("the deletion", || {
        let reply = ask(&server, token, "DELETE", &format!("{place}/2:254"), "");
        [204, 404].contains(&reply.status).then_some(())
    });
    let whole = eventually("an answer", || {
        Some(ask(&server, token, "GET", place, "")).filter(|reply| reply.status == 200)
    });
    assert_eq!(
        whole.json()["bookmarks"].as_array().unwrap().len(),
        AYAHS[..SURAHS].iter().map(|ayahs| usize::from(*ayahs)).sum::<usize>() - 1
    );

    let (peak, allowed) = (status(&server, "VmHWM:"), base + 32_000_000 + 48_000_000);
    assert!(peak <= allowed, "a peak of {peak} bytes over a base of {base}");
}

#[test]
fn the_largest_lists_are_read_and_changed_within_the_limit_of_the_moment_or_refused_by_name() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let directory = tempdir().unwrap();
    let base = base(directory.path());

    let (server, log) = reload::server(directory.path(), "memory = '400MB'\n");
    // Of three bytes a character; its page in the file has nearly twice as much.
    let list = list_of(0xFE80, 1000, AYAHS.len());
    assert!((18_000_000..20_000_000).contains(&list.len()), "{}", list.len());
    let users: Vec<_> = (0..3)
        .map(|number| {
            let user = format!("user{number}");
            (token(directory.path(), &user), format!("/api/v1/users/{user}/bookmarks"))
        })
        .collect();
    for (token, place) in &users {
        assert_eq!(ask(&server, token, "PUT", place, &list).status, 201);
    }
    let answers = |memory: &str, limit: u64| {
        let settings = format!("memory = '{memory}'\n");
        reload::reread(directory.path(), &server, &settings, reload::READ_AGAIN);
        std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
        let codes = thread::scope(|scope| {
            let asking = users.iter().flat_map(|(token, place)| {
                let one = format!("{place}/2:255");
                [("GET", place.clone()), ("GET", place.clone()), ("PUT", one)].map(|(method, place)| {
                    let server = &server;
                    scope.spawn(move || {
                        let reply = ask(server, token, method, &place, "");
                        if reply.status == 507 {
                            assert_eq!(reply.json()["code"], "MEMORY_TOO_SMALL");
                        } else {
                            is_answered(&reply);
                        }
                        (method, reply.status)
                    })
                })
            });
            let asked: Vec<_> = asking.collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let (peak, allowed) = (status(&server, "VmHWM:"), base + limit + 48_000_000);
        assert!(peak <= allowed, "{memory}: a peak of {peak} bytes over a base of {base}");
        codes
    };
    let of = |codes: &[(&str, u16)], method, status| codes.contains(&(method, status));
    let codes = answers("100MB", 100_000_000);
    assert!(!codes.iter().any(|(_, status)| *status == 507), "{codes:?}");
    let codes = answers("48MB", 48_000_000);
    assert!(of(&codes, "PUT", 507) && !of(&codes, "GET", 507), "{codes:?}");
    let codes = answers("16MB", 16_000_000);
    assert!(codes.iter().all(|(_, status)| *status == 507), "{codes:?}");
    assert_eq!(server.get("/api/v1/surahs/2").status, 200);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!said.contains("MEMORY_TOO_SMALL"), "a refusal is about one request: {said}");
}

#[test]
fn a_memory_limit_that_was_lowered_holds_for_bodies_and_what_is_made_of_them() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let directory = tempdir().unwrap();
    let base = base(directory.path());
    let (server, _) = reload::server(directory.path(), "memory = '400MB'\n");
    reload::reread(directory.path(), &server, "memory = '32MB'\n", reload::READ_AGAIN);
    let value = vec![b'x'; 12_000_000];
    thread::scope(|scope| {
        for number in 0..12 {
            let (server, value) = (&server, &value);
            scope.spawn(move || {
                let path = format!("/admin/v1/entries/large:{number}");
                is_answered(&server.admin("PUT", &path, value));
            });
        }
    });
    let (peak, allowed) = (status(&server, "VmHWM:"), base + 32_000_000 + 48_000_000);
    assert!(peak <= allowed, "a peak of {peak} bytes over a base of {base}");
}

#[test]
fn what_many_batches_bring_at_once_keeps_the_process_within_its_limit_and_comes_whole() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let directory = tempdir().unwrap();
    let base = base(directory.path());
    let server = Server::start_with(directory.path(), &["--memory", "16MB"]);
    let (bytes, json) = (vec![0xFA; 1_500_001], format!(" [\"{}\"] ", "j".repeat(1_500_000)));
    let authorization = format!("Bearer {}", server.token);
    let put = |name: &str, content_type: &str, value: &[u8]| {
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", content_type)];
        let path = format!("/admin/v1/entries/large:{name}");
        assert_eq!(server.send("PUT", &path, &headers, value).status, 201);
        // Little may wait for the disk.
        eventually("an empty queue", || {
            let stats = server.admin("GET", "/admin/v1/stats", b"").json();
            (stats["disk"]["queued_bytes"] == json!(0)).then_some(())
        });
    };
    for number in 0..30 {
        put(&number.to_string(), "application/octet-stream", &bytes);
    }
    put("json", "application/json", json.as_bytes());
    let ask = |keys: Vec<String>| {
        server.admin("POST", "/admin/v1/entries/get", json!({"keys": keys}).to_string().as_bytes())
    };
    let all: Vec<_> = (0..30).map(|number| format!("large:{number}")).collect();
    let refused = ask(all.clone());
    assert_eq!((refused.status, &refused.json()["code"]), (507, &json!("MEMORY_TOO_SMALL")));
    thread::scope(|scope| {
        for number in 0..8 {
            let (ask, all) = (&ask, &all);
            scope.spawn(move || is_answered(&ask(all[number..number + 12].to_vec())));
        }
    });
    let (peak, allowed) = (status(&server, "VmHWM:"), base + 16_000_000 + 48_000_000);
    assert!(peak <= allowed, "a peak of {peak} bytes over a base of {base}");

    let whole = ask(vec!["large:1".into(), "large:json".into(), "large:none".into()]);
    assert_eq!(whole.status, 200);
    let text = String::from_utf8(whole.body).unwrap();
    let coded = base64::prelude::BASE64_STANDARD.encode(&bytes);
    let expected = format!(
        "{{\"entries\":{{\"large:1\":{{\"base64\":\"{coded}\",\"content_type\":\"application/octet-stream\",\"ttl_s\":"
    );
    assert!(text.starts_with(&expected), "{}", &text[text.len() - 200..]);
    assert!(text.contains(&format!("\"large:json\":{{\"value\":{},\"content_type\":", json.trim())));
    assert!(text.ends_with("},\"missing\":[\"large:none\"]}"), "{}", &text[text.len() - 200..]);
}
