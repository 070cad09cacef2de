//! The data directory: file names, the one-process lock, secrets and quarantine.
//!
//! Promises: whoever holds a [`DataDir`] is the only process that does (an advisory lock on `hifz.lock`, which the
//! kernel gives back however the process ends; [`DataDir::check_held`] notices when the directory was removed or another
//! put in its place); a refused open has changed nothing in a directory that was there;
//! every file made here is 0600 and every folder 0700; a secret is either whole or not there; `quarantine/` holds one
//! generation and never more than it was allowed. It does not know what the files mean.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};

/// The data directory of one process, locked until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct DataDir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Another takes its place when the directory was made anew.
    lock: Mutex<Lock>,
    /// What [`DataDir::write_run`] wrote last.
    address: Mutex<Option<String>>,
}

/// The lock of a directory, given back when it is dropped.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would do, but for a process that another thread is just about to start: until that process
        // runs its program it has the file open too.
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "the lock of the data directory goes with the file");
        }
    }
}

/// Who serves from a data directory, as it wrote down itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// Where it listens.
    pub address: String,
    /// Its process id.
    pub pid: u32,
}

impl DataDir {
    /// Makes the directory where it is missing and takes its lock.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] names the process that holds it; [`ErrorKind::DiskFailed`] the path that cannot be used.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        make_private_dir(&path)?;
        let lock = take_lock(&path)?;
        // Only now: a refused open must not even touch the mode of another process's directory.
        fs::set_permissions(&path, Permissions::from_mode(DIR_MODE))
            .map_err(|error| failed("cannot make private", &path, error))?;
        Ok(Self(Arc::new(Inner { path, lock: Mutex::new(lock), address: Mutex::default() })))
    }

    /// Whether the directory is still this process's. Where it was removed and made anew, the new one is locked in its
    /// place, unless another process was there first.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] while the directory is gone, [`ErrorKind::Locked`] when another process holds what
    /// stands there now: nothing in it may then be touched.
    pub fn check_held(&self) -> Result<()> {
        let path = self.path();
        let mut lock = self.0.lock.lock();
        let held = lock.0.metadata().map(|held| (held.dev(), held.ino()));
        let standing = fs::metadata(path.join(LOCK_FILE)).map(|found| (found.dev(), found.ino()));
        if held.is_ok() && held.ok() == standing.ok() {
            return Ok(());
        }
        if !path.is_dir() {
            return Err(Error::new(ErrorKind::DiskFailed, "the data directory is gone")
                .at(path.display().to_string()));
        }
        *lock = take_lock(path)?;
        drop(lock);
        tracing::warn!(path = %path.display(), "the data directory was made anew; its lock has been taken again");
        let address = self.0.address.lock().clone();
        address.map_or(Ok(()), |address| self.write_run(&address))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The bulk of the disk tier.
    #[must_use]
    pub fn cache_file(&self) -> PathBuf {
        self.path().join("cache.redb")
    }

    /// The truth of the disk tier: generations and tombstones.
    #[must_use]
    pub fn cache_truth_file(&self) -> PathBuf {
        self.path().join("cache-truth.redb")
    }

    /// The content store.
    #[must_use]
    pub fn content_file(&self) -> PathBuf {
        self.path().join("content.redb")
    }

    /// The secret called `name`: what its file says, or what `make` gives, which is then written first.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when the file can be neither read nor made, or is empty.
    pub fn secret(&self, name: &str, make: impl FnOnce() -> String) -> Result<String> {
        let path = self.path().join(name);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Err(Error::new(
                ErrorKind::DiskFailed,
                "the secret is empty; write one into the file, or delete it to have one made",
            )
            .at(path.display().to_string())),
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) if error.kind() == IoKind::NotFound => {
                let secret = make();
                self.write_whole(name, secret.as_bytes())?;
                Ok(secret)
            }
            Err(error) => Err(failed("cannot read", &path, error)),
        }
    }

    /// Writes down that this process serves at `address`.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when the file cannot be written.
    pub fn write_run(&self, address: &str) -> Result<()> {
        *self.0.address.lock() = Some(address.to_owned());
        self.write_whole(RUN_FILE, format!("{}\n{address}\n", std::process::id()).as_bytes())
    }

    /// Writes a small file called `name`, whole or not at all; `name` begins with `hifz`.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when the file cannot be written.
    pub fn write_note(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_whole(name, bytes)
    }

    /// What [`DataDir::write_note`] wrote, at most `bytes_max` of it; `None` where there is nothing that can be read.
    #[must_use]
    pub fn read_note(&self, name: &str, bytes_max: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path().join(name)).ok()?.take(bytes_max).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Takes back what [`DataDir::write_run`] wrote; nothing to do where it is gone already.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when the file cannot be removed.
    pub fn clear_run(&self) -> Result<()> {
        remove_if_there(&self.path().join(RUN_FILE))
    }

    /// Who serves from the directory at `path` now; `None` where nobody does, whatever a killed process left there.
    #[must_use]
    pub fn read_run(path: &Path) -> Option<Run> {
        let lock = File::open(path.join(LOCK_FILE)).ok()?;
        // A shared lock that is granted means that no process holds the directory.
        if !matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        run_in(path)
    }

    /// Moves `files` into `quarantine/`, whose earlier content goes; what is missing is passed over, and what would
    /// make the quarantine larger than `bytes_max` is deleted instead of kept.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when a file can be neither moved nor deleted: it then still stands where it was.
    pub fn quarantine(&self, files: &[PathBuf], bytes_max: u64) -> Result<PathBuf> {
        let folder = self.path().join("quarantine");
        match fs::remove_dir_all(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == IoKind::NotFound => {}
            Err(error) => return Err(failed("cannot empty", &folder, error)),
        }
        make_private_dir(&folder)?;
        let mut left_bytes = bytes_max;
        for file in files {
            let Ok(metadata) = fs::symlink_metadata(file) else { continue };
            let name = file.file_name().ok_or_else(|| {
                Error::new(ErrorKind::DiskFailed, format!("{} names no file", file.display()))
            })?;
            if metadata.is_file() && metadata.len() <= left_bytes {
                left_bytes -= metadata.len();
                fs::rename(file, folder.join(name)).map_err(|error| failed("cannot move", file, error))?;
            } else if metadata.is_dir() {
                fs::remove_dir_all(file).map_err(|error| failed("cannot remove", file, error))?;
            } else {
                remove_if_there(file)?;
            }
        }
        self.sync()?;
        Ok(folder)
    }

    /// Deletes `file` so that it stays deleted, also over a power cut.
    pub(crate) fn remove_durably(&self, file: &Path) -> Result<()> {
        remove_if_there(file)?;
        self.sync()
    }

    /// Makes names that came or went durable.
    pub(crate) fn sync(&self) -> Result<()> {
        File::open(self.path())
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed("cannot sync", self.path(), error))
    }

    /// Puts a whole file under `name`: written beside, synced, renamed, so that it is never seen half.
    fn write_whole(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        let beside = self.path().join(format!("hifz-{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(FILE_MODE).open(&beside)?;
            // A leftover of a crash keeps the mode it had.
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().map_err(|error| failed("cannot write", &path, error))?;
        self.sync()
    }
}

/// Takes the lock of the directory at `path`, which must exist.
fn take_lock(path: &Path) -> Result<Lock> {
    let lock_path = path.join(LOCK_FILE);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(FILE_MODE)
        .open(&lock_path)
        .map_err(|error| failed("cannot open", &lock_path, error))?;
    for _ in 0..LOOKS_MAX {
        match lock.try_lock() {
            Ok(()) => return Ok(Lock(lock)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed("cannot lock", &lock_path, error)),
        }
        // Whoever only looks who serves, as `read_run` does, shares the lock for a moment.
        if lock.try_lock_shared().is_err() {
            return Err(locked(path));
        }
        lock.unlock().map_err(|error| failed("cannot unlock", &lock_path, error))?;
        std::thread::park_timeout(LOOK_PAUSE);
    }
    Err(locked(path))
}

fn make_private_dir(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::new(ErrorKind::DiskFailed, "is not a directory").at(path.display().to_string())),
        Err(error) if error.kind() == IoKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(path)
            .map_err(|error| failed("cannot make", path, error)),
        Err(error) => Err(failed("cannot use", path, error)),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == IoKind::NotFound => Ok(()),
        Err(error) => Err(failed("cannot remove", path, error)),
    }
}

fn run_in(path: &Path) -> Option<Run> {
    let mut text = String::new();
    File::open(path.join(RUN_FILE)).ok()?.take(RUN_BYTES_MAX).read_to_string(&mut text).ok()?;
    let (pid, address) = text.trim_end().split_once('\n')?;
    Some(Run { address: address.to_owned(), pid: pid.parse().ok()? })
}

fn locked(path: &Path) -> Error {
    let holder = run_in(path).map_or_else(
        || "another process holds it".to_owned(),
        |run| format!("process {} holds it and listens on {}", run.pid, run.address),
    );
    let message = format!("one process a data directory: {holder}");
    Error::new(ErrorKind::Locked, message).at(path.display().to_string())
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    let message = format!("{what} it: {error}");
    Error::new(ErrorKind::DiskFailed, message).at(path.display().to_string()).because(error)
}

/// How often the lock is tried for while others only look, and the pause between two tries.
const LOOKS_MAX: u32 = 1000;
const LOOK_PAUSE: Duration = Duration::from_millis(1);

const LOCK_FILE: &str = "hifz.lock";
const RUN_FILE: &str = "hifz.run";
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// More than any address; a file that is larger was not written here.
const RUN_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_second_open_is_refused_with_the_holder_and_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("new/data");
        let dir = DataDir::open(&path).unwrap();
        dir.write_run("127.0.0.1:8080").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.message().contains("127.0.0.1:8080"), "{error}");
        assert!(error.message().contains(&std::process::id().to_string()), "{error}");
        assert_eq!(mode(&path), 0o750, "a refused open changes nothing");
        let run = DataDir::read_run(&path).unwrap();
        assert_eq!((run.pid, run.address.as_str()), (std::process::id(), "127.0.0.1:8080"));
        drop(dir);
        assert_eq!(DataDir::read_run(&path), None, "what a dead process left is not trusted");
        DataDir::open(&path).unwrap().clear_run().unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn who_gives_the_lock_back_has_given_it_back_though_a_process_that_begins_has_the_file_open() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        // As a fork has it until it runs its program.
        let inherited = dir.0.lock.lock().0.try_clone().unwrap();
        drop(dir);
        DataDir::open(temp.path()).unwrap();
        drop(inherited);
    }

    #[test]
    fn who_only_looks_who_serves_keeps_nobody_from_serving() {
        let temp = tempfile::tempdir().unwrap();
        drop(DataDir::open(temp.path()).unwrap());
        let looking = File::open(temp.path().join(LOCK_FILE)).unwrap();
        looking.try_lock_shared().unwrap();
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| DataDir::open(temp.path()));
            std::thread::park_timeout(LOOK_PAUSE * 5);
            drop(looking);
            opening.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_directory_that_is_made_anew_is_locked_again_unless_another_was_first() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let dir = DataDir::open(&path).unwrap();
        dir.write_run("127.0.0.1:8080").unwrap();
        dir.check_held().unwrap();
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(dir.check_held().unwrap_err().kind(), ErrorKind::DiskFailed);
        fs::create_dir(&path).unwrap();
        dir.check_held().unwrap();
        assert_eq!(DataDir::open(&path).unwrap_err().kind(), ErrorKind::Locked);
        assert_eq!(DataDir::read_run(&path).unwrap().address, "127.0.0.1:8080");
        fs::remove_dir_all(&path).unwrap();
        let second = DataDir::open(&path).unwrap();
        assert_eq!(dir.check_held().unwrap_err().kind(), ErrorKind::Locked);
        drop(second);
        dir.check_held().unwrap();
    }

    #[test]
    fn a_secret_is_made_once_and_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        assert_eq!(dir.secret("admin.token", || "first".to_owned()).unwrap(), "first");
        assert_eq!(dir.secret("admin.token", || "second".to_owned()).unwrap(), "first");
        assert_eq!(mode(&temp.path().join("admin.token")), 0o600);
        fs::write(temp.path().join("hifz.key"), "\n").unwrap();
        let error = dir.secret("hifz.key", || "third".to_owned()).unwrap_err();
        assert!(error.to_string().contains("hifz.key"), "{error}");
    }

    #[test]
    fn quarantine_keeps_one_generation_within_its_bound() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        let files = [dir.cache_file(), dir.cache_truth_file()];
        fs::write(&files[0], [1; 100]).unwrap();
        fs::write(&files[1], [2; 10]).unwrap();
        let folder = dir.quarantine(&files, 50).unwrap();
        assert!(!files[0].exists() && !files[1].exists());
        assert!(!folder.join("cache.redb").exists(), "too large to keep");
        assert!(folder.join("cache-truth.redb").exists());
        fs::write(&files[0], [3; 20]).unwrap();
        dir.quarantine(&files, 50).unwrap();
        assert!(folder.join("cache.redb").exists());
        assert!(!folder.join("cache-truth.redb").exists(), "the earlier generation is gone");
        assert_eq!(mode(&folder), 0o700);
    }

    #[test]
    fn a_path_that_is_a_file_or_cannot_be_made_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = DataDir::open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DiskFailed);
            assert!(error.to_string().contains("file"), "{error}");
        }
    }
}
