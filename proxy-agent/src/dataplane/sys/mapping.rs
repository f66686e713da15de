//! Arrays written through a mapping: no system call for an element, and a store of 8 bytes that is whole.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

/// A mapping of an array map (`BPF_F_MMAPABLE`), readable and writable, as 8-byte words.
///
/// The kernel rounds an element up to 8 bytes, so element `i` starts at word `i * stride`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is the kernel's, mapped shared for as long as the value lives; all access is by atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `words` words of an array.
    pub fn new(fd: impl AsFd, words: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * size_of::<u64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { base, words })
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `words` long, and lives as long as `self`; programs and other
        // processes that write it make single aligned accesses.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// Reads consecutive words.
    pub fn read(&self, first: usize, out: &mut [u64]) -> Option<()> {
        let words = self.words().get(first..first.checked_add(out.len())?)?;
        for (out, word) in out.iter_mut().zip(words) {
            *out = word.load(Ordering::Acquire);
        }
        Some(())
    }

    /// Reads all words up to the last that is not zero: of millions there are few, as a rule.
    pub fn load(&self) -> Vec<u64> {
        let words = self.words();
        let mut end = words.len();
        while end > 0 && words[end - 1].load(Ordering::Relaxed) == 0 {
            end -= 1;
        }
        let used = words[..end].iter();
        used.map(|word| word.load(Ordering::Acquire)).collect()
    }

    /// Writes words at offsets from `first`, in the order given; each one is whole, and visible before the next. What
    /// is there already is not written again.
    pub fn write(&self, first: usize, words: &[(usize, u64)]) -> Option<()> {
        for &(offset, word) in words {
            let place = self.words().get(first.checked_add(offset)?)?;
            if place.load(Ordering::Relaxed) != word {
                place.store(word, Ordering::Release);
            }
        }
        Some(())
    }

    /// Changes a word that others change too, by atomic operations; `None` leaves it as it is. Says whether there is
    /// such a word.
    pub fn update(&self, index: usize, change: impl Fn(u64) -> Option<u64>) -> Option<()> {
        let word = self.words().get(index)?;
        // Left alone is as well.
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        Some(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}
