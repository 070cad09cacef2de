//! Asks the allocator to return to the system what it holds free. The one call that needs it.
#![expect(unsafe_code, reason = "malloc_trim is a C function; no crate wraps it safely")]

/// Returns free memory to the system where the allocator is glibc's; elsewhere the allocator's own habits must do.
pub(super) fn free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            /// `int malloc_trim(size_t pad)`, glibc, safe to call from any thread (MT-Safe by its manual).
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: takes a number, touches only memory that the allocator holds free, under the allocator's own locks.
        let returned = unsafe { malloc_trim(0) };
        tracing::trace!(returned, "asked the allocator to return what is free");
    }
}
