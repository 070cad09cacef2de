//! Bringing memory nearer: asking the processor for what will be looked at soon, so that waiting for it overlaps with
//! other work, and the kernel for huge pages, so that fewer addresses must be looked up. Both change nothing but time.
#![expect(unsafe_code, reason = "both are hints on raw addresses; no crate wraps these uses safely")]

/// Brings the line at `address` nearer to the processor. Any address will do: a wrong one costs time, nothing else.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn prefetch(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint; of any address whatever it neither faults nor changes what a program sees.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch(_: usize) {}

/// Asks for a range of whole huge pages to be gathered into such, its contents unchanged; says whether it was. The memory
/// stays the allocator's: it is only backed otherwise.
#[cfg(target_os = "linux")]
pub(crate) fn gather_pages(address: usize, bytes: usize) -> bool {
    /// Linux 6.1 and later.
    const MADV_COLLAPSE: std::ffi::c_int = 25;
    unsafe extern "C" {
        /// `int madvise(void *addr, size_t length, int advice)`, a system call.
        fn madvise(address: usize, bytes: usize, advice: std::ffi::c_int) -> std::ffi::c_int;
    }
    // SAFETY: with this advice the kernel may move pages under their addresses, which no program can observe but
    // by time; contents, mappings and protections stay. An address range that is not mapped is refused.
    unsafe { madvise(address, bytes, MADV_COLLAPSE) == 0 }
}

/// Elsewhere the system's own habits must do.
#[cfg(not(target_os = "linux"))]
pub(crate) fn gather_pages(_: usize, _: usize) -> bool {
    false
}

/// A huge page of the processors that matter here.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
