//! Made-up bytes: the same ones in every run, and nothing that a compressor could shrink.

use bytes::Bytes;

/// Bytes from which values are cut.
const POOL_BYTES: usize = 4 << 20;

/// SplitMix64: a short generator whose sequence is fixed by its seed.
#[derive(Clone, Debug)]
pub(crate) struct Sequence(u64);

impl Sequence {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Values of one size, cut from a shared pool without copying.
#[derive(Clone, Debug)]
pub(crate) struct Payloads {
    pool: Bytes,
    size: usize,
}

impl Payloads {
    pub(crate) fn new(size: usize) -> Self {
        let mut sequence = Sequence::new(0x6d65_7368);
        let words = POOL_BYTES.max(2 * size).div_ceil(8);
        let mut pool = Vec::with_capacity(words * 8);
        for _ in 0..words {
            pool.extend_from_slice(&sequence.next().to_le_bytes());
        }
        Self {
            pool: pool.into(),
            size,
        }
    }

    /// The value of this number: different numbers nearly always give different bytes.
    pub(crate) fn get(&self, number: u64) -> Bytes {
        let starts = (self.pool.len() - self.size) as u64 + 1;
        // A prime step, so that neighbours do not overlap in the same way.
        let start = (number.wrapping_mul(1_000_003) % starts) as usize;
        self.pool.slice(start..start + self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_fixed() {
        let mut sequence = Sequence::new(0);
        assert_eq!(sequence.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(sequence.next(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn values_have_their_size_and_differ() {
        for size in [0, 1, 1024, 1 << 20] {
            let payloads = Payloads::new(size);
            assert!((0..100).all(|number| payloads.get(number).len() == size));
        }
        let payloads = Payloads::new(1024);
        assert_ne!(payloads.get(1), payloads.get(2));
        assert_eq!(payloads.get(9), Payloads::new(1024).get(9));
    }
}
