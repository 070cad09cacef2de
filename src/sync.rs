//! The locks and atomics on which the promises of the cache rest; one switch between two kinds of them.
//!
//! In the library they are `parking_lot`'s and the standard ones under their own names, nothing more. In the library's
//! own unit tests every call on one is a point at which another thread may go on, so that a test under
//! [`scheduled::interleaved`] is run through thousands of interleavings, each of which can be run again. Outside such a
//! test they cost a look at a flag. What waits for time or for a condition keeps its own kinds.

#[cfg(test)]
pub(crate) mod scheduled;

#[cfg(not(test))]
pub(crate) use parking_lot::{Mutex, RwLock};
#[cfg(not(test))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
};

pub(crate) use parking_lot::MutexGuard;
pub(crate) use std::sync::atomic::{Ordering, fence};

#[cfg(test)]
pub(crate) use self::scheduled::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Mutex, RwLock,
};
