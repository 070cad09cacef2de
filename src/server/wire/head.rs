//! The head of an HTTP/1 request, as far as a connection must know it: where it ends, where its body ends, and whether
//! another request follows. What breaks the grammar, or could be read in two ways, is refused here.
//!
//! Pure functions of bytes; never panics, whatever they are, and looks at no byte more than a few times.

use std::mem::MaybeUninit;

use axum::http::Uri;

use super::refusal::Refusal;

/// A whole head, its parts borrowed from the bytes it was read from.
#[derive(Debug)]
pub(in crate::server) struct Head<'b> {
    pub(in crate::server) method: &'b str,
    pub(in crate::server) target: &'b str,
    headers: &'b [httparse::Header<'b>],
    /// Bytes from the beginning to the first of the body.
    pub(super) bytes: usize,
    pub(super) body: Framing,
    /// Whether the client wants to go on after this request.
    pub(super) keeps_alive: bool,
    /// Whether it speaks HTTP/1.0, and so goes on only where the answer says so.
    is_old: bool,
}

/// Where the body of a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes; 0 for no body.
    Length(u64),
    /// Where its chunks say so.
    Chunked,
}

/// Room for the headers of one head.
pub(super) type Headers<'b> = [MaybeUninit<httparse::Header<'b>>; HEADERS_MAX];

/// Room for the headers of one head, empty.
pub(super) const fn no_headers<'b>() -> Headers<'b> {
    [const { MaybeUninit::uninit() }; HEADERS_MAX]
}

impl<'b> Head<'b> {
    /// The head that `bytes` begin with; `None` while it is not whole. `headers` is where its headers are kept.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(bytes: &'b [u8], headers: &'b mut Headers<'b>) -> Result<Option<Self>, Refusal> {
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, headers) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(not_http(error, bytes)),
        };
        let headers: &'b [httparse::Header<'b>] = request.headers;
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let is_old = request.version == Some(0);
        let body = Framing::Length(0);
        let mut head = Self { method, target, headers, bytes: length, body, keeps_alive: false, is_old };
        head.check().map_err(|refusal| refusal.to(&head))?;
        Ok(Some(head))
    }

    /// What an answer says of the connection, if anything, when it is the last (`is_last`) or not.
    pub(in crate::server) fn connection(&self, is_last: bool) -> Option<&'static str> {
        match (is_last, self.is_old) {
            (true, _) => Some("close"),
            (false, true) => Some("keep-alive"),
            (false, false) => None,
        }
    }

    /// The values of the headers called `name`, in their order.
    pub(in crate::server) fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'b [u8]> + 'h {
        let named = self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value)
    }

    /// Every header, name and value.
    pub(in crate::server) fn headers(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> {
        self.headers.iter().map(|header| (header.name, header.value))
    }

    fn check(&mut self) -> Result<(), Refusal> {
        self.check_host()?;
        self.body = self.framing()?;
        self.keeps_alive =
            (!self.is_old || self.connection_says(b"keep-alive")) && !self.connection_says(b"close");
        Ok(())
    }

    fn connection_says(&self, word: &[u8]) -> bool {
        let mut words = self.values("connection").flat_map(|value| value.split(|byte| *byte == b','));
        words.any(|own| own.trim_ascii().eq_ignore_ascii_case(word))
    }

    fn check_host(&self) -> Result<(), Refusal> {
        let mut hosts = self.values("host");
        match (hosts.next(), hosts.next()) {
            (None, _) if self.is_old => Ok(()),
            (None, _) => Err(Refusal::bad("HOST_MISSING", "a request of HTTP/1.1 names its Host")),
            (Some(_), Some(_)) => {
                Err(Refusal::bad("HOST_INVALID", "a request names one Host, this one several"))
            }
            (Some(host), None) if is_host(host) => Ok(()),
            (Some(_), None) => {
                Err(Refusal::bad("HOST_INVALID", "the Host is not a host name or address with a port"))
            }
        }
    }

    /// Refuses whatever two readers could take for different lengths.
    fn framing(&self) -> Result<Framing, Refusal> {
        let mut codings = self.values("transfer-encoding");
        let (coding, another) = (codings.next(), codings.next());
        let mut length = None;
        for value in self.values("content-length") {
            let own = digits(value.trim_ascii()).ok_or_else(|| {
                Refusal::bad("LENGTH_INVALID", "the Content-Length is not a number of bytes")
            })?;
            if length.is_some_and(|length| length != own) {
                return Err(Refusal::bad("LENGTH_INVALID", "the request has two different Content-Lengths"));
            }
            length = Some(own);
        }
        match coding {
            None => Ok(Framing::Length(length.unwrap_or(0))),
            Some(_) if length.is_some() || self.is_old || another.is_some() => {
                let why =
                    "a Transfer-Encoding stands alone, once, in a request of HTTP/1.1 without Content-Length";
                Err(Refusal::bad("LENGTH_INVALID", why))
            }
            Some(coding) if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            Some(_) => {
                Err(Refusal::new(501, "CODING_UNKNOWN", "the only Transfer-Encoding known here is chunked"))
            }
        }
    }

    /// Refuses a target that is no address; asked only of what is not answered at once.
    pub(super) fn check_target(&self) -> Result<(), Refusal> {
        if self.target.len() > TARGET_BYTES_MAX {
            return Err(Refusal::new(414, "TARGET_TOO_LONG", "the address is longer than 64 kB").to(self));
        }
        let is_whole = self.method == "CONNECT" || self.target == "*" || self.target.contains('/');
        if is_whole && Uri::try_from(self.target).is_ok() {
            return Ok(());
        }
        Err(Refusal::bad("TARGET_INVALID", "the address is neither a path nor a URL").to(self))
    }
}

/// Why bytes are not the head of a request.
fn not_http(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::new(431, "HEAD_TOO_LARGE", "the request has more than 100 headers")
        }
        httparse::Error::Version if names_a_version(bytes) => {
            Refusal::new(505, "VERSION_UNKNOWN", "this server speaks HTTP/1.0, HTTP/1.1 and HTTP/2")
        }
        _ => Refusal::bad("REQUEST_INVALID", "the bytes are not a request of HTTP/1"),
    }
}

/// Whether the first line ends in a version, though in none that is spoken here.
fn names_a_version(bytes: &[u8]) -> bool {
    let line =
        bytes.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    version.strip_prefix(b"HTTP/").is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

fn is_host(value: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(byte);
    value.trim_ascii().iter().all(is_part)
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// As many as hyper takes.
const HEADERS_MAX: usize = 100;

/// As long as an address can be.
const TARGET_BYTES_MAX: usize = 65_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Where head and body end and whether another follows; or the status and code of the refusal.
    type Reading = Result<Option<(usize, Framing, bool)>, (u16, &'static str)>;

    fn read(text: &str) -> Reading {
        let mut headers = no_headers();
        let head = Head::read(text.as_bytes(), &mut headers);
        match head {
            Ok(head) => Ok(head.map(|head| (head.bytes, head.body, head.keeps_alive))),
            Err(refusal) => Err((refusal.status(), refusal.code())),
        }
    }

    #[test]
    fn a_head_says_where_it_and_its_body_end_and_whether_another_follows() {
        for (text, body, keeps_alive) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0), true),
            ("GET / HTTP/1.1\r\nHost: a:1\r\nConnection: x, Close\r\n\r\n", Framing::Length(0), false),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0), false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Framing::Length(0), true),
            (
                "PUT / HTTP/1.1\r\nhost: a\r\nContent-Length: 7\r\ncontent-length: 7\r\n\r\n",
                Framing::Length(7),
                true,
            ),
            ("PUT / HTTP/1.1\r\nhost: [::1]\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked, true),
            ("GET / HTTP/1.1\nHost:\n\n", Framing::Length(0), true),
        ] {
            assert_eq!(read(&format!("{text}rest")), Ok(Some((text.len(), body, keeps_alive))), "{text}");
            for end in 0..text.len() {
                assert_eq!(read(&text[..end]), Ok(None), "{text} up to {end}");
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (rest, status, code) in [
            ("HTTP/1.1\r\n\r\n", 400, "HOST_MISSING"),
            ("HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "HOST_INVALID"),
            ("HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "HOST_INVALID"),
            ("HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "LENGTH_INVALID"),
            ("HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400, "LENGTH_INVALID"),
            ("HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "LENGTH_INVALID"),
            (
                "HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
                "LENGTH_INVALID",
            ),
            ("HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "LENGTH_INVALID"),
            ("HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "CODING_UNKNOWN"),
            ("HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", 400, "REQUEST_INVALID"),
            ("HTTP/1.1\r\nHost : a\r\n\r\n", 400, "REQUEST_INVALID"),
            ("HTTP/9.9\r\n\r\n", 505, "VERSION_UNKNOWN"),
            ("HTTQ/1.1\r\n\r\n", 400, "REQUEST_INVALID"),
        ] {
            assert_eq!(read(&format!("GET / {rest}")), Err((status, code)), "{rest}");
        }
        assert_eq!(read("\u{0}\u{0}"), Err((400, "REQUEST_INVALID")));
        let many = "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(101) + "\r\n";
        assert_eq!(read(&many), Err((431, "HEAD_TOO_LARGE")));
    }

    #[test]
    fn a_target_is_a_path_or_a_url() {
        for (target, is_good) in
            [("/a?b", true), ("*", true), ("http://a/b", true), ("a", false), ("/\u{e9}", true), ("//", true)]
        {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut headers = no_headers();
            let head = Head::read(text.as_bytes(), &mut headers);
            let is_taken = head.is_ok_and(|head| head.is_some_and(|head| head.check_target().is_ok()));
            assert_eq!(is_taken, is_good, "{target}");
        }
    }
}
