//! LEB128 varints of at most ten bytes.

use super::error::BatchError;

/// Longest varint, in bytes: 64 bits at seven a byte.
const VARINT_BYTES_MAX: usize = 10;

/// Bytes that `value` takes.
pub(super) fn encoded_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint from the front of `input`. Longer forms than needed are accepted.
#[inline]
pub(super) fn take(input: &mut &[u8]) -> Result<u64, BatchError> {
    if let [first @ 0..0x80, rest @ ..] = *input {
        *input = rest;
        return Ok(u64::from(*first));
    }
    take_long(input)
}

fn take_long(input: &mut &[u8]) -> Result<u64, BatchError> {
    let mut value = 0;
    for (i, byte) in input.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == VARINT_BYTES_MAX - 1 && *byte > 1 {
            return Err(BatchError::Malformed("number is longer than 64 bits"));
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            *input = &input[i + 1..];
            return Ok(value);
        }
    }
    Err(BatchError::Malformed("body ends inside a number"))
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                put(&mut bytes, value);
                assert_eq!(bytes.len(), encoded_len(value), "{value}");
                let mut input = &bytes[..];
                assert_eq!(take(&mut input), Ok(value));
                assert!(input.is_empty());
            }
        }
        for value in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!([zigzag(0), zigzag(-1), zigzag(1)], [0, 1, 2]);
    }

    #[test]
    fn long_and_cut_numbers_are_refused() {
        assert!(take(&mut &[0x80; 9][..]).is_err());
        assert!(take(&mut &[0xff; 10][..]).is_err());
        assert!(take(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]).is_err());
        assert_eq!(
            take(&mut &[0x81, 0x80, 0][..]),
            Ok(1),
            "longer than needed is fine"
        );
    }
}
