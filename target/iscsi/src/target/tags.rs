//! Tasks by initiator task tag: a slab with an open-addressing index.
//!
//! Tags are 32 bits of the initiator's choosing, looked up for every PDU. The number of tasks is bounded by the command window, so
//! the index is sized once and lookups stay within a cache line or two.

/// Values by tag.
#[derive(Debug)]
pub(super) struct Tags<T> {
    slots: Vec<Option<(u32, T)>>,
    free: Vec<u32>,
    /// Slot number plus one; zero is empty. A power of two, at least twice the capacity.
    index: Vec<u32>,
}

impl<T> Tags<T> {
    /// Room for `capacity` values.
    pub(super) fn new(capacity: usize) -> Self {
        let buckets = (capacity.max(4) * 2).next_power_of_two();
        Self { slots: Vec::new(), free: Vec::new(), index: vec![0; buckets] }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn home(&self, tag: u32) -> usize {
        // Fibonacci hashing: initiators number tags in sequence, some put a generation into the high bits.
        (tag.wrapping_mul(0x9e37_79b9) >> 16) as usize & (self.index.len() - 1)
    }

    /// The bucket of a tag, or the empty one where it would go.
    fn bucket(&self, tag: u32) -> usize {
        let mask = self.index.len() - 1;
        let mut at = self.home(tag);
        while let Some(slot) = self.index[at].checked_sub(1) {
            if self.slots[slot as usize].as_ref().is_some_and(|(t, _)| *t == tag) {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    pub(super) fn get(&self, tag: u32) -> Option<&T> {
        let slot = self.index[self.bucket(tag)].checked_sub(1)?;
        self.slots[slot as usize].as_ref().map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, tag: u32) -> Option<&mut T> {
        let slot = self.index[self.bucket(tag)].checked_sub(1)?;
        self.slots[slot as usize].as_mut().map(|(_, value)| value)
    }

    pub(super) fn contains(&self, tag: u32) -> bool {
        self.index[self.bucket(tag)] != 0
    }

    /// Adds a value. The tag must be new.
    pub(super) fn insert(&mut self, tag: u32, value: T) {
        if (self.len() + 1) * 2 > self.index.len() {
            self.grow();
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let bucket = self.bucket(tag);
        debug_assert_eq!(self.index[bucket], 0, "tag in use");
        self.slots[slot as usize] = Some((tag, value));
        self.index[bucket] = slot + 1;
    }

    /// Not reached while the window's bounds hold; correct all the same.
    fn grow(&mut self) {
        let buckets = self.index.len() * 2;
        self.index = vec![0; buckets];
        for slot in 0..self.slots.len() {
            if let Some((tag, _)) = &self.slots[slot] {
                let mut at = self.home(*tag);
                while self.index[at] != 0 {
                    at = (at + 1) & (buckets - 1);
                }
                self.index[at] = slot as u32 + 1;
            }
        }
    }

    pub(super) fn remove(&mut self, tag: u32) -> Option<T> {
        let mut hole = self.bucket(tag);
        let slot = self.index[hole].checked_sub(1)?;
        let (_, value) = self.slots[slot as usize].take()?;
        self.free.push(slot);
        // Close the gap: whatever probed past the hole moves into it.
        let mask = self.index.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(slot) = self.index[at].checked_sub(1) else { break };
            let Some((tag, _)) = &self.slots[slot as usize] else { break };
            let home = self.home(*tag);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = self.index[at];
                hole = at;
            }
        }
        self.index[hole] = 0;
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().flatten().map(|(tag, value)| (*tag, value))
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
        self.index.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few buckets and tags that collide, against a map.
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0u32..3, 0u32..40, any::<u8>()), 0..400)) {
            let mut tags = Tags::new(4);
            let mut model = BTreeMap::new();
            for (step, tag, value) in steps {
                let tag = tag.wrapping_mul(0x0101_0000);
                match step {
                    0 if !tags.contains(tag) => {
                        tags.insert(tag, value);
                        model.insert(tag, value);
                    }
                    1 => prop_assert_eq!(tags.remove(tag), model.remove(&tag)),
                    _ => {}
                }
                prop_assert_eq!(tags.get(tag), model.get(&tag));
                prop_assert_eq!(tags.len(), model.len());
            }
            let mut all = tags.iter().map(|(tag, value)| (tag, *value)).collect::<Vec<_>>();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
