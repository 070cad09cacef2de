//! Everything that is tested from outside a file: one binary, because each further one costs a link of the whole crate.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper may fail loudly")]

mod common;

mod bookmarks;
#[cfg(feature = "typed")]
mod cached;
mod cli;
mod compression;
mod config;
mod conformance;
mod content;
mod contract;
mod doors;
mod entries;
#[cfg(all(feature = "tower", feature = "typed"))]
mod examples;
mod fixtures;
mod fresh;
mod incoming;
mod kills;
#[cfg(feature = "tower")]
mod layer;
mod library;
mod limits;
mod linearizable;
mod lists;
mod memory;
mod operations;
mod origin;
mod outcomes;
mod outgoing;
mod prefix;
mod readme;
mod reload;
mod restart;
mod routes;
mod secure_origin;
mod tls;
mod users;
mod verbs;
mod verify;
mod warm;
mod wire;
