//! Invalidation over HTTP: exactly one selector, previewed or done, and the namespaces there are.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse as _;
use serde::{Deserialize, Serialize};

use crate::engine::Selector;
use crate::error::Error;
use crate::key::{Namespace, Tag};
use crate::pattern::Pattern;

use super::Site;
use super::admin::{Parameters, Reply, run};
use super::audit;
use super::batch::{KEYS_MAX, parse_keys, read_json, refused};
use super::entries::{once, parameter};
use super::incoming::{KEYS_TIMES, read_whole};

/// How many live entries an invalidation took, or would take.
#[derive(Debug, Serialize)]
struct Invalidated {
    invalidated: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// `POST /admin/v1/invalidate`
pub(super) async fn invalidate(State(site): State<Site>, body: Body) -> Reply {
    let asked: Asked = read_json(&read_whole(&site, body, KEYS_TIMES).await?)?;
    let dry_run = asked.dry_run;
    take(&site, asked.selector()?, dry_run).await
}

/// `POST /admin/v1/namespaces/{ns}/invalidate[?dry_run=true]`
pub(super) async fn invalidate_namespace(
    State(site): State<Site>,
    Path(namespace): Path<String>,
    query: Parameters,
) -> Reply {
    let selector = Selector::Namespace(Namespace::parse(namespace)?);
    let dry_run = match once(&query, "dry_run")? {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(parameter("dry_run", &format!("{other:?} is neither true nor false")).into());
        }
    };
    take(&site, selector, dry_run).await
}

/// `POST /admin/v1/clear`
pub(super) async fn clear(State(site): State<Site>) -> Reply {
    take(&site, Selector::All, false).await
}

async fn take(site: &Site, selector: Selector, dry_run: bool) -> Reply {
    let about = format!("{selector}{}", if dry_run { " (dry run)" } else { "" });
    let taken = run(site, move |site| {
        if dry_run { site.cache.would_invalidate(&selector) } else { site.cache.invalidate(&selector) }
    })
    .await;
    // The audit line says what was named also where it failed.
    let response = match taken {
        Ok(invalidated) => Json(Invalidated { invalidated, dry_run }).into_response(),
        Err(problem) => problem.into_response(),
    };
    Ok(audit::about(response, &about))
}

/// `GET /admin/v1/namespaces`
pub(super) async fn namespaces(State(site): State<Site>) -> Reply {
    #[derive(Serialize)]
    struct Namespaces {
        namespaces: Vec<Row>,
    }
    #[derive(Serialize)]
    struct Row {
        name: String,
        entries: u64,
        bytes: u64,
        hits: u64,
        misses: u64,
    }
    let namespaces = run(&site, |site| site.cache.census()).await?;
    let shown = namespaces.into_iter().map(|namespace| Row {
        hits: namespace.happened.hits(),
        misses: namespace.happened.misses(),
        name: namespace.name,
        entries: namespace.held.entries,
        bytes: namespace.held.bytes,
    });
    Ok(Json(Namespaces { namespaces: shown.collect() }).into_response())
}

/// What a body names; exactly one of the four.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    keys: Option<Vec<String>>,
    pattern: Option<String>,
    prefix: Option<String>,
    tags: Option<Vec<String>>,
    #[serde(default)]
    dry_run: bool,
}

impl Asked {
    fn selector(self) -> Result<Selector, Error> {
        match (self.keys, self.pattern, self.prefix, self.tags) {
            (Some(keys), None, None, None) => Ok(Selector::Keys(parse_keys(keys)?)),
            (None, Some(pattern), None, None) => {
                let pattern = Pattern::parse(&pattern);
                pattern.map(Selector::Pattern).map_err(|error| refused("pattern", error.message()))
            }
            (None, None, Some(prefix), None) => {
                Selector::prefix(&prefix).map_err(|error| refused("prefix", error.message()))
            }
            (None, None, None, Some(tags)) => parse_tags(tags).map(Selector::Tags),
            _ => Err(refused("body", "exactly one of keys, pattern, prefix and tags is accepted")),
        }
    }
}

fn parse_tags(texts: Vec<String>) -> Result<Vec<Tag>, Error> {
    if texts.len() > KEYS_MAX {
        let why = format!("{} tags, at most {KEYS_MAX} are accepted in one request", texts.len());
        return Err(refused("tags", why));
    }
    let tag = |(at, text)| Tag::parse(text).map_err(|error| refused(format!("tags[{at}]"), error.message()));
    let texts = texts.into_iter().map(String::into_boxed_str);
    texts.enumerate().map(tag).collect()
}

/// Hands any bytes over as the body of an invalidation; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(super) fn drive(bytes: &[u8]) {
    if let Ok(asked) = read_json::<Asked>(bytes) {
        drop(asked.selector());
    }
}
