//! Writing and deleting many elements with one system call, if possible.

use std::io;

use zerocopy::IntoBytes as _;

use super::{
    super::{Command, address_of, bpf},
    BatchAttr, Map, Plain, Update,
};

/// Why writing or deleting ended early.
#[derive(Debug)]
pub struct BatchError {
    /// The first element that is not known to be done. All elements before it are done.
    pub done: usize,
    /// The kernel's error.
    pub source: io::Error,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Writes elements in order, creating or replacing each.
    pub fn update_batch(&self, keys: &[K], values: &[V]) -> Result<(), BatchError> {
        let len = keys.len().min(values.len());
        let (keys, values) = (&keys[..len], &values[..len]);
        let one = |index: usize| self.update(&keys[index], &values[index], Update::Any);
        in_batches(len, || self.try_update_batch(keys, values), one)
    }

    /// Deletes elements in order. An element that is not there counts as deleted.
    pub fn delete_batch(&self, keys: &[K]) -> Result<(), BatchError> {
        let one = |index: usize| self.delete(&keys[index]).map(drop);
        in_batches(keys.len(), || self.try_delete_batch(keys), one)
    }

    fn try_update_batch(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        let mut attr = BatchAttr {
            keys: address_of(keys.as_bytes()),
            values: address_of(values.as_bytes()),
            count: u32::try_from(keys.len()).map_err(io::Error::other)?,
            map_fd: self.raw_fd(),
            ..BatchAttr::default()
        };
        // SAFETY: both arrays hold `count` elements of the sizes that were checked; the kernel reads them.
        unsafe { bpf(Command::MapUpdateBatch, &mut attr) }.map(drop)
    }

    fn try_delete_batch(&self, keys: &[K]) -> io::Result<()> {
        let mut attr = BatchAttr {
            keys: address_of(keys.as_bytes()),
            count: u32::try_from(keys.len()).map_err(io::Error::other)?,
            map_fd: self.raw_fd(),
            ..BatchAttr::default()
        };
        // SAFETY: the array holds `count` keys of the size that was checked; the kernel reads it.
        unsafe { bpf(Command::MapDeleteBatch, &mut attr) }.map(drop)
    }
}

/// Processes `len` elements in one batch. A failed batch does not tell which elements were done, so they are then processed
/// one at a time, from the first.
fn in_batches(
    len: usize,
    all: impl FnOnce() -> io::Result<()>,
    one: impl Fn(usize) -> io::Result<()>,
) -> Result<(), BatchError> {
    if len > 1 && all().is_ok() {
        return Ok(());
    }
    for done in 0..len {
        one(done).map_err(|source| BatchError { done, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The result and the number of single operations, if the batch returns `all` and element `refused` fails.
    fn run(len: usize, all: io::Result<()>, refused: Option<usize>) -> (Result<(), usize>, usize) {
        let done = RefCell::new(0);
        let one = |index: usize| {
            if Some(index) == refused {
                return Err(io::Error::from_raw_os_error(libc::E2BIG));
            }
            assert_eq!(index, done.replace(index + 1), "in order");
            Ok(())
        };
        let result = in_batches(len, || all, one).map_err(|error| error.done);
        (result, done.into_inner())
    }

    #[test]
    fn a_batch_that_fails_says_nothing_about_its_elements() {
        assert_eq!(run(4, Ok(()), Some(2)), (Ok(()), 0));
        for code in [
            libc::EPERM,
            libc::ENOMEM,
            libc::EINVAL,
            libc::EFAULT,
            libc::E2BIG,
            524,
        ] {
            let failed = || Err(io::Error::from_raw_os_error(code));
            assert_eq!(run(4, failed(), None), (Ok(()), 4), "{code}");
            assert_eq!(run(4, failed(), Some(0)), (Err(0), 0), "{code}");
            assert_eq!(run(4, failed(), Some(3)), (Err(3), 3), "{code}");
        }
        assert_eq!(run(0, Ok(()), None), (Ok(()), 0));
        assert_eq!(run(1, Ok(()), Some(0)), (Err(0), 0));
    }
}
