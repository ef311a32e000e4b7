//! Page-aligned read buffers that return to their shard's pool.

#![allow(unsafe_code)] // aligned allocations are owned here

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::slice;

use bytes::Bytes;

/// Alignment of every buffer.
const ALIGN: usize = 4096;
/// Sizes that are kept; a request takes the smallest that fits.
pub(crate) const CLASSES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Bytes of free buffers kept per class.
const KEPT_BYTES: usize = 8 << 20;

thread_local! {
    static POOL: RefCell<[Vec<Block>; CLASSES.len()]> = const { RefCell::new([const { Vec::new() }; CLASSES.len()]) };
}

/// One aligned allocation of a class's size.
struct Block {
    start: NonNull<u8>,
    class: usize,
}

// SAFETY: a block is plain memory that exactly one value owns; nothing about it depends on the thread.
unsafe impl Send for Block {}

impl Block {
    fn new(class: usize) -> Self {
        let layout = Self::layout(class);
        // Zeroed once, so that the memory is always initialised; a block that comes back is used again as it is.
        // SAFETY: the layout's size is one of CLASSES, none of which is zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, class }
    }

    fn layout(class: usize) -> Layout {
        Layout::from_size_align(CLASSES[class], ALIGN)
            .expect("the classes and the alignment are constants that fit")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.class)) }
    }
}

/// A buffer to read into. What it holds before is leftovers: whoever hands it on has filled all of it.
pub(crate) struct ReadBuffer {
    block: Option<Block>,
    len: usize,
}

impl ReadBuffer {
    /// A buffer for `len` bytes, at most the largest class.
    pub(crate) fn new(len: usize) -> Self {
        let class =
            CLASSES.iter().position(|size| *size >= len).expect("callers cut reads at the largest class");
        let kept = POOL.with_borrow_mut(|pool| pool[class].pop());
        Self { block: Some(kept.unwrap_or_else(|| Block::new(class))), len }
    }

    fn start(&self) -> *mut u8 {
        self.block.as_ref().expect("there until it is dropped").start.as_ptr()
    }

    /// The rest of the buffer from byte `at`.
    pub(crate) fn rest(&mut self, at: usize) -> &mut [u8] {
        // SAFETY: the block has at least `len` initialised bytes, and `self` is the only way to them.
        let whole = unsafe { slice::from_raw_parts_mut(self.start(), self.len) };
        &mut whole[at..]
    }

    /// The filled buffer as bytes.
    pub(crate) fn filled(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the block has at least `len` initialised bytes, and nobody writes to them while this is borrowed.
        unsafe { slice::from_raw_parts(self.start(), self.len) }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        // During the thread's end the pool may be gone; the block is then freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let class = block.class;
            if pool[class].len() < KEPT_BYTES / CLASSES[class] {
                pool[class].push(block);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let mut first = ReadBuffer::new(5000);
        first.rest(0).fill(7);
        let bytes = first.filled();
        let place = bytes.as_ptr();
        assert_eq!(place as usize % ALIGN, 0);
        assert_eq!(bytes.len(), 5000);
        assert!(bytes.iter().all(|b| *b == 7));
        drop(bytes);
        assert_eq!(
            ReadBuffer::new(9000).as_ref().as_ptr(),
            place,
            "a buffer of the same class comes from the pool"
        );
    }
}
