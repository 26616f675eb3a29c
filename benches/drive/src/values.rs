//! Made-up values: the same ones in every run, and nothing that a compressor could shrink.

use bytes::Bytes;

/// Bytes from which values are cut: more than any compressor's window over one block, less than the CPU's caches hold.
const POOL_BYTES: usize = 4 << 20;

/// Values of one size, cut from a shared pool without copying.
#[derive(Clone, Debug)]
pub struct Values {
    pool: Bytes,
    bytes: usize,
}

impl Values {
    /// Values of `bytes` bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Values {
        let mut state = 0x6d65_7368_6c6f_6721_u64;
        let words = POOL_BYTES.max(2 * bytes).div_ceil(8);
        let mut pool = Vec::with_capacity(words * 8);
        for _ in 0..words {
            pool.extend_from_slice(&mix(&mut state).to_le_bytes());
        }
        Values {
            pool: pool.into(),
            bytes,
        }
    }

    /// Bytes of each value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of this number: different numbers nearly always give different bytes.
    #[must_use]
    pub fn value(&self, number: u64) -> Bytes {
        let starts = (self.pool.len() - self.bytes) as u64 + 1;
        // A prime step, so that neighbours do not overlap in the same way.
        let start = (number.wrapping_mul(1_000_003) % starts) as usize;
        self.pool.slice(start..start + self.bytes)
    }
}

/// One step of SplitMix64.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_differ_and_are_the_same_in_every_run() {
        for bytes in [1, 100, 1 << 10, 16 << 10] {
            let values = Values::new(bytes);
            assert!((0..100).all(|number| values.value(number).len() == bytes));
        }
        let values = Values::new(100);
        assert_ne!(values.value(1), values.value(2));
        assert_eq!(values.value(9), Values::new(100).value(9));
    }
}
