use super::fragment::{
    BATCH_HEAD_BYTES, BLOCK_BYTES, Fragment, HEADER_BYTES, Kind, fragment, sequences,
};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Read at once.
const CHUNK_BYTES: usize = 32 * BLOCK_BYTES;

/// What one file holds.
#[derive(Debug)]
pub(super) struct Scan {
    /// Length of the file.
    pub(super) bytes: u64,
    /// Complete records before its end or the first flaw.
    pub(super) records: u64,
    /// Where the last of them ends.
    pub(super) keep_bytes: u64,
    /// Sequence number of the first record, if there is one and it can be read.
    pub(super) first_sequence: Option<u64>,
    /// No later record has a lower sequence number.
    pub(super) next_sequence: u64,
    pub(super) end: End,
}

/// How a file ends.
#[derive(Debug)]
pub(super) enum End {
    /// With a complete record.
    Complete,
    /// With zeros after a complete record.
    Zeros { at: u64 },
    /// With something that is no complete record.
    Broken { at: u64, what: &'static str },
    /// With something that is no complete record, and behind it the beginning of one at `later`.
    Damaged {
        at: u64,
        what: &'static str,
        later: u64,
    },
}

impl Scan {
    /// Reads a file of which no record has a lower sequence number than `next_sequence`. Takes [`CHUNK_BYTES`] of
    /// memory.
    pub(super) fn of_file(path: &Path, next_sequence: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut scanner = Scanner::new(next_sequence);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let filled = fill(&mut file, &mut chunk)?;
            for block in chunk[..filled].chunks(BLOCK_BYTES) {
                scanner.block(block);
            }
            if filled < chunk.len() {
                return Ok(scanner.finish());
            }
        }
    }
}

fn fill(file: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match file.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Takes a file block by block.
struct Scanner {
    /// Where the current block begins in the file.
    base: u64,
    records: u64,
    keep_bytes: u64,
    first_sequence: Option<u64>,
    next_sequence: u64,
    /// Payloads are compressed, so that there are no sequence numbers to see.
    compressed: bool,
    open: Option<OpenRecord>,
    flaw: Option<Flaw>,
    /// Where a record begins behind the flaw.
    later: Option<u64>,
}

/// A record of which the last fragment is still to come.
struct OpenRecord {
    at: u64,
    head: BatchHead,
}

/// The first thing that is not as it should be.
struct Flaw {
    at: u64,
    what: &'static str,
    /// Nothing but zeros since.
    zeros: bool,
}

/// Gathers the first bytes of a write batch, over which a fragment may end.
#[derive(Default)]
struct BatchHead {
    bytes: [u8; BATCH_HEAD_BYTES],
    filled: usize,
}

impl BatchHead {
    fn add(&mut self, payload: &[u8]) {
        let free = &mut self.bytes[self.filled..];
        let taken = free.len().min(payload.len());
        free[..taken].copy_from_slice(&payload[..taken]);
        self.filled += taken;
    }

    /// See [`sequences`].
    fn sequences(&self) -> Option<(u64, u64)> {
        (self.filled == BATCH_HEAD_BYTES).then(|| sequences(&self.bytes))
    }
}

impl Scanner {
    fn new(next_sequence: u64) -> Self {
        Self {
            base: 0,
            records: 0,
            keep_bytes: 0,
            first_sequence: None,
            next_sequence,
            compressed: false,
            open: None,
            flaw: None,
            later: None,
        }
    }

    fn block(&mut self, block: &[u8]) {
        let mut at = 0;
        if self.flaw.is_none() {
            at = self.follow(block);
        }
        if let Some(flaw) = &mut self.flaw
            && self.later.is_none()
        {
            flaw.zeros &= all_zero(&block[at..]);
            if !flaw.zeros {
                self.later = self.search(block, at).map(|at| self.base + at as u64);
            }
        }
        self.base += block.len() as u64;
    }

    /// Takes fragments as long as they are as they should be, and says where that ends.
    fn follow(&mut self, block: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let here = self.base + at as u64;
            match fragment(block, at) {
                Ok(None) => return at,
                Ok(Some(fragment)) => {
                    if let Err(flaw) = self.accept(here, &fragment) {
                        self.flaw = Some(flaw);
                        return at;
                    }
                    at = fragment.end;
                }
                Err(what) => {
                    self.flaw = Some(Flaw {
                        at: here,
                        what,
                        zeros: true,
                    });
                    return at;
                }
            }
        }
    }

    fn accept(&mut self, at: u64, fragment: &Fragment<'_>) -> Result<(), Flaw> {
        let end = at + (HEADER_BYTES + fragment.payload.len()) as u64;
        let mut record = match (fragment.kind, self.open.take()) {
            (Kind::Full | Kind::First, None) => OpenRecord {
                at,
                head: BatchHead::default(),
            },
            (Kind::Middle | Kind::Last, Some(record)) => record,
            (Kind::Compressed | Kind::About, None) => {
                self.compressed |= fragment.kind == Kind::Compressed;
                self.keep_bytes = end;
                return Ok(());
            }
            (Kind::Middle | Kind::Last, None) => {
                return Err(Flaw {
                    at,
                    what: "a record's beginning is missing",
                    zeros: false,
                });
            }
            (_, Some(record)) => {
                return Err(Flaw {
                    at: record.at,
                    what: "a record's end is missing",
                    zeros: false,
                });
            }
        };
        record.head.add(fragment.payload);
        if matches!(fragment.kind, Kind::First | Kind::Middle) {
            self.open = Some(record);
            return Ok(());
        }
        self.records += 1;
        self.keep_bytes = end;
        if let Some((sequence, next)) = record.head.sequences()
            && !self.compressed
        {
            self.first_sequence.get_or_insert(sequence);
            self.next_sequence = self.next_sequence.max(next);
        }
        Ok(())
    }

    /// Where in `block` a record begins, at `at` or behind it.
    ///
    /// A chain of fragments is followed as far as it goes. From there on a length may be wrong, so that the next record
    /// may begin at any byte.
    fn search(&self, block: &[u8], mut at: usize) -> Option<usize> {
        while let Ok(next) = fragment(block, at) {
            let next = next?;
            if self.begins_later_record(&next) {
                return Some(at);
            }
            at = next.end;
        }
        (at + 1..block.len().saturating_sub(HEADER_BYTES - 1)).find(|&at| {
            let may_begin = matches!(block[at + HEADER_BYTES - 1], 1 | 2);
            may_begin
                && fragment(block, at)
                    .is_ok_and(|f| f.is_some_and(|f| self.begins_later_record(&f)))
        })
    }

    /// Says whether a fragment begins a record that was written after the flaw, and not one that lies in the payload of
    /// a torn write, as in a stored copy of a log file: sequence numbers only rise.
    fn begins_later_record(&self, fragment: &Fragment<'_>) -> bool {
        let reaches_block_end = fragment.end == BLOCK_BYTES;
        let head = fragment.payload.first_chunk::<BATCH_HEAD_BYTES>();
        match (fragment.kind, head) {
            (Kind::Full, Some(_)) | (Kind::First, _) if self.compressed => true,
            (Kind::Full, Some(head)) => sequences(head).0 >= self.next_sequence,
            (Kind::First, Some(head)) => {
                reaches_block_end && sequences(head).0 >= self.next_sequence
            }
            (Kind::First, None) => reaches_block_end,
            _ => false,
        }
    }

    fn finish(self) -> Scan {
        let end = match (self.flaw, self.later, self.open) {
            (Some(Flaw { at, what, .. }), Some(later), _) => End::Damaged { at, what, later },
            (
                Some(Flaw {
                    at, zeros: true, ..
                }),
                None,
                None,
            ) => End::Zeros { at },
            (Some(Flaw { at, what, .. }), None, _) => End::Broken { at, what },
            (None, _, Some(record)) => End::Broken {
                at: record.at,
                what: "a record's end is missing",
            },
            (None, _, None) => End::Complete,
        };
        Scan {
            bytes: self.base,
            records: self.records,
            keep_bytes: self.keep_bytes,
            first_sequence: self.first_sequence,
            next_sequence: self.next_sequence,
            end,
        }
    }
}

/// In steps of a page, which the compiler turns into wide instructions.
fn all_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(4096)
        .all(|page| page.iter().fold(0, |any, byte| any | byte) == 0)
}
