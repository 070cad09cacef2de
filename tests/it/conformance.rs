//! HTTP as it should be: requests as raw bytes, answers compared head by head with `golden/conformance.txt`.
//!
//! What differs from run to run (dates, ids, lifetimes) is replaced by its name; everything else is compared, so that
//! a header more, less or other is seen. After a wanted change: `HIFZ_GOLDEN=write cargo test --test it conformance`,
//! and read the difference.

use std::path::Path;

use tempfile::tempdir;

use crate::common::{Reply, Server};

/// A name, a request line and the headers beside `Host` and `Connection`; `{etag}`, `{modified}` and the like stand for
/// what the server said of surah 112.
const REQUESTS: &[(&str, &str, &[&str])] = &[
    ("a surah", "GET /api/v1/surahs/112", &[]),
    ("its head", "HEAD /api/v1/surahs/112", &[]),
    ("the list of surahs", "GET /api/v1/surahs", &[]),
    ("an ayah", "GET /api/v1/surahs/112/ayahs/2", &[]),
    ("the head of an ayah", "HEAD /api/v1/surahs/112/ayahs/2", &[]),
    ("the list of reciters", "GET /api/v1/reciters", &[]),
    ("the list of translations", "GET /api/v1/translations", &[]),
    ("a translation", "GET /api/v1/translations/en", &[]),
    ("the client names the tag", "GET /api/v1/surahs/112", &["If-None-Match: {etag}"]),
    ("the tag weakly, among others", "GET /api/v1/surahs/112", &["If-None-Match: \"x\", W/{etag}"]),
    ("in two lines", "GET /api/v1/surahs/112", &["If-None-Match: \"x\"", "If-None-Match: {etag}"]),
    ("any tag", "GET /api/v1/surahs/112", &["If-None-Match: *"]),
    (
        "another tag outweighs the date",
        "GET /api/v1/surahs/112",
        &["If-None-Match: \"x\"", "If-Modified-Since: {modified}"],
    ),
    ("head with the tag", "HEAD /api/v1/surahs/112", &["If-None-Match: {etag}"]),
    ("not changed since", "GET /api/v1/surahs/112", &["If-Modified-Since: {modified}"]),
    ("changed since", "GET /api/v1/surahs/112", &["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"]),
    ("a date that is none", "GET /api/v1/surahs/112", &["If-Modified-Since: yesterday"]),
    ("the demanded state", "GET /api/v1/surahs/112", &["If-Match: {etag}"]),
    ("another state", "GET /api/v1/surahs/112", &["If-Match: \"x\""]),
    ("a weak tag is not strong enough", "GET /api/v1/surahs/112", &["If-Match: W/{etag}"]),
    (
        "changed after the demanded date",
        "GET /api/v1/surahs/112",
        &["If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"],
    ),
    ("the first bytes", "GET /api/v1/surahs/112", &["Range: bytes=0-9"]),
    ("the last bytes", "GET /api/v1/surahs/112", &["Range: bytes=-5"]),
    ("a range of a head is not cut", "HEAD /api/v1/surahs/112", &["Range: bytes=0-9"]),
    ("a range beyond the end", "GET /api/v1/surahs/112", &["Range: bytes=99999-"]),
    ("two ranges get the whole", "GET /api/v1/surahs/112", &["Range: bytes=0-1,4-5"]),
    ("a range that is none", "GET /api/v1/surahs/112", &["Range: bytes=9-1"]),
    ("another unit", "GET /api/v1/surahs/112", &["Range: ayahs=1-2"]),
    (
        "a range of the state the client has",
        "GET /api/v1/surahs/112",
        &["Range: bytes=0-9", "If-Range: {etag}"],
    ),
    ("a range of another state", "GET /api/v1/surahs/112", &["Range: bytes=0-9", "If-Range: \"x\""]),
    ("a range by date", "GET /api/v1/surahs/112", &["Range: bytes=0-9", "If-Range: {modified}"]),
    ("the tag outweighs the range", "GET /api/v1/surahs/112", &["Range: bytes=0-9", "If-None-Match: {etag}"]),
    ("nothing is acceptable", "GET /api/v1/surahs/112", &["Accept-Encoding: *;q=0"]),
    ("the plain form is refused", "GET /api/v1/surahs/112/ayahs/1", &["Accept-Encoding: identity;q=0"]),
    ("a coding nobody has", "GET /api/v1/surahs/112", &["Accept-Encoding: compress"]),
    ("a method that is not possible", "DELETE /api/v1/surahs/112", &[]),
    ("what is possible", "OPTIONS /api/v1/surahs/112", &[]),
    ("what is possible elsewhere", "OPTIONS /admin/v1/export", &[]),
    ("a preflight", "OPTIONS /api/v1/surahs", &["Origin: http://a", "Access-Control-Request-Method: GET"]),
    ("a slash too many", "GET /api/v1/surahs/?translation=en", &[]),
    ("a needless escape", "GET /api/v1/surahs/11%32?a=b", &[]),
    ("a needful escape", "GET /api/v1/surahs/11%00", &[]),
    ("another case", "GET /API/v1/surahs/112", &[]),
    ("two slashes", "GET /api/v1//surahs/112", &[]),
    ("a number in another spelling", "GET /api/v1/surahs/0112", &[]),
    ("a translation that is not loaded", "GET /api/v1/surahs/112?translation=en", &[]),
    ("the head of an error", "HEAD /api/v1/surahs/115", &[]),
    ("a client's own id", "GET /api/v1/surahs/115", &["X-Request-Id: mine"]),
    ("health", "GET /api/v1/health", &[]),
    ("the head of health", "HEAD /api/v1/health", &[]),
    ("an admin route without token", "DELETE /admin/v1/surahs/112", &[]),
];

#[test]
fn every_answer_has_exactly_the_head_it_should() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let known = Known::learn(&server);
    let mut answers = Vec::new();
    for (name, line, headers) in REQUESTS {
        let headers: Vec<_> = headers.iter().map(|header| known.fill(header)).collect();
        let reply = ask(&server, line, &headers);
        answers.push(format!("=== {name}\n> {line}\n{}\n", known.shown(&reply)));
    }
    let answers = answers.concat();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/conformance.txt");
    if std::env::var_os("HIFZ_GOLDEN").is_some() {
        std::fs::write(&golden, &answers).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap();
    for (answer, expected) in answers.split("=== ").zip(expected.split("=== ")) {
        assert_eq!(answer, expected);
    }
    assert_eq!(answers.len(), expected.len(), "as many answers as are expected");
}

/// The same request with another method must say the same, but for the body.
#[test]
fn head_says_what_get_says() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let known = Known::learn(&server);
    for (_, line, headers) in REQUESTS.iter().filter(|(_, line, _)| line.starts_with("GET ")) {
        let headers: Vec<_> = headers.iter().map(|header| known.fill(header)).collect();
        // A range is defined for GET alone.
        if headers.iter().any(|header| header.starts_with("Range")) {
            continue;
        }
        let get = ask(&server, line, &headers);
        let head = ask(&server, &line.replacen("GET", "HEAD", 1), &headers);
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{line} {headers:?}");
        let heads = [&get, &head].map(|reply| known.shown_head(reply));
        assert_eq!(heads[0], heads[1], "{line} {headers:?}");
        if get.status != 304 && get.status != 308 {
            assert_eq!(get.header("content-length"), Some(get.body.len().to_string().as_str()), "{line}");
        }
    }
}

#[test]
fn many_spellings_make_one_entry() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    server.get("/api/v1/surahs/112");
    let mut requests = Vec::new();
    for number in 0..1000 {
        let (path, end) = match number % 4 {
            0 => ("/api/v1/surahs/112", ""),
            1 => ("/api/v1/surahs/%31%31%32", ""),
            2 => ("/api/v1/surahs/112/", ""),
            _ => ("/api/v1/surahs/112", "&translation"),
        };
        requests.push(format!("HEAD {path}?x{number}=%00{end} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    requests.push("HEAD /api/v1/surahs/112 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned());
    let answers = String::from_utf8(server.raw(requests.concat().as_bytes())).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1001);
    let reply = server.admin("POST", "/admin/v1/namespaces/quran/invalidate", b"");
    assert_eq!(reply.json()["invalidated"], 1);
}

#[test]
fn a_write_on_another_state_than_it_names_is_refused_and_changes_nothing() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let put = |text: &str, header: (&str, &str)| {
        let mut surah = server.get("/api/v1/surahs/112").json();
        surah["ayahs"][0]["text"] = text.into();
        let authorization = format!("Bearer {}", server.token);
        let headers = [("Authorization", authorization.as_str()), header];
        server.send("PUT", "/admin/v1/surahs/112", &headers, surah.to_string().as_bytes())
    };
    let before = server.get("/api/v1/surahs/112");
    let tag = before.header("etag").unwrap();
    assert_eq!(put("first", ("If-Match", tag)).status, 200);
    for header in [
        ("If-Match", tag),
        ("If-Match", "\"x\""),
        ("If-None-Match", "*"),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ] {
        let refused = put("second", header);
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (412, &"PRECONDITION_FAILED".into()),
            "{header:?}"
        );
    }
    let now = server.get("/api/v1/surahs/112");
    assert_eq!(now.json()["ayahs"][0]["text"], "first");
    let weak = format!("W/{}", now.header("etag").unwrap());
    assert_eq!(put("second", ("If-Match", &weak)).status, 412);
    let delete = |path: &str, header: (&str, &str)| {
        let authorization = format!("Bearer {}", server.token);
        server.send("DELETE", path, &[("Authorization", authorization.as_str()), header], b"").status
    };
    assert_eq!(delete("/admin/v1/surahs/112", ("If-Match", tag)), 412);
    assert_eq!(delete("/admin/v1/reciters/nobody", ("If-Match", "*")), 412);
    assert_eq!(delete("/admin/v1/surahs/112", ("If-Match", now.header("etag").unwrap())), 204);
    assert_eq!(server.get("/api/v1/surahs/112").status, 404);
}

#[test]
fn of_many_writers_who_read_the_same_state_one_gets_through() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path());
    let surah = server.get("/api/v1/surahs/112");
    let tag = surah.header("etag").unwrap();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let writers = (0..8).map(|number| {
            let (server, mut surah) = (&server, surah.json());
            surah["ayahs"][0]["text"] = number.to_string().into();
            scope.spawn(move || {
                let authorization = format!("Bearer {}", server.token);
                let headers = [("Authorization", authorization.as_str()), ("If-Match", tag)];
                server.send("PUT", "/admin/v1/surahs/112", &headers, surah.to_string().as_bytes()).status
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 7, "{statuses:?}");
}

fn ask(server: &Server, line: &str, headers: &[String]) -> Reply {
    let headers = headers.join("\r\n");
    let headers = if headers.is_empty() { headers } else { headers + "\r\n" };
    Reply::parse(
        &server
            .raw(format!("{line} HTTP/1.1\r\nHost: hifz\r\n{headers}Connection: close\r\n\r\n").as_bytes()),
    )
}

/// What the server says of surah 112 and what differs between runs.
struct Known {
    etag: String,
    modified: String,
}

impl Known {
    fn learn(server: &Server) -> Self {
        for path in ["/112", "", "/112?translation=en"] {
            server.get(&format!("/api/v1/surahs{path}"));
        }
        for path in ["reciters", "translations", "translations/en"] {
            server.get(&format!("/api/v1/{path}"));
        }
        let reply = server.get("/api/v1/surahs/112");
        let header = |name| reply.header(name).unwrap().to_owned();
        Self { etag: header("etag"), modified: header("last-modified") }
    }

    fn fill(&self, header: &str) -> String {
        header.replace("{etag}", &self.etag).replace("{modified}", &self.modified)
    }

    fn shown(&self, reply: &Reply) -> String {
        let body = match reply.header("content-type") {
            Some("application/problem+json") if !reply.body.is_empty() => {
                let mut problem = reply.json();
                assert_eq!(problem["request_id"].as_str(), reply.header("x-request-id"));
                problem["request_id"] = "{id}".into();
                format!("{problem}\n")
            }
            _ => format!("{} bytes\n", reply.body.len()),
        };
        self.shown_head(reply) + &body
    }

    fn shown_head(&self, reply: &Reply) -> String {
        let mut lines: Vec<_> = reply.headers.iter().map(|(name, value)| self.line(name, value)).collect();
        lines.sort();
        format!("< {}\n{}\n", reply.status, lines.join("\n"))
    }

    fn line(&self, name: &str, value: &str) -> String {
        let shown = match name {
            "date" => "{date}".into(),
            "x-request-id" if value.len() == 32 => "{id}".into(),
            "age" if value.parse::<u8>().is_ok() => "{age}".into(),
            "last-modified" if value == self.modified => "{modified}".into(),
            "cache-status" => value
                .split_once("ttl=")
                .map_or(value.to_owned(), |(before, _)| format!("{before}ttl={{ttl}}")),
            _ => value.to_owned(),
        };
        format!("{name}: {shown}")
    }
}
