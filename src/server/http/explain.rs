//! Everything about one key: where it stands, how long yet, what invalidates it, or why it is not served.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::IntoResponse as _;
use serde::Serialize;

use crate::content::keys::{self, Content};
use crate::engine::{Explanation, Policy, StoredCopy};

use super::Site;
use super::admin::{Reply, run};
use super::entries::key_in;

/// `GET /admin/v1/explain/{key}`
pub(super) async fn explain(State(site): State<Site>, uri: Uri) -> Reply {
    let key = key_in(&uri)?;
    let explanation = run(&site, move |site| site.cache.explain(&key)).await?;
    Ok(Json(explained(&explanation)).into_response())
}

/// What an explanation is as JSON.
pub(in crate::server) fn explained(explanation: &Explanation) -> serde_json::Value {
    // Text, numbers and lists of them always can be.
    serde_json::to_value(Shown::of(explanation)).unwrap_or_default()
}

#[derive(Serialize)]
struct Shown<'e> {
    key: &'e str,
    namespace: &'e str,
    /// Whether it would be served now.
    is_live: bool,
    built_in: bool,
    /// Of built-in content: what brings it.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_tag: Option<&'static str>,
    /// Whether a load of it is under way.
    is_loading: bool,
    memory: Option<ShownCopy<'e>>,
    disk: Option<ShownCopy<'e>>,
    policy: ShownPolicy,
    invalidated_by: Vec<String>,
}

#[derive(Serialize)]
struct ShownCopy<'e> {
    /// `live`, or why it is not served.
    state: &'e str,
    bytes: usize,
    charged_bytes: usize,
    content_type: &'e str,
    stored_at_ms: u64,
    age_s: u64,
    /// Null for never.
    expires_at_ms: Option<u64>,
    ttl_s: Option<u64>,
    tags: &'e [String],
    sequence: u64,
    /// On disk: whether it still waits to be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_queued: Option<bool>,
}

#[derive(Serialize)]
struct ShownPolicy {
    ttl_s: Option<u64>,
    client_max_age_s: Option<u64>,
    stale_while_revalidate_s: u64,
    stale_if_error_s: u64,
    negative_ttl_s: u64,
    idle_ttl_s: Option<u64>,
    jitter: f64,
    max_share: f64,
}

impl<'e> Shown<'e> {
    fn of(explanation: &'e Explanation) -> Self {
        let key = explanation.key.as_key_ref();
        let copies = [&explanation.memory, &explanation.disk];
        let mut invalidated_by =
            vec![format!("key {key}"), format!("namespace {}", key.namespace()), "all".to_owned()];
        let tags = copies.iter().find_map(|copy| copy.as_ref()).map_or(&[][..], |copy| &copy.tags);
        invalidated_by.extend(tags.iter().map(|tag| format!("tag {tag}")));
        Self {
            key: key.as_str(),
            namespace: key.namespace(),
            is_live: explanation.is_live(),
            built_in: keys::is_reserved(key),
            content_tag: Content::of(key).map(|content| content.tag()),
            is_loading: explanation.is_loading,
            memory: explanation.memory.as_ref().map(|copy| ShownCopy::of(copy, None)),
            disk: explanation.disk.as_ref().map(|copy| ShownCopy::of(copy, Some(copy.is_queued))),
            policy: ShownPolicy::of(&explanation.policy),
            invalidated_by,
        }
    }
}

impl<'e> ShownCopy<'e> {
    fn of(copy: &'e StoredCopy, is_queued: Option<bool>) -> Self {
        Self {
            state: &copy.state,
            bytes: copy.value_bytes,
            charged_bytes: copy.charged_bytes,
            content_type: &copy.content_type,
            stored_at_ms: copy.stored_at.as_millis(),
            age_s: copy.age.as_secs(),
            expires_at_ms: copy.ttl.left().map(|_| copy.expires_at.as_millis()),
            ttl_s: copy.ttl.left().map(|left| left.as_secs()),
            tags: &copy.tags,
            sequence: copy.sequence,
            is_queued,
        }
    }
}

impl ShownPolicy {
    fn of(policy: &Policy) -> Self {
        Self {
            ttl_s: policy.ttl.map(|ttl| ttl.as_secs()),
            client_max_age_s: policy.client_max_age.map(|age| age.as_secs()),
            stale_while_revalidate_s: policy.stale_while_revalidate.as_secs(),
            stale_if_error_s: policy.stale_if_error.as_secs(),
            negative_ttl_s: policy.negative_ttl.as_secs(),
            idle_ttl_s: policy.idle_ttl.map(|ttl| ttl.as_secs()),
            jitter: policy.jitter,
            max_share: policy.max_share,
        }
    }
}
