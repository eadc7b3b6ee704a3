//! Errors: what went wrong, whose fault it is, and where in the file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is.
///
/// `Format`, `Truncated` and `Unsupported` are the file's fault; `InvalidArgument` is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: missing file, directory, permission, full disk.
    Io,
    /// The bytes are not what the format demands.
    Format,
    /// The file ended, or shrank, before bytes that had been announced.
    Truncated,
    /// The bytes are understood, but this library does not decode them.
    Unsupported,
    /// The caller asked for something that cannot be.
    InvalidArgument,
    /// The queue of a log's writer has no room, and its policy is not to wait.
    QueueFull,
}

/// An error with the file, the byte offset and what was expected and found there.
///
/// ```
/// let error = evlib::Recording::open("no/such/file.raw").unwrap_err();
/// assert_eq!(error.kind(), evlib::ErrorKind::Io);
/// assert!(error.to_string().contains("no/such/file.raw"));
/// ```
#[derive(Debug)]
pub struct Error(Box<Detail>);

#[derive(Debug)]
struct Detail {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    expected: Option<String>,
    found: Option<String>,
    hint: Option<String>,
    source: Option<io::Error>,
}

impl Error {
    /// A new error of the given kind.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            kind,
            message: message.into(),
            path: None,
            offset: None,
            expected: None,
            found: None,
            hint: None,
            source: None,
        }))
    }

    /// The caller's mistake.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// The file's fault.
    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Format, message)
    }

    /// An operating-system error about `path`.
    pub(crate) fn io(source: io::Error, path: &Path) -> Self {
        let mut error = Self::new(ErrorKind::Io, source.to_string());
        error.0.source = Some(source);
        error.with_path(path)
    }

    pub(crate) fn with_path(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    pub(crate) fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.0.expected = Some(expected.into());
        self
    }

    pub(crate) fn but_found(mut self, found: impl Into<String>) -> Self {
        self.0.found = Some(found.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error once more, for others who meet it.
    pub(crate) fn again(&self) -> Self {
        let Detail { kind, message, path, offset, expected, found, hint, source } = &*self.0;
        let source = source.as_ref().map(|error| {
            error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
        });
        Self(Box::new(Detail {
            kind: *kind,
            message: message.clone(),
            path: path.clone(),
            offset: *offset,
            expected: expected.clone(),
            found: found.clone(),
            hint: hint.clone(),
            source,
        }))
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file concerned, if the error is about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Byte offset in the file, if the error is about one place.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// What the format demands at that place.
    #[must_use]
    pub fn expected(&self) -> Option<&str> {
        self.0.expected.as_deref()
    }

    /// What the file has there instead.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.0.found.as_deref()
    }

    /// The operating system's error behind this one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.source.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = &*self.0;
        f.write_str(&detail.message)?;
        if let Some(expected) = &detail.expected {
            write!(f, ": expected {expected}")?;
        }
        if let Some(found) = &detail.found {
            let joint = if detail.expected.is_some() { "," } else { ":" };
            write!(f, "{joint} found {found}")?;
        }
        if let Some(offset) = detail.offset {
            write!(f, " at byte {offset}")?;
        }
        if let Some(path) = &detail.path {
            write!(f, " in `{}`", path.display())?;
        }
        if let Some(hint) = &detail.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}
