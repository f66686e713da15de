//! Walks over all elements of a map, some at a time.

use std::io;

use zerocopy::IntoBytes as _;

use super::{
    super::{Command, address_of, address_of_mut, bpf},
    BatchAttr, Map, Plain, has_no_batch, is_absent,
};

/// Where a walk is. The kernel's cursor is a bucket (hash maps) or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cursor<K> {
    Start,
    At(Vec<u8>),
    /// Without batches: after this key.
    After(Option<K>),
    End,
}

/// A place in a walk, to go on from later. What changed in between may be missed or seen twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position<K> {
    cursor: Cursor<K>,
    chunk: usize,
}

impl<K> Position<K> {
    /// The start of a walk in chunks of at most `chunk` elements (more, where one bucket of the kernel's has more).
    pub const fn start(chunk: usize) -> Self {
        Self {
            cursor: Cursor::Start,
            chunk,
        }
    }

    /// Whether all elements were seen.
    pub const fn is_end(&self) -> bool {
        matches!(self.cursor, Cursor::End)
    }
}

/// A walk over a map in chunks, with one system call each.
#[derive(Debug)]
pub struct Walk<'a, K, V> {
    map: &'a Map<K, V>,
    position: Position<K>,
}

impl<'a, K, V> Walk<'a, K, V> {
    pub(super) const fn new(map: &'a Map<K, V>, position: Position<K>) -> Self {
        Self { map, position }
    }

    /// Leaves the walk; [`Map::resume`] goes on with it.
    pub fn leave(self) -> Position<K> {
        self.position
    }
}

impl<K: Plain, V: Plain> Walk<'_, K, V> {
    /// The next elements; `None` at the end.
    pub fn next_chunk(&mut self) -> io::Result<Option<Vec<(K, V)>>> {
        loop {
            let elements = match &self.position.cursor {
                Cursor::End => return Ok(None),
                Cursor::After(key) => {
                    let key = *key;
                    self.single(key)?
                }
                Cursor::Start => self.batch(None)?,
                Cursor::At(at) => {
                    let at = at.clone();
                    self.batch(Some(&at))?
                }
            };
            if !elements.is_empty() {
                return Ok(Some(elements));
            }
        }
    }

    fn batch(&mut self, at: Option<&[u8]>) -> io::Result<Vec<(K, V)>> {
        let mut keys = vec![K::new_zeroed(); self.position.chunk];
        let mut values = vec![V::new_zeroed(); self.position.chunk];
        let mut next = vec![0; size_of::<K>().max(size_of::<u32>())];
        let mut attr = BatchAttr {
            in_batch: at.map_or(0, address_of),
            out_batch: address_of_mut(&mut next),
            keys: address_of_mut(keys.as_mut_bytes()),
            values: address_of_mut(values.as_mut_bytes()),
            count: u32::try_from(self.position.chunk).map_err(io::Error::other)?,
            map_fd: self.map.raw_fd(),
            ..BatchAttr::default()
        };
        // SAFETY: both arrays hold `count` elements of the sizes that were checked; the cursors have room for a
        // bucket number and for a key, whichever the kind of map takes.
        match unsafe { bpf(Command::MapLookupBatch, &mut attr) } {
            Ok(_) => self.position.cursor = Cursor::At(next),
            Err(error) if is_absent(&error) => self.position.cursor = Cursor::End,
            Err(error) if has_no_batch(&error) => {
                self.position.cursor = Cursor::After(None);
                return Ok(Vec::new());
            }
            // One bucket holds more than a chunk.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                self.position.chunk *= 2;
                return Ok(Vec::new());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let count = (attr.count as usize).min(self.position.chunk);
        Ok(keys.into_iter().zip(values).take(count).collect())
    }

    fn single(&mut self, after: Option<K>) -> io::Result<Vec<(K, V)>> {
        let Some(key) = self.map.next_key(after.as_ref())? else {
            self.position.cursor = Cursor::End;
            return Ok(Vec::new());
        };
        self.position.cursor = Cursor::After(Some(key));
        Ok(self
            .map
            .lookup(&key)?
            .map(|value| (key, value))
            .into_iter()
            .collect())
    }
}
