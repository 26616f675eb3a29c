//! Reading all keys of a span, and going on behind what cannot be read.

use std::collections::HashMap;
use std::ops::ControlFlow;

use mesh_ring::ids::PartitionId;
use rocksdb::{DBRawIterator, LiveFile, ReadOptions};

use super::gap::{Gap, successor};
use super::{Findings, Scrub, values};
use crate::error::Damage;
use crate::keys::{MERKLE_CHANGES_PREFIX, family, prefix_end};
use crate::store::Store;

/// Bytes after which an iterator is made anew, so that a slow scrub does not keep files from being removed.
const ITERATOR_BYTES: u64 = 64 << 20;

/// Gaps in one file after which the rest of it is passed over.
const FILE_GAPS_MAX: u32 = 8;

/// Gaps after which the rest of a span is passed over.
const SPAN_GAPS_MAX: u32 = 256;

/// Keys of one family that begin alike.
pub(super) struct Span {
    pub(super) family: &'static str,
    prefix: Vec<u8>,
}

/// What is done with a key and its value.
pub(super) type Visit<'v> = &'v mut dyn FnMut(&mut Findings<'_>, &[u8], &[u8]);

impl Span {
    pub(super) fn of_family(family: &'static str) -> Span {
        Span {
            family,
            prefix: Vec::new(),
        }
    }

    /// What changed of Merkle leaves.
    pub(super) fn of_changes() -> Span {
        Span {
            prefix: MERKLE_CHANGES_PREFIX.to_vec(),
            ..Span::of_family(family::MERKLE)
        }
    }

    pub(super) fn of_partition(family: &'static str, partition: PartitionId) -> Span {
        Span {
            prefix: partition.0.to_be_bytes().to_vec(),
            ..Span::of_family(family)
        }
    }

    /// A key behind all of the span's.
    fn end(&self) -> Vec<u8> {
        prefix_end(&self.prefix).unwrap_or_else(|| vec![u8::MAX; 32])
    }

    /// Bytes of every key, where they all have the same.
    fn width(&self) -> Option<usize> {
        match self.family {
            family::LOG => Some(18),
            family::JOURNAL => Some(10),
            family::PRODUCERS | family::HINTS => Some(26),
            _ => None,
        }
    }

    /// Sees the span as it is now, whatever is written while it reads.
    pub(super) fn iterator<'s>(&self, store: &'s Store) -> DBRawIterator<'s> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.fill_cache(false);
        options.set_iterate_lower_bound(self.prefix.clone());
        options.set_iterate_upper_bound(self.end());
        store
            .db()
            .raw_iterator_cf_opt(store.family(self.family), options)
    }

    /// What RocksDB says against a seek to `key`.
    fn complaint(&self, store: &Store, key: &[u8]) -> Option<String> {
        let mut iterator = self.iterator(store);
        iterator.seek(key);
        iterator.status().err().map(|error| error.to_string())
    }
}

impl<'a> Scrub<'a> {
    /// Visits everything in `span` that can be read and reports what cannot. Returns whether all of it could.
    pub(super) fn walk(&mut self, span: &Span, visit: Visit<'_>) -> ControlFlow<(), bool> {
        let iterator = span.iterator(self.findings.store);
        self.walk_by(span, iterator, ITERATOR_BYTES, visit)
    }

    /// As [`Scrub::walk`], with `iterator` for as long as all can be read.
    pub(super) fn walk_at_once(
        &mut self,
        span: &Span,
        iterator: DBRawIterator<'a>,
        visit: Visit<'_>,
    ) -> ControlFlow<(), bool> {
        self.walk_by(span, iterator, u64::MAX, visit)
    }

    fn walk_by(
        &mut self,
        span: &Span,
        mut iterator: DBRawIterator<'a>,
        iterator_bytes: u64,
        visit: Visit<'_>,
    ) -> ControlFlow<(), bool> {
        let store = self.findings.store;
        let mut from = span.prefix.clone();
        let mut gaps = Gaps::default();
        loop {
            iterator.seek(&from);
            let mut read = 0;
            let mut last = None::<Vec<u8>>;
            while let Some((key, value)) = iterator.item() {
                visit(&mut self.findings, key, value);
                let last = last.get_or_insert_default();
                last.clear();
                last.extend_from_slice(key);
                let bytes = (key.len() + value.len()) as u64;
                self.findings.report.bytes += bytes;
                (self.pace)(bytes)?;
                read += bytes;
                if read >= iterator_bytes {
                    break;
                }
                iterator.next();
            }
            if let Some(last) = last {
                from = successor(&last, span.width());
            }
            if !iterator.valid() {
                let Err(error) = iterator.status() else {
                    return ControlFlow::Continue(gaps.count == 0);
                };
                let detail = error.to_string();
                match self.findings.pass(span, &from, detail, &mut gaps) {
                    Some(next) if gaps.count < SPAN_GAPS_MAX => from = next,
                    _ => return ControlFlow::Continue(false),
                }
                (self.pace)(0)?;
            }
            iterator = span.iterator(store);
        }
    }
}

/// What could not be read of a span.
#[derive(Default)]
struct Gaps {
    count: u32,
    by_file: HashMap<String, u32>,
}

impl Findings<'_> {
    /// Reports that nothing at `from` can be read, and returns where reading goes on.
    fn pass(
        &mut self,
        span: &Span,
        from: &[u8],
        detail: String,
        gaps: &mut Gaps,
    ) -> Option<Vec<u8>> {
        let gap = Gap::find(from, &span.end(), span.width(), |key| {
            span.complaint(self.store, key).as_ref() == Some(&detail)
        });
        gaps.count += 1;
        let Some(name) = file_in(&detail) else {
            // RocksDB names no place: it is a value in a blob file, and where keys have a width, the last one's.
            let damage = unread_value(self.store, span, from, &gap.last, detail);
            self.push(damage);
            return gap.resume;
        };
        let files = self.store.files(span.family);
        let in_file = gaps.by_file.entry(name.clone()).or_default();
        *in_file += 1;
        let mut resume = gap.resume;
        if *in_file > FILE_GAPS_MAX {
            let end = files.iter().find(|file| is(file, &name));
            let behind = end
                .and_then(|file| file.end_key.as_deref())
                .map(|key| successor(key, span.width()));
            resume = resume.max(behind);
        }
        if self.errors.insert(detail.clone()) {
            let damage = unread(span, from, &gap.last, name, detail, &files);
            self.push(damage);
        }
        resume
    }
}

/// A value that cannot be read, or several that lie together.
fn unread_value(store: &Store, span: &Span, from: &[u8], last: &[u8], detail: String) -> Damage {
    let first = values::place(span.family, from);
    let mut end = values::place(span.family, last);
    if let (Some(topic), Some(before), Some(after)) = (end.topic, first.offset, end.offset)
        && first.topic == end.topic
    {
        end.what = format!("topic {topic}, offsets {before} to {after}");
    }
    Damage {
        what: end.what,
        topic: end.topic,
        offset: end.offset,
        files: store.files_of(span.family, last),
        detail,
    }
}

/// A stretch of a file that cannot be read, from one key to another.
fn unread(
    span: &Span,
    from: &[u8],
    last: &[u8],
    name: String,
    mut detail: String,
    files: &[LiveFile],
) -> Damage {
    let first = values::place(span.family, from);
    let end = values::place(span.family, last);
    let hidden: Vec<&str> = files
        .iter()
        .filter(|file| !is(file, &name) && overlaps(file, from, last))
        .map(file_name)
        .collect();
    if !hidden.is_empty() {
        detail.push_str("; for it, what lies between the same keys was not read in ");
        detail.push_str(&hidden.join(" and "));
    }
    let topic = first.topic.filter(|topic| end.topic == Some(*topic));
    Damage {
        what: format!("{}, from {} to {}", span.family, first.what, end.what),
        topic,
        offset: topic.and(first.offset),
        files: vec![name],
        detail,
    }
}

fn overlaps(file: &LiveFile, from: &[u8], last: &[u8]) -> bool {
    file.start_key.as_deref().is_none_or(|key| key <= last)
        && file.end_key.as_deref().is_none_or(|key| key >= from)
}

fn is(file: &LiveFile, name: &str) -> bool {
    file_name(file) == name
}

fn file_name(file: &LiveFile) -> &str {
    file.name.trim_start_matches('/')
}

/// The data file that RocksDB's words name.
fn file_in(detail: &str) -> Option<String> {
    detail
        .split(|c: char| c.is_whitespace() || c == '/' || c == ':' || c == ',')
        .find(|word| word.ends_with(".sst") || word.ends_with(".blob"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_found_in_what_rocksdb_says() {
        let said = "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in /d b/000027.sst offset 0";
        assert_eq!(file_in(said).as_deref(), Some("000027.sst"));
        let said = "IO error: No such file or directory: While open a file: db/000012.blob: gone";
        assert_eq!(file_in(said).as_deref(), Some("000012.blob"));
        assert_eq!(file_in("Corruption: Blob CRC mismatch"), None);
    }
}
