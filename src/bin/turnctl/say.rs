//! Words on standard error and results on standard output, either of which may be gone or full.

use std::fmt::{Arguments, Display};
use std::io::{self, Write};

/// Tells something on standard error. Where nobody can be told, nothing else changes.
pub(crate) fn aside(words: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(words);
}

/// Writes a line of the result to standard output.
///
/// # Errors
/// When it cannot be written; see [`nobody_reads`].
pub(crate) fn result(line: impl Display) -> io::Result<()> {
    let mut output = io::stdout().lock();
    let written = writeln!(output, "{line}").and_then(|()| output.flush());
    written.map_err(|error| io::Error::new(error.kind(), format!("standard output: {error}")))
}

/// Whether it failed because whoever read the result has stopped, as `head` does: there is nothing
/// to say about that.
pub(crate) fn nobody_reads(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
