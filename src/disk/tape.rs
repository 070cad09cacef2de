//! A record of everything written, from which a test makes the files that a crash at any moment would leave.
//!
//! A file that takes the place of one that was removed is another file of the same name: what is still written to the
//! first one then is lost. So files are told apart by marks: the name, and which one of that name it is.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Its name was durably taken from it.
    Gone {
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
            Self::Write { file, .. }
            | Self::Length { file, .. }
            | Self::Sync { file }
            | Self::Gone { file } => Some(file),
            Self::Said(_) => None,
        }
    }

    fn set_file(&mut self, mark: &str) {
        match self {
            Self::Write { file, .. }
            | Self::Length { file, .. }
            | Self::Sync { file }
            | Self::Gone { file } => mark.clone_into(file),
            Self::Said(_) => {}
        }
    }
}

/// Acts in their order over all files; `None` while nobody records.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    acts: Mutex<Option<Vec<Noted>>>,
    /// How many files of each name have been made.
    made: Mutex<BTreeMap<String, u32>>,
}

impl Tape {
    pub(crate) fn begin(&self) {
        *self.acts.lock() = Some(Vec::new());
    }

    pub(crate) fn end(&self) -> Vec<Noted> {
        self.acts.lock().take().unwrap_or_default()
    }

    pub(crate) fn say(&self, promise: usize) {
        self.push(Noted::Said(promise));
    }

    /// The mark of a file that is opened.
    pub(crate) fn mark(&self, name: &str, is_new: bool) -> String {
        let mut made = self.made.lock();
        let made = made.entry(name.to_owned()).or_default();
        *made += u32::from(is_new);
        if *made == 0 { name.to_owned() } else { format!("{name}#{made:04}") }
    }

    /// The file of this name has been removed.
    pub(crate) fn gone(&self, name: &str) {
        let file = self.mark(name, false);
        self.push(Noted::Gone { file });
    }

    fn push(&self, noted: Noted) {
        if let Some(acts) = self.acts.lock().as_mut() {
            acts.push(noted);
        }
    }

    /// Runs an act and notes it when it succeeded; no other act comes between.
    pub(crate) fn record(
        &self,
        file: &str,
        act: &Act<'_>,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut tape = self.acts.lock();
        run()?;
        if let Some(acts) = tape.as_mut() {
            acts.push(Noted::new(file, act));
        }
        Ok(())
    }
}

/// The files as they stand after some acts, in the kernel and on the disk.
#[derive(Debug, Default, Clone)]
pub(crate) struct Files {
    written: BTreeMap<String, Vec<u8>>,
    synced: BTreeMap<String, Vec<u8>>,
    unsynced: Vec<Noted>,
    gone: BTreeSet<String>,
}

impl Files {
    pub(crate) fn apply(&mut self, act: &Noted) {
        let Some(file) = act.file() else { return };
        if self.gone.contains(file) {
            return;
        }
        if let Noted::Gone { file } = act {
            self.gone.insert(file.clone());
            self.written.remove(file);
            self.synced.remove(file);
            self.unsynced.retain(|act| act.file() != Some(file));
            return;
        }
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

    /// Makes them in `folder` as a kill leaves them: whatever was written stands. The files as they then are, for the
    /// acts of another run.
    pub(crate) fn after_kill(&self, folder: &Path) -> Self {
        lay(folder, &self.written);
        let mut unsynced = self.unsynced.clone();
        for act in &mut unsynced {
            let name = act.file().map(|file| name_of(file).to_owned()).unwrap_or_default();
            act.set_file(&name);
        }
        Self {
            written: by_name(&self.written),
            synced: by_name(&self.synced),
            unsynced,
            gone: BTreeSet::new(),
        }
    }

    /// Makes them in `folder` as a power cut leaves them: of what was not synced, `keep` says for each act how many of
    /// its 512-byte sectors reached the disk. The files as they then are, for the acts of another run.
    pub(crate) fn after_power_cut(&self, folder: &Path, mut keep: impl FnMut() -> usize) -> Self {
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
        let files = by_name(&files);
        Self { written: files.clone(), synced: files, ..Self::default() }
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
        Noted::Sync { .. } | Noted::Gone { .. } | Noted::Said(_) => {}
    }
}

fn lay(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in by_name(files) {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Each by its name: where several bear one, the last that was made stands there.
fn by_name(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|(file, bytes)| (name_of(file).to_owned(), bytes.clone())).collect()
}

fn name_of(file: &str) -> &str {
    file.split('#').next().unwrap_or(file)
}
