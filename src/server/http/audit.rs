//! One log line for every action of an admin, done or refused: who, from where, what, how it ended, and the request's id.
//!
//! Promises: no token, no value, no query and no user id stands in it; a user is named by the keyed hash, an invalidation
//! by what it selects. Reading figures
//! and lists is no action and is told at `debug` alone; taking an export away is one.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode};
use axum::middleware::Next;

use crate::content::keys::UserId;

use super::Site;
use super::remote::Visitor;

/// What is to be logged once the request's id is known; travels with the answer.
#[derive(Debug, Clone)]
pub(super) struct Action {
    method: Method,
    path: String,
    from: Visitor,
}

/// What an action named in its body, such as the selector of an invalidation; travels with the answer too.
#[derive(Debug, Clone)]
struct About(Box<str>);

/// `response`, whose line in the log says what the action was about.
pub(super) fn about(mut response: Response<Body>, about: &str) -> Response<Body> {
    let mut shortened: String = about.chars().take(ABOUT_CHARS_MAX).collect();
    if shortened.len() < about.len() {
        shortened.push('…');
    }
    response.extensions_mut().insert(About(shortened.into()));
    response
}

/// Notes what is asked of an admin route, and lets the answer carry it out to where the id is.
pub(super) async fn note(State(site): State<Site>, request: Request, next: Next) -> Response<Body> {
    let action = Action {
        method: request.method().clone(),
        path: shown_path(&site, request.uri().path()),
        from: site.rates.visitor(request.headers(), request.extensions()),
    };
    let mut response = next.run(request).await;
    response.extensions_mut().insert(action);
    response
}

/// Logs what `response` carries.
pub(super) fn log(response: &mut Response<Body>, request_id: &HeaderValue) {
    let status = response.status();
    let Some(Action { method, path, from }) = response.extensions_mut().remove::<Action>() else { return };
    let request_id = request_id.to_str().unwrap_or_default();
    let about = response.extensions_mut().remove::<About>();
    let about = about.as_ref().map(|about| &*about.0);
    let who = match status {
        StatusCode::UNAUTHORIZED => "unknown",
        StatusCode::FORBIDDEN => "user",
        StatusCode::TOO_MANY_REQUESTS => "refused",
        _ => "admin",
    };
    let is_reading = matches!(method, Method::GET | Method::HEAD) && !path.ends_with("/export");
    let status = status.as_u16();
    match (who, is_reading) {
        ("admin", true) => {
            tracing::debug!(target: TARGET, who, %from, %method, path, status, request_id, "admin read");
        }
        // A flood of them is bounded by the limit of failed logins; beyond it nothing is told.
        ("refused", _) => {
            tracing::debug!(target: TARGET, who, %from, %method, path, status, request_id, "admin action refused");
        }
        ("admin", false) => {
            tracing::info!(target: TARGET, who, %from, %method, path, about, status, request_id, "admin action");
        }
        _ => {
            tracing::warn!(target: TARGET, who, %from, %method, path, status, request_id, "admin action refused");
        }
    }
}

/// The path as it may be logged: with the hash in the place of a user's id.
fn shown_path(site: &Site, path: &str) -> String {
    let Some(id) = path.strip_prefix(USERS) else { return path.to_owned() };
    let id = percent_decoded(id).and_then(|id| UserId::parse(&id).ok());
    id.map_or_else(
        || format!("{USERS}(no user id)"),
        |id| format!("{USERS}{:032x}", site.gate.access().user(id).hash.0),
    )
}

/// `text` with its percent codes replaced, once.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let (code, tail) = tail.split_at_checked(2)?;
            // A sign would pass for a digit otherwise.
            let code =
                std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// So much of what an action was about is told.
const ABOUT_CHARS_MAX: usize = 200;

/// What a filter of the log names to keep or to leave out these lines.
const TARGET: &str = "hifz::audit";

/// What stands before the id of a user.
const USERS: &str = "/admin/v1/users/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_codes_are_replaced_once() {
        assert_eq!(percent_decoded("a%2541%41").as_deref(), Some("a%41A"));
        assert_eq!(percent_decoded("a%4"), None);
        assert_eq!(percent_decoded("a%ff"), None);
    }
}
