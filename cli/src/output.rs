//! The only way to stdout: text or JSON, buffered, and honest about a reader that went away.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::Failure;

/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 64 << 10;

/// How facts are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people, and for pipes that want the bytes alone.
    Text,
    /// One object, or one object a line.
    Json,
}

/// Stdout.
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    // Not `Stdout`: its own line buffer would copy every value a second time.
    out: BufWriter<File>,
}

impl Output {
    /// Takes a second handle to the process's stdout.
    pub(crate) fn open(format: Format, quiet: bool) -> Result<Self, Failure> {
        let stdout = io::stdout();
        let handle = stdout
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Failure::stdout(&e))?;
        Ok(Self {
            format,
            quiet,
            out: BufWriter::with_capacity(BUFFER_BYTES, File::from(handle)),
        })
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// One JSON object on a line of its own.
    pub(crate) fn json(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, object).map_err(|e| match e.io_error_kind() {
            Some(kind) => Failure::stdout(&io::Error::from(kind)),
            None => Failure::failed(format!("cannot print as JSON: {e}")),
        })?;
        self.bytes(b"\n")
    }

    /// One line of text that was asked for.
    pub(crate) fn line(&mut self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.bytes(text.as_ref())?;
        self.bytes(b"\n")
    }

    /// One line that only confirms what was done: `--quiet` drops it, and JSON has its own form of it.
    pub(crate) fn confirm(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.quiet || self.is_json() {
            return Ok(());
        }
        self.line(text.as_ref())
    }

    /// Bytes exactly as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(|e| Failure::stdout(&e))
    }

    /// A table with a left-aligned column for each heading.
    pub(crate) fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .chain([headings[column].len()])
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let titles = headings.iter().map(|title| (*title).to_owned()).collect();
        for row in std::iter::once(&titles).chain(rows) {
            let cells = row.iter().zip(&widths);
            let text: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            self.line(text.join("  ").trim_end())?;
        }
        Ok(())
    }

    /// Facts as `name: value`, the values aligned.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) -> Result<(), Failure> {
        let width = facts
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or_default()
            + 1;
        for (name, value) in facts {
            self.line(format!("{:width$} {value}", format!("{name}:")))?;
        }
        Ok(())
    }

    /// Hands everything printed so far to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|e| Failure::stdout(&e))
    }

    /// A line on stderr about how a long command gets on.
    pub(crate) fn progress(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// A line on stderr for something that is worth knowing and no error.
    pub(crate) fn warn(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "warning: {text}");
        }
    }
}
