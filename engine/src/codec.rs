//! The few shapes that stored values are made of: fixed big-endian integers and length-prefixed bytes.

use bytes::Buf;

/// Why stored bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The value ends before its fields do.
    #[error("value is cut short")]
    Short,
    /// Bytes remain after the last field.
    #[error("bytes follow the last field")]
    Long,
    /// A text field is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
    /// A number that this version does not know.
    #[error("unknown {0} {1}")]
    Unknown(&'static str, u64),
}

pub(crate) fn take_u8(from: &mut &[u8]) -> Result<u8, CodecError> {
    from.try_get_u8().map_err(|_| CodecError::Short)
}

pub(crate) fn take_u32(from: &mut &[u8]) -> Result<u32, CodecError> {
    from.try_get_u32().map_err(|_| CodecError::Short)
}

pub(crate) fn take_u64(from: &mut &[u8]) -> Result<u64, CodecError> {
    from.try_get_u64().map_err(|_| CodecError::Short)
}

/// A u32 length, then that many bytes. Nothing is allocated: the result borrows.
pub(crate) fn take_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], CodecError> {
    let len = take_u32(from)? as usize;
    let (taken, rest) = from.split_at_checked(len).ok_or(CodecError::Short)?;
    *from = rest;
    Ok(taken)
}

pub(crate) fn take_text(from: &mut &[u8]) -> Result<String, CodecError> {
    std::str::from_utf8(take_bytes(from)?)
        .map(str::to_owned)
        .map_err(|_| CodecError::Text)
}

/// Writes what [`take_bytes`] reads. Callers bound the length long before it could leave u32.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A whole value that is one big-endian u64.
pub(crate) fn only_u64(from: &[u8]) -> Result<u64, CodecError> {
    from.try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| CodecError::Short)
}

/// A whole value that is one big-endian u32.
pub(crate) fn only_u32(from: &[u8]) -> Result<u32, CodecError> {
    from.try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| CodecError::Short)
}
