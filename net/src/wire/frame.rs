//! Frames: `header length u32 BE | body length u32 BE | protobuf header | raw body`.
//!
//! The body carries what is large (values, record batches) outside protobuf, so that it is neither copied into a
//! message nor parsed. Both lengths are checked against the limits before memory is taken for them.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES_MAX};

/// Bytes of the two lengths.
pub const FRAME_PREFIX_BYTES: usize = 8;

/// A frame could not be read or written. The stream is of no more use.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The header is longer than [`FRAME_HEADER_BYTES_MAX`].
    #[error("a frame header of {bytes} bytes; the limit is {FRAME_HEADER_BYTES_MAX}")]
    HeaderTooLong {
        /// The length stated.
        bytes: usize,
    },
    /// The body is longer than [`FRAME_BODY_BYTES_MAX`].
    #[error("a frame body of {bytes} bytes; the limit is {FRAME_BODY_BYTES_MAX}")]
    BodyTooLong {
        /// The length stated.
        bytes: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// The header is not the message that belongs here.
    #[error("not a message of this protocol: {0}")]
    Header(#[from] prost::DecodeError),
    /// The message has no kind that this build knows.
    #[error("a message of no known kind")]
    UnknownKind,
    /// The stream or its connection is gone.
    #[error("the stream was lost: {0}")]
    Lost(#[from] io::Error),
}

impl FrameError {
    /// Whether the peer sent something that is not this protocol, as opposed to a lost stream.
    pub fn is_malformed(&self) -> bool {
        !matches!(self, Self::Lost(_))
    }
}

/// The two lengths at the start of a frame, within their limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FramePrefix {
    /// Bytes of the protobuf header.
    pub header: usize,
    /// Bytes of the raw body.
    pub body: usize,
}

impl FramePrefix {
    /// Reads and checks the lengths.
    ///
    /// # Errors
    /// [`FrameError::HeaderTooLong`], [`FrameError::BodyTooLong`].
    pub fn decode(bytes: [u8; FRAME_PREFIX_BYTES]) -> Result<Self, FrameError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let prefix = Self {
            header: u32::from_be_bytes([a, b, c, d]) as usize,
            body: u32::from_be_bytes([e, f, g, h]) as usize,
        };
        prefix.check()?;
        Ok(prefix)
    }

    fn put(self, bytes: &mut BytesMut) {
        bytes.put_u32(self.header as u32);
        bytes.put_u32(self.body as u32);
    }

    fn check(self) -> Result<(), FrameError> {
        if self.header > FRAME_HEADER_BYTES_MAX {
            return Err(FrameError::HeaderTooLong { bytes: self.header });
        }
        if self.body > FRAME_BODY_BYTES_MAX {
            return Err(FrameError::BodyTooLong { bytes: self.body });
        }
        Ok(())
    }
}

/// The prefix and header of a frame whose body of `body` bytes the caller writes after it.
///
/// # Errors
/// [`FrameError::HeaderTooLong`], [`FrameError::BodyTooLong`].
pub fn encode_head<M: Message>(header: &M, body: usize) -> Result<Bytes, FrameError> {
    let prefix = FramePrefix {
        header: header.encoded_len(),
        body,
    };
    prefix.check()?;
    let mut bytes = BytesMut::with_capacity(FRAME_PREFIX_BYTES + prefix.header);
    prefix.put(&mut bytes);
    header.encode_raw(&mut bytes);
    Ok(bytes.freeze())
}

/// Pieces below this many bytes are copied together before they are written.
const SMALL_BYTES: usize = 16 << 10;
/// Bytes of copied pieces that make a chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// What is to be written, in chunks that suit the transport: it looks through all that it has not had acknowledged for
/// each packet, so that thousands of small ones would be slow. Large pieces are not copied.
#[derive(Debug, Default)]
pub struct Chunks {
    chunks: Vec<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl Chunks {
    /// Adds a piece at the end.
    pub fn push(&mut self, piece: &Bytes) {
        self.bytes += piece.len();
        if piece.len() >= SMALL_BYTES {
            self.close_small();
            self.chunks.push(piece.clone());
            return;
        }
        self.small.extend_from_slice(piece);
        if self.small.len() >= CHUNK_BYTES {
            self.close_small();
        }
    }

    /// Adds a frame at the end, whose body is these pieces. Nothing is added where it breaks a limit.
    ///
    /// # Errors
    /// [`FrameError::HeaderTooLong`], [`FrameError::BodyTooLong`].
    pub fn push_frame<M: Message>(
        &mut self,
        header: &M,
        body: impl AsRef<[Bytes]>,
    ) -> Result<(), FrameError> {
        let body = body.as_ref();
        let prefix = FramePrefix {
            header: header.encoded_len(),
            body: body.iter().map(Bytes::len).sum(),
        };
        prefix.check()?;
        self.bytes += FRAME_PREFIX_BYTES + prefix.header;
        prefix.put(&mut self.small);
        header.encode_raw(&mut self.small);
        body.iter().for_each(|piece| self.push(piece));
        Ok(())
    }

    /// Bytes added.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.close_small();
        self.bytes = 0;
        std::mem::take(&mut self.chunks)
    }
}

/// Bytes that a reader takes ahead of the frame it reads, so that small frames share one read.
const READ_AHEAD_BYTES: usize = 32 << 10;

/// Reads frames from one stream. Its methods are not cancel-safe: a dropped read leaves the stream within a frame.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    /// What has been read and not been handed out.
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `stream`, which is at the start of a frame.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame's header and the length of its body, which the caller reads next with [`FrameReader::body`] or
    /// [`FrameReader::body_vec`]. `None` where the stream ends between frames.
    ///
    /// # Errors
    /// Every kind of [`FrameError`].
    pub async fn header<M: Message + Default>(&mut self) -> Result<Option<(M, usize)>, FrameError> {
        while self.buffer.len() < FRAME_PREFIX_BYTES {
            self.buffer.reserve(READ_AHEAD_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(FrameError::Truncated)
                };
            }
        }
        let prefix = FramePrefix::decode(self.buffer.get_u64().to_be_bytes())?;
        let header = self.body(prefix.header).await?;
        Ok(Some((M::decode(header)?, prefix.body)))
    }

    /// The next frame, where all of it has been read ahead; `None` where some of it has to be waited for. Many small frames
    /// that came together are so taken without a look at the stream.
    ///
    /// # Errors
    /// [`FrameError::HeaderTooLong`], [`FrameError::BodyTooLong`], [`FrameError::Header`].
    pub fn read_ahead<M: Message + Default>(&mut self) -> Result<Option<(M, Vec<u8>)>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<FRAME_PREFIX_BYTES>() else {
            return Ok(None);
        };
        let prefix = FramePrefix::decode(*prefix)?;
        let body = FRAME_PREFIX_BYTES + prefix.header;
        let Some(frame) = self.buffer.get(..body + prefix.body) else {
            return Ok(None);
        };
        let read = (
            M::decode(&frame[FRAME_PREFIX_BYTES..body])?,
            frame[body..].to_vec(),
        );
        self.buffer.advance(body + prefix.body);
        Ok(Some(read))
    }

    /// The next `length` bytes. The memory is used again once the caller has dropped what it got before.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::Lost`].
    pub async fn body(&mut self, length: usize) -> Result<Bytes, FrameError> {
        let missing = length.saturating_sub(self.buffer.len());
        self.buffer.reserve(missing);
        fill(&mut self.stream, &mut self.buffer, missing).await?;
        Ok(self.buffer.split_to(length).freeze())
    }

    /// The next `length` bytes, in an allocation of just that size.
    ///
    /// # Errors
    /// [`FrameError::Truncated`], [`FrameError::Lost`].
    pub async fn body_vec(&mut self, length: usize) -> Result<Vec<u8>, FrameError> {
        let mut body = Vec::with_capacity(length);
        let read = length.min(self.buffer.len());
        body.extend_from_slice(&self.buffer[..read]);
        self.buffer.advance(read);
        fill(&mut self.stream, &mut body, length - read).await?;
        Ok(body)
    }

    /// A whole frame: [`FrameReader::header`], then [`FrameReader::body`].
    ///
    /// # Errors
    /// Every kind of [`FrameError`].
    pub async fn frame<M: Message + Default>(&mut self) -> Result<Option<(M, Bytes)>, FrameError> {
        match self.header().await? {
            Some((header, length)) => Ok(Some((header, self.body(length).await?))),
            None => Ok(None),
        }
    }
}

impl FrameReader<quinn::RecvStream> {
    /// Tells the peer that nothing more will be read.
    pub fn stop(&mut self, code: quinn::VarInt) {
        // The stream may be over already, which is as good.
        let _ = self.stream.stop(code);
    }
}

async fn fill<R: AsyncRead + Unpin, B: BufMut>(
    stream: &mut R,
    into: &mut B,
    length: usize,
) -> Result<(), FrameError> {
    let mut rest = into.limit(length);
    while rest.has_remaining_mut() {
        if stream.read_buf(&mut rest).await? == 0 {
            return Err(FrameError::Truncated);
        }
    }
    Ok(())
}

/// Writes frames to one stream.
#[derive(Debug)]
pub struct FrameWriter {
    stream: quinn::SendStream,
}

impl FrameWriter {
    /// Writes to `stream`, which is at the start of a frame.
    pub fn new(stream: quinn::SendStream) -> Self {
        Self { stream }
    }

    /// Writes a frame without a body. Waits while the peer's flow control does not take it.
    ///
    /// # Errors
    /// [`FrameError::HeaderTooLong`], [`FrameError::Lost`].
    pub async fn header<M: Message>(&mut self, header: &M) -> Result<(), FrameError> {
        let head = encode_head(header, 0)?;
        self.stream
            .write_chunk(head)
            .await
            .map_err(io::Error::from)?;
        Ok(())
    }

    /// Writes a frame whose body is the pieces of `body`. Waits while the peer's flow control does not take it.
    ///
    /// # Errors
    /// [`FrameError::HeaderTooLong`], [`FrameError::BodyTooLong`], [`FrameError::Lost`].
    pub async fn frame<M: Message>(
        &mut self,
        header: &M,
        body: impl AsRef<[Bytes]>,
    ) -> Result<(), FrameError> {
        let mut chunks = Chunks::default();
        chunks.push_frame(header, body)?;
        self.chunks(&mut chunks).await
    }

    /// Writes frames that were gathered, and leaves `chunks` empty.
    ///
    /// # Errors
    /// [`FrameError::Lost`].
    pub async fn chunks(&mut self, chunks: &mut Chunks) -> Result<(), FrameError> {
        self.stream
            .write_all_chunks(&mut chunks.take())
            .await
            .map_err(io::Error::from)?;
        Ok(())
    }

    /// Ends the stream after what was written.
    pub fn finish(&mut self) {
        // A stream that was reset has ended too.
        let _ = self.stream.finish();
    }

    /// Gives the stream up: the peer need not read what was written.
    pub fn reset(&mut self, code: quinn::VarInt) {
        let _ = self.stream.reset(code);
    }

    /// Waits until the peer has acknowledged all of a finished stream, or has given it up, or is gone.
    pub async fn delivered(&mut self) {
        let _ = self.stream.stopped().await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::proto;

    #[test]
    fn head_bytes() {
        let header = proto::Request::new(proto::request::Kind::DeleteTopic(proto::DeleteTopic {
            name: "t".into(),
        }));
        assert_eq!(
            &encode_head(&header, 258).unwrap()[..],
            [0, 0, 0, 7, 0, 0, 1, 2, 8, 1, 58, 3, 10, 1, b't']
        );
    }

    #[test]
    fn lengths_are_bounded() {
        let prefix = |header: u32, body: u32| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&header.to_be_bytes());
            bytes[4..].copy_from_slice(&body.to_be_bytes());
            FramePrefix::decode(bytes)
        };
        let (header, body) = (FRAME_HEADER_BYTES_MAX as u32, FRAME_BODY_BYTES_MAX as u32);
        assert!(prefix(header, body).is_ok());
        assert!(matches!(
            prefix(header + 1, 0),
            Err(FrameError::HeaderTooLong { .. })
        ));
        assert!(matches!(
            prefix(0, body + 1),
            Err(FrameError::BodyTooLong { .. })
        ));
    }

    /// Reads what there is, as far as possible from what was read ahead, and as if nothing ever were.
    fn read<M: Message + Default>(bytes: &[u8]) -> Result<usize, FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut reader, mut frames, mut ahead) = (FrameReader::new(bytes), 0, 0);
            let one_by_one = loop {
                match reader.frame::<M>().await {
                    Ok(None) => break Ok(frames),
                    Ok(Some(_)) => frames += 1,
                    Err(error) => break Err(error),
                }
            };
            let mut reader = FrameReader::new(bytes);
            let at_once = loop {
                match reader.read_ahead::<M>() {
                    Ok(None) => {}
                    Ok(Some(_)) => {
                        ahead += 1;
                        continue;
                    }
                    Err(error) => break Err(error),
                }
                match reader.frame::<M>().await {
                    Ok(None) => break Ok(ahead),
                    Ok(Some(_)) => ahead += 1,
                    Err(error) => break Err(error),
                }
            };
            assert_eq!(frames, ahead);
            assert_eq!(format!("{one_by_one:?}"), format!("{at_once:?}"));
            one_by_one
        })
    }

    #[test]
    fn frames_that_came_together_are_read_without_waiting() {
        let topic = |number: usize| proto::DeleteTopic {
            name: format!("t{number}"),
        };
        let body = |number: usize| vec![number as u8; number * 7];
        let mut bytes = Vec::new();
        for number in 0..20 {
            bytes.extend(encode_head(&topic(number), body(number).len()).unwrap());
            bytes.extend(body(number));
        }
        let last = bytes.pop();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(&bytes[..]);
            assert!(reader.read_ahead::<proto::DeleteTopic>().unwrap().is_none());
            let (first, length) = reader.header().await.unwrap().unwrap();
            assert_eq!((first, length), (topic(0), 0));
            for number in 1..19 {
                let read = reader.read_ahead().unwrap().unwrap();
                assert_eq!(read, (topic(number), body(number)));
            }
            // The last one lacks a byte.
            assert!(last.is_some());
            assert!(reader.read_ahead::<proto::DeleteTopic>().unwrap().is_none());
            let cut = reader.frame::<proto::DeleteTopic>().await;
            assert!(matches!(cut, Err(FrameError::Truncated)), "{cut:?}");
        });
    }

    /// Frames whose lengths are right and whose contents are anything, so that the decoders are reached.
    fn framed() -> impl Strategy<Value = Vec<u8>> {
        (
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(any::<u8>(), 0..50),
        )
            .prop_map(|(header, body)| {
                let mut bytes = Vec::new();
                bytes.extend((header.len() as u32).to_be_bytes());
                bytes.extend((body.len() as u32).to_be_bytes());
                bytes.extend(header);
                bytes.extend(body);
                bytes
            })
    }

    proptest! {
        #[test]
        fn decoders_survive_anything(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), framed()]) {
            let _ = read::<proto::Request>(&bytes);
            let _ = read::<proto::Reply>(&bytes);
            let _ = read::<proto::Append>(&bytes);
            let _ = read::<proto::Appends>(&bytes);
            let _ = read::<proto::TailFrame>(&bytes);
            let _ = read::<proto::ReplicaFrame>(&bytes);
            let _ = read::<proto::ClusterMap>(&bytes);
            let _ = read::<proto::NodeStatus>(&bytes);
        }

        #[test]
        fn a_cut_frame_is_an_error(name in "[a-z]{1,20}", body in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>()) {
            let header = proto::DeleteTopic { name };
            let mut bytes = encode_head(&header, body.len()).unwrap().to_vec();
            bytes.extend(&body);
            prop_assert_eq!(read::<proto::DeleteTopic>(&bytes).unwrap(), 1);
            let cut = 1 + at.index(bytes.len() - 1);
            if cut < bytes.len() {
                prop_assert!(matches!(read::<proto::DeleteTopic>(&bytes[..cut]), Err(FrameError::Truncated)));
            }
        }
    }
}
