//! Which routes are for whom: the admin's, a user's own, and content where that is for users alone.
//!
//! Promises: whoever brings no token, or one that is nobody's, is told 401 and how to ask; whoever is known but is not
//! meant, 403; two `Authorization` headers are no token. What a refusal says repeats neither token nor user.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;

use crate::content::keys::{User, UserId};
use crate::server::access::Caller;
use crate::server::jwt::Refusal;

use super::Site;
use super::problem::Problem;

/// Lets only the admin through.
pub(super) async fn admin_only(State(site): State<Site>, request: Request, next: Next) -> Response<Body> {
    match caller(&site, request.headers(), request.extensions()) {
        Ok(Some(Caller::Admin)) => next.run(request).await,
        Ok(Some(Caller::User(_))) => {
            forbidden("this route needs the admin token; a user token is not enough").into_response()
        }
        Ok(Some(Caller::Unknown(_)) | None) => Problem::unauthorized().into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Where content is for users alone, lets only users through, and keeps shared caches from keeping the answer.
pub(super) async fn readers_only(State(site): State<Site>, request: Request, next: Next) -> Response<Body> {
    if !site.gate.access().is_content_for_users() || request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    match caller(&site, request.headers(), request.extensions()) {
        Ok(Some(Caller::User(_))) => {
            let mut response = next.run(request).await;
            make_private(response.headers_mut());
            response
        }
        Ok(Some(Caller::Admin)) => {
            forbidden("content is for users here (content_auth = user); bring a user token").into_response()
        }
        Ok(Some(Caller::Unknown(refusal))) => user_token_refused(refusal).into_response(),
        Ok(None) => user_token_missing().into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The user whose own resource a request is for: named by the path, proven by the token.
pub(super) struct Owner(pub(super) User);

impl FromRequestParts<Site> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Problem> {
        let user = match caller(site, &parts.headers, &parts.extensions)? {
            Some(Caller::User(user)) => user,
            Some(Caller::Admin) => {
                return Err(forbidden("bookmarks are their owner's alone; the admin token opens nobody's"));
            }
            Some(Caller::Unknown(refusal)) => return Err(user_token_refused(refusal)),
            None => return Err(user_token_missing()),
        };
        // Only now is the path looked at: what is asked for is nobody's business who is not known.
        let named = named_user(parts, site).await;
        if named.as_ref() != Some(&user) {
            return Err(forbidden("this is another user's; the token is good for its own user (sub) alone"));
        }
        Ok(Self(site.gate.access().user(user)))
    }
}

/// The user id in the path, percent-decoded once.
pub(super) async fn named_user(parts: &mut Parts, site: &Site) -> Option<UserId> {
    let path = Path::<Vec<(String, String)>>::from_request_parts(parts, site).await.ok()?;
    let (_, id) = path.0.into_iter().find(|(name, _)| name == "id")?;
    UserId::parse(&id).ok()
}

/// Who brings a request; `None` without a token. Refused where this address has brought too many that are nobody's.
fn caller(site: &Site, headers: &HeaderMap, extensions: &Extensions) -> Result<Option<Caller>, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = given.next() else { return Ok(None) };
    let is_one = given.next().is_none();
    let token = value.to_str().ok().and_then(bearer).filter(|_| is_one);
    let caller = token
        .map_or(Caller::Unknown(Refusal::Form), |token| site.gate.access().caller(token, site.cache.now()));
    // Only now, so that a right token is let in whatever others at its address have done.
    if let Caller::Unknown(refusal) = &caller
        && refusal.is_guess()
    {
        site.rates.failed_login(headers, extensions)?;
    }
    Ok(Some(caller))
}

/// Keeps what was made for everybody out of shared caches.
pub(super) fn make_private(headers: &mut HeaderMap) {
    let control = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let private = control.map(|control| control.replacen("public", "private", 1));
    if let Some(Ok(value)) = private.map(|value| HeaderValue::from_str(&value)) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    headers.append(header::VARY, HeaderValue::from_static("authorization"));
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn forbidden(detail: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "FORBIDDEN", detail)
}

fn user_token_missing() -> Problem {
    let detail =
        "this route needs a user's token: send 'Authorization: Bearer <token>'; 'hifz token USER' signs one";
    Problem::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", detail)
        .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hifz\""))
}

fn user_token_refused(refusal: Refusal) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "TOKEN_INVALID", refusal.sentence()).with(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"hifz\", error=\"invalid_token\""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_bearer_scheme_carries_a_token() {
        assert_eq!((bearer("Bearer a.b"), bearer("bearer  a ")), (Some("a.b"), Some("a")));
        assert_eq!((bearer("Basic a"), bearer("a"), bearer("Bearer")), (None, None, None));
    }

    #[test]
    fn a_private_answer_says_so_and_keeps_its_lifetime() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
        make_private(&mut headers);
        assert_eq!(headers[header::CACHE_CONTROL], "private, max-age=60");
        assert_eq!(headers[header::VARY], "authorization");
    }
}
