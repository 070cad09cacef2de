//! The file under a redb database: private, bounded, fenced, and made to fail on purpose in tests.
//!
//! Promises: no file is ever grown past its bound (the growth is refused as a full disk would refuse it); whatever
//! redb does with a damaged file, panics included, comes back as a [`Fault`] that says whether the file is to blame.
//! Files are 0600. There is no lock here: the data directory's one-process lock covers every file in it, and
//! `disk/state.rs` sees to it that a process opens a file once.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::fence::Fenced;

/// Why an operation on a redb file did not succeed.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The file is damaged, foreign, or of a newer format: it must not be used again.
    Damaged(String),
    /// The disk failed, or is full: the file may be fine once that is over.
    Failed(String),
}

impl Fault {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Damaged(reason) | Self::Failed(reason) => reason,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::from(redb::Error::Io(error))
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        let text = error.to_string();
        let is_damage = match &error {
            redb::Error::Io(error) => {
                matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            }
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableDoesNotExist(_) => true,
            _ => false,
        };
        if is_damage { Self::Damaged(text) } else { Self::Failed(text) }
    }
}

/// Runs `act` on a redb file; a panic in it means that the file has pages which redb did not write.
pub(crate) fn fenced<T>(act: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(Fault::Damaged("a page of it cannot be read".to_owned())))
}

/// Opens the database at `path`, making it where it is missing.
pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Opened, Fault> {
    fenced(|| {
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        let identity = identity(&file.metadata()?);
        let backend = Backend::of(file, path, limits)?;
        let db = redb::Builder::new()
            .set_cache_size(limits.page_cache_bytes)
            .create_with_backend(backend)
            .map_err(redb::Error::from)?;
        Ok(Opened { db: Fenced::new(db), path: path.to_owned(), identity })
    })
}

/// Makes the closed file at `path` `bytes` long, whole pages, of which the new ones are free. redb by itself only ever
/// doubles a file, but takes one that has grown as it is (its `DatabaseHeader::finalize`).
pub(crate) fn extend(path: &Path, limits: &Limits, bytes: u64) -> Result<(), Fault> {
    let backend = Backend::of(OpenOptions::new().read(true).write(true).open(path)?, path, limits)?;
    let before_bytes = backend.len()?;
    if before_bytes < bytes {
        // Durable before redb's header can say that it is so long; where it is not, nothing may rely on it.
        let extended = backend.set_len(bytes).and_then(|()| backend.sync_data());
        if let Err(error) = extended {
            backend.set_len(before_bytes)?;
            return Err(error.into());
        }
    }
    Ok(backend.close()?)
}

/// An open database and the file that it is.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) db: Fenced,
    path: PathBuf,
    identity: (u64, u64),
}

impl Opened {
    /// Fails when the file no longer stands under its name: what is written to it then is written to nowhere.
    pub(crate) fn check_in_place(&self) -> Result<(), Fault> {
        let found = std::fs::metadata(&self.path).map(|metadata| identity(&metadata));
        if found.is_ok_and(|found| found == self.identity) {
            return Ok(());
        }
        Err(Fault::Failed(format!("{} is gone from its place", self.path.display())))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What a file may cost, and how many writes a test lets it make.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) file_bytes_max: Ceiling,
    pub(crate) page_cache_bytes: usize,
    pub(crate) fuse: Fuse,
}

impl Limits {
    /// For a small file beside: its own little page cache, and no bound, since nothing in it may be refused.
    pub(crate) fn small(&self) -> Self {
        Self { file_bytes_max: Ceiling::new(u64::MAX), page_cache_bytes: 1 << 20, fuse: self.fuse.clone() }
    }
}

/// Something done to a file.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), expect(dead_code, reason = "read by tests that record what is written"))]
pub(crate) enum Act<'a> {
    Write(u64, &'a [u8]),
    Append(&'a [u8]),
    Length(u64),
    Sync,
}

/// A bound that may be changed while files are open; every clone is the same bound.
#[derive(Debug, Clone)]
pub(crate) struct Ceiling(Arc<AtomicU64>);

impl Ceiling {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Burns down by one a write or sync; once burnt every further one fails until it is replaced.
#[derive(Debug, Clone)]
pub(crate) struct Fuse(Arc<Burning>);

#[derive(Debug)]
struct Burning {
    left: AtomicU64,
    #[cfg(test)]
    tape: super::tape::Tape,
    /// No file can be made longer.
    #[cfg(test)]
    is_full: std::sync::atomic::AtomicBool,
    /// Nothing waits for the disk; for tests that open many files.
    #[cfg(test)]
    is_hasty: bool,
}

impl Fuse {
    /// Never burns.
    pub(crate) fn none() -> Self {
        Self(Arc::new(Burning {
            left: AtomicU64::new(u64::MAX),
            #[cfg(test)]
            tape: super::tape::Tape::default(),
            #[cfg(test)]
            is_full: std::sync::atomic::AtomicBool::new(false),
            #[cfg(test)]
            is_hasty: false,
        }))
    }

    /// Never burns, and never waits for the disk.
    #[cfg(test)]
    pub(crate) fn hasty() -> Self {
        let (tape, is_full) = (super::tape::Tape::default(), false.into());
        Self(Arc::new(Burning { left: AtomicU64::new(u64::MAX), tape, is_full, is_hasty: true }))
    }

    /// Whether no file can be made longer, as on a full disk.
    #[cfg(test)]
    pub(crate) fn set_full(&self, is_full: bool) {
        self.0.is_full.store(is_full, Ordering::SeqCst);
    }

    #[cfg(test)]
    fn check_full(&self) -> io::Result<()> {
        if self.0.is_full.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }

    /// Everything that was written, where it is recorded.
    #[cfg(test)]
    pub(crate) fn tape(&self) -> &super::tape::Tape {
        &self.0.tape
    }

    /// Lets `writes` more through; `u64::MAX` lets all.
    #[cfg(test)]
    pub(crate) fn set(&self, writes: u64) {
        self.0.left.store(writes, Ordering::SeqCst);
    }

    /// What a file that is opened is called in [`Fuse::act`].
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests record"))]
    fn mark(&self, name: &str, is_new: bool) -> String {
        #[cfg(test)]
        let name = &*self.tape().mark(name, is_new);
        #[cfg(not(test))]
        let _ = is_new;
        name.to_owned()
    }

    /// The file at `path` has lost its name, durably; tests that record what is written note it.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests record"))]
    pub(crate) fn gone(&self, path: &Path) {
        #[cfg(test)]
        self.tape().gone(&name_of(path));
        #[cfg(not(test))]
        let _ = path;
    }

    /// Runs `run`, which does `act` to the file of this name; tests that record what is written note it.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests record"))]
    pub(crate) fn act(
        &self,
        file: &str,
        act: Act<'_>,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        #[cfg(test)]
        if self.0.is_hasty && matches!(act, Act::Sync) {
            return Ok(());
        }
        #[cfg(test)]
        if matches!(act, Act::Append(_)) {
            self.check_full()?;
        }
        #[cfg(test)]
        let run = || self.tape().record(file, &act, run);
        #[cfg(not(test))]
        let (_, _) = (file, act);
        run()
    }

    fn burn(&self) -> io::Result<()> {
        let burn = |left: u64| match left {
            u64::MAX => Some(left),
            left => left.checked_sub(1),
        };
        match self.0.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, burn) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device")),
        }
    }
}

#[derive(Debug)]
struct Backend {
    inner: FileBackend,
    limits: Limits,
    /// Its name, for those who record what is written.
    file: String,
}

impl Backend {
    /// Of `file`, which stands at `path`.
    fn of(file: File, path: &Path, limits: &Limits) -> Result<Self, Fault> {
        let is_new = file.metadata()?.len() == 0;
        let inner = FileBackend::new(file).map_err(redb::Error::from)?;
        Ok(Self { inner, limits: limits.clone(), file: limits.fuse.mark(&name_of(path), is_new) })
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, BackendIoError> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BackendIoError> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), BackendIoError> {
        self.limits.fuse.burn()?;
        let file_bytes_max = self.limits.file_bytes_max.bytes();
        if len > file_bytes_max && len > self.inner.len()? {
            let message = format!("{BOUND_REACHED} {file_bytes_max} bytes");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        #[cfg(test)]
        if len > self.inner.len()? {
            self.limits.fuse.check_full()?;
        }
        self.limits.fuse.act(&self.file, Act::Length(len), || self.inner.set_len(len))
    }

    fn sync_data(&self) -> Result<(), BackendIoError> {
        self.limits.fuse.burn()?;
        self.limits.fuse.act(&self.file, Act::Sync, || self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BackendIoError> {
        self.limits.fuse.burn()?;
        self.limits.fuse.act(&self.file, Act::Write(offset, data), || self.inner.write(offset, data))
    }

    fn close(&self) -> Result<(), BackendIoError> {
        self.inner.close()
    }
}

type BackendIoError = io::Error;

/// How the error begins that says that a file would outgrow its bound.
pub(crate) const BOUND_REACHED: &str = "the file may not grow past";
