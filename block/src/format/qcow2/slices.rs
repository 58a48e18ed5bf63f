//! The slices in memory, found by their number in a few steps: every request to a warm disk does that once.
//!
//! An index of their places is half empty at least, and a place that is taken leads to the next one. Slices come one by
//! one and go many at once; then the index is made anew, so that nothing in it tells of what is gone.

use super::maps::Slice;

/// Spreads numbers over the upper bits: neighbours do not meet, and nobody else chooses where they come to lie.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
/// Fewest places of an index.
const LEAST: usize = 16;
/// Most slices: the index has numbers of 32 bits, and as many places again.
pub(super) const MOST: usize = 1 << 30;

/// Slices by their number.
pub(super) struct Slices {
    held: Vec<(u64, Slice)>,
    /// A power of two of places in `held`, each plus one; 0 where there is none.
    index: Box<[u32]>,
    /// Of the mixed number, which leaves as many bits as the index tells apart.
    shift: u32,
}

impl Slices {
    /// None yet.
    pub(super) fn new() -> Self {
        let mut new = Self { held: Vec::new(), index: Box::default(), shift: 0 };
        new.index_anew();
        new
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Where in `held` a slice is, or the place in the index that would say so.
    #[inline(always)]
    fn place(&self, key: u64) -> Result<usize, usize> {
        let mut at = (key.wrapping_mul(MIX) >> self.shift) as usize;
        loop {
            // Ends: half of the places are empty.
            let Some(place) = self.index.get(at).and_then(|n| (*n as usize).checked_sub(1)) else { return Err(at) };
            if self.held.get(place).is_some_and(|(held, _)| *held == key) {
                return Ok(place);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, key: u64) -> Option<&Slice> {
        self.held.get(self.place(key).ok()?).map(|(_, slice)| slice)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Slice> {
        let place = self.place(key).ok()?;
        self.held.get_mut(place).map(|(_, slice)| slice)
    }

    /// Puts a slice in, in the place of one of the same number.
    pub(super) fn insert(&mut self, key: u64, slice: Slice) {
        match self.place(key) {
            Ok(place) => self.held[place].1 = slice,
            Err(at) => {
                self.held.push((key, slice));
                if self.held.len() * 2 > self.index.len() {
                    self.index_anew();
                } else {
                    self.index[at] = self.held.len() as u32;
                }
            }
        }
    }

    /// Keeps those of which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(u64, &mut Slice) -> bool) {
        self.held.retain_mut(|(key, slice)| keep(*key, slice));
        self.held.shrink_to(self.held.len() * 2);
        self.index_anew();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Slice)> {
        self.held.iter().map(|(key, slice)| (*key, slice))
    }

    fn index_anew(&mut self) {
        let places = (self.held.len() * 2).next_power_of_two().max(LEAST);
        self.index = vec![0; places].into();
        self.shift = 64 - places.trailing_zeros();
        for n in 0..self.held.len() {
            if let Err(at) = self.place(self.held[n].0) {
                self.index[at] = n as u32 + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(word: u64) -> Slice {
        Slice::new(Box::new([word]))
    }

    fn word(slices: &Slices, key: u64) -> Option<u64> {
        slices.get(key).map(|slice| slice.entry(0, false).word)
    }

    #[test]
    fn what_was_put_in_is_found_and_nothing_else() {
        let mut slices = Slices::new();
        // Neighbours, and numbers of which the upper bits alone differ.
        let keys: Vec<u64> = (0..500).chain((1..500).map(|n| n << 40)).collect();
        keys.iter().for_each(|key| slices.insert(*key, slice(!key)));

        assert_eq!(slices.len(), keys.len());
        assert!(keys.iter().all(|key| word(&slices, *key) == Some(!key)));
        assert!((500..1000).all(|key| slices.get(key).is_none()));
    }

    #[test]
    fn numbers_that_mix_to_the_same_place_are_told_apart() {
        // The inverse of the factor makes numbers whose mixes differ in the lowest bits alone.
        let inverse = (0..6).fold(MIX, |x, _| x.wrapping_mul(2u64.wrapping_sub(MIX.wrapping_mul(x))));
        let keys: Vec<u64> = (0..100).map(|n: u64| (u64::MAX - n).wrapping_mul(inverse)).collect();
        let mut slices = Slices::new();
        keys.iter().enumerate().for_each(|(n, key)| slices.insert(*key, slice(n as u64)));

        slices.retain(|_, slice| slice.entry(0, false).word % 3 == 0);

        for (n, key) in (0..).zip(&keys) {
            assert_eq!(word(&slices, *key), (n % 3 == 0).then_some(n));
        }
    }

    #[test]
    fn slice_of_the_same_number_takes_the_place_of_the_former() {
        let mut slices = Slices::new();
        slices.insert(7, slice(1));
        slices.insert(7, slice(2));

        assert_eq!((slices.len(), word(&slices, 7)), (1, Some(2)));
    }
}
