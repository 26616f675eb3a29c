//! The primitives of this crate's encodings: fixed big-endian numbers and canonical variable-length ones.
//!
//! A decoder takes any bytes, allocates no more than they justify, and accepts only what the encoder writes: two
//! values are equal when, and only when, their bytes are.

use thiserror::Error;

/// The bytes are no encoding of the value. Nothing of them was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// There are bytes after the end.
    #[error("{bytes} bytes follow the end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// They were written by a newer version, or by something else.
    #[error("format version {found} is unknown; the newest known is {known}")]
    UnknownVersion {
        /// The version that they state.
        found: u8,
        /// The newest version that can be read.
        known: u8,
    },
    /// A number that tells what follows has no meaning.
    #[error("{what} {found} is unknown")]
    UnknownKind {
        /// What it numbers.
        what: &'static str,
        /// The number.
        found: u8,
    },
    /// There are more of something than are allowed.
    #[error("{count} {what}; the limit is {max}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// How many there may be.
        max: u64,
    },
    /// It is not what an encoder writes: out of order, twice, or longer than needed.
    #[error("{what} is not in canonical form")]
    NotCanonical {
        /// What is malformed.
        what: &'static str,
    },
}

/// Reads from the front of bytes that may be anything.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads the leading version byte, which must be `known`.
    pub(crate) fn versioned(bytes: &'a [u8], known: u8) -> Result<Self, DecodeError> {
        let mut reader = Self(bytes);
        match reader.u8()? {
            found if found == known => Ok(reader),
            found => Err(DecodeError::UnknownVersion { found, known }),
        }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes that their length precedes.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
        let (head, tail) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    /// How many items of at least `bytes_each` follow; never more than the remaining bytes can hold.
    pub(crate) fn count(&mut self, bytes_each: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
        if count > self.remaining() / bytes_each {
            return Err(DecodeError::Truncated);
        }
        Ok(count)
    }

    /// A number of 1 to 10 bytes, seven bits each, the lowest first, in as few bytes as possible.
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        const MALFORMED: DecodeError = DecodeError::NotCanonical { what: "a number" };
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(MALFORMED);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded { Err(MALFORMED) } else { Ok(value) };
            }
        }
        Err(MALFORMED)
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn varint(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        out
    }

    #[test]
    fn varint_bytes() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(127), [0x7f]);
        assert_eq!(varint(128), [0x80, 1]);
        assert_eq!(varint(300), [0xac, 2]);
        assert_eq!(
            varint(u64::MAX),
            [255, 255, 255, 255, 255, 255, 255, 255, 255, 1]
        );
    }

    #[test]
    fn padded_and_oversized_numbers_are_refused() {
        let malformed = Err(DecodeError::NotCanonical { what: "a number" });
        assert_eq!(Reader(&[0x80, 0]).varint(), malformed);
        assert_eq!(
            Reader(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).varint(),
            malformed
        );
        assert_eq!(Reader(&[255; 11]).varint(), malformed);
        assert_eq!(Reader(&[0x80]).varint(), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused() {
        assert_eq!(Reader(&[3, 1, 2]).bytes(), Err(DecodeError::Truncated));
        assert_eq!(Reader(&[3, 1, 2]).count(1), Err(DecodeError::Truncated));
        assert_eq!(Reader(&[2, 1, 2]).count(1), Ok(2));
        assert_eq!(
            Reader(&varint(u64::MAX)).bytes(),
            Err(DecodeError::Truncated)
        );
    }

    proptest! {
        #[test]
        fn a_number_reads_back(value: u64) {
            prop_assert_eq!(Reader(&varint(value)).varint(), Ok(value));
        }

        #[test]
        fn a_number_has_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader(&bytes);
            if let Ok(value) = reader.varint() {
                let used = bytes.len() - reader.remaining();
                prop_assert_eq!(&varint(value), &bytes[..used]);
            }
        }
    }
}
