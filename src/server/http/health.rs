//! How the parts are: one answer for people and probes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use crate::content::keys::SurahNumber;
use crate::disk::DiskState;
use crate::engine::Breaker;
use crate::error::{Error, ErrorKind};
use crate::server::alerts::Kind;

use super::Site;

/// How one part, or the whole, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Degraded,
    Unavailable,
}

#[derive(Debug, Serialize)]
struct Component {
    status: Status,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: Status,
    components: Components,
}

#[derive(Debug, Serialize)]
struct Components {
    memory: Component,
    disk: Component,
    content: Component,
    source: Component,
    sweeper: Component,
}

impl Component {
    const OK: Self = Self { status: Status::Ok, reason: None };

    fn degraded(reason: impl Into<String>) -> Self {
        Self { status: Status::Degraded, reason: Some(reason.into()) }
    }

    fn unavailable(reason: impl Into<String>) -> Self {
        Self { status: Status::Unavailable, reason: Some(reason.into()) }
    }
}

/// `GET /api/v1/health`: 200 while anything can be answered, 503 when nothing can.
pub(super) async fn health(State(site): State<Site>) -> (StatusCode, Json<Health>) {
    let health = look(&site).await;
    let code = if health.is_unavailable() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(health))
}

/// Why nothing can be answered, if that is so.
pub(super) async fn why_unavailable(site: &Site) -> Option<String> {
    let health = look(site).await;
    let parts = health.components.all();
    let worst = parts.into_iter().find(|part| part.status == Status::Unavailable);
    let reason = worst.and_then(|part| part.reason.clone());
    health.is_unavailable().then(|| reason.unwrap_or_else(|| "nothing can be answered".into()))
}

/// How everything is at this moment.
pub(super) async fn look(site: &Site) -> Health {
    let content = content(site).await;
    let components = Components {
        memory: memory(site),
        disk: disk(site),
        source: source(site, &content),
        content,
        sweeper: sweeper(site),
    };
    Health { status: components.overall(), components }
}

impl Health {
    fn is_unavailable(&self) -> bool {
        self.status == Status::Unavailable
    }
}

impl Components {
    /// Unavailable without a system of record, degraded when any part is not well.
    fn overall(&self) -> Status {
        if self.content.status == Status::Unavailable {
            return Status::Unavailable;
        }
        if self.all().iter().all(|part| part.status == Status::Ok) { Status::Ok } else { Status::Degraded }
    }

    fn all(&self) -> [&Component; 5] {
        [&self.memory, &self.disk, &self.content, &self.source, &self.sweeper]
    }
}

/// A full cache is the normal state of a cache, so that alert is a remark here and no fault.
fn memory(site: &Site) -> Component {
    let alerts = site.operations.alerts.look(&site.cache, &site.cache.stats());
    let raised = alerts.iter().find(|alert| alert.kind == Kind::MemoryAbove && alert.is_raised);
    Component {
        status: Status::Ok,
        reason: raised.map(|alert| format!("alert {}: {alert}", alert.kind.name())),
    }
}

fn disk(site: &Site) -> Component {
    match site.cache.disk_status().map(|status| status.state) {
        None => Component { status: Status::Ok, reason: Some("off: disk = 0".into()) },
        Some(DiskState::Healthy) => Component::OK,
        Some(DiskState::Degraded(reason)) => Component::degraded(reason),
    }
}

async fn content(site: &Site) -> Component {
    let store = site.store.clone();
    // One document read and its digest checked: enough to know the store answers, and cheap enough to be asked often.
    let first = SurahNumber::all().next();
    let look = move || {
        match first.map(|first| store.surah(first, None)).transpose() {
            // Damage of one document keeps none of the others from being served.
            Err(error) if error.kind() == ErrorKind::ContentDamaged && error.place().is_some() => {}
            looked => drop(looked?),
        }
        let damaged = store.met_damaged()?;
        if damaged.is_empty() {
            return Ok(store.check_in_place());
        }
        let message = format!(
            "damaged and not served: {}; `hifz verify --repair` restores built-in text",
            damaged.join(", ")
        );
        Ok(Err(Error::new(ErrorKind::ContentDamaged, message)))
    };
    match blocking::unblock(look).await {
        Ok(Ok(())) => Component::OK,
        Ok(Err(error)) => Component::degraded(error.to_string()),
        Err::<_, Error>(error) => Component::unavailable(error.to_string()),
    }
}

/// The source is the content store, unless content is read from elsewhere; either way its breaker has a say.
fn source(site: &Site, content: &Component) -> Component {
    if site.origin.is_none() && content.status != Status::Ok {
        return Component { status: content.status, reason: content.reason.clone() };
    }
    let sources = site.cache.sources();
    let Some(status) = sources.iter().find(|source| source.name == site.source.name()) else {
        return Component::OK;
    };
    if status.breaker == Breaker::Closed && status.failures_in_row == 0 {
        return Component::OK;
    }
    let (error, at) = status.last_error.clone().unwrap_or_default();
    let ago = |at| site.cache.now().since(at).as_secs();
    let answered = match status.last_success {
        Some(at) => format!("it last answered {} s ago", ago(at)),
        None => "it has not answered since the start".to_owned(),
    };
    let (breaker, failures) = (status.breaker.name(), status.failures_in_row);
    Component::degraded(format!(
        "breaker {breaker}, failed {failures} times in a row, last {} s ago: {error}; {answered}",
        ago(at)
    ))
}

fn sweeper(site: &Site) -> Component {
    if site.cache.is_sweeping() { Component::OK } else { Component::degraded("the sweeper thread has ended") }
}
