//! A redb database that can be closed whatever its file holds.
//!
//! Closing writes down which pages are free, and meets damaged ones there as any other call does: with a panic. Calls are
//! fenced where they are made; a drop happens wherever the last user happens to be, and a panic in it would end a thread
//! that has done nothing wrong, or the process if another is under way.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::Database;

/// An open database.
#[derive(Debug)]
pub(crate) struct Fenced(Option<Database>);

impl Fenced {
    pub(crate) fn new(database: Database) -> Self {
        Self(Some(database))
    }
}

#[expect(clippy::expect_used, reason = "it is taken out by the drop alone")]
impl Deref for Fenced {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("open until dropped")
    }
}

#[expect(clippy::expect_used, reason = "it is taken out by the drop alone")]
impl DerefMut for Fenced {
    fn deref_mut(&mut self) -> &mut Database {
        self.0.as_mut().expect("open until dropped")
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let database = self.0.take();
        // The file is as after a kill then, which the next open sees and puts right, or refuses.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!("a database could not be closed in order: its file is damaged");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::*;

    /// Panics at every write once it is told to, as redb does over damaged pages.
    #[derive(Debug)]
    struct Trap(InMemoryBackend, Arc<AtomicBool>);

    impl StorageBackend for Trap {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            assert!(!self.1.load(Ordering::Relaxed), "a write into the trap");
            self.0.write(offset, data)
        }
    }

    #[test]
    fn a_panic_while_a_database_is_closed_stays_in_it() {
        let is_set = Arc::new(AtomicBool::new(false));
        let open = || {
            let trap = Trap(InMemoryBackend::new(), Arc::clone(&is_set));
            redb::Builder::new().create_with_backend(trap).unwrap()
        };
        let (bare, fenced) = (open(), Fenced::new(open()));
        is_set.store(true, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(bare))).is_err(), "closing writes");
        drop(fenced);
    }
}
