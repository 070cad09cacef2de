//! What a connection says itself, below the router: a request that is none, one that is too slow, a full house.
//!
//! In the form of every other error: `application/problem+json` with a code and a request id. Every refusal ends the
//! connection, because where the next request would begin is not known.

use axum::http::{HeaderValue, StatusCode};

use crate::server::http::{RETRY_AFTER_SECS, problem_document, request_id, write_now};

use super::head::Head;

/// Why a request is not handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    code: &'static str,
    detail: &'static str,
    /// The client's own, where one was read.
    request_id: Option<Vec<u8>>,
    /// Whether the request asked for a head alone.
    is_head: bool,
}

impl Refusal {
    pub(super) const fn new(status: u16, code: &'static str, detail: &'static str) -> Self {
        Self { status, code, detail, request_id: None, is_head: false }
    }

    /// A request that is wrong in itself.
    pub(super) const fn bad(code: &'static str, detail: &'static str) -> Self {
        Self::new(400, code, detail)
    }

    /// The same as the answer to `head`.
    pub(super) fn to(mut self, head: &Head<'_>) -> Self {
        self.request_id = head.values("x-request-id").next().map(<[u8]>::to_vec);
        self.is_head = head.method == "HEAD";
        self
    }

    #[cfg(test)]
    pub(super) const fn status(&self) -> u16 {
        self.status
    }

    #[cfg(test)]
    pub(super) const fn code(&self) -> &'static str {
        self.code
    }

    /// The whole answer as bytes.
    pub(super) fn render(&self) -> Vec<u8> {
        let given = self.request_id.as_deref().and_then(|id| HeaderValue::from_bytes(id).ok());
        let id = request_id(given.as_ref());
        let id = id.to_str().unwrap_or_default();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = problem_document(status, self.code, self.detail, id);
        let retry =
            if self.status == 503 { format!("retry-after: {RETRY_AFTER_SECS}\r\n") } else { String::new() };
        let mut date = Vec::new();
        write_now(&mut date);
        let mut answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ncache-control: no-store\r\n{retry}connection: close\r\nx-request-id: {id}\r\ndate: {}\r\n\r\n",
            body.len(),
            String::from_utf8_lossy(&date),
        )
        .into_bytes();
        if !self.is_head {
            answer.extend_from_slice(&body);
        }
        answer
    }
}

/// A connection more than there are seats.
pub(super) const FULL: Refusal =
    Refusal::new(503, "BUSY", "too many connections are open, try again shortly");

/// A head that does not come to an end.
pub(super) const HEAD_TOO_SLOW: Refusal =
    Refusal::new(408, "HEAD_TIMED_OUT", "the head of the request did not arrive in time");

/// A head beyond `limits.header`.
pub(super) const HEAD_TOO_LARGE: Refusal =
    Refusal::new(431, "HEAD_TOO_LARGE", "the head of the request is larger than limits.header");

/// An address beyond `limits.header`.
pub(super) const TARGET_TOO_LONG: Refusal =
    Refusal::new(414, "TARGET_TOO_LONG", "the address of the request is longer than limits.header");

/// Plain HTTP where HTTPS is spoken.
pub(super) const NOT_HTTPS: Refusal =
    Refusal::bad("HTTPS_ONLY", "this address speaks HTTPS, the request came as plain HTTP");
