//! The binary's inside: opens the parts, drains the outbox, listens, and closes in order.

mod access;
mod alerts;
mod changes;
mod cli;
mod client;
pub(crate) mod config;
mod foreign;
mod http;
mod jwks;
pub(crate) mod jwt;
mod keyring;
mod listen;
mod log;
mod notify;
mod peer;
mod readiness;
mod reload;
mod schedule;
mod tls;
mod traffic;
mod warm;
pub(crate) mod wire;

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;

use rand::Rng as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::clock::Clock;
use crate::content::Store;
use crate::datadir::DataDir;
use crate::engine::{Cache, Durability, Policy};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Namespace;
use crate::source::Source;

use access::{Access, Gate};
use alerts::Alerts;
pub use cli::main;
use config::{ListenAddress, NamespaceSettings, Settings, SourceSettings};
#[cfg(feature = "fuzzing")]
pub(crate) use http::drive_batch;
use http::{Coded, Description, Hits, Rates, Site};
use keyring::Keyring;
use listen::{Bound, Reception};
use log::Filter;
use notify::Supervisor;
use readiness::Readiness;
use reload::{Reload, Reread};
use tls::Tls;
use warm::Warmer;

/// Serves until a signal ends it.
fn serve(settings: &Settings, reread: Reread) -> Result<()> {
    let filter = log::start(settings)?;
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

#[expect(clippy::too_many_lines, reason = "the order of a start and of a stop is read best in one place")]
async fn run(settings: &Settings, reread: Reread, filter: Filter) -> Result<()> {
    let mut signals = Signals::register()?;
    // A file-size limit is to be an error of the write, not the end of the process: a handler replaces the default.
    let _file_size = signal(SignalKind::from_raw(SIGXFSZ))
        .map_err(|error| Error::new(ErrorKind::Busy, "signals cannot be awaited").because(error))?;
    let tls = Tls::open(&settings.tls)?;
    let directory = DataDir::open(&settings.data_dir)?;
    let (token, token_from) = admin_token(settings, &directory)?;
    let keyring = Keyring::open(&directory)?;
    let clock = Clock::system();
    let store = Store::open(&directory.content_file(), clock.clone())?;
    let cache = open_cache(settings, &directory, clock)?;
    forget_other_keys(&cache, &store, &keyring)?;
    changes::finish(&cache, &store)?;
    let limits = Arc::new(settings.limits.clone());
    let compressed_only = Arc::new(compressed_only(settings));
    let source = foreign::source(&settings.source, &store)?;
    foreign::forget_if_changed(&cache, &directory, &*source)?;
    let source: Arc<dyn Source> = Arc::new(Coded::new(source, compressed_only.clone()));
    let warmer = Warmer::new(cache.clone(), source.clone(), directory.clone());
    listen::take_descriptors(&limits);
    let (stop, stopping) = watch::channel(false);
    let reception = Reception::new(limits.clone(), settings.memory, tls.clone(), stopping.clone());
    let site = Site {
        cache: cache.clone(),
        source,
        origin: settings.source.url.as_deref().map(Arc::from),
        warmer: warmer.clone(),
        store,
        directory: directory.clone(),
        gate: Gate::new(Access::new(settings, &token, keyring.clone())?),
        rates: Arc::new(Rates::new(&limits)),
        description: Arc::new(Description::new(&limits)),
        effective: settings.effective().into(),
        readiness: Arc::new(Readiness::new(settings.warm.wait.then(|| warmer.clone()))),
        alerts: Arc::new(Alerts::new(&settings.alerts)),
        traffic: Arc::default(),
        seats: reception.seats(),
        started_at: cache.now(),
        limits: limits.clone(),
        feeds: http::Feeds::new(stopping),
        content_changes: Arc::default(),
        compressed_only,
        answers_plainly: answers_plainly(settings),
    };

    let doors = Doors::open(settings, &directory).await?;
    directory.write_run(&doors.admin_address())?;
    announce(settings, &doors, &site, &token_from)?;
    let warming = tokio::spawn(warmer.clone().keep_warm(settings.warm.clone()));
    let draining = tokio::spawn(changes::keep_draining(cache.clone(), site.store.clone()));
    let looking = tokio::spawn(alerts::keep_looking(site.alerts.clone(), cache.clone()));
    let mut serving = doors.serve(&site, &reception);

    let supervisor = Supervisor::of_environment();
    supervisor.ready();
    let living = tokio::spawn(supervisor.clone().keep_alive(cache.clone()));
    let reload = Reload {
        reread,
        began_with: settings.clone(),
        holds: settings.clone(),
        directory: directory.clone(),
        keyring,
        gate: site.gate.clone(),
        cache: cache.clone(),
        filter,
        tls: tls.clone(),
    };
    until_stopped(&mut signals, &supervisor, reload).await;
    tracing::info!("stopping: finishing what is under way");
    site.readiness.stopping();
    stop.send_replace(true);
    tokio::spawn(exit_at_second_signal(signals));
    while serving.join_next().await.is_some() {}
    [draining, living, looking, warming].iter().for_each(JoinHandle::abort);
    warmer.close().await;
    let closed = blocking::unblock(move || cache.close()).await;
    directory.clear_run()?;
    closed
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

pub(crate) fn open_cache(settings: &Settings, directory: &DataDir, clock: Clock) -> Result<Cache> {
    if let Some(prefix) = &settings.key_prefix {
        crate::key::set_prefix(prefix)?;
    }
    let mut builder = Cache::builder()
        .memory(settings.memory)
        .max_entries(settings.max_entries)
        .disk(settings.disk)
        .durability(durability(settings.durability))
        .flush_interval(settings.flush_interval)
        .loads_max(usize::try_from(settings.limits.source_loads).unwrap_or(usize::MAX))
        .value_max(settings.limits.value)
        .data_dir(directory.clone())
        .bound_process(true)
        .clock(clock);
    for (namespace, own) in &settings.namespaces {
        builder = builder.policy(&Namespace::parse(namespace.as_str())?, policy(&settings.source, own));
    }
    builder.open()
}

/// How the entries of one namespace live, and how their source is asked.
fn policy(source: &SourceSettings, own: &NamespaceSettings) -> Policy {
    let count = |setting: u64| u32::try_from(setting).unwrap_or(u32::MAX);
    Policy::with_ttl(own.ttl)
        .client_max_age(own.client_max_age.unwrap_or(own.ttl))
        .jitter(own.jitter)
        .idle_ttl(own.idle_ttl)
        .max_share(own.max_share)
        .stale_while_revalidate(own.stale_while_revalidate)
        .stale_if_error(own.stale_if_error)
        .negative_ttl(own.negative_ttl)
        .timeout(source.timeout)
        .soft_timeout(source.soft_timeout)
        .attempts(count(source.attempts))
        .backoff(source.backoff)
        .breaker_failures(count(source.breaker_failures))
        .breaker_open(source.breaker_open)
        .slow(source.slow)
}

fn durability(setting: config::Durability) -> Durability {
    match setting {
        config::Durability::Interval => Durability::Interval,
        config::Durability::Always => Durability::Always,
        config::Durability::None => Durability::None,
    }
}

fn compressed_only(settings: &Settings) -> HashSet<String> {
    let namespaces = settings.namespaces.iter().filter(|(_, own)| own.compressed_only);
    namespaces.map(|(name, _)| name.clone()).collect()
}

/// Whether content may be answered without the router: nobody has to be known, counted or kept apart for it.
fn answers_plainly(settings: &Settings) -> bool {
    let is_open = settings.content_auth == config::ContentAuth::Public && settings.limits.rate_reads == 0;
    is_open && settings.key_prefix.is_none()
}

/// Entries under keys that were made with another prefix or secret are not reached by changes any more: should that
/// prefix or secret come back, they would be served though they are stale. So they go when it changes.
fn forget_other_keys(cache: &Cache, store: &Store, keyring: &Keyring) -> Result<()> {
    let basis = keyring.key_basis(crate::key::prefix());
    if store.key_basis()?.as_deref() == Some(basis.as_slice()) {
        return Ok(());
    }
    let forgotten = cache.clear_all()?;
    tracing::debug!(
        forgotten,
        "keys are made with another prefix or secret from now on; the cache begins cold"
    );
    store.set_key_basis(&basis)
}

/// The admin token, and where a person finds it.
fn admin_token(settings: &Settings, directory: &DataDir) -> Result<(String, String)> {
    if let Some(token) = &settings.admin_token {
        return Ok((token.expose().to_owned(), "as configured".into()));
    }
    let token = directory.secret("admin.token", || {
        let mut bytes = [0_u8; 32];
        rand::rng().fill(&mut bytes);
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    })?;
    Ok((token, directory.path().join("admin.token").display().to_string()))
}

/// The listeners of this process, bound and not yet served.
struct Doors {
    public: Vec<Bound>,
    /// Empty when the admin routes are on the public listeners.
    admin: Vec<Bound>,
    /// For the command line on this machine, which has no certificate to trust; only beside HTTPS.
    local: Option<Bound>,
}

impl Doors {
    async fn open(settings: &Settings, directory: &DataDir) -> Result<Self> {
        let mut doors = Self { public: Vec::new(), admin: Vec::new(), local: None };
        for address in &settings.listen {
            doors.public.push(Bound::bind(address).await?);
        }
        for address in &settings.admin_listen {
            doors.admin.push(Bound::bind(address).await?);
        }
        if settings.tls.cert.is_some() {
            let socket = directory.path().join("hifz.sock");
            doors.local = Some(Bound::bind(&ListenAddress::Unix(socket)).await?);
        }
        Ok(doors)
    }

    /// Where the command line finds the admin routes.
    fn admin_address(&self) -> String {
        self.local
            .as_ref()
            .or(self.admin.first())
            .or(self.public.first())
            .map(Bound::address)
            .unwrap_or_default()
    }

    fn serve(self, site: &Site, reception: &Reception) -> JoinSet<()> {
        let mut serving = JoinSet::new();
        let routes = if self.admin.is_empty() { http::everything(site) } else { http::public(site) };
        let hits = site.answers_plainly.then(|| Hits::new(site));
        for bound in self.public {
            serving.spawn(reception.clone().serve(bound, routes.clone(), hits.clone()));
        }
        for bound in self.admin {
            serving.spawn(reception.for_operators().serve(bound, http::admin(site), None));
        }
        if let Some(bound) = self.local {
            serving.spawn(reception.for_operators().serve(bound, http::everything(site), None));
        }
        serving
    }
}

/// The start summary, on standard output: the one thing a person sees before the log.
fn announce(settings: &Settings, doors: &Doors, site: &Site, token_from: &str) -> Result<()> {
    let counts = site.store.counts()?;
    let addresses = |bound: &[Bound]| bound.iter().map(Bound::address).collect::<Vec<_>>().join(", ");
    let mut lines =
        vec![format!("hifz {} listens on {}", env!("CARGO_PKG_VERSION"), addresses(&doors.public))];
    if !doors.admin.is_empty() {
        lines.push(format!("  admin        {}", addresses(&doors.admin)));
    }
    let (memory, disk) = (config::show_size(settings.memory), config::show_size(settings.disk));
    lines.push(format!("  data         {}", settings.data_dir.display()));
    lines.push(format!("  limits       memory {memory}, disk {disk}"));
    lines.push(format!(
        "  content      {} surahs, {} ayahs, {} reciters, {} translations",
        counts.surahs, counts.ayahs, counts.reciters, counts.translations_available
    ));
    lines.push(format!("  admin token  {token_from}\n"));
    let summary = lines.join("\n");
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; that is no reason not to serve.
    out.write_all(summary.as_bytes()).and_then(|()| out.flush()).unwrap_or_default();
    Ok(())
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
}

/// The signals that are heard; registered before anything is opened, so that none is missed.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn register() -> Result<Self> {
        let failed = |error| Error::new(ErrorKind::Busy, "signals cannot be awaited").because(error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

async fn exit_at_second_signal(mut signals: Signals) {
    while signals.next().await == Asked::Reload {
        tracing::warn!("stopping already, the settings are not read again");
    }
    tracing::warn!("second signal: leaving at once");
    std::process::exit(EXIT_AT_ONCE);
}

/// The signal of a write beyond the limit of a file's size, on Linux and the BSDs alike.
const SIGXFSZ: i32 = 25;

/// The exit code of a stop that did not wait.
const EXIT_AT_ONCE: i32 = 1;
