//! Sets of chunk indexes as runs, the form in which holdings and requests travel.

use std::ops::Range;

use crate::codec::{DecodeError, Reader, put_varint};

/// Most runs in an encoding.
pub const RUNS_MAX: usize = 8192;

/// A set of indexes, as ascending ranges that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    ranges: Vec<Range<u32>>,
}

impl Runs {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// All indexes below `end`.
    pub fn all(end: u32) -> Self {
        let mut runs = Self::new();
        if end > 0 {
            runs.ranges.push(0..end);
        }
        runs
    }

    /// The set of these indexes, which must ascend.
    pub fn of(ascending: impl IntoIterator<Item = u32>) -> Self {
        let mut runs = Self::new();
        for index in ascending {
            match runs.ranges.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                Some(last) if last.end > index => debug_assert!(false, "indexes must ascend"),
                _ => runs.ranges.push(index..index + 1),
            }
        }
        runs
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: u32) -> bool {
        let at = self.ranges.partition_point(|range| range.end <= index);
        self.ranges
            .get(at)
            .is_some_and(|range| range.start <= index)
    }

    /// Adds an index.
    pub fn insert(&mut self, index: u32) {
        let at = self.ranges.partition_point(|range| range.end < index);
        match self.ranges.get(at) {
            Some(range) if range.contains(&index) => return,
            // It extends the range that ends here, and may close the gap to the next one.
            Some(range) if range.end == index => {
                self.ranges[at].end += 1;
                if self
                    .ranges
                    .get(at + 1)
                    .is_some_and(|next| next.start == index + 1)
                {
                    self.ranges[at].end = self.ranges[at + 1].end;
                    self.ranges.remove(at + 1);
                }
                return;
            }
            Some(range) if range.start == index + 1 => {
                self.ranges[at].start = index;
                return;
            }
            _ => {}
        }
        self.ranges.insert(at, index..index + 1);
    }

    /// Number of indexes.
    pub fn count(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| u64::from(range.end - range.start))
            .sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// What is in this set and not in the other. Time: the number of ranges, however long they are.
    pub fn without(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let mut holes = other.ranges.iter().peekable();
        for range in &self.ranges {
            let mut start = range.start;
            while let Some(hole) = holes.next_if(|hole| hole.end <= range.end) {
                if start < hole.start && range.start < hole.end {
                    ranges.push(start..hole.start);
                }
                start = start.max(hole.end);
            }
            // It goes on into the next range.
            let end = holes
                .peek()
                .map_or(range.end, |hole| hole.start.min(range.end));
            if start < end {
                ranges.push(start..end);
            }
        }
        Self { ranges }
    }

    /// The `count` longest ranges; of equally long ones the first.
    pub fn longest(&self, count: usize) -> Self {
        if self.ranges.len() <= count {
            return self.clone();
        }
        let mut ranges = self.ranges.clone();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.end - range.start));
        ranges.truncate(count);
        ranges.sort_by_key(|range| range.start);
        Self { ranges }
    }

    /// The indexes in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().cloned().flatten()
    }

    /// The ranges in order.
    pub fn ranges(&self) -> &[Range<u32>] {
        &self.ranges
    }

    /// Appends the encoding. Sets of more than [`RUNS_MAX`] ranges are cut to their first: what is left out
    /// counts as not in the set.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let ranges = &self.ranges[..self.ranges.len().min(RUNS_MAX)];
        put_varint(out, ranges.len() as u64);
        let mut end = 0;
        for range in ranges {
            put_varint(out, u64::from(range.start - end));
            put_varint(out, u64::from(range.end - range.start - 1));
            end = range.end;
        }
    }

    /// Reads a set. Memory: 8 bytes a range, at most [`RUNS_MAX`] of them.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.varint(RUNS_MAX as u64, "run count")?;
        let mut runs = Self::new();
        let mut end = 0u64;
        for i in 0..count {
            let gap = reader.varint(u32::MAX.into(), "run gap")?;
            if i > 0 && gap == 0 {
                return Err(DecodeError::Invalid {
                    what: "runs",
                    rule: "they do not touch",
                });
            }
            let start = end + gap;
            end = start + reader.varint(u32::MAX.into(), "run length")? + 1;
            if end > u32::MAX.into() {
                return Err(DecodeError::TooLarge {
                    what: "run end",
                    value: end,
                    max: u32::MAX.into(),
                });
            }
            runs.ranges.push(start as u32..end as u32);
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set(indexes in proptest::collection::vec(0u32..60, 0..80)) {
            let set: BTreeSet<u32> = indexes.iter().copied().collect();
            let mut runs = Runs::new();
            indexes.iter().for_each(|&i| runs.insert(i));
            prop_assert_eq!(&runs, &Runs::of(set.iter().copied()));
            prop_assert_eq!(runs.count(), set.len() as u64);
            prop_assert!((0..64).all(|i| runs.contains(i) == set.contains(&i)));
            let mut out = Vec::new();
            runs.encode(&mut out);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(Runs::decode(&mut reader), Ok(runs));
        }

        #[test]
        fn differences_are_those_of_sets(
            a in proptest::collection::btree_set(0u32..60, 0..60),
            b in proptest::collection::btree_set(0u32..60, 0..60),
        ) {
            let difference = Runs::of(a.difference(&b).copied());
            prop_assert_eq!(Runs::of(a).without(&Runs::of(b)), difference);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _any = Runs::decode(&mut Reader::new(&bytes));
        }
    }
}
