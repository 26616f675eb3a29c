//! What is random in a test: all of it follows from a seed, which a failing test prints.

/// Marsaglia's xorshift of 64 bits.
pub(crate) struct Dice(u64);

impl Dice {
    /// The seed 0, of which nothing would come, is as good as 1.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }
}

/// The pseudo-random bytes of a seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..length).map(|_| (dice.next() >> 32) as u8).collect()
}
