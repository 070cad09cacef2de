//! Blocks just freed, kept by the thread that freed them for what it stores next.
//!
//! A tier that is full frees an entry for each it takes in, on the same thread and of about the same size. The memory
//! of the one is still in the processor's cache when the other is made, and neither the allocator's lists nor its
//! neighbours need be touched. What a thread keeps is bounded by [`KEPT_BYTES_MAX`]; when more comes, all of it goes
//! back to the allocator, so that sizes nobody asks for any more do not stay.
#![expect(unsafe_code, reason = "free memory is kept as a list that runs through itself")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

/// Memory for `bytes`, aligned as every header; from what this thread keeps, if it can be.
pub(super) fn take(bytes: usize) -> NonNull<u8> {
    let kept =
        class(bytes).and_then(|class| SPARE.try_with(|spare| spare.borrow_mut().pop(class)).ok().flatten());
    kept.unwrap_or_else(|| {
        let layout = layout(bytes);
        // SAFETY: a layout here is never empty.
        NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
    })
}

/// Takes memory back.
///
/// # Safety
/// It came from [`take`] with the same number of bytes, and nobody uses it any more.
pub(super) unsafe fn give(at: NonNull<u8>, bytes: usize) {
    if let Some(class) = class(bytes)
        && SPARE.try_with(|spare| spare.borrow_mut().push(class, at)).is_ok()
    {
        return;
    }
    // SAFETY: as the caller guarantees; the layout depends on the bytes alone.
    unsafe { dealloc(at.as_ptr(), layout(bytes)) };
}

/// How much memory [`take`] gives for `bytes`, where it is of a class.
pub(super) fn class_bytes_of(bytes: usize) -> Option<usize> {
    class(bytes).map(class_bytes)
}

/// What one thread keeps.
struct Spare {
    /// By class the last block kept. Invariant: a list through the first word of each, of blocks nobody else knows.
    lists: [Option<NonNull<Free>>; CLASSES],
    bytes: usize,
}

/// The first word of a block that is kept.
struct Free(Option<NonNull<Free>>);

impl Spare {
    fn pop(&mut self, class: usize) -> Option<NonNull<u8>> {
        let list = self.lists.get_mut(class)?;
        let first = (*list)?;
        // SAFETY: by the invariant the block is ours, and `push` wrote its first word.
        *list = unsafe { first.as_ref() }.0;
        self.bytes -= class_bytes(class);
        Some(first.cast())
    }

    fn push(&mut self, class: usize, at: NonNull<u8>) {
        if self.bytes + class_bytes(class) > KEPT_BYTES_MAX {
            self.give_back();
        }
        let Some(list) = self.lists.get_mut(class) else { return };
        let first = at.cast::<Free>();
        // SAFETY: whoever gives it guarantees that nobody uses it; it is aligned as a header and holds more than a word.
        unsafe { first.write(Free(*list)) };
        *list = Some(first);
        self.bytes += class_bytes(class);
    }

    fn give_back(&mut self) {
        for class in 0..CLASSES {
            while let Some(at) = self.pop(class) {
                // SAFETY: it was made with the layout of its class, and by the invariant nobody else knows it.
                unsafe { dealloc(at.as_ptr(), layout(class_bytes(class))) };
            }
        }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.give_back();
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { lists: [None; CLASSES], bytes: 0 }) };
}

/// The class of a block that may be kept. Blocks of a class take the same from the allocator: 8 bytes of its own, steps
/// of 16.
fn class(bytes: usize) -> Option<usize> {
    let class = (bytes + 8).div_ceil(STEP);
    (class < CLASSES).then_some(class)
}

const fn class_bytes(class: usize) -> usize {
    class * STEP - 8
}

/// Rounded up to the whole class, which costs nothing.
fn layout(bytes: usize) -> Layout {
    let bytes = class(bytes).map_or(bytes, class_bytes);
    #[expect(clippy::expect_used, reason = "a block has at most 4 GiB, far below isize::MAX on 64 bits")]
    Layout::from_size_align(bytes, ALIGN).expect("less than 4 GiB make a layout")
}

const STEP: usize = 16;

/// The alignment of a header.
const ALIGN: usize = 8;

/// Blocks up to half a kilobyte are kept: beyond, writing them takes longer than finding room.
const CLASSES: usize = 33;

/// The most a thread keeps.
const KEPT_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_taken_again_and_what_is_kept_is_bounded() {
        let blocks: Vec<_> = (0..1000).map(|_| take(100)).collect();
        let last = blocks[999];
        for block in blocks {
            // SAFETY: taken above with the same number of bytes.
            unsafe { give(block, 100) };
        }
        let kept = SPARE.with(|spare| spare.borrow().bytes);
        assert!(0 < kept && kept <= KEPT_BYTES_MAX, "{kept}");
        let again = take(97);
        assert_eq!(again, last, "104 bytes serve 97 as well as 100");
        // SAFETY: as above; both numbers are of one class.
        unsafe { give(again, 97) };
    }

    #[test]
    fn a_class_serves_whatever_it_is_asked_for() {
        for bytes in 32..600 {
            let class = class(bytes);
            assert!(class.is_none_or(|class| class_bytes(class) >= bytes), "{bytes}");
            assert_eq!(class.is_some(), bytes <= 504);
            assert!(
                class.is_none_or(|class| crate::entry::malloc_bytes(class_bytes(class))
                    == crate::entry::malloc_bytes(bytes))
            );
        }
    }
}
