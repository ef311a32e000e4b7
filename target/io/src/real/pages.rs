//! The memory of a disk in RAM: one mapping of pages, which reads lend out and writes change where they lie.
//!
//! Huge pages where the system has them: a random 4 KiB costs one entry of the processor's address cache less, and in a virtual machine
//! two walks through page tables less.

#![allow(unsafe_code)] // the mapping is owned here

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Size of a page in bytes: what is lent, and returned to the system, as a whole.
pub(crate) const PAGE: usize = 4 << 10;
/// What the processor fetches at a time.
const LINE: usize = 64;
/// How much of a page is asked for ahead.
const FETCHED: usize = 16 * LINE;

/// Pages that one owner changes and anybody may hold on loan. A page on loan does not change.
pub(crate) struct Pages {
    mapping: Arc<Mapping>,
}

struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// How often each page is on loan.
    loans: Vec<AtomicU32>,
}

// SAFETY: the mapping is plain memory that belongs to no thread. It is read through loans, which count themselves, and changed only through
// `&mut Pages` while the page's count is zero; the counts are atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `Pages::new` with this length, and nobody refers to it any more: loans hold the mapping.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Bytes on loan.
struct Loan {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl Loan {
    fn pages(&self) -> &[AtomicU32] {
        &self.mapping.loans[self.start / PAGE..(self.start + self.len).div_ceil(PAGE)]
    }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: within the mapping (`Pages::lend` checks), initialised (the system gives zeros), and not changed while its pages' counts
        // say that they are on loan.
        unsafe { slice::from_raw_parts(self.mapping.start.as_ptr().add(self.start), self.len) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        for page in self.pages() {
            page.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Pages {
    /// So many pages of zeros. Memory is taken when they are first written.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let vast = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len =
            count.checked_mul(PAGE).filter(|len| isize::try_from(*len).is_ok()).ok_or_else(vast)?.max(PAGE);
        let mut loans = Vec::new();
        loans.try_reserve_exact(count).map_err(|_| vast())?;
        // SAFETY: a new private mapping at a place of the system's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(vast)?;
        loans.resize_with(count, AtomicU32::default);
        // SAFETY: a hint for the mapping just made. A system without huge pages refuses it, which changes nothing.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        Ok(Self { mapping: Arc::new(Mapping { start, len, loans }) })
    }

    /// The bytes from `start`, as they are now; their pages are on loan until the last copy is dropped.
    pub(crate) fn lend(&self, start: usize, len: usize) -> Bytes {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.mapping.len), "beyond the mapping");
        let loan = Loan { mapping: self.mapping.clone(), start, len };
        for page in loan.pages() {
            page.fetch_add(1, Ordering::Relaxed);
        }
        Bytes::from_owner(loan)
    }

    /// Whether somebody may still look at the page.
    pub(crate) fn is_lent(&self, page: usize) -> bool {
        // Whoever gave it back has looked at it before.
        self.mapping.loans[page].load(Ordering::Acquire) > 0
    }

    /// A page to be changed; `None` while it is on loan.
    pub(crate) fn page_mut(&mut self, page: usize) -> Option<&mut [u8]> {
        if self.is_lent(page) {
            return None;
        }
        // SAFETY: within the mapping, since the index into `loans` was; not on loan; new loans need `&self`.
        Some(unsafe { slice::from_raw_parts_mut(self.mapping.start.as_ptr().add(page * PAGE), PAGE) })
    }

    /// Gives the memory of a page back to the system, unless it is on loan. Nobody may rely on what it holds then.
    pub(crate) fn discard(&mut self, page: usize) {
        if !self.is_lent(page) {
            // SAFETY: within the mapping and not on loan. What was there reads as zeros afterwards, or as before when the system refuses.
            let _ = unsafe {
                madvise(self.mapping.start.as_ptr().add(page * PAGE).cast(), PAGE, Advice::LinuxDontNeed)
            };
        }
    }

    /// Has the processor fetch the beginning of each page from `start` on, while other work goes on; for writing or for reading. It finds
    /// the rest by itself, without the rest taking all its places for what is under way.
    pub(crate) fn prefetch(&self, start: usize, len: usize, write: bool) {
        let end = start.saturating_add(len).min(self.mapping.len);
        for page in (start & !(LINE - 1)..end).step_by(PAGE) {
            for at in (page..end.min(page + FETCHED)).step_by(LINE) {
                // SAFETY: within the mapping.
                let line = unsafe { self.mapping.start.as_ptr().add(at) };
                if write { prefetch_to_write(line) } else { prefetch_to_read(line) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch_to_read(line: *const u8) {
    // SAFETY: a prefetch has no effect on what a program can see and never faults.
    unsafe { std::arch::asm!("prefetcht0 [{}]", in(reg) line, options(nostack, preserves_flags, readonly)) }
}

#[cfg(target_arch = "x86_64")]
fn prefetch_to_write(line: *const u8) {
    // SAFETY: as above; processors that do not know it do nothing.
    unsafe { std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly)) }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch_to_read(_line: *const u8) {}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch_to_write(_line: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_on_loan_does_not_change() {
        let mut pages = Pages::new(3).expect("memory");
        pages.page_mut(1).expect("not on loan").fill(7);
        let loan = pages.lend(PAGE - 1, 3);
        assert_eq!(&loan[..], &[0, 7, 7]);
        let part = loan.slice(1..2);
        assert!(pages.page_mut(0).is_none() && pages.page_mut(1).is_none());
        assert!(pages.page_mut(2).is_some());
        drop(loan);
        pages.discard(1);
        assert_eq!(&part[..], &[7], "what is on loan is not given away");
        drop(part);
        assert!(pages.page_mut(0).is_some());
        pages.discard(1);
        assert_eq!(pages.page_mut(1).map(|page| page[0]), Some(0));
        pages.prefetch(PAGE, 9 * PAGE, true);
    }

    #[test]
    fn a_loan_outlives_the_pages() {
        let mut pages = Pages::new(1).expect("memory");
        pages.page_mut(0).expect("not on loan")[..2].copy_from_slice(b"ab");
        let loan = pages.lend(0, 2);
        drop(pages);
        assert_eq!(&loan[..], b"ab");
        assert!(Pages::new(usize::MAX / PAGE).is_err(), "more than there can be");
    }
}
