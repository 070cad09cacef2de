//! The description of the interface (`OpenAPI` 3.1): one table of operations, rendered as JSON and, by [`page`], for people.
//!
//! A test compares it with the routes: one that is missing on either side fails it. What a table row cannot say is in
//! `components.json`. Knows nothing of what the routes do.

mod admin;
mod content;
mod entries;
mod operation;
mod page;
mod probes;
mod users;

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::server::config::{Limits, show_size};

use operation::Operation;
pub(in crate::server::http) use page::STYLE;

/// The description in both forms, each rendered when it is first asked for.
#[derive(Debug)]
pub(in crate::server) struct Description {
    limits: Limits,
    json: OnceLock<Bytes>,
    page: OnceLock<Bytes>,
}

impl Description {
    pub(in crate::server) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), json: OnceLock::new(), page: OnceLock::new() }
    }

    /// As JSON.
    pub(super) fn json(&self) -> Bytes {
        self.json.get_or_init(|| document(&self.limits).to_string().into()).clone()
    }

    /// As a page.
    pub(super) fn page(&self) -> Bytes {
        self.page.get_or_init(|| page::render(&document(&self.limits)).into()).clone()
    }
}

/// Every operation, in the order they are shown.
fn operations() -> Vec<Operation> {
    [
        content::operations(),
        users::operations(),
        probes::operations(),
        admin::operations(),
        entries::operations(),
    ]
    .concat()
}

/// The whole document.
fn document(limits: &Limits) -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.to_json();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "hifz",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The Quran served from a cache that is its own store.",
            "description": about(limits),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": TAGS.iter().map(|(name, about)| json!({"name": name, "description": about})).collect::<Vec<_>>(),
        "paths": paths,
        "components": components(),
    })
}

fn components() -> Value {
    serde_json::from_str(COMPONENTS).unwrap_or_default()
}

/// What holds for every operation, and the limits of this server.
fn about(limits: &Limits) -> String {
    let limits = [
        ("limits.body", show_size(limits.body)),
        ("limits.value", show_size(limits.value)),
        ("limits.header", show_size(limits.header)),
        ("limits.connections", limits.connections.to_string()),
        ("limits.source_loads", limits.source_loads.to_string()),
    ];
    let limits: Vec<String> = limits.iter().map(|(name, value)| format!("\n- `{name}`: {value}")).collect();
    format!("{ABOUT}\n\nLimits of this server:{}", limits.concat())
}

/// Of every operation.
const ABOUT: &str = "JSON in UTF-8. HEAD answers as GET does, without the body. Errors are `application/problem+json` \
    (RFC 9457) with a stable `code`. Every answer carries `X-Request-Id`. Unknown query parameters change nothing. \
    Other spellings of an address \
    are redirected (308) to the one it has. A method that a path does not have is 405 `METHOD_NOT_ALLOWED` with `Allow`, a path that is none of these 404 \
    `ROUTE_NOT_FOUND`. Pages of other origins may read the content routes (CORS).";

const TAGS: &[(&str, &str)] = &[
    ("Content", "The text, reciters and translations. For everybody, unless `content_auth = user`."),
    ("Bookmarks", "Data of one user, for the user's own token alone; the admin token reads nobody's."),
    ("Operations", "For operators and machines."),
    (
        "Content changes",
        "Written to the content store, durably; what depends on it is invalidated before the answer.",
    ),
    ("Cache", "What an operator does to the cache."),
    (
        "Raw entries",
        "The cache for programs in any language. Keys are one segment of the address, percent-decoded once.",
    ),
];

const COMPONENTS: &str = include_str!("components.json");

#[cfg(test)]
mod tests;
