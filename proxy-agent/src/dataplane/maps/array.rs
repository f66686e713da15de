//! Arrays of plain elements through a mapping, one whole 8-byte store at a time.
//!
//! Each element has one word that programs read as a whole and that says whether the rest holds: it is stored last.

use std::{io, marker::PhantomData, mem::offset_of};

use proxy_common::abi::{
    TypedSpec, kind,
    load::Load,
    target::{Backend, Slot, Target},
};
use zerocopy::IntoBytes;

use crate::dataplane::{
    open::MapError,
    pin::PinFolder,
    sys::{
        map::{Map, OpenError, Plain},
        mapping::Mapping,
    },
};

/// An element of an array that is written through a mapping.
pub trait Element: Plain + Default + PartialEq {
    /// Offset in bytes of the word that is stored last.
    const LAST: usize;
}

impl Element for Target {
    const LAST: usize = offset_of!(Self, word);
}

impl Element for Backend {
    const LAST: usize = offset_of!(Self, word);
}

impl Element for Slot {
    const LAST: usize = 0;
}

impl Element for Load {
    const LAST: usize = 0;
}

/// A pinned array.
#[derive(Debug)]
pub struct MappedArray<T> {
    mapping: Mapping,
    element: PhantomData<T>,
}

const WORD: usize = size_of::<u64>();

impl<T: Element> MappedArray<T> {
    /// Words of an element. The kernel rounds elements up to 8 bytes; ours are multiples of it.
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(WORD) && T::LAST.is_multiple_of(WORD));
        size_of::<T>() / WORD
    };

    /// Opens and maps a pinned array.
    pub fn open(
        pins: &PinFolder,
        expected: TypedSpec<kind::MappedArray, u32, T>,
    ) -> Result<Self, MapError> {
        let name = expected.spec.name;
        let open = || -> Result<_, OpenError> {
            let map = Map::open(&pins.map(name), expected)?;
            let words = map.capacity() as usize * Self::WORDS;
            Ok(Mapping::new(&map, words)?)
        };
        Ok(Self {
            mapping: open().map_err(MapError::of(name))?,
            element: PhantomData,
        })
    }

    /// Writes an element: all words that differ, the decisive one last.
    pub fn write(&self, index: u32, value: &T) -> io::Result<()> {
        let mut words = vec![0u64; Self::WORDS];
        words.as_mut_bytes().copy_from_slice(value.as_bytes());
        let last = T::LAST / WORD;
        let order = (0..Self::WORDS).filter(|&w| w != last).chain([last]);
        let stores: Vec<_> = order.map(|word| (word, words[word])).collect();
        self.mapping
            .write(index as usize * Self::WORDS, &stores)
            .ok_or_else(|| beyond(index))
    }

    /// Changes an element: only words that differ are stored, so a change of one field is one store.
    pub fn modify(&self, index: u32, change: impl FnOnce(&mut T)) -> io::Result<()> {
        let mut value = self.get(index)?;
        change(&mut value);
        self.write(index, &value)
    }

    /// Changes an element of one word that programs change too, by atomic operations; `None` leaves it as it is.
    pub fn update(&self, index: u32, change: impl Fn(T) -> Option<T>) -> io::Result<()> {
        const { assert!(Self::WORDS == 1) };
        let change = |word: u64| {
            let mut next = 0;
            next.as_mut_bytes()
                .copy_from_slice(change(from_words(&[word]))?.as_bytes());
            Some(next)
        };
        self.mapping
            .update(index as usize, change)
            .ok_or_else(|| beyond(index))
    }

    /// An element; each of its words is whole, all together may be halfway through a change.
    pub fn get(&self, index: u32) -> io::Result<T> {
        let mut words = vec![0u64; Self::WORDS];
        self.mapping
            .read(index as usize * Self::WORDS, &mut words)
            .ok_or_else(|| beyond(index))?;
        Ok(from_words(&words))
    }

    /// All elements up to the last that is not zero.
    pub fn read_all(&self) -> Vec<T> {
        let mut words = self.mapping.load();
        words.resize(words.len().next_multiple_of(Self::WORDS), 0);
        words.chunks_exact(Self::WORDS).map(from_words).collect()
    }
}

fn from_words<T: Element>(words: &[u64]) -> T {
    let mut value = T::new_zeroed();
    value.as_mut_bytes().copy_from_slice(words.as_bytes());
    value
}

fn beyond(index: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("index {index} is beyond the end of the array"),
    )
}
