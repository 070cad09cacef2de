//! Lists of bookmarks of megabytes, many at once: the process keeps to its limit, and each is answered or told to wait.

use std::fmt::Write as _;
use std::thread;

use serde_json::json;
use tempfile::tempdir;

use crate::common::{Reply, Server, eventually};
use crate::users::{ask, token};

const USERS: usize = 10;

/// How many ayahs the first surahs have: notes enough for five megabytes.
const AYAHS: [u16; 40] = [
    7, 286, 200, 176, 120, 165, 206, 75, 129, 109, 123, 111, 43, 52, 99, 128, 111, 110, 98, 135, 112, 78,
    118, 64, 77, 227, 93, 88, 69, 60, 34, 30, 73, 54, 45, 83, 182, 88, 75, 85,
];

/// A list of five megabytes that no coding makes much smaller.
fn list() -> String {
    let (mut list, mut state) = (String::from("{\"bookmarks\":["), 1_u32);
    for (surah, ayahs) in (1..).zip(AYAHS) {
        for ayah in 1..=ayahs {
            let comma = if (surah, ayah) == (1, 1) { "" } else { "," };
            write!(list, "{comma}{{\"surah\":{surah},\"ayah\":{ayah},\"note\":\"").unwrap();
            for _ in 0..620 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                list.push(char::from_u32(0x0620 + (state >> 16) % 42).unwrap());
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
    let first = Server::start_with(directory.path(), &["--memory", "16MB"]);
    assert_eq!(first.get("/api/v1/surahs/1").status, 200);
    let base = status(&first, "VmRSS:");
    assert_eq!(first.terminate(), 0);

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
        AYAHS.map(usize::from).iter().sum::<usize>() - 1
    );

    let (peak, allowed) = (status(&server, "VmHWM:"), base + 32_000_000 + 48_000_000);
    assert!(peak <= allowed, "a peak of {peak} bytes over a base of {base}");
}
