"""Exceptions: one base class, and the built-in kinds that users expect."""

from __future__ import annotations

import errno as _errno
import os as _os

__all__ = [
    "ArgumentError",
    "EvlibError",
    "EvlibFileExistsError",
    "EvlibFileNotFoundError",
    "EvlibIsADirectoryError",
    "EvlibOSError",
    "EvlibPermissionError",
    "FormatError",
    "LogWriteError",
    "ProblemError",
    "QueueFullError",
    "TruncatedError",
    "UnsupportedError",
]


class EvlibError(Exception):
    """Base class of every exception that evlib raises on purpose."""


class FormatError(EvlibError, ValueError):
    """The file is not what a format demands: the file's fault.

    Attributes
    ----------
    path : str or None
        The file.
    offset : int or None
        Byte offset in it.
    expected, found : str or None
        What the format demands there, and what is there instead.
    """

    path: str | None = None
    offset: int | None = None
    expected: str | None = None
    found: str | None = None


class UnsupportedError(FormatError):
    """The file is understood, but this version does not decode it."""


class ProblemError(FormatError):
    """Reading with ``on_problem="raise"`` met a problem that loses data."""


class ArgumentError(EvlibError, ValueError):
    """An argument that cannot be: the caller's fault."""


class EvlibOSError(EvlibError, OSError):
    """The operating system refused."""


class TruncatedError(EvlibOSError):
    """The file shrank or changed while it was read.

    Attributes
    ----------
    path : str or None
        The file.
    offset : int or None
        Byte offset at which bytes were missing.
    """

    path: str | None = None
    offset: int | None = None


class LogWriteError(EvlibOSError):
    """Records of an observation log could not be written.

    Attributes
    ----------
    records_written : int
        Records that reached the file.
    """

    records_written: int = 0


class QueueFullError(EvlibError):
    """The queue of a log's writer has no room, and its policy is not to wait."""


class EvlibFileNotFoundError(EvlibOSError, FileNotFoundError):
    """There is no such file."""


class EvlibIsADirectoryError(EvlibOSError, IsADirectoryError):
    """The path is a directory."""


class EvlibPermissionError(EvlibOSError, PermissionError):
    """The file may not be read or written."""


class EvlibFileExistsError(EvlibOSError, FileExistsError):
    """The file is there already and may not be replaced."""


_BY_ERRNO: dict[int, type[EvlibOSError]] = {
    _errno.ENOENT: EvlibFileNotFoundError,
    _errno.ENOTDIR: EvlibFileNotFoundError,
    _errno.EISDIR: EvlibIsADirectoryError,
    _errno.EACCES: EvlibPermissionError,
    _errno.EPERM: EvlibPermissionError,
    _errno.EEXIST: EvlibFileExistsError,
}


def _from_rust(
    kind: str,
    message: str,
    *,
    path: _os.PathLike[str] | None,
    offset: int | None,
    expected: str | None,
    found: str | None,
    errno: int | None,
) -> EvlibError:
    """Make the exception for an error of the extension module, which calls this."""
    if kind == "argument":
        return ArgumentError(message)
    if kind == "full":
        return QueueFullError(message)
    name = None if path is None else _os.fspath(path)
    if kind == "io" and errno is not None:
        text = _os.strerror(errno)
        if expected is not None:
            text += f": expected {expected}, found {found}"
        refused = _BY_ERRNO.get(errno, EvlibOSError)(errno, text, name)
        _, _, hint = message.partition("\nhint: ")
        if hint:
            refused.add_note(f"hint: {hint}")
        return refused
    if kind == "io":
        return EvlibOSError(message)
    if kind == "truncated":
        truncated = TruncatedError(message)
        truncated.path, truncated.offset = name, offset
        return truncated
    error = UnsupportedError(message) if kind == "unsupported" else FormatError(message)
    error.path, error.offset, error.expected, error.found = name, offset, expected, found
    return error
