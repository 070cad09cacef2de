//! One allocation for a whole entry: a header and its bytes behind one thin, counted pointer.
//!
//! Promises: a [`Block`] never changes after it was made (but for [`Meta`]'s atomics), is freed when its last clone is
//! dropped, and its memory is one `malloc` of exactly [`Block::allocated_bytes`]. It does not know what the bytes mean.
//!
//! Why unsafe here and nowhere else in the engine's data: `Arc<[u8]>` has a pointer twice as wide, two counters and no
//! room for a header without a second allocation or a second copy of the body; that is 40 bytes an entry and a cache
//! miss a hit. Everything below is reached only through safe calls.
#![expect(unsafe_code, reason = "a thin counted pointer to a header and bytes cannot be said in safe Rust")]

use crate::sync::{AtomicU16, AtomicU32, Ordering, fence};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::{NonNull, copy_nonoverlapping};
use std::slice;

/// What stands before the bytes; 24 bytes, so that header and count take 32.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Meta {
    pub(super) sequence: u64,
    /// The low 48 bits of the time it was stored; the high 16 hold the length of the key and a flag.
    pub(super) stored_and_key: u64,
    /// 48 bits of deadline, lowest first.
    pub(super) expires: [u16; 3],
    /// The number a memory tier gave the namespace, 0 for none. Written by the tier at insertion, read to count hits.
    pub(super) namespace: AtomicU16,
}

#[repr(C)]
struct Header {
    /// Clones alive. Invariant: at least 1 while any `Block` points here.
    refs: AtomicU32,
    /// Bytes after the header. Never changes.
    len: u32,
    meta: Meta,
}

/// A counted pointer to a header and the bytes behind it.
pub(super) struct Block(NonNull<Header>);

// SAFETY: what a Block points to is immutable or atomic, and its count is atomic, so it may be shared and sent freely.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// A block of `meta` and the bytes of `parts`, one after the other.
    ///
    /// # Panics
    /// When the parts together exceed [`Block::BYTES_MAX`].
    pub(super) fn new(meta: Meta, parts: &[&[u8]]) -> Self {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(len <= Self::BYTES_MAX, "an entry of {len} bytes, the most is {}", Self::BYTES_MAX);
        let layout = layout(len);
        // SAFETY: the layout is never empty, it holds at least the header.
        let at = unsafe { alloc(layout) };
        #[expect(clippy::cast_ptr_alignment, reason = "allocated with the alignment of a header")]
        let Some(at) = NonNull::new(at.cast::<Header>()) else { handle_alloc_error(layout) };
        #[expect(clippy::cast_possible_truncation, reason = "at most BYTES_MAX, asserted above")]
        let header = Header { refs: AtomicU32::new(1), len: len as u32, meta };
        // SAFETY: freshly allocated with the layout of a header followed by `len` bytes, so the header is in bounds
        // and aligned, and the parts, whose lengths add up to `len`, end exactly at the end of the allocation. Nothing
        // else points here yet, so source and destination cannot overlap.
        unsafe {
            at.write(header);
            let mut to = at.add(1).cast::<u8>();
            for part in parts {
                copy_nonoverlapping(part.as_ptr(), to.as_ptr(), part.len());
                to = to.add(part.len());
            }
        }
        Self(at)
    }

    /// What it takes beside its bytes.
    pub(super) const HEADER_BYTES: usize = size_of::<Header>();

    /// The most bytes a block holds.
    pub(super) const BYTES_MAX: usize = (u32::MAX - 64) as usize;

    fn header(&self) -> &Header {
        // SAFETY: this Block holds one count, so the allocation is alive and its header initialised.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.header().meta
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let len = self.header().len as usize;
        // SAFETY: `new` initialised `len` bytes right behind the header; they are never written again, and live as
        // long as `self` holds its count.
        unsafe { slice::from_raw_parts(self.0.add(1).cast::<u8>().as_ptr(), len) }
    }

    /// What was asked of the allocator.
    pub(super) fn allocated_bytes(&self) -> usize {
        size_of::<Header>() + self.header().len as usize
    }

    pub(super) fn address(&self) -> usize {
        self.0.addr().get()
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Clone for Block {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones already holds a count, so nothing can be freed meanwhile (as in std's Arc).
        let before = self.header().refs.fetch_add(1, Ordering::Relaxed);
        if before > u32::MAX / 2 {
            // Two billion leaked clones: going on would wrap the count and free memory in use.
            std::process::abort();
        }
        Self(self.0)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let header = self.header();
        let len = header.len as usize;
        if header.refs.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Pairs with the Release above: every other holder's last use happens before the memory is given back.
        fence(Ordering::Acquire);
        // SAFETY: the count went from one to zero, so this was the last holder; the layout is the one of `new`, and
        // nothing in the header needs dropping.
        unsafe { dealloc(self.0.as_ptr().cast::<u8>(), layout(len)) };
    }
}

fn layout(len: usize) -> Layout {
    let size = size_of::<Header>() + len;
    #[expect(clippy::expect_used, reason = "len is at most BYTES_MAX, far below isize::MAX on 64 bits")]
    Layout::from_size_align(size, align_of::<Header>()).expect("a header and less than 4 GiB make a layout")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta { sequence: 9, stored_and_key: 8, expires: [7, 6, 5], namespace: AtomicU16::new(0) }
    }

    #[test]
    fn a_header_and_its_count_take_32_bytes() {
        assert_eq!(size_of::<Header>(), 32);
        assert_eq!(size_of::<Option<Block>>(), 8);
    }

    #[test]
    fn the_parts_stand_one_behind_the_other() {
        let block = Block::new(meta(), &[b"ab", b"", b"cde"]);
        assert_eq!(block.bytes(), b"abcde");
        assert_eq!(block.meta().sequence, 9);
        assert_eq!(block.allocated_bytes(), 37);
        assert_eq!(Block::new(meta(), &[]).bytes(), b"");
    }

    #[test]
    fn clones_on_many_threads_leave_one_block_to_the_last() {
        let block = Block::new(meta(), &[&[1; 100]]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let clone = block.clone();
                        assert!(clone.same(&block));
                        assert_eq!(clone.bytes().len(), 100);
                    }
                });
            }
        });
        assert_eq!(block.header().refs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn whoever_is_last_frees_a_block_and_nobody_before() {
        crate::sync::scheduled::interleaved(400, || {
            let block = Block::new(meta(), &[b"ab"]);
            let threads = [(); 3].map(|()| {
                let own = block.clone();
                shuttle::thread::spawn(move || {
                    let another = own.clone();
                    drop(own);
                    assert_eq!(another.bytes(), b"ab");
                })
            });
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(block.header().refs.load(Ordering::Relaxed), 1);
        });
    }
}
