//! The marks that overwrites leave: `cache-marks-0.log` and `cache-marks-1.log`.
//!
//! A put is acknowledged before it is written to the bulk. Where an older record of its key may lie there, that record
//! must not come back when the process is killed first, so the put leaves a mark: one plain write of 32 bytes
//! (fingerprint, sequence, xxh3 of both; little-endian), which survives a kill, not a power cut. A mark says that
//! records of this key below this sequence are dead. A torn mark at the end does not match its checksum and ends the
//! reading: the put that it was for was never acknowledged.
//!
//! Two files, so that one can be emptied while the other is written: marks go to the current one; a batch that is
//! taken makes the other current if that is empty; a batch that is durable empties the one that is not current, since
//! everything in it was marked before the batch was taken. A mark too many does no harm.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::backend::{Act, Fuse};

/// Both files; opened when the first mark is left, and again after a fault.
#[derive(Debug)]
pub(crate) struct MarkLog {
    paths: [PathBuf; 2],
    files: [Option<File>; 2],
    /// What stands in each, in bytes.
    lens: [u64; 2],
    current: usize,
    /// A mark could not be left, and the bulk that it was for is not gone yet.
    is_missing_some: bool,
    fuse: Fuse,
}

impl MarkLog {
    /// The logs in `folder`, and every mark in them.
    pub(crate) fn open(folder: &Path, fuse: Fuse) -> (Self, Vec<(u128, u64)>) {
        let paths = NAMES.map(|name| folder.join(name));
        let mut log =
            Self { paths, files: [None, None], lens: [0, 0], current: 0, is_missing_some: false, fuse };
        let mut marks = Vec::new();
        for which in 0..2 {
            let read = File::open(&log.paths[which]).and_then(|file| {
                log.lens[which] = file.metadata()?.len();
                let mut bytes = Vec::new();
                file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map(|_| bytes)
            });
            match read {
                Ok(bytes) => marks.extend(bytes.chunks_exact(MARK_BYTES).map_while(parse)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, "the marks of overwrites cannot be read"),
            }
        }
        (log, marks)
    }

    /// Leaves a mark; when it returns, a kill does not undo it.
    pub(crate) fn leave(&mut self, fingerprint: u128, sequence: u64) -> io::Result<()> {
        let left = self.append(fingerprint, sequence);
        self.is_missing_some |= left.is_err();
        left
    }

    /// Fails when a mark that somebody relies on could not be left.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_missing_some {
            return Err(io::Error::other("an earlier mark could not be left"));
        }
        Ok(())
    }

    fn append(&mut self, fingerprint: u128, sequence: u64) -> io::Result<()> {
        let mut bytes = [0; MARK_BYTES];
        bytes[..16].copy_from_slice(&fingerprint.to_le_bytes());
        bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
        let checksum = xxh3_64(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        let which = self.current;
        if self.lens[which] + MARK_BYTES as u64 > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "more overwrites wait for the disk than are kept",
            ));
        }
        let (fuse, name) = (self.fuse.clone(), NAMES[which]);
        let result = self
            .file(which)
            .and_then(|mut file| fuse.act(name, Act::Append(&bytes), || file.write_all(&bytes)));
        match result {
            Ok(()) => self.lens[which] += bytes.len() as u64,
            // What stands there now may be torn, and a mark after it would not be read.
            Err(_) => self.files[which] = None,
        }
        result
    }

    /// A batch was taken: what is marked from now on is for the next.
    pub(crate) fn turn(&mut self) {
        if self.lens[1 - self.current] == 0 {
            self.current = 1 - self.current;
        }
    }

    /// A batch is durable.
    pub(crate) fn settle(&mut self) {
        self.empty(1 - self.current);
    }

    /// Every mark is moot: the bulk they were for is gone.
    pub(crate) fn clear(&mut self) {
        self.empty(0);
        self.empty(1);
        self.is_missing_some = false;
    }

    fn empty(&mut self, which: usize) {
        if self.lens[which] == 0 {
            return;
        }
        let (fuse, name) = (self.fuse.clone(), NAMES[which]);
        match self.file(which).and_then(|file| fuse.act(name, Act::Length(0), || file.set_len(0))) {
            Ok(()) => self.lens[which] = 0,
            Err(error) => {
                tracing::warn!(%error, "the marks of overwrites stay for now");
                self.files[which] = None;
            }
        }
    }

    fn file(&mut self, which: usize) -> io::Result<&File> {
        if self.files[which].is_none() {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.paths[which])?;
            // Only whole marks: a torn one is cut off before the next is left.
            let len = file.metadata()?.len();
            let whole = len - len % MARK_BYTES as u64;
            if whole != len {
                file.set_len(whole)?;
            }
            self.lens[which] = whole;
            self.files[which] = Some(file);
        }
        self.files[which].as_ref().ok_or_else(|| io::Error::other("the file was just opened"))
    }
}

fn parse(bytes: &[u8]) -> Option<(u128, u64)> {
    let (mark, checksum) = bytes.split_last_chunk::<8>()?;
    let (fingerprint, sequence) = mark.split_first_chunk::<16>()?;
    let is_whole = xxh3_64(mark) == u64::from_le_bytes(*checksum);
    is_whole.then_some((u128::from_le_bytes(*fingerprint), u64::from_le_bytes(sequence.try_into().ok()?)))
}

const NAMES: [&str; 2] = ["cache-marks-0.log", "cache-marks-1.log"];

const MARK_BYTES: usize = 32;

/// A million marks in a file: when the disk is away for longer, the cache file is given up instead.
const FILE_BYTES_MAX: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_until_the_batch_after_them_is_durable() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, marks) = MarkLog::open(temp.path(), Fuse::none());
        assert!(marks.is_empty());
        log.leave(1, 10).unwrap();
        log.turn();
        log.leave(2, 20).unwrap();
        assert_eq!(MarkLog::open(temp.path(), Fuse::none()).1, [(1, 10), (2, 20)]);
        log.settle();
        assert_eq!(MarkLog::open(temp.path(), Fuse::none()).1, [(2, 20)]);
        log.turn();
        log.settle();
        assert_eq!(MarkLog::open(temp.path(), Fuse::none()).1, []);
    }

    #[test]
    fn a_torn_mark_is_not_read_and_does_not_hide_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, _) = MarkLog::open(temp.path(), Fuse::none());
        log.leave(1, 10).unwrap();
        let path = log.paths[log.current].clone();
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(&[7; 20]).unwrap();
        let (mut log, marks) = MarkLog::open(temp.path(), Fuse::none());
        assert_eq!(marks, [(1, 10)]);
        log.leave(2, 20).unwrap();
        assert_eq!(MarkLog::open(temp.path(), Fuse::none()).1, [(1, 10), (2, 20)]);
    }
}
