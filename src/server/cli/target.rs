//! Whom a command talks to: the server that holds the data directory, or the directory itself.

use std::fmt;
use std::fs;
use std::future::Future;
use std::time::Duration;

use hyper::{Method, StatusCode};

use crate::clock::Clock;
use crate::content::keys::UserId;
use crate::datadir::DataDir;
use crate::error::{Error, ErrorKind, Result};
use crate::server::client::{Client, Send, path_segment};
use crate::server::config::{ListenAddress, Secret, Settings, parse_listen_local};

/// What a command works on.
#[derive(Debug)]
pub(crate) enum Target {
    /// A running server.
    Server {
        /// Talks to it.
        client: Client,
        /// Where it is, for people.
        place: String,
    },
    /// The data directory, locked by this process.
    Directory {
        /// The lock and the names of the files.
        dir: DataDir,
        /// For the stores.
        clock: Clock,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { place, .. } => write!(f, "through {place}"),
            Self::Directory { dir, .. } => {
                write!(f, "directly, no server runs on {}", dir.path().display())
            }
        }
    }
}

impl Target {
    /// The server that runs on the data directory, else the directory itself.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when a process holds it without serving (yet), or what the directory answers.
    pub(crate) fn find(settings: &Settings, patience: Duration) -> Result<Self> {
        if let Some(server) = server(settings, patience)? {
            return Ok(server);
        }
        match DataDir::open(settings.data_dir.as_path()) {
            Ok(dir) => Ok(Self::Directory { dir, clock: Clock::system() }),
            // It may have come up between the two looks.
            Err(error) if error.kind() == ErrorKind::Locked => server(settings, patience)?.ok_or(error),
            Err(error) => Err(error),
        }
    }
}

/// The server that runs on the data directory, if one does.
///
/// # Errors
/// When what it wrote down about itself cannot be understood, or its token cannot be read.
pub(crate) fn server(settings: &Settings, patience: Duration) -> Result<Option<Target>> {
    let Some((address, place)) = address(settings)? else { return Ok(None) };
    let client = Client::new(address, Some(token(settings)?), patience);
    Ok(Some(Target::Server { client, place }))
}

/// Where the server is that runs on the data directory, and the same for people.
fn address(settings: &Settings) -> Result<Option<(ListenAddress, String)>> {
    let Some(run) = DataDir::read_run(&settings.data_dir) else { return Ok(None) };
    // Several addresses are separated by commas; any of them will do.
    let first = run.address.split(',').next().unwrap_or_default();
    let address: ListenAddress = parse_listen_local(first).map_err(|why| {
        let place = settings.data_dir.join("hifz.run").display().to_string();
        Error::new(ErrorKind::DiskNotTrusted, format!("the address {first:?} {why}")).at(place)
    })?;
    let place = format!("the server at {address} (process {})", run.pid);
    Ok(Some((address, place)))
}

/// The server that runs on the data directory, where it refuses `token` of `user`; `None` too where none runs, or none
/// that can be asked.
///
/// # Errors
/// When what it wrote down about itself cannot be understood.
pub(crate) fn refuses_token(settings: &Settings, user: &UserId, token: &str) -> Result<Option<String>> {
    let Some((address, place)) = address(settings)? else { return Ok(None) };
    let client = Client::new(address, Some(Secret::new(token)), TOKEN_PATIENCE);
    let path = format!("/api/v1/users/{}/bookmarks", path_segment(user.as_str()));
    let unauthorized = StatusCode::UNAUTHORIZED;
    let asked = run(client.send(Method::HEAD, &path, Send::Nothing, Some(unauthorized)));
    Ok(asked.is_ok_and(|answer| answer.status() == unauthorized).then_some(place))
}

/// A token is not kept back for long because a server does not answer.
const TOKEN_PATIENCE: Duration = Duration::from_secs(3);

/// The admin token: from the settings, else the one the server made in the data directory.
fn token(settings: &Settings) -> Result<Secret> {
    if let Some(token) = &settings.admin_token {
        return Ok(token.clone());
    }
    let path = settings.data_dir.join("admin.token");
    let text = fs::read_to_string(&path).map_err(|error| {
        let message = "no admin token: set HIFZ_ADMIN_TOKEN, or run as the user who may read this file";
        Error::new(ErrorKind::Settings, message).at(path.display().to_string()).because(error)
    })?;
    Ok(Secret::new(text.trim()))
}

/// Runs one exchange to its end.
///
/// # Errors
/// What the exchange answers.
pub(crate) fn run<T>(exchange: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Error::new(ErrorKind::Busy, "the system gives no more threads or descriptors").because(error)
    })?;
    runtime.block_on(exchange)
}
