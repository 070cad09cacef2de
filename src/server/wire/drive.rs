//! Any bytes as a connection, for the fuzz targets; see [`crate::fuzzing`].

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::engine::Cache;
use crate::server::config::Limits;
use crate::server::outgoing::Outgoing;
use crate::server::peer::Peer;
use crate::server::roomy::Roomy;

use super::head::{Head, no_headers};
use super::{Files, PREFACE, Wire};

/// Hands any bytes to the reader of heads, and what it made of them to whoever reads on.
pub(crate) fn request(bytes: &[u8]) {
    let mut headers = no_headers();
    match Head::read(bytes, &mut headers) {
        Ok(Some(head)) => {
            assert!((1..=bytes.len()).contains(&head.bytes), "a head ends within its bytes");
            crate::server::http::drive(&head);
            if let Err(refusal) = head.check_target() {
                std::hint::black_box(refusal.render());
            }
        }
        Ok(None) => {}
        Err(refusal) => assert!(refusal.render().starts_with(b"HTTP/1.1 "), "a refusal is an answer"),
    }
}

/// Hands any bytes but the first to a whole connection, once as they are and once in pieces of so many bytes as the first
/// says: what is answered must be answers, and the same.
pub(crate) fn connection(bytes: &[u8]) {
    let Some((piece, text)) = bytes.split_first() else { return };
    if text.starts_with(PREFACE) {
        // HTTP/2 is hyper's, and its answers depend on time.
        return;
    }
    let whole = said(text, text.len().max(1));
    assert!(whole.is_empty() || whole.starts_with(b"HTTP/1."), "what is said is an answer");
    assert_eq!(whole, said(text, usize::from(*piece) + 1), "it does not matter how a request is cut");
}

/// What is answered to `text` in pieces of `piece` bytes, without what differs each time.
fn said(text: &[u8], piece: usize) -> Vec<u8> {
    let (mut client, server) = duplex(1 << 20);
    let wire = wire();
    runtime().block_on(async move {
        let serving = wire.serve(server, Peer::Unix);
        let asking = async move {
            for piece in text.chunks(piece) {
                // The server may have heard enough.
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(client.shutdown().await);
            let mut said = Vec::new();
            drop(client.read_to_end(&mut said).await);
            without_names(said)
        };
        tokio::join!(serving, asking).1
    })
}

/// Without dates and the ids that were made up for requests.
fn without_names(mut said: Vec<u8>) -> Vec<u8> {
    let mut names: Vec<(usize, usize)> = Vec::new();
    for (field, length) in [(&b"x-request-id: "[..], 32), (b"\"request_id\":\"", 32), (b"date: ", 29)] {
        for at in 0..said.len() {
            if said.get(at..).is_some_and(|rest| rest.starts_with(field)) {
                names.push((at + field.len(), length));
            }
        }
    }
    for (at, length) in names {
        let name = said.get_mut(at..at + length).unwrap_or_default();
        if !name.contains(&b'\r') {
            name.fill(b'-');
        }
    }
    said
}

/// What every connection is served with; whoever could stop them never does.
type Shared = (Arc<Limits>, Outgoing, Files, watch::Sender<bool>);

fn wire() -> Wire {
    static SHARED: OnceLock<Option<Shared>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let limits = Limits::read(&BTreeMap::new()).ok()?;
        let cache = Cache::builder().memory(1 << 20).open().ok()?;
        Some((Arc::new(limits), Outgoing::new(&cache), Files::new(&cache), watch::Sender::new(false)))
    });
    #[expect(clippy::expect_used, reason = "a fuzz target may fail loudly")]
    let (limits, outgoing, files, stop) =
        shared.clone().expect("the defaults are good, and a cache in memory opens");
    Wire {
        routes: routes(),
        hits: None,
        limits,
        stopping: stop.subscribe(),
        roomy: Roomy::new(8, None),
        streams: Arc::new(Semaphore::new(8)),
        traffic: Arc::default(),
        outgoing,
        files,
    }
}

/// Says what was asked, and how much came with it.
fn routes() -> Router {
    Router::new().fallback(|request: Request| async {
        let (head, body) = request.into_parts();
        match to_bytes(body, 1 << 20).await {
            Ok(body) => format!("{} {} {}", head.method, head.uri, body.len()).into_response(),
            Err(_) => StatusCode::BAD_REQUEST.into_response(),
        }
    })
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    #[expect(clippy::expect_used, reason = "a fuzz target may fail loudly")]
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts")
    })
}
