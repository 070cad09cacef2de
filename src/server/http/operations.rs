//! What people and machines ask first: what this is, whether it lives, whether it is ready, how it is set up, and its
//! description.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::problem::{Problem, RETRY_AFTER_SECS};
use super::{Site, health, openapi};

/// `GET /`
pub(super) async fn home(asked: HeaderMap) -> Response<Body> {
    if prefers_html(&asked) {
        return page(&asked, home_page().into());
    }
    let links: serde_json::Map<String, Value> =
        LINKS.iter().map(|(name, path, _)| ((*name).to_owned(), (*path).into())).collect();
    Json(json!({"name": "hifz", "version": VERSION, "description": WHAT, "links": links})).into_response()
}

/// `GET /livez`
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`
pub(super) async fn readyz(State(site): State<Site>) -> Result<&'static str, Problem> {
    let why = match site.operations.readiness.waits_for() {
        Some(why) => why.to_owned(),
        None => match health::why_unavailable(&site).await {
            Some(why) => why,
            None => return Ok("ok\n"),
        },
    };
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_READY", why);
    Err(problem.with(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS)))
}

/// `GET /admin/v1/config`
pub(super) async fn config(State(site): State<Site>) -> Json<Value> {
    Json(json!({"settings": *site.operations.in_effect.now()}))
}

/// `GET /openapi.json`
pub(super) async fn description(State(site): State<Site>, asked: HeaderMap) -> Response<Body> {
    let mut response = validated(&asked, site.description.json(), "application/json");
    // Whoever draws pages from descriptions may read it from anywhere.
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// `GET /docs`
pub(super) async fn docs(State(site): State<Site>, asked: HeaderMap) -> Response<Body> {
    page(&asked, site.description.page())
}

/// A page under a policy that lets it ask nothing of anybody.
fn page(asked: &HeaderMap, html: Bytes) -> Response<Body> {
    let mut response = validated(asked, html, "text/html; charset=utf-8");
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy()) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// Nothing from anywhere but the one style sheet inside the page.
fn policy() -> String {
    let digest = sha2::Sha256::digest(openapi::STYLE.as_bytes());
    let digest = base64::engine::general_purpose::STANDARD.encode(digest);
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// A body that changes with the binary alone: kept by clients, and asked for again by its tag.
fn validated(asked: &HeaderMap, body: Bytes, form: &'static str) -> Response<Body> {
    let etag = format!("\"{:032x}\"", xxhash_rust::xxh3::xxh3_128(&body));
    let is_known =
        asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok()).any(|tags| {
            tags.split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == "*" || tag == etag)
        });
    let mut response = if is_known { StatusCode::NOT_MODIFIED.into_response() } else { body.into_response() };
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if !is_known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// Whether a browser asks: HTML stands in `Accept` with at least the weight of JSON.
fn prefers_html(asked: &HeaderMap) -> bool {
    let accept = asked.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let weight = |wanted: &str| {
        accept.split(',').find_map(|range| {
            let (media, parameters) = range.split_once(';').unwrap_or((range, ""));
            let weight =
                parameters.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.parse::<f32>().ok());
            media.trim().eq_ignore_ascii_case(wanted).then_some(weight.unwrap_or(0.0))
        })
    };
    weight("text/html").is_some_and(|html| html > 0.0 && html >= weight("application/json").unwrap_or(0.0))
}

fn home_page() -> String {
    let links: Vec<String> = LINKS
        .iter()
        .map(|(_, path, what)| {
            format!("<tr><th scope=\"row\"><a href=\"{path}\">{path}</a></th><td>{what}</td></tr>")
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>hifz {VERSION}</title>\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
        <meta name=\"color-scheme\" content=\"light dark\"><style>{}</style></head><body><main>\
        <h1>hifz {VERSION}</h1><p>{WHAT}</p><table><tbody>{links}</tbody></table></main></body></html>\n",
        openapi::STYLE,
        links = links.concat(),
    )
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

const WHAT: &str = "A cache that is its own store, and the Quran served from it.";

/// Where everything else is: name, path, what is there.
const LINKS: &[(&str, &str, &str)] = &[
    ("surahs", "/api/v1/surahs", "the list of surahs"),
    ("reciters", "/api/v1/reciters", "the list of reciters"),
    ("translations", "/api/v1/translations", "the list of translations"),
    ("health", "/api/v1/health", "how the parts are"),
    ("live", "/livez", "whether the process answers"),
    ("ready", "/readyz", "whether to send it requests"),
    ("metrics", "/metrics", "figures for Prometheus"),
    ("docs", "/docs", "every route, for people"),
    ("openapi", "/openapi.json", "every route, for programs"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_for_those_who_name_it_and_want_it_at_least_as_much() {
        let asks = |accept: &'static str| {
            prefers_html(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(asks("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(asks("application/json;q=0.5, text/html"));
        assert!(!asks("*/*") && !asks("application/json") && !asks("text/html;q=0.1, application/json"));
        assert!(!asks("text/html;q=0") && !prefers_html(&HeaderMap::new()));
    }
}
