//! Looking for damage in what is kept on disk.

use crate::datadir::DataDir;
use crate::disk::{self, DiskVerified, PagesVerified};
use crate::error::Result;

use super::Cache;

impl Cache {
    /// Reads every record of the disk tier and checks it; what is damaged is removed. In small steps, beside whatever
    /// else goes on; `progress` is told how many of how many have been looked at. `None` without a disk tier. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`].
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<DiskVerified>> {
        self.refuse_if_closed()?;
        Ok(self.state().disk.as_ref().map(|disk| disk.verify(progress)))
    }

    /// Checks every page of the cache files in `directory`, which no open cache may use.
    #[must_use]
    pub fn verify_pages(directory: &DataDir) -> Vec<PagesVerified> {
        disk::verify_pages(directory)
    }
}
