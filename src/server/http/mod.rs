//! The HTTP door: which route is answered where, and what every answer has in common.
//!
//! Content routes are open to every origin and speak only through the cache; admin routes first ask for the token and
//! only then look at anything else. Every answer carries a request id, and every error is `application/problem+json`.

mod admin;
mod audit;
mod auth;
mod batch;
mod bookmarks;
mod coding;
mod compress;
mod conditions;
mod content;
mod date;
mod entries;
mod events;
mod explain;
mod exposition;
mod health;
mod hit;
mod incoming;
mod invalidate;
mod metrics;
mod openapi;
mod operations;
mod problem;
mod range;
mod rates;
mod remote;
mod reply;
mod routes;
mod spelling;
mod stats;
pub(in crate::server) mod verify;
mod warm;

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{delete, get, post, put};
use tokio::sync::Semaphore;

use crate::clock::Timestamp;
use crate::content::Store;
use crate::datadir::DataDir;
use crate::engine::Cache;
use crate::server::access::Gate;
use crate::server::alerts::Alerts;
use crate::server::config::Limits;
use crate::server::readiness::Readiness;
use crate::server::reload::InEffect;
use crate::server::traffic::{Class, Traffic};
use crate::server::warm::Warmer;
use crate::source::Source;

#[cfg(feature = "fuzzing")]
pub(crate) use batch::drive as drive_batch;
pub(super) use batch::shown;
pub(super) use compress::{Coded, plain_body};
use conditions::write_hex;
pub(super) use date::write_now;
pub(super) use entries::refuse_long;
pub(super) use events::Feeds;
pub(super) use explain::explained;
pub(super) use hit::{Hit, Hits};
pub(super) use incoming::Incoming;
pub(super) use openapi::Description;
use problem::Problem;
pub(super) use problem::{RETRY_AFTER_SECS, problem_document};
pub(super) use rates::Rates;
use routes::Routes;

/// What the routes answer from; a clone is the same, and is made for every request.
#[derive(Debug, Clone)]
pub(super) struct Site(Arc<Parts>);

impl Deref for Site {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl From<Parts> for Site {
    fn from(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

/// What a [`Site`] is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) cache: Cache,
    pub(super) store: Store,
    /// What content is read from: the store, or another service.
    pub(super) source: Arc<dyn Source>,
    /// The address of that service; `None` when content is this server's own to change.
    pub(super) origin: Option<Arc<str>>,
    pub(super) warmer: Warmer,
    pub(super) directory: DataDir,
    pub(super) gate: Gate,
    pub(super) rates: Rates,
    pub(super) limits: Arc<Limits>,
    pub(super) feeds: Feeds,
    /// Held by whoever changes content, so that what a change demands of the present state still holds when it is made.
    pub(super) content_changes: parking_lot::Mutex<()>,
    /// The namespaces that keep only the compressed form.
    pub(super) compressed_only: Arc<HashSet<String>>,
    /// Whether plain hits may be answered without the router.
    pub(super) answers_plainly: bool,
    pub(super) description: Description,
    /// The bodies that are being received.
    pub(super) incoming: Incoming,
    pub(super) operations: Arc<Operations>,
}

/// What those look at who run the server.
#[derive(Debug)]
pub(super) struct Operations {
    /// The settings as they hold at this moment.
    pub(super) in_effect: InEffect,
    pub(super) readiness: Readiness,
    pub(super) alerts: Alerts,
    pub(super) traffic: Arc<Traffic>,
    /// A permit for each connection that may still come.
    pub(super) seats: Arc<Semaphore>,
    pub(super) started_at: Timestamp,
}

impl Parts {
    /// `source` with the coded forms of what it gives.
    fn coded<S>(&self, source: S) -> Coded<S> {
        Coded::new(source, self.compressed_only.clone())
    }
}

/// The routes everybody may ask.
pub(super) fn public(site: &Site) -> Router {
    finish(shared_routes(site).merge(own_routes(site)).merge(operations()), site)
}

/// The routes that need the admin token, for a listener of their own.
pub(super) fn admin(site: &Site) -> Router {
    finish(guarded_routes(site).merge(operations()), site)
}

/// Both on one listener.
pub(super) fn everything(site: &Site) -> Router {
    finish(shared_routes(site).merge(own_routes(site)).merge(operations()).merge(guarded_routes(site)), site)
}

/// The content routes, open to pages of every origin.
fn shared_routes(site: &Site) -> Routes {
    let readers_only = from_fn_with_state(site.clone(), auth::readers_only);
    content_routes().through(|router| {
        let router = router.route_layer(from_fn(spelling::one_address)).route_layer(readers_only);
        limited(router, site)
            .method_not_allowed_fallback(no_such_method)
            .layer(from_fn_with_state(&SHARING, share_across_origins))
    })
}

/// The routes of one user, open to pages that hold the user's token.
fn own_routes(site: &Site) -> Routes {
    user_routes().through(|router| {
        let router = limited(router, site).method_not_allowed_fallback(no_such_method);
        router.layer(from_fn_with_state(&bookmarks::SHARING, share_across_origins))
    })
}

fn content_routes() -> Routes {
    Routes::new()
        .route("/api/v1/surahs", get(content::surahs).options(preflight))
        .route("/api/v1/surahs/{number}", get(content::surah).options(preflight))
        .route("/api/v1/surahs/{number}/ayahs/{ayah}", get(content::ayah).options(preflight))
        .route("/api/v1/reciters", get(content::reciters).options(preflight))
        .route("/api/v1/reciters/{id}", get(content::reciter).options(preflight))
        .route("/api/v1/translations", get(content::translations).options(preflight))
        .route("/api/v1/translations/{id}", get(content::translation).options(preflight))
}

/// What belongs to one user; each handler takes an `Owner` first.
fn user_routes() -> Routes {
    let list = get(bookmarks::list).put(bookmarks::put_list).delete(bookmarks::delete_list);
    let one = put(bookmarks::put_one).delete(bookmarks::delete_one);
    Routes::new()
        .route("/api/v1/users/{id}/bookmarks", list.options(bookmarks::list_options))
        .route("/api/v1/users/{id}/bookmarks/{verse}", one.options(bookmarks::one_options))
}

/// The same, at most so often for one client where that is limited.
fn limited(routes: Router<Site>, site: &Site) -> Router<Site> {
    if !site.rates.counts_requests() {
        return routes;
    }
    routes.route_layer(from_fn_with_state(site.clone(), rates::limit))
}

/// What a browser asks before it lets a page of another origin read, and anybody who wants to know what is possible;
/// the answer is in the headers.
async fn preflight() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, HEAD, OPTIONS")])
}

fn operations() -> Routes {
    Routes::new()
        .route("/", get(operations::home))
        .route("/api/v1/health", get(health::health))
        .route("/api/v1/health/", get(health::health))
        .route("/livez", get(operations::livez))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(operations::description))
        .route("/docs", get(operations::docs))
}

/// The admin routes, each behind the token and noted in the log.
fn guarded_routes(site: &Site) -> Routes {
    let guard = from_fn_with_state(site.clone(), auth::admin_only);
    let note = from_fn_with_state(site.clone(), audit::note);
    let own_content_only = from_fn_with_state(site.clone(), admin::own_content_only);
    let routes =
        written_routes().through(|router| router.route_layer(own_content_only)).merge(operators_routes());
    routes.through(|router| limited(router.route_layer(guard), site).route_layer(note))
}

/// The admin routes that change content.
fn written_routes() -> Routes {
    Routes::new()
        .route("/admin/v1/surahs/{number}", put(admin::put_surah).delete(admin::delete_surah))
        .route("/admin/v1/reciters/{id}", put(admin::put_reciter).delete(admin::delete_reciter))
        .route("/admin/v1/translations/{id}", put(admin::put_translation).delete(admin::delete_translation))
        .route("/admin/v1/import", post(admin::import))
}

/// The admin routes beside those of content.
fn operators_routes() -> Routes {
    Routes::new()
        .route("/admin/v1/export", get(admin::export))
        .route("/admin/v1/verify", post(verify::verify))
        .route("/admin/v1/users/{id}", delete(admin::erase_user))
        .route("/admin/v1/warm", post(warm::warm))
        .route("/admin/v1/stats", get(stats::stats))
        .route("/admin/v1/config", get(operations::config))
        .merge(entries::routes())
}

/// Every route of any door.
#[cfg(test)]
fn all_routes() -> Routes {
    content_routes()
        .merge(user_routes())
        .merge(operations())
        .merge(written_routes())
        .merge(operators_routes())
}

fn finish(routes: Routes, site: &Site) -> Router {
    routes
        .into_router()
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(site.operations.clone(), finish_answer))
        .with_state(site.clone())
}

async fn no_such_route(request: Request) -> Response<Body> {
    if let Some(address) = spelling::without_slash(request.uri()) {
        return spelling::moved(address);
    }
    // The path is not repeated: it may carry the id of a user.
    Problem::not_found("ROUTE_NOT_FOUND", "there is nothing at this path").into_response()
}

/// The router adds which methods are possible. `OPTIONS` is answered so on every route, the admin's too and without a
/// token: a browser that asks before a request may send none, what it learns stands in `/openapi.json` anyway, and as no
/// admin route says that other origins may read it, the request itself is then not made.
async fn no_such_method(request: Request) -> Response<Body> {
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let detail = format!("{} is not possible at this path; Allow says what is", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail).into_response()
}

/// What pages of other origins may do.
#[derive(Debug)]
struct Sharing {
    methods: &'static str,
    /// The request headers that they may send.
    allowed: &'static str,
    /// The response headers that they may read.
    exposed: &'static str,
}

/// Pages of every origin may read the content, which is the same for everybody.
const SHARING: Sharing = Sharing { methods: "GET, HEAD", allowed: ALLOWED, exposed: EXPOSED };

/// Lets pages of every origin ask, for what `sharing` says.
async fn share_across_origins(
    State(sharing): State<&'static Sharing>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(sharing.exposed));
    if is_preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(sharing.methods));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(sharing.allowed));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    response
}

/// Gives every answer its request id and every error its form, and counts it.
async fn finish_answer(
    State(operations): State<Arc<Operations>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let class = Class::of(request.uri().path());
    let id = request_id(request.headers().get(REQUEST_ID));
    let mut response = next.run(request).await;
    audit::log(&mut response, &id);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let kept = std::mem::take(response.headers_mut());
        response = problem.render(id.to_str().unwrap_or_default());
        response.headers_mut().extend(kept.into_iter().filter_map(|(name, value)| Some((name?, value))));
    } else if is_foreign_error(&response) {
        let status = response.status();
        let detail = match status {
            StatusCode::BAD_REQUEST => {
                "the address cannot be read: decoded once, its path and query are to be UTF-8"
            }
            _ => status.canonical_reason().unwrap_or("the request cannot be answered"),
        };
        response = Problem::new(status, "REQUEST_INVALID", detail).render(id.to_str().unwrap_or_default());
    }
    response.headers_mut().insert(REQUEST_ID, id);
    operations.traffic.answered(class, response.status().as_u16());
    response
}

/// The answer to a request that finds no seat.
pub(super) fn busy(detail: &'static str) -> Response<Body> {
    let id = request_id(None);
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", detail)
        .with(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
    let mut response = problem.render(id.to_str().unwrap_or_default());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Takes back the length that the router adds to an answer without a body: it would be taken for that of the document.
pub(super) fn without_length_of_nothing<B>(mut response: Response<B>) -> Response<B> {
    if matches!(response.status(), StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

/// Whether an extractor refused the request in a form of its own.
fn is_foreign_error(response: &Response<Body>) -> bool {
    let status = response.status();
    let form = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    (status.is_client_error() || status.is_server_error())
        && form.is_none_or(|form| form.starts_with(b"text/plain"))
}

/// The client's own id where it is one, else a new one.
pub(super) fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    if let Some(value) = given.filter(|value| is_request_id(value.as_bytes())) {
        return value.clone();
    }
    let mut id = Vec::with_capacity(32);
    write_request_id(&mut id, None);
    HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Appends the client's own id where it is one, else a new one.
fn write_request_id(value: &mut Vec<u8>, given: Option<&[u8]>) {
    match given.filter(|id| is_request_id(id)) {
        Some(id) => value.extend_from_slice(id),
        // An id tells requests apart; it keeps nothing secret, so it need not come from the operating system.
        None => write_hex(value, &rand::random::<u128>().to_be_bytes()),
    }
}

fn is_request_id(bytes: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// Hands a request to everything that reads headers; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(super) fn drive(request: &super::wire::RequestHead<'_>) {
    hit::drive(request);
    let mut headers = axum::http::HeaderMap::new();
    for (name, value) in request.headers() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    std::hint::black_box(request_id(headers.get(REQUEST_ID)));
    std::hint::black_box(conditions::WriteConditions::of(&headers));
    reply::drive(request.method, &headers);
    if let Ok(uri) = request.target.parse() {
        spelling::drive(&uri);
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const REQUEST_ID_BYTES_MAX: usize = 64;

/// Response headers that a page of another origin may read.
const EXPOSED: &str = "accept-ranges, age, cache-status, content-encoding, content-length, content-range, etag, last-modified, retry-after, x-request-id";

/// Request headers that a page of another origin may send.
const ALLOWED: &str = "authorization, if-match, if-modified-since, if-none-match, if-range, if-unmodified-since, range, x-request-id";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_own_request_id_is_kept_when_it_is_one() {
        let kept = |value: &'static str| request_id(Some(&HeaderValue::from_static(value))) == value;
        assert!(kept("a") && kept("A-z_0.9"));
        assert!(!kept("") && !kept("a b") && !kept("a\"b"));
        assert_eq!(request_id(None).len(), 32);
        assert_ne!(request_id(None), request_id(None));
    }
}
