//! The command line as a real process: exit codes, what is said where, and whom it talks to.

#![expect(clippy::expect_used, reason = "helpers of tests fail the test")]

mod cache;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use hifz::DataDir;
use serde_json::Value;

/// The binary with a directory of its own to run in.
pub(crate) struct Hifz {
    dir: tempfile::TempDir,
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Hifz {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), text).expect("a file in the temporary directory");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hifz"));
        command.current_dir(self.path()).args(arguments).stdin(Stdio::null());
        // What the tester has set must not reach the tests.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HIFZ_")) {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with(arguments, &[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let output = self.command(arguments).envs(variables.iter().copied()).output().expect("hifz runs");
        Outcome {
            code: output.status.code().expect("hifz ends by itself"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Holds the data directory as a server would, and answers one request with `status` and `body`.
    fn serve_once(&self, status: u16, content_type: &'static str, body: &'static str) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let dir = DataDir::open(self.path().join("hifz-data")).expect("the data directory");
        dir.write_run(&listener.local_addr().expect("an address").to_string()).expect("the run file");
        dir.secret("admin.token", || "token-of-the-directory".to_owned()).expect("the token");
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            answer(stream, status, content_type, body)
        });
        FakeServer { _dir: dir, thread }
    }
}

struct FakeServer {
    _dir: DataDir,
    thread: JoinHandle<Exchange>,
}

/// Head and body of a request, and the connection: open, unread, until the test is done with it.
type Exchange = (String, Vec<u8>, BufReader<TcpStream>);

impl FakeServer {
    /// The head and the body of the request it was sent.
    fn received(self) -> (String, Vec<u8>) {
        let (head, body, _connection) = self.thread.join().expect("the fake server ends");
        (head, body)
    }
}

fn answer(stream: TcpStream, status: u16, content_type: &str, body: &str) -> Exchange {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("a head") > 0, "the head ends: {head}");
    }
    let received = if content_type == EARLY {
        Vec::new()
    } else if head.to_lowercase().contains("transfer-encoding: chunked") {
        read_chunks(&mut reader)
    } else {
        Vec::new()
    };
    let length = body.len();
    let stream = reader.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .expect("the answer is sent");
    (head, received, reader)
}

fn read_chunks(reader: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a chunk's size");
        let size = usize::from_str_radix(line.trim(), 16).expect("a size");
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).expect("a chunk");
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return body;
        }
    }
}

const JSON: &str = "application/json";

/// The content type of an answer that is given without reading the request's body, ever.
const EARLY: &str = "application/problem+json; early=1";

#[test]
fn help_and_version_are_answers_and_unknown_words_are_refused() {
    let hifz = Hifz::new();
    let help = hifz.run(&["--help"]);
    assert_eq!(help.code, 0);
    for part in ["serve", "import", "export", "--flush-interval", "--limits-header-timeout"] {
        assert!(help.out.contains(part), "{part} in help");
    }
    assert!(!help.out.contains("--admin-token "), "no flag takes a secret");
    assert!(hifz.run(&["--version"]).out.starts_with("hifz "));
    for arguments in [&["frobnicate"][..], &["--memroy", "1MB"], &["import"], &["invalidate"]] {
        let outcome = hifz.run(arguments);
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{arguments:?} {outcome:?}");
    }
    assert!(hifz.run(&["--memroy", "1MB"]).err.contains("--memory"));
    let outcome = hifz.run(&["frobnicate", "--json"]);
    let error: Value = serde_json::from_str(&outcome.err).unwrap();
    assert_eq!(error["error"], "USAGE");
}

#[test]
fn a_backup_written_directly_is_whole_private_and_replaces_what_was_there() {
    let hifz = Hifz::new();
    hifz.write("backup.tgz", "older");
    let outcome = hifz.run(&["export", "backup.tgz"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.err.contains("directly, no server runs on"), "{outcome:?}");
    let file = hifz.path().join("backup.tgz");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read(&file).unwrap().starts_with(&[0x1f, 0x8b]));
    assert!(!hifz.path().join("backup.tgz.part").exists());
    let outcome = hifz.run(&["import", "backup.tgz", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.out).unwrap();
    assert!(report["via"].as_str().unwrap().contains("directly"));
    assert_eq!(report["imported"][0]["path"], "backup.tgz");
}

#[test]
fn a_backup_that_cannot_be_written_leaves_what_was_there() {
    let hifz = Hifz::new();
    assert_eq!(hifz.run(&["export", "no/such/folder/b.tgz"]).code, 1);
    assert_eq!(hifz.run(&["export", "."]).code, 2);
    hifz.write("b.tgz", "older");
    let server = hifz.serve_once(503, "application/problem+json", r#"{"detail":"busy"}"#);
    let outcome = hifz.run(&["export", "b.tgz"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.contains("busy (503)"), "{outcome:?}");
    assert_eq!(fs::read(hifz.path().join("b.tgz")).unwrap(), b"older");
    assert!(!hifz.path().join("b.tgz.part").exists());
    server.received();
}

#[test]
fn what_cannot_be_imported_is_said_with_its_name_before_anything_is_sent() {
    let hifz = Hifz::new();
    hifz.write("there.tgz", "not gzip");
    let outcome = hifz.run(&["import", "there.tgz", "missing.tgz"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.contains("missing.tgz") && !outcome.err.contains("importing"), "{outcome:?}");
    let outcome = hifz.run(&["import", "there.tgz", "--json"]);
    assert_eq!(outcome.code, 1);
    let last = outcome.err.lines().last().unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap()["error"], "DOCUMENT_INVALID");
}

#[test]
fn an_archive_goes_through_the_running_server_with_the_token_of_the_directory() {
    let hifz = Hifz::new();
    let archive = vec![7_u8; 300_000];
    hifz.write("a.tgz", &archive);
    let server = hifz.serve_once(200, JSON, r#"{"surahs":114}"#);
    let outcome = hifz.run(&["import", "a.tgz"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.err.contains("through the server at 127.0.0.1:"), "{outcome:?}");
    assert!(outcome.out.contains("114"));
    let (head, body) = server.received();
    let head = head.to_lowercase();
    assert!(head.starts_with("post /admin/v1/import http/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: bearer token-of-the-directory"));
    assert!(head.contains("content-type: application/gzip"));
    assert_eq!(body, archive);
}

#[test]
fn a_folder_is_sent_to_the_server_as_a_gzipped_archive() {
    let hifz = Hifz::new();
    fs::create_dir(hifz.path().join("unpacked")).unwrap();
    hifz.write("unpacked/package.json", "{}");
    let server = hifz.serve_once(200, JSON, "{}");
    let outcome = hifz.run_with(&["import", "unpacked"], &[("HIFZ_ADMIN_TOKEN", "token-of-the-settings")]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let (head, body) = server.received();
    assert!(head.contains("token-of-the-settings") && !outcome.err.contains("token-of"));
    assert!(body.starts_with(&[0x1f, 0x8b]));
}

#[test]
fn a_refusal_of_the_server_is_told_in_its_words() {
    let hifz = Hifz::new();
    hifz.write("a.tgz", "x");
    let problem = r#"{"detail":"dist/quran.json: 113 surahs","code":"ARCHIVE_INVALID","request_id":"r7"}"#;
    let server = hifz.serve_once(422, "application/problem+json", problem);
    let outcome = hifz.run(&["import", "a.tgz"]);
    assert_eq!(outcome.code, 1);
    let told = "hifz: the server refused: dist/quran.json: 113 surahs (422 ARCHIVE_INVALID, request r7)";
    assert!(outcome.err.contains(told), "{outcome:?}");
    server.received();
}

#[test]
fn an_answer_that_comes_before_the_archive_is_read_is_told() {
    let hifz = Hifz::new();
    hifz.write("a.tgz", vec![7_u8; 32_000_000]);
    let problem = r#"{"detail":"the archive is larger than accepted","code":"BODY_TOO_LARGE"}"#;
    let server = hifz.serve_once(413, EARLY, problem);
    let outcome = hifz.run(&["import", "a.tgz"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.contains("larger than accepted (413 BODY_TOO_LARGE)"), "{outcome:?}");
    server.received();
}

#[test]
fn a_directory_that_is_held_without_a_server_is_refused() {
    let hifz = Hifz::new();
    let held = DataDir::open(hifz.path().join("hifz-data")).unwrap();
    let outcome = hifz.run(&["export", "b.tgz"]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.err.contains("hifz-data"));
    drop(held);
}

#[test]
fn health_is_0_when_the_server_answers_and_1_when_it_is_unavailable_or_absent() {
    let hifz = Hifz::new();
    let server =
        hifz.serve_once(200, JSON, r#"{"status":"ok","components":{"disk":{"status":"ok","reason":null}}}"#);
    let outcome = hifz.run(&["health"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "ok\n  disk: ok\n"), "{outcome:?}");
    server.received();
    let server = hifz.serve_once(503, JSON, r#"{"status":"unavailable"}"#);
    let outcome = hifz.run(&["health", "--json"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(serde_json::from_str::<Value>(&outcome.out).unwrap()["status"], "unavailable");
    server.received();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let outcome = hifz.run(&["health", "--listen", &port]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.contains(&format!("no server answers at {port}")), "{outcome:?}");
}

#[test]
fn a_namespace_is_invalidated_through_the_server_or_not_at_all() {
    let hifz = Hifz::new();
    let outcome = hifz.run(&["invalidate", "--namespace", "quran"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.err.contains("no server runs on"));
    assert_eq!(hifz.run(&["invalidate", "--namespace", "a:b"]).code, 2);
    let server = hifz.serve_once(200, JSON, r#"{"invalidated":115}"#);
    let outcome = hifz.run(&["invalidate", "--namespace", "my space"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.out.contains("115"));
    assert!(server.received().0.starts_with("POST /admin/v1/namespaces/my%20space/invalidate HTTP/1.1"));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let hifz = Hifz::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = hifz.command(&["config"]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
