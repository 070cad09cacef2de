//! One address per resource: other spellings are sent to it, so that no cache on the way keeps a thing twice.
//!
//! An address of content is made of `a-z`, `0-9`, `-` and `/` alone and ends without a slash. Whatever else it is that
//! a client wrote, it becomes either a redirect to that address or a 404 further on.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;

use super::problem::Problem;

/// Redirects what is written with needless escapes.
pub(super) async fn one_address(request: Request, next: Next) -> Response<Body> {
    match unescaped(request.uri()) {
        Some(address) => moved(address),
        None => next.run(request).await,
    }
}

/// The address without the slashes at its end, where that is what is wrong with it.
pub(super) fn without_slash(uri: &Uri) -> Option<String> {
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    let is_ours = trimmed.len() < path.len() && trimmed.starts_with("/api/v1/");
    is_ours.then(|| with_query(trimmed, uri))
}

/// To the one address of what was asked for.
pub(super) fn moved(address: String) -> Response<Body> {
    let Ok(location) = HeaderValue::try_from(address) else {
        return Problem::not_found("ROUTE_NOT_FOUND", "there is nothing at this address").into_response();
    };
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)]).into_response()
}

/// The address without escapes, where it has some and needs none.
fn unescaped(uri: &Uri) -> Option<String> {
    let path = uri.path();
    if !path.contains('%') {
        return None;
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, escape)) = rest.split_once('%') {
        plain.push_str(before);
        let byte = u8::from_str_radix(escape.get(..2)?, 16).ok()?;
        plain.push(char::from(byte));
        rest = escape.get(2..)?;
    }
    plain.push_str(rest);
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-/".contains(&byte);
    plain.bytes().all(is_plain).then(|| with_query(&plain, uri))
}

/// Spells any address; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(super) fn drive(uri: &Uri) {
    for address in [unescaped(uri), without_slash(uri)].into_iter().flatten() {
        assert!(!address.contains('%') || uri.query().is_some(), "an address is written without escapes");
    }
}

fn with_query(path: &str, uri: &Uri) -> String {
    uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needless_escapes_and_slashes_lead_to_the_one_address() {
        let plain = |uri: &'static str| unescaped(&Uri::from_static(uri));
        assert_eq!(plain("/api/v1/surahs/%32?x=%31").as_deref(), Some("/api/v1/surahs/2?x=%31"));
        for uri in [
            "/api/v1/surahs/2",
            "/api/v1/surahs/%0a",
            "/api/v1/surahs/%ff",
            "/api/v1/surahs/%2",
            "/a/%2E%2E/b",
            "/a/%25",
        ] {
            assert_eq!(plain(uri), None, "{uri}");
        }
        let trimmed = |uri: &'static str| without_slash(&Uri::from_static(uri));
        assert_eq!(trimmed("/api/v1/surahs//?a=b").as_deref(), Some("/api/v1/surahs?a=b"));
        assert_eq!((trimmed("/"), trimmed("//evil/"), trimmed("/api/v1/")), (None, None, None));
    }
}
