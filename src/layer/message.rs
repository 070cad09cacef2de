//! A response as one value: status, headers and body in the form of an HTTP message.
//!
//! The form is the one HTTP/1.1 has on the wire (media type `message/http`), so that whoever looks at the entry can read
//! it: a status line, a line for each header, an empty line, the body as it is. Header values cannot contain line ends,
//! which is what makes it unambiguous. What belongs to one connection is not written.

use bytes::{Buf, BufMut, Bytes};
use http::StatusCode;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;

use super::directives::members;

/// The media type of the form.
pub(super) const MEDIA_TYPE: &str = "message/http";

/// The form of the response with these `parts`, whose body consists of `data`, `body_bytes` in all.
pub(super) fn write<'d>(parts: &Parts, data: impl Iterator<Item = &'d Bytes>, body_bytes: usize) -> Vec<u8> {
    let headers = || parts.headers.iter().filter(|(name, _)| !is_of_connection(&parts.headers, name));
    let head_bytes: usize = headers().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut message = Vec::with_capacity(START.len() + 7 + head_bytes + body_bytes);
    message.put_slice(START);
    message.put_slice(parts.status.as_str().as_bytes());
    message.put_slice(LINE_END);
    for (name, value) in headers() {
        message.put_slice(name.as_str().as_bytes());
        message.put_slice(b": ");
        message.put_slice(value.as_bytes());
        message.put_slice(LINE_END);
    }
    message.put_slice(LINE_END);
    data.for_each(|piece| message.put_slice(piece));
    message
}

/// What [`write`] wrote: status, headers, body; the bytes are shared, not copied. `None` for anything else.
pub(super) fn read(mut message: Bytes) -> Option<(StatusCode, HeaderMap, Bytes)> {
    let start = line(&mut message)?;
    let status = StatusCode::from_bytes(start.strip_prefix(START)?).ok()?;
    let mut headers = HeaderMap::new();
    loop {
        let line = line(&mut message)?;
        if line.is_empty() {
            return Some((status, headers, message));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line.get(..colon)?).ok()?;
        let value = line.slice(colon.checked_add(2).filter(|begin| *begin <= line.len())?..);
        headers.try_append(name, HeaderValue::from_maybe_shared(value).ok()?).ok()?;
    }
}

/// Takes the first line off `message`, without its end.
fn line(message: &mut Bytes) -> Option<Bytes> {
    let end = message.windows(LINE_END.len()).position(|two| two == LINE_END)?;
    let line = message.split_to(end);
    message.advance(LINE_END.len());
    Some(line)
}

/// Whether the header speaks of a connection and not of the response (RFC 9110 §7.6.1, RFC 9111 §3.1).
fn is_of_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    OF_CONNECTION.contains(&name.as_str())
        || members(headers, CONNECTION).any(|listed| listed.eq_ignore_ascii_case(name.as_str()))
}

const START: &[u8] = b"HTTP/1.1 ";

const LINE_END: &[u8] = b"\r\n";

const OF_CONNECTION: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_comes_back_as_it_was_but_for_what_belongs_to_its_connection() {
        let response = http::Response::builder()
            .status(404)
            .header("x-a", "1")
            .header("x-a", "")
            .header("x-text", HeaderValue::from_bytes("café: a\tb".as_bytes()).unwrap())
            .header("connection", "x-hop, close")
            .header("x-hop", "gone")
            .header("transfer-encoding", "chunked")
            .body(())
            .unwrap();
        let (parts, ()) = response.into_parts();
        let body = Bytes::from_static(b"a\r\n\r\nb: c\r\n\0\xFF");
        let (status, headers, read_body) =
            read(write(&parts, [&body].into_iter(), body.len()).into()).unwrap();
        assert_eq!((status, read_body), (StatusCode::NOT_FOUND, body));
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", ""]);
        assert_eq!(headers.get("x-text").unwrap().as_bytes(), "café: a\tb".as_bytes());
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn whatever_is_cut_off_or_turned_over_panics_nothing() {
        let response = http::Response::builder().header("x-a", "1").header("etag", "\"e\"").body(()).unwrap();
        let body = Bytes::from_static(b"body");
        let message = write(&response.into_parts().0, [&body].into_iter(), body.len());
        for at in 0..message.len() {
            let _ = read(Bytes::copy_from_slice(&message[..at]));
            for bit in 0..8 {
                let mut turned = message.clone();
                turned[at] ^= 1 << bit;
                let _ = read(turned.into());
            }
        }
    }

    #[test]
    fn what_is_no_message_of_ours_is_refused_and_nothing_panics() {
        let message = write(&http::Response::new(()).into_parts().0, std::iter::empty(), 0);
        assert!(read(message.into()).is_some());
        for bytes in [
            &b""[..],
            b"HTTP/1.1 200",
            b"HTTP/1.1 200\r\n",
            b"HTTP/1.1 99\r\n\r\n",
            b"HTTP/9.9 200\r\n\r\n",
            b"HTTP/1.1 200\r\nx\r\n\r\n",
            b"HTTP/1.1 200\r\nx:\r\n\r\n",
            b"HTTP/1.1 200\r\n: y\r\n\r\n",
            b"HTTP/1.1 200\r\nx: \0\r\n\r\n",
        ] {
            assert!(read(Bytes::copy_from_slice(bytes)).is_none(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
