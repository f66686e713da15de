//! An array map.

use std::cell::RefCell;

/// A BPF array map: all elements below the capacity exist, and are zero until written.
#[derive(Clone, Debug)]
pub struct Array<V> {
    elements: RefCell<Vec<V>>,
    capacity: u32,
}

impl<V: Copy + Default> Array<V> {
    /// An array whose elements are all zero.
    pub const fn new(capacity: u32) -> Self {
        Self {
            elements: RefCell::new(Vec::new()),
            capacity,
        }
    }

    /// The element at an index; `None` beyond the capacity.
    pub fn get(&self, index: u32) -> Option<V> {
        (index < self.capacity).then(|| {
            self.elements
                .borrow()
                .get(index as usize)
                .copied()
                .unwrap_or_default()
        })
    }

    /// Writes the element at an index. Returns false beyond the capacity.
    pub fn set(&self, index: u32, value: V) -> bool {
        if index >= self.capacity {
            return false;
        }
        let (mut elements, index) = (self.elements.borrow_mut(), index as usize);
        if elements.len() <= index {
            elements.resize(index + 1, V::default());
        }
        elements[index] = value;
        true
    }

    /// All elements up to the highest index ever written.
    pub fn written(&self) -> Vec<V> {
        self.elements.borrow().clone()
    }
}
