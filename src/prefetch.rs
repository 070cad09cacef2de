//! Asking the processor for what will be looked at soon, so that waiting for it overlaps with other work.
#![expect(unsafe_code, reason = "the processor's prefetch is a hint on a raw address")]

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
