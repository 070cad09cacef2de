//! One allocation for a whole entry: a header and its bytes behind one thin, counted pointer.
//!
//! Promises: a [`Block`] never changes while it has a second holder (but for [`Meta`]'s atomics), is freed when its last
//! clone is dropped, and its memory is one allocation of [`Block::allocated_bytes`], rounded up to what the allocator
//! takes anyway. It does not know what the bytes mean.
//!
//! Why unsafe here and nowhere else in the engine's data: `Arc<[u8]>` has a pointer twice as wide, two counters and no
//! room for a header without a second allocation or a second copy of the body; that is 40 bytes an entry and a cache
//! miss a hit. Everything below is reached only through safe calls.
#![expect(unsafe_code, reason = "a thin counted pointer to a header and bytes cannot be said in safe Rust")]

use std::mem::MaybeUninit;
use std::ptr::{NonNull, copy_nonoverlapping, swap_nonoverlapping};
use std::slice;

use super::spare;
use crate::sync::{AtomicU16, AtomicU32, Ordering, fence};

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
    /// Bytes after the header. Of the size class of the allocation, always.
    len: u32,
    meta: Meta,
}

/// A counted pointer to a header and the bytes behind it.
pub(super) struct Block(NonNull<Header>);

// SAFETY: what a shared Block points to is immutable or atomic, and its count is atomic, so it may be shared and sent
// freely. What changes it (`swap_contents`) has the only Block that points there, borrowed exclusively.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// A block of `meta` and the bytes of `parts`, one after the other.
    ///
    /// # Panics
    /// When the parts together exceed [`Block::BYTES_MAX`].
    #[inline]
    pub(super) fn new<const N: usize>(meta: Meta, parts: [&[u8]; N]) -> Self {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(len <= Self::BYTES_MAX, "an entry of {len} bytes, the most is {}", Self::BYTES_MAX);
        let at = spare::take(size_of::<Header>() + len).cast::<Header>();
        #[expect(clippy::cast_possible_truncation, reason = "at most BYTES_MAX, asserted above")]
        let header = Header { refs: AtomicU32::new(1), len: len as u32, meta };
        // SAFETY: taken with room for a header followed by `len` bytes, so the header is in bounds and aligned, and the parts, whose lengths add up to `len`, end exactly at the end of the allocation. Nothing
        // else points here yet, so source and destination cannot overlap.
        unsafe {
            at.write(header);
            let mut to = at.add(1).cast::<u8>();
            for part in parts {
                copy(part, to.as_ptr());
                to = to.add(part.len());
            }
        }
        Self(at)
    }

    /// What it takes beside its bytes.
    pub(super) const HEADER_BYTES: usize = size_of::<Header>();

    /// The most bytes a block holds.
    pub(super) const BYTES_MAX: usize = (u32::MAX - 64) as usize;

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: this Block holds one count, so the allocation is alive and its header initialised.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    pub(super) fn meta(&self) -> &Meta {
        &self.header().meta
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        let len = self.header().len as usize;
        // SAFETY: `new` initialised `len` bytes right behind the header; they live as long as `self` holds its count, and
        // are never written while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.0.add(1).cast::<u8>().as_ptr(), len) }
    }

    /// Exchanges the contents of two small blocks of one size class, each where it stands; says whether it did, which it
    /// does not where either has another holder.
    pub(super) fn swap_contents(&mut self, other: &mut Self) -> bool {
        let Some(bytes) = spare::class_bytes_of(self.allocated_bytes()) else { return false };
        if spare::class_bytes_of(other.allocated_bytes()) != Some(bytes)
            || !self.is_alone()
            || !other.is_alone()
        {
            return false;
        }
        let pairs = |block: &Self| block.0.cast::<MaybeUninit<[u64; 2]>>().as_ptr();
        let (own, others) = (pairs(self), pairs(other));
        let (all, rest) = (bytes / PAIR, bytes % PAIR);
        // SAFETY: both allocations have so many bytes, aligned as a header is, which is how words are. They are two, since
        // two blocks that are alone cannot be one. Nobody else reads or holds either: another holder could only come from
        // one of these two by a clone, for which nobody has a reference while both are borrowed exclusively.
        unsafe {
            swap_nonoverlapping(own, others, all);
            swap_nonoverlapping(own.add(all).cast::<u8>(), others.add(all).cast::<u8>(), rest);
        }
        true
    }

    /// As a clone, but cheaper where nobody else holds it: then nobody else counts either.
    pub(super) fn share(&mut self) -> Self {
        if !self.is_alone() {
            return self.clone();
        }
        self.header().refs.store(2, Ordering::Relaxed);
        Self(self.0)
    }

    /// Whether nobody else holds it, nor can until this borrow ends.
    fn is_alone(&mut self) -> bool {
        // Acquire: every other holder's last use happens before what is done to it now (see the drop).
        self.header().refs.load(Ordering::Acquire) == 1
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
    #[inline]
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
    #[inline]
    fn drop(&mut self) {
        let refs = &self.header().refs;
        // Alone already, as most of what is evicted: nobody is left who could clone it meanwhile. Acquire, as below.
        if refs.load(Ordering::Acquire) != 1 {
            if refs.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            // Pairs with the Release above: every other holder's last use happens before the memory is given back.
            fence(Ordering::Acquire);
        }
        // SAFETY: this was the last holder, and `self` is not used again.
        unsafe { free(self.0) };
    }
}

/// Gives a block back; apart from the drop, so that a hit, which is never the last holder, carries little code.
///
/// # Safety
/// It was made by [`Block::new`], and nobody holds it any more.
#[inline(never)]
unsafe fn free(at: NonNull<Header>) {
    // SAFETY: as the caller guarantees: it is alive until the end of this, the size is the one of `new`, and nothing in
    // the header needs dropping.
    unsafe { spare::give(at.cast::<u8>(), size_of::<Header>() + at.as_ref().len as usize) };
}

/// Copies `from` to `to`; what is long goes past the caches of the processor, in which it would only take the room of
/// what is being used: fetching each line before it is overwritten costs as much as writing it.
///
/// # Safety
/// At least `from.len()` bytes may be written at `to`, and they do not overlap `from`.
unsafe fn copy(from: &[u8], to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    if from.len() >= STREAMED_BYTES_MIN {
        // SAFETY: as the caller guarantees.
        return unsafe { stream(from, to) };
    }
    // SAFETY: as the caller guarantees.
    unsafe { copy_nonoverlapping(from.as_ptr(), to, from.len()) };
}

/// As [`copy`], in whole cache lines that are not read first.
///
/// # Safety
/// As of [`copy`].
#[cfg(target_arch = "x86_64")]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "loads need none, and the lines written begin at a multiple of 64"
)]
unsafe fn stream(from: &[u8], to: *mut u8) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    let head = to.align_offset(LINE).min(from.len());
    let (head, rest) = from.split_at(head);
    let (lines, tail) = rest.as_chunks::<LINE>();
    // SAFETY: head, lines and tail are all of `from`, so all is written within its length. A streaming store needs an
    // address that is a multiple of 16: the lines begin at a multiple of 64. The fence at the end makes them visible
    // to others before whatever is published after, as ordinary stores are.
    unsafe {
        copy_nonoverlapping(head.as_ptr(), to, head.len());
        let mut at = to.add(head.len());
        for line in lines {
            let source = line.as_ptr().cast::<__m128i>();
            let [a, b, c, d] = [0, 1, 2, 3].map(|quarter| _mm_loadu_si128(source.add(quarter)));
            let target = at.cast::<__m128i>();
            _mm_stream_si128(target, a);
            _mm_stream_si128(target.add(1), b);
            _mm_stream_si128(target.add(2), c);
            _mm_stream_si128(target.add(3), d);
            at = at.add(LINE);
        }
        copy_nonoverlapping(tail.as_ptr(), at, tail.len());
        _mm_sfence();
    }
}

/// What is exchanged at once.
const PAIR: usize = size_of::<[u64; 2]>();

#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// What is shorter is soon read again, and costs little room in the caches.
#[cfg(target_arch = "x86_64")]
const STREAMED_BYTES_MIN: usize = 4096;

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
        let block = Block::new(meta(), [b"ab", b"", b"cde"]);
        assert_eq!(block.bytes(), b"abcde");
        assert_eq!(block.meta().sequence, 9);
        assert_eq!(block.allocated_bytes(), 37);
        assert_eq!(Block::new(meta(), []).bytes(), b"");
    }

    #[test]
    fn what_is_long_comes_through_whole_wherever_it_begins_and_ends() {
        let bytes: Vec<u8> =
            (0_u32..6000).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
        for len in (4094..4230).chain([5999, 6000]) {
            for before in [0, 1, 15, 16, 33, 63] {
                let block = Block::new(meta(), [&bytes[..before], &bytes[..len], b"end"]);
                let (first, rest) = block.bytes().split_at(before);
                assert_eq!(first, &bytes[..before]);
                assert!(
                    rest.starts_with(&bytes[..len]) && rest.ends_with(b"end"),
                    "{before} and {len} bytes"
                );
            }
        }
    }

    #[test]
    fn small_blocks_of_one_class_exchange_what_they_hold_and_stay_where_they_are() {
        let cases = [
            (0, 0, true),
            (1, 8, true),
            (1, 9, false),
            (100, 100, true),
            (100, 104, true),
            (456, 472, false),
        ];
        for (first, second, are_alike) in cases {
            let (ones, twos) = (vec![1; first], vec![2; second]);
            let (mut one, mut other) = (Block::new(meta(), [&ones]), Block::new(meta(), [&twos]));
            let stand = [one.address(), other.address()];
            assert_eq!(one.swap_contents(&mut other), are_alike, "{first} and {second}");
            assert_eq!([one.address(), other.address()], stand);
            let expected = if are_alike { [twos, ones] } else { [ones, twos] };
            assert_eq!([one.bytes(), other.bytes()], [&*expected[0], &*expected[1]]);
            assert_eq!((one.meta().sequence, one.allocated_bytes()), (9, 32 + one.bytes().len()));
        }
    }

    #[test]
    fn what_has_another_holder_or_is_large_is_left_alone() {
        let mut one = Block::new(meta(), [&[1; 100]]);
        let mut other = Block::new(meta(), [&[2; 100]]);
        let held = one.clone();
        assert!(!one.swap_contents(&mut other) && !other.swap_contents(&mut one));
        assert_eq!((held.bytes(), other.bytes()), ([1; 100].as_slice(), [2; 100].as_slice()));
        drop(held);
        assert!(one.swap_contents(&mut other));
        let (mut one, mut other) = (Block::new(meta(), [&[1; 600]]), Block::new(meta(), [&[2; 600]]));
        assert!(!one.swap_contents(&mut other));
    }

    #[test]
    fn what_is_shared_lives_as_long_as_any_holder_whoever_drops_its_own_meanwhile() {
        crate::sync::scheduled::interleaved(400, || {
            let mut block = Block::new(meta(), [b"ab"]);
            let other = block.share();
            let thread = shuttle::thread::spawn(move || assert_eq!(other.bytes(), b"ab"));
            let mut shared = block.share();
            let again = shared.share();
            drop(block);
            thread.join().unwrap();
            assert_eq!(shared.header().refs.load(Ordering::Relaxed), 2);
            drop(again);
            assert!(shared.is_alone());
            assert_eq!(shared.bytes(), b"ab");
        });
    }

    #[test]
    fn what_a_holder_reads_does_not_change_under_it_whoever_would_exchange_it() {
        crate::sync::scheduled::interleaved(400, || {
            let mut block = Block::new(meta(), [b"ab"]);
            let readers = [(); 2].map(|()| {
                let own = block.clone();
                shuttle::thread::spawn(move || {
                    let another = own.clone();
                    assert_eq!(own.bytes(), b"ab");
                    drop(own);
                    assert_eq!(another.bytes(), b"ab");
                })
            });
            let mut newer = Block::new(meta(), [b"cd"]);
            let exchanged = block.swap_contents(&mut newer);
            assert_eq!(block.bytes(), if exchanged { b"cd" } else { b"ab" });
            drop(newer);
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }

    #[test]
    fn clones_on_many_threads_leave_one_block_to_the_last() {
        let block = Block::new(meta(), [&[1; 100]]);
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
            let block = Block::new(meta(), [b"ab"]);
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
