//! A record of everything written, from which a test makes the files that a crash at any moment would leave.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::backend::Act;

/// One act on a file, or something that a test wants to find again between the acts.
#[derive(Debug, Clone)]
pub(crate) enum Noted {
    Write {
        file: String,
        offset: Option<u64>,
        bytes: Vec<u8>,
    },
    Length {
        file: String,
        len: u64,
    },
    Sync {
        file: String,
    },
    /// A promise has been given.
    Said(usize),
}

impl Noted {
    fn new(file: &str, act: &Act<'_>) -> Self {
        let file = file.to_owned();
        match act {
            Act::Write(offset, bytes) => Self::Write { file, offset: Some(*offset), bytes: bytes.to_vec() },
            Act::Append(bytes) => Self::Write { file, offset: None, bytes: bytes.to_vec() },
            Act::Length(len) => Self::Length { file, len: *len },
            Act::Sync => Self::Sync { file },
        }
    }

    fn file(&self) -> Option<&str> {
        match self {
            Self::Write { file, .. } | Self::Length { file, .. } | Self::Sync { file } => Some(file),
            Self::Said(_) => None,
        }
    }
}

/// Acts in their order over all files; `None` while nobody records.
#[derive(Debug, Default)]
pub(crate) struct Tape(Mutex<Option<Vec<Noted>>>);

impl Tape {
    pub(crate) fn begin(&self) {
        *self.0.lock() = Some(Vec::new());
    }

    pub(crate) fn end(&self) -> Vec<Noted> {
        self.0.lock().take().unwrap_or_default()
    }

    pub(crate) fn say(&self, promise: usize) {
        if let Some(acts) = self.0.lock().as_mut() {
            acts.push(Noted::Said(promise));
        }
    }

    /// Runs an act and notes it when it succeeded; no other act comes between.
    pub(crate) fn record(
        &self,
        file: &str,
        act: &Act<'_>,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut tape = self.0.lock();
        run()?;
        if let Some(acts) = tape.as_mut() {
            acts.push(Noted::new(file, act));
        }
        Ok(())
    }
}

/// The files as they stand after some acts, in the kernel and on the disk.
#[derive(Debug, Default)]
pub(crate) struct Files {
    written: BTreeMap<String, Vec<u8>>,
    synced: BTreeMap<String, Vec<u8>>,
    unsynced: Vec<Noted>,
}

impl Files {
    pub(crate) fn apply(&mut self, act: &Noted) {
        let Some(file) = act.file() else { return };
        let standing = self.written.entry(file.to_owned()).or_default();
        if let Noted::Sync { .. } = act {
            self.synced.insert(file.to_owned(), standing.clone());
            self.unsynced.retain(|act| act.file() != Some(file));
        } else {
            change(standing, act, usize::MAX);
            self.synced.entry(file.to_owned()).or_default();
            self.unsynced.push(act.clone());
        }
    }

    /// Makes them in `folder` as a kill leaves them: whatever was written stands.
    pub(crate) fn after_kill(&self, folder: &Path) {
        lay(folder, &self.written);
    }

    /// Makes them in `folder` as a power cut leaves them: of what was not synced, `keep` says for each act how many of
    /// its 512-byte sectors reached the disk.
    pub(crate) fn after_power_cut(&self, folder: &Path, mut keep: impl FnMut() -> usize) {
        let mut files = self.synced.clone();
        for act in &self.unsynced {
            let sectors = keep();
            if let Some(standing) = act.file().and_then(|file| files.get_mut(file))
                && sectors > 0
            {
                change(standing, act, sectors.saturating_mul(512));
            }
        }
        lay(folder, &files);
    }
}

fn change(standing: &mut Vec<u8>, act: &Noted, bytes_max: usize) {
    match act {
        Noted::Write { offset, bytes, .. } => {
            let at = offset.map_or(standing.len(), |offset| usize::try_from(offset).unwrap());
            let bytes = &bytes[..bytes.len().min(bytes_max)];
            if standing.len() < at + bytes.len() {
                standing.resize(at + bytes.len(), 0);
            }
            standing[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Noted::Length { len, .. } => standing.resize(usize::try_from(*len).unwrap(), 0),
        Noted::Sync { .. } | Noted::Said(_) => {}
    }
}

fn lay(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}
