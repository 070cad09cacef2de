//! Errors as `application/problem+json` (RFC 9457): the one place where a kind becomes a status and a code.
//!
//! The client gets a stable code and a plain sentence; the chain of causes goes to the log. Nothing internal (paths,
//! causes, other people's keys) leaves the house.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// An error answer: a status, a stable code and a sentence.
#[derive(Debug, Clone)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// The field or file that broke the rule, where one is known.
    place: Option<String>,
    extra: Vec<(header::HeaderName, HeaderValue)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { status, code, detail: detail.into(), place: None, extra: Vec::new() }))
    }

    pub(super) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "this route needs the admin token: send 'Authorization: Bearer <token>'";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", detail)
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hifz admin\""))
    }

    /// The same answer with one more header.
    pub(super) fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.extra.push((name, value));
        self
    }

    /// As the response to the request with this id.
    pub(super) fn render(self, request_id: &str) -> Response<Body> {
        let body = document(self.0.status, self.0.code, &self.0.detail, self.0.place.as_deref(), request_id);
        let length = body.len();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        // Said here, so that HEAD hears the same.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.0.extra);
        response
    }
}

impl IntoResponse for Problem {
    /// Handed on as it is: the outermost layer, which knows the request's id, renders it.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.status;
        response.extensions_mut().insert(self);
        response
    }
}

/// The document of a problem that arises below the router.
pub(in crate::server) fn problem_document(
    status: StatusCode,
    code: &str,
    detail: &str,
    request_id: &str,
) -> Vec<u8> {
    document(status, code, detail, None, request_id)
}

fn document(status: StatusCode, code: &str, detail: &str, place: Option<&str>, request_id: &str) -> Vec<u8> {
    let title = status.canonical_reason().unwrap_or("Error");
    let status = status.as_u16();
    let document = Document { r#type: "about:blank", title, status, detail, code, place, request_id };
    serde_json::to_vec(&document).unwrap_or_default()
}

#[derive(Serialize)]
struct Document<'p> {
    r#type: &'p str,
    title: &'p str,
    status: u16,
    detail: &'p str,
    code: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'p str>,
    request_id: &'p str,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        use StatusCode as S;
        let (status, code) = match error.kind() {
            ErrorKind::KeyInvalid => (S::BAD_REQUEST, "KEY_INVALID"),
            ErrorKind::ArgumentInvalid => (S::BAD_REQUEST, "PARAMETER_INVALID"),
            ErrorKind::KeyReserved => (S::CONFLICT, "KEY_RESERVED"),
            ErrorKind::ValueTooLarge => (S::PAYLOAD_TOO_LARGE, "VALUE_TOO_LARGE"),
            ErrorKind::SourceUnavailable => (S::SERVICE_UNAVAILABLE, "SOURCE_UNAVAILABLE"),
            ErrorKind::SourceTimedOut => (S::SERVICE_UNAVAILABLE, "SOURCE_TIMED_OUT"),
            ErrorKind::SourceRefused => (S::BAD_GATEWAY, "SOURCE_REFUSED"),
            ErrorKind::DiskFailed => (S::SERVICE_UNAVAILABLE, "DISK_FAILED"),
            ErrorKind::DiskNotTrusted => (S::INTERNAL_SERVER_ERROR, "DISK_NOT_TRUSTED"),
            ErrorKind::ContentDamaged => (S::INTERNAL_SERVER_ERROR, "CONTENT_DAMAGED"),
            ErrorKind::DocumentInvalid => (S::UNPROCESSABLE_ENTITY, "DOCUMENT_INVALID"),
            ErrorKind::DocumentTooLarge => (S::PAYLOAD_TOO_LARGE, "DOCUMENT_TOO_LARGE"),
            ErrorKind::NotFound => (S::NOT_FOUND, "NOT_FOUND"),
            ErrorKind::TranslationNotAvailable => (S::NOT_FOUND, "TRANSLATION_NOT_AVAILABLE"),
            ErrorKind::PreconditionFailed => (S::PRECONDITION_FAILED, "PRECONDITION_FAILED"),
            ErrorKind::Busy => (S::SERVICE_UNAVAILABLE, "BUSY"),
            ErrorKind::MemoryTooSmall => (S::INSUFFICIENT_STORAGE, "MEMORY_TOO_SMALL"),
            ErrorKind::Closed => (S::SERVICE_UNAVAILABLE, "CLOSING"),
            _ => (S::INTERNAL_SERVER_ERROR, "INTERNAL"),
        };
        match error.kind() {
            // The engine says that a source is down, once in a while; an outage must not fill the log.
            ErrorKind::SourceUnavailable
            | ErrorKind::SourceTimedOut
            | ErrorKind::SourceRefused
            | ErrorKind::Busy
            // It is about one request, and the limit is what it was meant to be.
            | ErrorKind::MemoryTooSmall
            | ErrorKind::Closed => tracing::debug!(code, error = %error.chain(), "a request failed"),
            _ if status.is_server_error() => {
                tracing::error!(code, error = %error.chain(), "a request failed");
            }
            _ => {}
        }
        let mut problem = Self::new(status, code, error.to_string());
        problem.0.place = error.place().map(ToOwned::to_owned);
        if matches!(status, S::SERVICE_UNAVAILABLE | S::BAD_GATEWAY) {
            return problem.with(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
        }
        problem
    }
}

/// When a client that was turned away should try again.
pub(in crate::server) const RETRY_AFTER_SECS: &str = "1";
