//! Made-up values: the same ones in every run, and nothing that a compressor could shrink.

/// Bytes from which values are cut: more than any compressor's window over one block, less than the CPU's caches hold.
const POOL_BYTES: usize = 4 << 20;

/// Values of one size, cut from a shared pool without copying.
#[derive(Clone, Debug)]
pub struct Payload {
    pool: Vec<u8>,
    bytes: usize,
}

impl Payload {
    /// Values of `bytes` bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Payload {
        let mut state = 0x6d65_7368_6c6f_6721_u64;
        let words = POOL_BYTES.max(2 * bytes).div_ceil(8);
        let mut pool = Vec::with_capacity(words * 8);
        for _ in 0..words {
            pool.extend_from_slice(&mix(&mut state).to_le_bytes());
        }
        Payload { pool, bytes }
    }

    /// Bytes of each value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of this number: different numbers nearly always give different bytes.
    #[must_use]
    pub fn value(&self, number: u64) -> &[u8] {
        let starts = (self.pool.len() - self.bytes) as u64 + 1;
        // A prime step, so that neighbours do not overlap in the same way.
        let start = (number.wrapping_mul(1_000_003) % starts) as usize;
        &self.pool[start..start + self.bytes]
    }

    /// The `count` values from number `first` on.
    #[must_use]
    pub fn values(&self, first: u64, count: usize) -> Vec<&[u8]> {
        (first..first + count as u64)
            .map(|number| self.value(number))
            .collect()
    }
}

/// One step of SplitMix64: its sequence is fixed by where `state` begins.
pub fn mix(state: &mut u64) -> u64 {
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
        let payload = Payload::new(1024);
        assert_eq!(
            payload
                .values(7, 3)
                .iter()
                .map(|value| value.len())
                .collect::<Vec<_>>(),
            [1024; 3]
        );
        assert_ne!(payload.value(1), payload.value(2));
        assert_eq!(payload.value(9), Payload::new(1024).value(9));
    }
}
