//! A real server as a child process on a free port, and a plain HTTP client that sees every byte.

pub(crate) mod authority;
pub(crate) mod feed;
pub(crate) mod origin;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    pub(crate) token: String,
}

impl Server {
    /// Starts cold on `directory`, which may hold the stores of an earlier one, and waits until it listens.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    /// The same with more flags.
    pub(crate) fn start_with(directory: &Path, flags: &[&str]) -> Self {
        Self::launch(directory, flags, &[], Stdio::inherit())
    }

    /// The same with more flags, variables of the environment and a place for its log.
    pub(crate) fn launch(
        directory: &Path,
        flags: &[&str],
        variables: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hifz"))
            .arg("serve")
            .args(["--listen", "127.0.0.1:0", "--flush-interval", "50ms", "--data-dir"])
            .arg(directory)
            .args(flags)
            // What a test reads first is to be a miss; flags are stronger.
            .env("HIFZ_WARM_ON_START", "false")
            .envs(variables.iter().copied())
            .current_dir(directory)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("the server ended before its start summary").unwrap();
        let address = first.rsplit(' ').next().unwrap().to_owned();
        // Read to the end of the summary, so that everything it names exists.
        assert!(lines.any(|line| line.unwrap().contains("admin token")));
        let configured = variables.iter().find(|(name, _)| *name == "HIFZ_ADMIN_TOKEN");
        let token = match configured {
            Some((_, token)) => (*token).to_owned(),
            // Where the settings file names one, the test knows it.
            None => std::fs::read_to_string(directory.join("admin.token")).unwrap_or_default(),
        };
        Self { child, address, token }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn admin(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let authorization = format!("Bearer {}", self.token);
        self.send(method, path, &[("Authorization", &authorization)], body)
    }

    /// One request on a connection of its own.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head =
            vec![format!("{method} {path} HTTP/1.1"), "Host: hifz".into(), "Connection: close".into()];
        head.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if !body.is_empty() || method == "PUT" || method == "POST" {
            head.push(format!("Content-Length: {}", body.len()));
        }
        let mut request = (head.join("\r\n") + "\r\n\r\n").into_bytes();
        request.extend_from_slice(body);
        Reply::parse(&self.raw(&request))
    }

    /// Sends bytes and reads until the server closes.
    pub(crate) fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end that something else has brought about; the exit code.
    pub(crate) fn exit_code(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(mut self) -> i32 {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended when it was killed or terminated by the test.
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let reply = Self { status, headers, body: bytes[end + 4..].to_vec() };
        if reply.header("transfer-encoding") == Some("chunked") {
            return Self { body: unchunked(&reply.body), ..reply };
        }
        reply
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn cache_status(&self) -> &str {
        self.header("cache-status").unwrap_or_default()
    }

    pub(crate) fn is_hit(&self) -> bool {
        self.cache_status().starts_with("hifz; hit")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
}

/// One request to a server that may be killed meanwhile: the status, or `None` when no whole head came back.
pub(crate) fn try_send(address: &str, method: &str, path: &str, token: &str, body: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: hifz\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut answer = Vec::new();
    // What was cut off by the kill is no answer.
    stream.read_to_end(&mut answer).ok()?;
    let head = std::str::from_utf8(answer.get(..12)?).ok()?;
    head.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// Asks `probe` again and again until it answers; for what happens in the background of another process.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    // Far longer than anything takes, even on a machine that has much else to do.
    for _ in 0..2400 {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(25));
    }
    panic!("{what} did not happen within a minute");
}

/// The longest a test waits for bytes.
const PATIENCE: Duration = Duration::from_secs(30);
