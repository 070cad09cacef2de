//! Asks the allocator how memory is kept: what it holds free to be returned, what is large to be returned as soon as it is
//! free. The calls that need C; none changes the contents of any memory.
#![expect(unsafe_code, reason = "mallopt and malloc_trim are C functions; no crate wraps these uses safely")]

/// From now on, in the whole process, what is large is mapped for itself and returned to the system when it is freed,
/// where the allocator is glibc's. Left to itself it learns from the first large buffer that is freed to keep the next
/// ones, in as many arenas as there are threads: each then holds what its largest answer once took.
pub fn map_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// `M_MMAP_THRESHOLD` of `malloc.h`.
        const MMAP_THRESHOLD: std::ffi::c_int = -3;
        unsafe extern "C" {
            /// `int mallopt(int param, int value)`, glibc.
            fn mallopt(param: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
        }
        // SAFETY: takes two numbers and sets one of the allocator's own, which holds for what is allocated later.
        let is_set = unsafe { mallopt(MMAP_THRESHOLD, LARGE_BYTES) } == 1;
        if !is_set {
            tracing::debug!("the allocator keeps its own way with large buffers");
        }
    }
}

/// What is large: mapping costs a page fault for every 4 kB, which is little beside what is made of so much.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: std::ffi::c_int = 4 << 20;

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
