"""The observation log: an append-only record of what many sensors see, read back as views of the mapped files.

>>> import numpy as np
>>> from evlib.codecs import NumpyArrayCodec
>>> from evlib.oblog import ObLog
>>> with ObLog("logs") as oblog:
...     write = oblog.get_writer("sensor_data", NumpyArrayCodec())
...     for time in range(3):
...         write(np.full(1000, time), timestamp=time)
>>> channel = ObLog("logs").channel("sensor_data")
>>> [(timestamp, array.mean()) for timestamp, array in channel.range(1, 3)]
[(1, np.float64(1.0)), (2, np.float64(2.0))]
"""

from __future__ import annotations

import asyncio
import atexit
import operator
import os
import weakref
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from evlib import _arguments, _evlib, codecs
from evlib.exceptions import ArgumentError, LogWriteError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from types import TracebackType
    from typing import Self

    import polars as pl

    from evlib.codecs import Codec

    Policy = Literal["block", "drop_oldest", "error"]
    Flush = Literal["batch", "record"]
    Verify = Literal["head", "first", "all"]

__all__ = [
    "Channel",
    "Counters",
    "LogFile",
    "LogWriteError",
    "ObLog",
    "QueueFullError",
    "Record",
    "Recovery",
    "Tail",
]

_LARGEST_TIME = 2**63 - 1
_BREATH = 256
"""Records between which other tasks of an event loop get their turn."""
_NAP_S = 0.1
"""Longest wait between looks for Ctrl-C."""


class Counters(NamedTuple):
    """What became of the records given to a writer."""

    accepted: int
    """Records that were taken."""
    written: int
    """Records that reached the file."""
    dropped: int
    """Records dropped by the policy `drop_oldest`."""
    rejected: int
    """Records refused by the policy `error`."""
    queued_bytes: int
    """Bytes that wait for the disk."""
    file_bytes: int
    """Bytes of the file."""


class Recovery(NamedTuple):
    """What was left out when a channel was opened."""

    records: int
    """Records that are not whole, as far as it can be told."""
    bytes: int
    """Bytes that belong to nothing whole."""
    reason: str | None
    """What was found, file by file; None if nothing is wrong."""
    first_offset: int | None
    """Byte offset of the first damage in its file."""


class Record(NamedTuple):
    """A record as it is stored."""

    sequence: int
    """Its number in its file, from 0."""
    timestamp: int
    """The caller's time in nanoseconds."""
    sensor_time: int
    """The sensor's time in nanoseconds, on its own clock."""
    payload: memoryview
    """What the codec made of the item: a view of the mapped file."""


class LogFile(NamedTuple):
    """A file of a channel."""

    path: Path
    bytes: int
    records: int
    codec: str
    codec_version: int
    metadata: dict[str, str]
    created: int
    """When it was started, in nanoseconds since 1970; 0 where the file does not say."""
    times: tuple[int, int] | None
    """Earliest and latest time of its records in nanoseconds."""
    closed: bool
    """Whether its writer closed it."""
    recovery: Recovery


class Channel:
    """A channel as it was when it was opened: (timestamp, item) of every record, in the order of writing.

    Made by :meth:`ObLog.channel`. Iterating, indexing and :meth:`range` do not copy where the codec does not: arrays
    are read-only views of the mapped file, and keep it mapped. A damaged record raises `FormatError` when it is read;
    the iterator goes on behind it when it is asked again.
    """

    def __init__(self, log: ObLog, name: str, *, verify: str, codec: Codec | None, allow_pickle: bool) -> None:
        self._log = log
        self._name = name
        self._codec = codec
        self._allow_pickle = allow_pickle
        resolve = codecs.resolver(name, codec, allow_pickle=allow_pickle)
        self._opened = _evlib.LogChannel(log._name, name, verify, resolve)

    @property
    def name(self) -> str:
        """The name."""
        return self._name

    @property
    def recovery(self) -> Recovery:
        """What was left out at opening: torn or damaged records."""
        return Recovery(*self._opened.recovery())

    @property
    def files(self) -> list[LogFile]:
        """The files, in order: one for each writing session."""
        return [
            LogFile(path, size, records, codec, version, dict(metadata), created, times, closed, Recovery(*recovery))
            for path, size, records, codec, version, metadata, created, times, closed, recovery in self._opened.files()
        ]

    def __len__(self) -> int:
        return len(self._opened)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self._opened.records(0, len(self._opened))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        left = _BREATH
        for entry in self._opened.records(0, len(self._opened)):
            yield entry
            left -= 1
            if not left:
                await asyncio.sleep(0)
                left = _BREATH

    @overload
    def __getitem__(self, at: int) -> tuple[int, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> list[tuple[int, Any]]: ...
    def __getitem__(self, at: int | slice) -> tuple[int, Any] | list[tuple[int, Any]]:
        if isinstance(at, slice):
            return [self._opened.get(number) for number in range(*at.indices(len(self)))]
        return self._opened.get(self._number(at))

    def _number(self, at: int) -> int:
        number = operator.index(at)
        if not -len(self) <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        return number % len(self)

    def range(self, start: int | None = None, stop: int | None = None) -> Iterator[tuple[int, Any]]:
        """Iterate over records with `start <= timestamp < stop`, in nanoseconds.

        By bisection where times never go back, else by a look at the time of every record.
        """
        low = 0 if start is None else max(_arguments.integer(start, "start", low=-(2**64), high=_LARGEST_TIME), 0)
        high = None if stop is None else max(_arguments.integer(stop, "stop", low=-(2**64), high=2**64 - 1), 0)
        return self._opened.range(low, high)

    def record(self, at: int) -> Record:
        """Give a record as it is stored, with the sensor's time."""
        return Record(*self._opened.record(self._number(at)))

    def verify(self) -> list[str]:
        """Check every record and what MCAP says of each closed file; give what is wrong, in words."""
        return self._opened.verify()

    def tail(
        self,
        *,
        start: Literal["new", "all"] = "new",
        timeout: timedelta | None = None,
        spin: timedelta = timedelta(0),
    ) -> Tail:
        """Follow the channel, as :meth:`ObLog.tail`."""
        return self._log.tail(
            self._name, start=start, timeout=timeout, spin=spin, codec=self._codec, allow_pickle=self._allow_pickle
        )

    def load_events(self, *, batch_rows: int | None = None) -> pl.LazyFrame:
        """Events of the whole channel as a LazyFrame, as from :func:`evlib.load_events`; needs the codec `events`.

        Batches whose times a query does not need are not looked at, and what is read is a view of the mapped files.
        """
        from evlib.reading import load_events

        return load_events([path for path, records, *_ in self._paths() if records], batch_rows=batch_rows)

    def _paths(self) -> list[tuple[Path, int]]:
        found = [(row[0], row[2], row[3]) for row in self._opened.files()]
        for path, records, codec in found:
            if codec != "events" and records:
                raise ArgumentError(f"channel `{self._name}` holds no events: `{path}` was written with `{codec}`")
        paths = [(path, records) for path, records, _ in found]
        if not any(records for _, records in paths):
            raise ArgumentError(f"channel `{self._name}` holds no events")
        return paths

    def __repr__(self) -> str:
        return f"<evlib.oblog.Channel {self._name!r}: {len(self)} records>"


class Tail:
    """Follows a channel while it is written, here or in another process: whole records, checked, in order.

    Made by :meth:`ObLog.tail`. Iterate with `for` or `async for`; iteration ends when no record comes within the
    timeout.
    """

    def __init__(self, opened: _evlib.LogTail, timeout: timedelta | None) -> None:
        self._opened = opened
        self._timeout_s = None if timeout is None else timeout.total_seconds()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self

    def __next__(self) -> tuple[int, Any]:
        found = self._next(self._timeout_s)
        if found is None:
            raise StopIteration
        return found

    def next(self, timeout: timedelta | None = None) -> tuple[int, Any] | None:
        """Give the next record, waiting at most so long; None if none comes."""
        return self._next(None if timeout is None else timeout.total_seconds())

    def _next(self, timeout_s: float | None) -> tuple[int, Any] | None:
        found = None
        left = timeout_s
        # In pieces, so that Ctrl-C ends it.
        while found is None and (left is None or left >= 0):
            found = self._opened.next(_NAP_S if left is None else min(left, _NAP_S))
            if left is not None:
                left -= _NAP_S
        return found

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        loop = asyncio.get_running_loop()
        while True:
            deadline = None if self._timeout_s is None else loop.time() + self._timeout_s
            while (found := self._opened.poll()) is None:
                left = _NAP_S if deadline is None else min(_NAP_S, deadline - loop.time())
                if left <= 0:
                    return
                await self._notice(loop, left)
            yield found

    async def _notice(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Wait for a notice of the system, or a moment where there are none."""
        descriptor = self._opened.fileno()
        if descriptor is None:
            await asyncio.sleep(min(timeout_s, 0.001))
            return
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            await asyncio.wait_for(ready.wait(), timeout_s)
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(descriptor)

    @property
    def lost_bytes(self) -> int:
        """Bytes of the files that belonged to nothing whole and were passed over."""
        return self._opened.lost_bytes()


class _Closing:
    """Closes writers: at once, or, in an event loop, when awaited; at the latest when nobody refers to it."""

    def __init__(self, writers: list[_evlib.LogWriter]) -> None:
        self._writers = writers
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._close()

    def _close(self) -> None:
        errors = []
        while self._writers:
            try:
                self._writers.pop(0).close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __await__(self) -> Generator[Any, None, None]:
        if self._writers:
            yield from asyncio.get_running_loop().run_in_executor(None, self._close).__await__()

    def __del__(self) -> None:
        self._close()


class ObLog:
    """A folder of channels, or a single file of a log, MCAP or `.blog`, which can be read only.

    Each writing session of a channel makes a file of its own, `<channel>.<NNNNNN>.mcap`; nothing is ever rewritten.
    Usable with `with` and `async with`; :meth:`close` works with and without `await`.

    Parameters
    ----------
    path
        The folder, which is made when something is written, or the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = _arguments.path(path)
        self._writers: list[_evlib.LogWriter] = []
        _OPEN.add(self)

    @property
    def path(self) -> Path:
        """The folder or file."""
        return Path(self._name)

    def channels(self) -> list[str]:
        """Names of the channels, sorted; those of a single file in its own order."""
        return _evlib.log_channels(self._name)

    def get_writer(
        self,
        channel: str,
        codec: Codec,
        *,
        policy: Policy = "block",
        queue_bytes: int = 64 << 20,
        flush: Flush = "batch",
        durable: bool = False,
        direct: bool = False,
    ) -> _evlib.LogWriter:
        """Start writing a channel, in a file of its own; call what is returned with each item.

        `write(item)` stamps the item with the time of the call, in nanoseconds since 1970; `write(item,
        timestamp=...)` with the caller's, `sensor_time=...` adds the sensor's own. It copies the item into a bounded
        queue, from which a thread takes it into the file. An error of the disk comes back from the next write and from
        closing, as :class:`LogWriteError` with the number of records that reached the file.

        Parameters
        ----------
        channel
            Any text of at least one character.
        codec
            How items become bytes; see :mod:`evlib.codecs`.
        policy
            What happens to a record for which the queue has no room: `"block"` waits, `"drop_oldest"` drops the oldest
            batch that waits and counts it, `"error"` raises :class:`QueueFullError`. A record that is larger than the
            whole queue is written by the caller.
        queue_bytes
            Bytes that may wait for the disk, at least 4096.
        flush
            `"batch"`: when 64 KiB are there, and after 10 ms at the latest; `"record"`: at once, under the policy
            `"block"` by the caller itself where no other record is on its way.
        durable
            Whether `write` returns only when the record is on the disk (`fdatasync`).
        direct
            Whether to write past the page cache, where the file system can: for long recordings at a high rate.

        Raises
        ------
        ValueError
            The channel has a writer already, here or in another process.
        """
        writer = _evlib.LogWriter(
            self._name,
            _channel(channel),
            codecs.describe(codec),
            codecs.encoder(codec),
            _arguments.integer(getattr(codec, "aligned", 0), "aligned", low=0, high=2**31),
            policy,
            _arguments.integer(queue_bytes, "queue_bytes", low=0, high=2**62),
            flush,
            bool(durable),
            bool(direct),
        )
        self._writers.append(writer)
        return writer

    def channel(
        self, channel: str, *, verify: Verify = "head", codec: Codec | None = None, allow_pickle: bool = False
    ) -> Channel:
        """Open a channel as it is now.

        Parameters
        ----------
        channel
            Its name.
        verify
            `"head"`: the head of a record is checked when it is read; `"first"`: its payload too, once; `"all"`:
            everything now, and what is damaged is left out and counted in `recovery`.
        codec
            In place of the one that the file names, which it must be compatible with.
        allow_pickle
            Whether pickled objects may be read, which runs code of the file's author.

        Raises
        ------
        FileNotFoundError
            There is no such channel.
        UnsupportedError
            Its codec is not known, or newer.
        """
        return Channel(self, _channel(channel), verify=verify, codec=codec, allow_pickle=allow_pickle)

    def read_channel(
        self, channel: str, *, verify: Verify = "head", codec: Codec | None = None, allow_pickle: bool = False
    ) -> AsyncIterator[tuple[int, Any]]:
        """Iterate over (timestamp, item) of a channel with `async for`; arguments and errors as of :meth:`channel`."""
        return aiter(self.channel(channel, verify=verify, codec=codec, allow_pickle=allow_pickle))

    def merge(
        self, *channels: str, verify: Verify = "head", allow_pickle: bool = False
    ) -> Iterator[tuple[str, int, Any]]:
        """Iterate over (channel, timestamp, item) of several channels, by time.

        Of equal times the one whose channel was named first comes first; the order within a channel is kept.
        """
        opened = [self.channel(name, verify=verify, allow_pickle=allow_pickle) for name in channels or self.channels()]
        return _merged(opened)

    def tail(
        self,
        channel: str,
        *,
        start: Literal["new", "all"] = "new",
        timeout: timedelta | None = None,
        spin: timedelta = timedelta(0),
        codec: Codec | None = None,
        allow_pickle: bool = False,
    ) -> Tail:
        """Follow a channel, which need not be there yet.

        Parameters
        ----------
        channel
            Its name.
        start
            `"new"`: only records to come; `"all"`: from the first on.
        timeout
            Iteration ends when no record comes for so long; by default it does not end.
        spin
            How long to wait awake after each record before sleeping, with `for` and `next`. It takes a processor, and
            spares the time in which the system wakes a thread, which is most of what a record is late by. With twice
            the time between records no record is met asleep.
        codec, allow_pickle
            As for :meth:`channel`.
        """
        if start not in ("new", "all"):
            raise ArgumentError(f'`start` is "new" or "all", found {start!r}')
        if not isinstance(timeout, timedelta | None):
            raise ArgumentError(f"`timeout` is a timedelta, found {timeout!r}")
        if not isinstance(spin, timedelta):
            raise ArgumentError(f"`spin` is a timedelta, found {spin!r}")
        name = _channel(channel)
        resolve = codecs.resolver(name, codec, allow_pickle=allow_pickle)
        return Tail(_evlib.LogTail(self._name, name, start == "all", spin.total_seconds(), resolve), timeout)

    def flush(self) -> None:
        """Wait until everything written so far is with the system, and on the disk where the writer is durable."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> _Closing:
        """Close all writers: `oblog.close()`, or `await oblog.close()` in an event loop.

        Raises
        ------
        LogWriteError
            Records could not be written; `records_written` says how many reached the file.
        """
        writers, self._writers = self._writers, []
        return _Closing(writers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<evlib.oblog.ObLog {self._name!r}>"


def _merged(channels: list[Channel]) -> Iterator[tuple[str, int, Any]]:
    names = [channel.name for channel in channels]
    for number, timestamp, item in _evlib.LogMerge([channel._opened for channel in channels]):
        yield names[number], timestamp, item


def _channel(name: object) -> str:
    if not isinstance(name, str):
        raise ArgumentError(f"the name of a channel is a text, found {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"the name of a channel is text in Unicode, found {name!r}") from error
    return name


_OPEN: weakref.WeakSet[ObLog] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Complete the files of logs that nobody closed."""
    for log in list(_OPEN):
        log.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_evlib.log_forked)
