//! What is random in a test: all of it follows from a seed, which a failing test prints.

/// Marsaglia's xorshift of 64 bits.
pub(crate) struct Dice(u64);

impl Dice {
    /// The seed must not be 0, of which nothing would come.
    pub(crate) fn new(seed: u64) -> Self {
        assert_ne!(seed, 0);
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
