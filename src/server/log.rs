//! Where the log goes: standard error, as text for people or JSON for machines, filtered as `log` says.

use tracing_subscriber::EnvFilter;

use crate::error::{Error, ErrorKind, Result};

use super::config::{LogFormat, Settings};

/// Sends the events of this process to standard error from now on.
pub(super) fn start(settings: &Settings) -> Result<()> {
    let refused = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Settings, format!("{:?} is not accepted: {error}", settings.log)).at("log")
    };
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| refused(&error))?;
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match settings.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| Error::new(ErrorKind::Settings, "the log cannot be started").because(error))
}
