"""The command line, `evlib`: results to stdout, messages to stderr.

Exit codes: 0 done, 1 a file cannot be read, 2 wrong usage, 3 done but the recording has losses (`check`), 130 after
Ctrl-C, 141 when the reader of stdout has gone.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from evlib.cli._parser import build_parser
from evlib.exceptions import ArgumentError, EvlibError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED, _PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on the arguments, by default those of the process, and return the exit code.

    The parser leaves by `SystemExit`, with code 2 after wrong usage.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        options = build_parser().parse_args(arguments)
        # A command imports Polars; the parser does not.
        code: int = import_module(f"evlib.cli.{options.command}").run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # What Python flushes at exit goes nowhere, in place of a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        sys.stderr.flush()
        # A decoding thread may still run, and would hold up the ordinary way out.
        os._exit(_INTERRUPTED)
    except (EvlibError, OSError) as error:
        print(f"evlib: error: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError) else 1
    return code


def one_line(error: Exception) -> str:
    """Message of an error without its hints, which speak to callers of the library."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error).partition("\n")[0]
