//! The bookmarks of a user: read through the cache, changed in the content store, by their owner alone.
//!
//! A change is acknowledged once it is on disk and the cache has durably forgotten the older list. Conditions
//! (`If-Match`, `If-Unmodified-Since`, `If-None-Match`) are checked inside the transaction of the change: of two changes
//! that were made from one state, one gets 412. A tag names the state of the whole list, also for a single bookmark;
//! `*` asks whether the list, or that one, has been kept. Nothing here repeats the id of a user in an error.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::{Frame, SizeHint};

use crate::content::keys::{User, Verse};
use crate::content::{Bookmarks, Change, Kept, ListSize, Standing};
use crate::engine::{Answer, Remains, Turn};
use crate::error::{Error, ErrorKind};
use crate::server::changes;

use super::admin::run;
use super::auth::Owner;
use super::conditions::{Validators, WriteConditions};
use super::incoming::{BOOKMARKS_TIMES, read_whole_beside};
use super::problem::Problem;
use super::reply::{Representation, explained};
use super::{Sharing, Site};

type Reply = Result<Response<Body>, Problem>;

/// `GET /api/v1/users/{id}/bookmarks`
pub(super) async fn list(
    State(site): State<Site>,
    owner: Owner,
    method: Method,
    headers: HeaderMap,
) -> Reply {
    let source = site.store.bookmarks().of(owner.0);
    let key = source.key();
    let answered = site.cache.get_or_load(key.as_key_ref(), &site.coded(source)).await;
    let problem = match &answered {
        Ok(Answer { entry: Some(entry), outcome, turn }) => {
            let response = shown(&site, Representation::whole(entry, *outcome)?, &method, &headers);
            return Ok(match turn {
                Some(turn) => response.map(|body| Body::new(Taking { body, turn: turn.clone() })),
                None => response,
            });
        }
        Ok(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the bookmarks cannot be read"),
        Err(error) => error.clone().into(),
    };
    Err(explained(problem, &site.cache, key.as_key_ref(), &answered))
}

/// A large body that keeps its turn until the last of its bytes has been sent.
struct Taking {
    body: Body,
    turn: Remains,
}

impl HttpBody for Taking {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        /// Pieces of it.
        struct Taken(Bytes, #[expect(dead_code, reason = "held, not read")] Remains);
        impl AsRef<[u8]> for Taken {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let own =
            |frame: Frame<Bytes>| frame.map_data(|bytes| Bytes::from_owner(Taken(bytes, self.turn.clone())));
        Poll::Ready(frame.map(|frame| frame.map(own)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn shown(site: &Site, whole: Representation<'_>, method: &Method, headers: &HeaderMap) -> Response<Body> {
    let mut response = whole.private().respond(&site.cache, method, headers);
    for_the_owner(response.headers_mut());
    response
}

/// `PUT /api/v1/users/{id}/bookmarks`
pub(super) async fn put_list(State(site): State<Site>, owner: Owner, request: Request) -> Reply {
    let conditions = WriteConditions::of(request.headers());
    let place = HeaderValue::from_str(request.uri().path());
    let stands = size(&site, &owner.0).await?.look_bytes();
    let document = read_whole_beside(&site, request.into_body(), BOOKMARKS_TIMES, stands).await?;
    let kept = change(&site, owner.0, move |bookmarks, user| {
        let guard = |standing: &Standing| check(&conditions, standing);
        let kept = bookmarks.put_all(user, &document, (!conditions.is_empty()).then_some(&guard))?;
        let change = kept.written.change.clone();
        Ok((kept, change))
    })
    .await?;
    let mut response = kept_reply(&kept);
    let headers = response.headers_mut();
    // The body is what a GET of this place would now bring, and the tag is of that.
    let digest = xxhash_rust::xxh3::xxh3_128(&kept.body);
    put(headers, header::ETAG, HeaderValue::from_str(&format!("\"{digest:032x}\"")));
    put(headers, header::CONTENT_LOCATION, place);
    Ok(with_body(response, kept.body))
}

/// `DELETE /api/v1/users/{id}/bookmarks`
pub(super) async fn delete_list(State(site): State<Site>, owner: Owner, headers: HeaderMap) -> Reply {
    let conditions = WriteConditions::of(&headers);
    let turn = room_to_look(&site, &owner.0).await?;
    change(&site, owner.0, move |bookmarks, user| {
        let _turn = turn;
        let guard = |standing: &Standing| check(&conditions, standing);
        Ok(((), bookmarks.delete_all(user, (!conditions.is_empty()).then_some(&guard))?))
    })
    .await?;
    Ok(deleted())
}

/// `PUT /api/v1/users/{id}/bookmarks/{surah}:{ayah}`
pub(super) async fn put_one(
    State(site): State<Site>,
    owner: Owner,
    Path((_, verse)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let verse = Verse::parse(&verse)
        .map_err(|error| Error::new(ErrorKind::DocumentInvalid, error.message().to_owned()))?;
    let conditions = WriteConditions::of(&headers);
    let stands = size(&site, &owner.0).await?.change_bytes();
    let document = read_whole_beside(&site, body, BOOKMARKS_TIMES, stands).await?;
    let kept = change(&site, owner.0, move |bookmarks, user| {
        let guard = |standing: &Standing| check(&conditions, standing);
        let kept = bookmarks.put(user, verse, &document, (!conditions.is_empty()).then_some(&guard))?;
        let change = kept.written.change.clone();
        Ok((kept, change))
    })
    .await?;
    Ok(with_body(kept_reply(&kept), kept.body))
}

/// `DELETE /api/v1/users/{id}/bookmarks/{surah}:{ayah}`
pub(super) async fn delete_one(
    State(site): State<Site>,
    owner: Owner,
    Path((_, verse)): Path<(String, String)>,
    headers: HeaderMap,
) -> Reply {
    let verse = Verse::parse(&verse)?;
    let conditions = WriteConditions::of(&headers);
    let turn = site.incoming.turn(size(&site, &owner.0).await?.change_bytes()).await?;
    change(&site, owner.0, move |bookmarks, user| {
        let _turn = turn;
        let guard = |standing: &Standing| check(&conditions, standing);
        Ok(((), bookmarks.delete(user, verse, (!conditions.is_empty()).then_some(&guard))?))
    })
    .await?;
    Ok(deleted())
}

/// `OPTIONS /api/v1/users/{id}/bookmarks`
pub(super) async fn list_options() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, HEAD, PUT, DELETE, OPTIONS")])
}

/// `OPTIONS /api/v1/users/{id}/bookmarks/{surah}:{ayah}`
pub(super) async fn one_options() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(header::ALLOW, "PUT, DELETE, OPTIONS")])
}

/// Pages of every origin may ask, which hold a token of their own: no cookie opens these routes, so that a page gets
/// nothing by being visited.
pub(super) const SHARING: Sharing =
    Sharing { methods: "GET, HEAD, PUT, DELETE", allowed: ALLOWED, exposed: EXPOSED };

/// Checks what a change demands, inside its transaction.
pub(super) fn check(conditions: &WriteConditions, standing: &Standing) -> crate::Result<()> {
    // Of two states within one second a date names neither.
    let modified_at_secs = standing.modified_at.as_secs() + u64::from(standing.is_second_shared);
    conditions.check_within(standing.is_there, Validators { digest: standing.digest, modified_at_secs })
}

/// How large the user's list is, for whoever makes room for it.
async fn size(site: &Site, user: &User) -> Result<ListSize, Problem> {
    let id = user.id.clone();
    run(site, move |site| site.store.bookmarks().size(&id)).await
}

/// Room to look at the list of `user`, or to take it out.
pub(super) async fn room_to_look(site: &Site, user: &User) -> Result<Option<Turn>, Problem> {
    Ok(site.incoming.turn(size(site, user).await?.look_bytes()).await?)
}

/// Runs `work` to its end and lets the cache forget what it changed.
async fn change<T: Send + 'static>(
    site: &Site,
    user: User,
    work: impl FnOnce(&Bookmarks, &User) -> crate::Result<(T, Change)> + Send + 'static,
) -> Result<T, Problem> {
    run(site, move |site| {
        let (done, change) = work(&site.store.bookmarks(), &user)?;
        changes::apply(&site.cache, &site.store, &change)?;
        Ok(done)
    })
    .await
}

fn kept_reply(kept: &Kept) -> Response<Body> {
    let status = if kept.written.made { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = status.into_response();
    let headers = response.headers_mut();
    let modified_at = SystemTime::UNIX_EPOCH + Duration::from_secs(kept.modified_at.as_secs());
    put(headers, header::LAST_MODIFIED, HeaderValue::from_str(&httpdate::fmt_http_date(modified_at)));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for_the_owner(headers);
    response
}

fn with_body(response: Response<Body>, body: Vec<u8>) -> Response<Body> {
    response.map(|_| Body::from(body))
}

fn deleted() -> Response<Body> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    for_the_owner(response.headers_mut());
    response
}

/// For the owner's own cache, and asked about each time: another device may have changed it.
fn for_the_owner(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding, authorization"));
    // A list that was never kept has no date.
    if headers.get(header::LAST_MODIFIED).is_some_and(|date| date == EPOCH) {
        headers.remove(header::LAST_MODIFIED);
    }
}

fn put<E>(headers: &mut HeaderMap, name: HeaderName, value: Result<HeaderValue, E>) {
    // Every value here is made of visible ASCII; one that is not is better left out than sent.
    if let Ok(value) = value {
        headers.insert(name, value);
    }
}

/// When a list that was never kept says it changed.
const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

/// Response headers that a page of another origin may read.
const EXPOSED: &str =
    "age, cache-status, content-location, etag, last-modified, retry-after, www-authenticate, x-request-id";

/// Request headers that a page of another origin may send.
const ALLOWED: &str = "authorization, content-type, if-match, if-modified-since, if-none-match, if-unmodified-since, x-request-id";
