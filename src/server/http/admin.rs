//! The admin routes: content changes, imports, exports and namespace invalidation.
//!
//! A change is acknowledged once it is written and what depends on it is invalidated, both durably. The work runs on
//! a thread that may block, to its end, also when the client goes away: half of it would be worse than either.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::content::keys::{Content, ReciterId, SurahNumber, TranslationId, UserId};
use crate::content::{ImportReport, Standing};
use crate::datadir::DataDir;
use crate::error::{Error, ErrorKind};
use crate::server::changes;

use super::Site;
use super::bookmarks;
use super::conditions::{Validators, WriteConditions};
use super::content::{surah_number, translation_asked};
use super::incoming::{DOCUMENT_TIMES, next_chunk, read_whole, skim, too_large};
use super::problem::Problem;

pub(super) type Reply = Result<Response<Body>, Problem>;
pub(super) type Parameters = Query<Vec<(String, String)>>;

/// What a content route names.
#[derive(Debug, Clone)]
enum Subject {
    Surah(SurahNumber, Option<TranslationId>),
    Reciter(ReciterId),
    Translation(TranslationId),
}

/// `PUT /admin/v1/surahs/{number}[?translation=]`
pub(super) async fn put_surah(
    site: State<Site>,
    path: Path<String>,
    query: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let subject = Subject::surah(&path, &query)?;
    put(site.0, subject, &headers, body).await
}

/// `DELETE /admin/v1/surahs/{number}[?translation=]`
pub(super) async fn delete_surah(
    site: State<Site>,
    path: Path<String>,
    query: Parameters,
    headers: HeaderMap,
) -> Reply {
    let subject = Subject::surah(&path, &query)?;
    delete(site.0, subject, &headers).await
}

/// `PUT /admin/v1/reciters/{id}`
pub(super) async fn put_reciter(
    site: State<Site>,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    put(site.0, Subject::Reciter(ReciterId::parse(&path.0)?), &headers, body).await
}

/// `DELETE /admin/v1/reciters/{id}`
pub(super) async fn delete_reciter(site: State<Site>, path: Path<String>, headers: HeaderMap) -> Reply {
    delete(site.0, Subject::Reciter(ReciterId::parse(&path.0)?), &headers).await
}

/// `PUT /admin/v1/translations/{id}`
pub(super) async fn put_translation(
    site: State<Site>,
    path: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    put(site.0, Subject::Translation(TranslationId::parse(&path.0)?), &headers, body).await
}

/// `DELETE /admin/v1/translations/{id}`
pub(super) async fn delete_translation(site: State<Site>, path: Path<String>, headers: HeaderMap) -> Reply {
    delete(site.0, Subject::Translation(TranslationId::parse(&path.0)?), &headers).await
}

/// Lets changes of content through where content is this server's own.
pub(super) async fn own_content_only(
    State(site): State<Site>,
    request: Request,
    next: Next,
) -> Response<Body> {
    match &site.origin {
        None => next.run(request).await,
        Some(origin) => {
            let detail = format!("content is read from {origin}, change it there");
            Problem::new(StatusCode::CONFLICT, "CONTENT_NOT_OURS", detail).into_response()
        }
    }
}

impl Subject {
    fn surah(number: &str, query: &Parameters) -> Result<Self, Problem> {
        Ok(Self::Surah(surah_number(number)?, translation_asked(query)?))
    }

    /// Checks what a change demands of the present state; the caller holds the turn to change content.
    fn check(&self, site: &Site, conditions: &WriteConditions) -> crate::Result<()> {
        if conditions.is_empty() {
            return Ok(());
        }
        let current = match site.store.rendered(&self.content()) {
            // A translation that is known and not loaded is not there yet.
            Err(error) if error.kind() == ErrorKind::TranslationNotAvailable => None,
            found => found?,
        };
        conditions.check(
            current.map(|current| Validators::of(&current.body, current.modified_at.unwrap_or_default())),
        )
    }

    /// The resource as a client reads it.
    fn content(&self) -> Content {
        match self {
            Self::Surah(number, translation) => Content::Surah(*number, translation.clone()),
            Self::Reciter(id) => Content::Reciter(id.clone()),
            Self::Translation(id) => Content::Translation(id.clone()),
        }
    }
}

async fn put(site: Site, subject: Subject, headers: &HeaderMap, body: Body) -> Reply {
    let conditions = WriteConditions::of(headers);
    let document = read_whole(&site, body, DOCUMENT_TIMES).await?;
    let written = run(&site, move |site| {
        let turn = site.content_changes.lock();
        subject.check(site, &conditions)?;
        let written = match &subject {
            Subject::Surah(number, translation) => {
                site.store.put_surah(*number, &document, translation.as_ref().map(TranslationId::as_str))
            }
            Subject::Reciter(id) => site.store.put_reciter(id.as_str(), &document),
            Subject::Translation(id) => site.store.put_translation(id.as_str(), &document),
        }?;
        drop(turn);
        changes::apply(&site.cache, &site.store, &written.change)?;
        Ok(written)
    })
    .await?;
    let status = if written.made { StatusCode::CREATED } else { StatusCode::OK };
    Ok(status.into_response())
}

async fn delete(site: Site, subject: Subject, headers: &HeaderMap) -> Reply {
    let conditions = WriteConditions::of(headers);
    run(&site, move |site| {
        let turn = site.content_changes.lock();
        subject.check(site, &conditions)?;
        let change = match &subject {
            Subject::Surah(number, translation) => {
                site.store.delete_surah(*number, translation.as_ref().map(TranslationId::as_str))
            }
            Subject::Reciter(id) => site.store.delete_reciter(id.as_str()),
            Subject::Translation(id) => site.store.delete_translation(id.as_str()),
        }?;
        drop(turn);
        changes::apply(&site.cache, &site.store, &change)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /admin/v1/users/{id}`: the same answer whether anything was kept or not, so that it can be repeated.
pub(super) async fn erase_user(
    State(site): State<Site>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let user = site.gate.access().user(UserId::parse(&id)?);
    let conditions = WriteConditions::of(&headers);
    let turn = bookmarks::room_to_look(&site, &user).await?;
    run(&site, move |site| {
        let _turn = turn;
        let guard = |standing: &Standing| bookmarks::check(&conditions, standing);
        let change = site.store.bookmarks().delete_all(&user, (!conditions.is_empty()).then_some(&guard))?;
        changes::apply(&site.cache, &site.store, &change)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /admin/v1/import`
pub(super) async fn import(State(site): State<Site>, body: Body) -> Reply {
    let _turn = site.incoming.import()?;
    let (sender, receiver) = mpsc::channel(IMPORT_CHUNKS_MAX);
    let importing = run(&site, move |site| {
        // First to a file: a slow client must not hold the content store's one transaction open.
        let mut upload = ChannelReader { receiver, chunk: Bytes::new() };
        let mut archive = spooled(&site.directory, &mut upload)?;
        // Before the transaction: who changes a large list has its turn when it waits for that.
        let bytes = site.store.import_bytes(&mut archive)?;
        let _room = site.incoming.turn_blocking(bytes)?;
        archive.rewind().map_err(unkept)?;
        let _turn = site.content_changes.lock();
        let report = site.store.import_archive(&mut archive, &mut |_| ())?;
        changes::drain(&site.cache, &site.store)?;
        Ok(report)
    });
    let (report, ()) = tokio::join!(importing, feed(&site, body, sender));
    let report = report?;
    let summary = report.to_string();
    Ok(Json(Imported { report, summary }).into_response())
}

/// What an import did, for programs and, in one line, for people.
#[derive(Serialize)]
struct Imported {
    #[serde(flatten)]
    report: ImportReport,
    summary: String,
}

/// `GET /admin/v1/export[?bookmarks=true]`
pub(super) async fn export(State(site): State<Site>, query: Parameters) -> Reply {
    let with_bookmarks = query.iter().any(|(name, value)| name == "bookmarks" && value == "true");
    let turn = site.incoming.export(with_bookmarks)?;
    let room = if with_bookmarks {
        let bytes = run(&site, |site| site.store.export_bytes()).await?;
        site.incoming.turn(bytes).await?
    } else {
        None
    };
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(EXPORT_CHUNKS_MAX);
    let store = site.store.clone();
    tokio::task::spawn_blocking(move || {
        let _turn = (turn, room);
        let mut out = ChannelWriter { sender: sender.clone() };
        let exported =
            if with_bookmarks { store.export_with_bookmarks(&mut out) } else { store.export(&mut out) };
        if let Err(error) = exported {
            tracing::error!(error = %error.chain(), "an export failed");
            // The client sees a body cut short; when it has left already, nobody is there to be told.
            sender.blocking_send(Err(std::io::Error::other("the export failed"))).unwrap_or_default();
        }
    });
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/gzip")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"hifz-export.tgz\"")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// Runs `work` on a thread that may block, to its end.
pub(super) async fn run<T, F>(site: &Site, work: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(&Site) -> crate::Result<T> + Send + 'static,
{
    let site = site.clone();
    match tokio::task::spawn_blocking(move || work(&site)).await {
        Ok(result) => Ok(result?),
        Err(error) => {
            tracing::error!(%error, "an admin request panicked");
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "INTERNAL",
                "the request failed inside the server",
            ))
        }
    }
}

/// Passes the body on piece by piece; what goes wrong is passed on too, so that the reader fails instead of seeing an
/// end.
async fn feed(site: &Site, mut body: Body, sender: mpsc::Sender<std::io::Result<Bytes>>) {
    let mut fed = 0;
    loop {
        let chunk = match next_chunk(&mut body, site.limits.body_timeout).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return,
            Err(_) => {
                let cut_short =
                    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the upload was cut short");
                return sender.send(Err(cut_short)).await.unwrap_or_default();
            }
        };
        fed += chunk.len() as u64;
        if fed > site.limits.body {
            let error = std::io::Error::other(too_large(site.limits.body));
            sender.send(Err(error)).await.unwrap_or_default();
            return skim(site, body).await;
        }
        if sender.send(Ok(chunk)).await.is_err() {
            // The reader has refused the archive.
            return skim(site, body).await;
        }
    }
}

/// The upload as a file that has no name any more: gone with the process, however it ends.
fn spooled(directory: &DataDir, upload: &mut ChannelReader) -> crate::Result<BufReader<File>> {
    let path = directory.path().join(format!("hifz-upload-{:016x}", rand::random::<u64>()));
    let failed = |error: std::io::Error| match error.downcast::<Error>() {
        Ok(refused) => refused,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::DocumentInvalid, "the upload was cut short")
        }
        Err(error) => unkept(error),
    };
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let mut file = options.map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    std::io::copy(upload, &mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(BufReader::new(file))
}

fn unkept(error: std::io::Error) -> Error {
    Error::new(ErrorKind::DiskFailed, "the upload cannot be kept").because(error)
}

/// A body that arrives on a channel, read where blocking is allowed.
struct ChannelReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.chunk = chunk?,
            }
        }
        let taken = self.chunk.split_to(out.len().min(self.chunk.len()));
        out[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

/// A body that leaves on a channel, written where blocking is allowed.
struct ChannelWriter {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
}

impl std::io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the client has left");
        self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Pieces of an upload that wait to be read.
const IMPORT_CHUNKS_MAX: usize = 8;

/// Pieces of an export that wait to be sent.
const EXPORT_CHUNKS_MAX: usize = 8;
