//! The binary's inside: opens the parts, drains the outbox, listens, and closes in order.

mod access;
mod alerts;
mod changes;
mod cli;
mod client;
pub(crate) mod config;
mod doors;
mod foreign;
mod http;
mod jwks;
pub(crate) mod jwt;
mod keyring;
mod listen;
mod log;
mod notify;
mod opening;
mod outgoing;
mod peer;
mod readiness;
mod reload;
mod roomy;
mod schedule;
mod signals;
mod tls;
mod traffic;
mod warm;
pub(crate) mod wire;

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

use access::{Access, Gate};
use alerts::Alerts;
pub use cli::main;
use config::Settings;
use doors::Doors;
#[cfg(feature = "fuzzing")]
pub(crate) use http::drive_batch;
use http::{Coded, Description, Incoming, Operations, Parts, Rates, Site};
use listen::Reception;
use log::Filter;
use notify::Supervisor;
use opening::Stores;
pub(crate) use opening::open_cache;
use readiness::Readiness;
use reload::{InEffect, Reload, Reread};
use signals::{Asked, Signals};
use tls::Tls;
use warm::Warmer;

/// Serves until a signal ends it.
fn serve(settings: &Settings, reread: Reread) -> Result<()> {
    let filter = log::start(settings)?;
    crate::engine::map_large_buffers();
    let runtime =
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("hifz-door")
            .build()
            .map_err(|error| Error::new(ErrorKind::Busy, "the runtime cannot be started").because(error))?;
    let served = runtime.block_on(run(settings, reread, filter));
    runtime.shutdown_background();
    served
}

/// The order of a start and of a stop.
async fn run(settings: &Settings, reread: Reread, filter: Filter) -> Result<()> {
    let mut signals = Signals::register()?;
    // A file-size limit is to be an error of the write, not the end of the process: a handler replaces the default.
    let _file_size = signal(SignalKind::from_raw(SIGXFSZ))
        .map_err(|error| Error::new(ErrorKind::Busy, "signals cannot be awaited").because(error))?;
    let tls = Tls::open(&settings.tls)?;
    let stores = Stores::open(settings)?;
    let limits = Arc::new(settings.limits.clone());
    listen::take_descriptors(&limits);
    let (stop, stopping) = watch::channel(false);
    let reception = Reception::new(limits, &stores.cache, tls.clone(), stopping.clone());
    let site = site(settings, &stores, &reception, stopping)?;

    let doors = Doors::open(settings, &stores.directory).await?;
    stores.directory.write_run(&doors.admin_address())?;
    doors::announce(settings, &doors, &site, &stores.admin.place)?;
    let supervisor = Supervisor::of_environment();
    let mut serving = doors.serve(&site, &reception);
    supervisor.ready();
    let helpers = help(settings, &site, &reception, &supervisor);

    let reload = Reload::new(settings, reread, &stores, &site, (filter, tls));
    until_stopped(&mut signals, &supervisor, reload).await;
    tracing::info!("stopping: finishing what is under way");
    site.operations.readiness.stopping();
    stop.send_replace(true);
    tokio::spawn(signals::exit_at_second_signal(signals));
    while serving.join_next().await.is_some() {}
    helpers.iter().for_each(JoinHandle::abort);
    site.warmer.clone().close().await;
    let closed = blocking::unblock(move || stores.cache.close()).await;
    site.directory.clear_run()?;
    closed
}

/// What the routes answer from.
fn site(
    settings: &Settings,
    stores: &Stores,
    reception: &Reception,
    stopping: watch::Receiver<bool>,
) -> Result<Site> {
    let Stores { directory, keyring, content, cache, admin } = stores;
    let limits = reception.limits();
    let compressed_only = Arc::new(opening::compressed_only(settings));
    let source = foreign::source(&settings.source, content)?;
    foreign::forget_if_changed(cache, directory, &*source)?;
    let source: Arc<dyn Source> = Arc::new(Coded::new(source, compressed_only.clone()));
    let warmer = Warmer::new(cache.clone(), source.clone(), directory.clone());
    let operations = Operations {
        in_effect: InEffect::new(settings),
        readiness: Readiness::new(settings.warm.wait.then(|| warmer.clone())),
        alerts: Alerts::new(&settings.alerts),
        traffic: reception.traffic(),
        seats: reception.seats(),
        started_at: cache.now(),
    };
    Ok(Site::from(Parts {
        cache: cache.clone(),
        source,
        origin: settings.source.url.as_deref().map(Arc::from),
        warmer,
        store: content.clone(),
        directory: directory.clone(),
        gate: Gate::new(Access::new(settings, &admin.token, keyring.clone())?),
        rates: Rates::new(&limits),
        description: Description::new(&limits),
        limits,
        feeds: http::Feeds::new(stopping),
        content_changes: parking_lot::Mutex::default(),
        compressed_only,
        answers_plainly: opening::answers_plainly(settings),
        incoming: Incoming::new(cache, reception.traffic()),
        operations: Arc::new(operations),
    }))
}

/// Starts what goes on beside the answers for as long as the process serves.
fn help(
    settings: &Settings,
    site: &Site,
    reception: &Reception,
    supervisor: &Supervisor,
) -> [JoinHandle<()>; 6] {
    [
        tokio::spawn(site.warmer.clone().keep_warm(settings.warm.clone())),
        tokio::spawn(changes::keep_draining(site.cache.clone(), site.store.clone())),
        tokio::spawn(alerts::keep_looking(site.operations.clone(), site.cache.clone())),
        tokio::spawn(reception.outgoing().clone().keep_looking()),
        tokio::spawn(reception.files().clone().keep_looking()),
        tokio::spawn(supervisor.clone().keep_alive(site.cache.clone())),
    ]
}

/// Reads the settings again as often as it is asked to, until a signal asks for the end.
async fn until_stopped(signals: &mut Signals, supervisor: &Supervisor, mut reload: Reload) {
    while signals.next().await == Asked::Reload {
        supervisor.reloading();
        reload = blocking::unblock(move || {
            reload.again();
            reload
        })
        .await;
        supervisor.ready();
    }
    supervisor.stopping();
}

/// The signal of a write beyond the limit of a file's size, on Linux and the BSDs alike.
const SIGXFSZ: i32 = 25;
