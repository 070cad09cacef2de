//! The data directory: file names, the one-process lock, secrets and quarantine.

/// The data directory of one process.
#[derive(Debug)]
pub struct DataDir;
