//! When the C library's allocator gives memory back to the system.
//!
//! Receive buffers of a quarter of a MiB come and go a thousand times a second. By default the allocator returns each of them, and the next one
//! costs two system calls, 64 page faults and as many pages of zeros.

#![allow(unsafe_code)] // the allocator's settings belong to the process

/// Free memory at the end of the heap that is kept, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 16 << 20;
/// Allocations from this size on are mappings of their own, which are returned at once.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING: i32 = 4 << 20;

/// Has freed buffers kept for the next ones.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep_buffers() {
    for (setting, value) in [(libc::M_MMAP_THRESHOLD, OWN_MAPPING), (libc::M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: changes nothing but when memory is returned; the library takes its own lock for it. A value that it refuses changes nothing.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Other allocators decide by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_buffers() {}
