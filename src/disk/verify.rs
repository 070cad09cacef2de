//! Looking for damage: every record while the tier runs, every page while nothing runs.

use super::backend::{self, Ceiling, Fault, Fuse, Limits, fenced};
use super::state::{Shared, half};
use super::{Disk, record};
use crate::datadir::DataDir;

/// What was found among the records of the disk tier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskVerified {
    /// How many records were read and are sound.
    pub sound: u64,
    /// How many were damaged; they are removed.
    pub damaged: u64,
    /// What kept the rest from being read.
    pub failed: Option<String>,
}

/// What was found in a file, page by page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PagesVerified {
    /// The name of the file.
    pub file: String,
    /// What is wrong with it; `None` when nothing is.
    pub damage: Option<String>,
}

impl Disk {
    /// Reads every live record, one group after the other, and removes those that are damaged. `progress` is told how
    /// many of how many have been looked at.
    pub(crate) fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> DiskVerified {
        let shared = &self.shared;
        shared.wait_loaded();
        let catalog = shared.catalog.read();
        let (ids, total): (Vec<u64>, u64) =
            (catalog.groups().map(|group| group.id).collect(), catalog.sums.live);
        drop(catalog);
        let mut verified = DiskVerified::default();
        for id in ids {
            if let Err(fault) = shared.verify_group(id, &mut verified) {
                verified.failed = Some(fault.reason().to_owned());
                shared.report(fault);
                break;
            }
            progress((verified.sound + verified.damaged).min(total), total);
        }
        // What was found is gone when this returns, or it says why not.
        if verified.damaged > 0
            && let Err(error) = self.flush()
        {
            verified.failed.get_or_insert_with(|| error.chain());
        }
        verified
    }
}

impl Shared {
    fn verify_group(&self, id: u64, verified: &mut DiskVerified) -> Result<(), Fault> {
        let slot = self.bulk.read();
        let Some(bulk) = slot.as_ref() else {
            let reason = "cache.redb is closed for now: see health";
            return Err(Fault::Failed(reason.to_owned()));
        };
        let catalog = self.catalog.read();
        // Written anew meanwhile, and looked at on that occasion.
        let Some(group) = catalog.group(id) else { return Ok(()) };
        let (starts, above) = (group.starts.clone(), group.sequence_max.saturating_add(1));
        let alive: Vec<u16> = catalog.live_places(id).into_iter().map(|(record, _)| record).collect();
        drop(catalog);
        let mut described = bulk.describe(&[id])?;
        let Some((directory, ..)) = described.pop() else { return Ok(()) };
        let mut damaged = Vec::new();
        bulk.read_group(id, &starts, alive.into_iter(), &mut |record, bytes| {
            let Some(line) = directory.lines.get(usize::from(record)) else { return };
            match bytes.and_then(record::decode) {
                Ok(entry) if half(record::fingerprint(entry.key())) == line.fingerprint => {
                    verified.sound += 1;
                }
                Ok(_) => damaged.push((line.fingerprint, record::torn())),
                Err(error) => damaged.push((line.fingerprint, error)),
            }
        })?;
        drop(slot);
        for (fingerprint, error) in damaged {
            verified.damaged += 1;
            self.note_broken(&error);
            // By the half that the directory keeps; the other half is not known, and not asked for a removal.
            self.remove(u128::from(fingerprint), above);
        }
        Ok(())
    }
}

/// Checks every page of both files of the cache in `dir`, which nothing else may have open.
pub(crate) fn verify_pages(dir: &DataDir) -> Vec<PagesVerified> {
    let files = [dir.cache_file(), dir.cache_truth_file()];
    let there = files.into_iter().filter(|path| std::fs::metadata(path).is_ok_and(|found| found.len() > 0));
    let verify = |path: std::path::PathBuf| {
        let limits = Limits {
            file_bytes_max: Ceiling::new(u64::MAX),
            page_cache_bytes: PAGE_CACHE_BYTES,
            fuse: Fuse::none(),
        };
        let checked = backend::open(&path, &limits)
            .and_then(|mut file| fenced(|| Ok(file.db.check_integrity().map_err(redb::Error::from)?)));
        let damage = match checked {
            Ok(true) => None,
            Ok(false) => Some(
                "pages did not match their checksums; it was put back to its last whole state".to_owned(),
            ),
            Err(fault) => Some(fault.reason().to_owned()),
        };
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        PagesVerified { file, damage }
    };
    there.map(verify).collect()
}

const PAGE_CACHE_BYTES: usize = 8 << 20;
