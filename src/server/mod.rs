//! The binary's inside: the command line, the settings, and the server they start.

mod cli;
mod client;
mod config;

pub use cli::main;

use crate::error::{Error, ErrorKind, Result};

/// Runs the server until it is told to stop.
fn serve(settings: config::Settings) -> Result<()> {
    drop(settings);
    Err(Error::new(ErrorKind::Closed, "this build has no server yet"))
}
