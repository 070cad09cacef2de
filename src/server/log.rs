//! Where the log goes: standard error, as text for people or JSON for machines, filtered as `log` says.
//!
//! Promises: the filter can be replaced while the process runs; what a connection carries (headers, and with them tokens
//! and the ids of users) is in no log at any level, because the crates that would tell it are kept at `info`.

use std::fmt;

use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::layer as fmt_layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::error::{Error, ErrorKind, Result};

use super::config::{LogFormat, Settings};

/// The filter in force.
#[derive(Debug)]
pub(super) struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Filters by `filter` from now on.
    pub(super) fn replace(&self, filter: EnvFilter) {
        if let Err(error) = self.0.reload(filter) {
            tracing::error!(%error, "the filter of the log could not be replaced");
        }
    }
}

/// Sends the events of this process to standard error from now on.
pub(super) fn start(settings: &Settings) -> Result<Filter> {
    let (filter, in_force) = reload::Layer::new(parse(&settings.log)?);
    let events = tracing_subscriber::registry().with(filter);
    let lines = fmt_layer().with_writer(std::io::stderr).with_target(false);
    let started = match settings.log_format {
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            events.with(lines.with_ansi(is_terminal)).try_init()
        }
        LogFormat::Json => events.with(lines.json()).try_init(),
    };
    started.map_err(|error| Error::new(ErrorKind::Settings, "the log cannot be started").because(error))?;
    Ok(Filter(in_force))
}

/// The filter that `text` describes.
pub(super) fn parse(text: &str) -> Result<EnvFilter> {
    let refused = |error: &dyn fmt::Display| {
        Error::new(ErrorKind::Settings, format!("{text:?} is not accepted: {error}")).at("log")
    };
    let filter = EnvFilter::try_new(text).map_err(|error| refused(&error))?;
    QUIET.iter().try_fold(filter, |filter, directive| {
        let directive: Directive = directive.parse().map_err(|error| refused(&error))?;
        Ok(filter.add_directive(directive))
    })
}

/// What would tell headers in its finer levels.
const QUIET: [&str; 3] = ["h2=info", "hyper=info", "hyper_util=info"];
