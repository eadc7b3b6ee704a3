r"""Codecs of the observation log: items as bytes, and views of them.

A codec has a `name`, a `version`, `encode(item)`, which gives bytes or a list of buffers that follow each other, and
`decode(payload)`, which gives the item of a read-only memoryview into the mapped file. A channel stores the name and
version of its codec, so that reading needs none. Your own codec is a class like these, made known by :func:`register`.

>>> import numpy as np
>>> from evlib.codecs import NumpyArrayCodec
>>> codec = NumpyArrayCodec()
>>> payload = codec.encode(np.array([1, 2], "<i2"))
>>> bytes(payload)
b'\x03\x00\x00\x00<i2\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x02\x00'
>>> codec.decode(payload)
array([1, 2], dtype=int16)
"""

from __future__ import annotations

import json
import pickle
import pickletools
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import polars as pl

from evlib import _arguments, _evlib
from evlib._scan import SCHEMA
from evlib.exceptions import ArgumentError, EvlibError, FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Buffer

__all__ = [
    "ArrowCodec",
    "BytesCodec",
    "Codec",
    "EventsCodec",
    "ImageCodec",
    "JsonCodec",
    "NumpyArrayCodec",
    "PandasDataFrameCodec",
    "PickleCodec",
    "ProtobufCodec",
    "register",
    "registered",
]

_T = TypeVar("_T")
_ALIGN = 64


@runtime_checkable
class Codec(Protocol):
    """What a codec has to have. Inheriting from it is not needed.

    Further attributes are used where a codec has them:

    `aligned`
        Which of the buffers that `encode` gives starts at a multiple of 64 in the file; by default the first.
    `metadata`
        A dict of strings, stored with the channel; `from_metadata(metadata)`, a class method, then makes the codec
        for reading.
    `mcap_encoding`, `mcap_schema`
        Message encoding, and schema as (name, encoding, content), under which other readers of MCAP know the payload.
    """

    @property
    def name(self) -> str:
        """Name in the file."""

    @property
    def version(self) -> int:
        """Version in the file."""

    def encode(self, item: Any, /) -> Buffer | Sequence[Buffer]:  # noqa: ANN401
        """Give the bytes of an item, or buffers that follow each other."""

    def decode(self, payload: memoryview, /) -> Any:  # noqa: ANN401
        """Give the item of the bytes, best as a view of them."""


class NumpyArrayCodec:
    """Arrays of NumPy, read back as read-only views of the mapped file.

    Payload: `u32 dtype_len | dtype_str | u32 ndim | u64 shape[ndim] | data`, little endian. The data is in C order and
    starts at a multiple of 64 in the file. `dtype_str` is `dtype.str`; for structured types it is the `descr`, so that
    the names of fields survive.

    Every type whose values are in the array is stored: numbers, bool, complex, datetime64, timedelta64, strings of
    fixed width, void, structured types, either byte order. Objects, and strings of variable width, are refused.
    """

    name: ClassVar[str] = "numpy"
    version: ClassVar[int] = 1
    aligned: ClassVar[int] = 1

    def encode(self, item: Any) -> memoryview:  # noqa: ANN401
        """Give the payload of an array, or of what `numpy.asarray` makes one of; its data starts at a multiple of 64.

        The log itself does not use this: it takes the array's memory.
        """
        return _evlib.log_encode_array(item)

    def decode(self, payload: Buffer) -> np.ndarray[Any, Any]:
        """Give the array: a view of the payload, or a copy where that is not aligned for its type."""
        return _evlib.log_decode_array(payload)


class EventsCodec:
    """Batches of events: the four columns of :func:`evlib.load_events`, read back as views of the mapped file.

    Parameters
    ----------
    geometry
        Width and height of the sensor in pixels. Stored with the channel, and every batch is checked against it.
    returns
        What reading gives: `"polars"`, a DataFrame; `"numpy"`, a dict of arrays, `timestamp` in int64 microseconds.
    """

    name: ClassVar[str] = "events"
    version: ClassVar[int] = 1
    aligned: ClassVar[int] = 0

    def __init__(
        self, *, geometry: tuple[int, int] | None = None, returns: Literal["polars", "numpy"] = "polars"
    ) -> None:
        self.geometry = _arguments.geometry(geometry)
        self.returns = _choice(returns, "returns", ("polars", "numpy"))

    @property
    def metadata(self) -> dict[str, str]:
        """What is stored with the channel."""
        return {} if self.geometry is None else {"geometry": "{}x{}".format(*self.geometry)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> EventsCodec:
        """Make the codec for reading."""
        width, _, height = metadata.get("geometry", "").partition("x")
        known = width.isdecimal() and height.isdecimal()
        return cls(geometry=(int(width), int(height)) if known else None)

    def encode(self, item: Any) -> list[Any]:  # noqa: ANN401
        """Give the header and the columns of a batch: whatever :func:`evlib.write_events` takes but a Recording."""
        from evlib.writing import one_frame

        frame = one_frame(item)
        x, y, times, polarity = (column.to_numpy(allow_copy=False) for column in frame.get_columns())
        times = times.view(np.int64)
        rows = len(times)
        if rows:
            if self.geometry is not None:
                for name, values, limit in zip("xy", (x, y), self.geometry, strict=True):
                    # Negative ones are large without their sign.
                    if values.view(np.uint16).max() >= limit:
                        raise ArgumentError(
                            f"`{name}` from {values.min()} to {values.max()} is outside a sensor of "
                            "{} x {} pixels".format(*self.geometry)
                        )
            if not (np.abs(polarity) == 1).all():
                raise ArgumentError("`polarity` is 1 or -1")
        first, last = (int(times.min()), int(times.max())) if rows else (0, 0)
        parts: list[Any] = [_evlib.log_events_header(rows, first, last)]
        for values in (times, x, y, polarity):
            parts.append(values)
            parts.append(bytes(-values.nbytes % _ALIGN))
        return parts[:-1]

    def decode(self, payload: Buffer) -> pl.DataFrame | dict[str, np.ndarray[Any, Any]]:
        """Give the events."""
        frame = pl.DataFrame(_evlib.log_decode_events(payload))
        if self.returns == "polars":
            return frame
        arrays = {name: frame[name].to_numpy(allow_copy=False) for name in SCHEMA}
        return arrays | {"timestamp": arrays["timestamp"].view(np.int64)}


class ArrowCodec:
    """Tables: anything that gives an Arrow stream, such as frames of Polars, tables of pyarrow, frames of pandas.

    The payload is an Arrow IPC stream with buffers at multiples of 64, so that columns are read back as views.

    Parameters
    ----------
    returns
        What reading gives: `"polars"`, a DataFrame; `"pyarrow"`, a Table.
    """

    name: ClassVar[str] = "arrow"
    version: ClassVar[int] = 1

    def __init__(self, *, returns: Literal["polars", "pyarrow"] = "polars") -> None:
        self.returns = _choice(returns, "returns", ("polars", "pyarrow"))

    def encode(self, item: Any) -> Buffer:  # noqa: ANN401
        """Give the stream of a table."""
        if not hasattr(item, "__arrow_c_stream__"):
            raise ArgumentError(f"a table with `__arrow_c_stream__` is stored, found {type(item).__name__}")
        return _evlib.log_encode_arrow(item)

    def decode(self, payload: Buffer) -> Any:  # noqa: ANN401
        """Give the table."""
        table = _evlib.log_decode_arrow(payload)
        return pl.DataFrame(table) if self.returns == "polars" else _extra("pyarrow", "arrow").table(table)


class BytesCodec:
    """Bytes as they are: anything with the buffer protocol in, a memoryview out."""

    name: ClassVar[str] = "bytes"
    version: ClassVar[int] = 1

    def encode(self, item: Buffer) -> Buffer:
        """Give the bytes themselves."""
        return item

    def decode(self, payload: memoryview) -> memoryview:
        """Give the view."""
        return payload


class JsonCodec:
    """What JSON can say. Other readers of MCAP show it."""

    name: ClassVar[str] = "json"
    version: ClassVar[int] = 1
    mcap_encoding: ClassVar[str] = "json"

    def encode(self, item: Any) -> bytes:  # noqa: ANN401
        """Give the text in UTF-8; refuses NaN and infinities, which JSON does not have."""
        try:
            return json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:
            raise ArgumentError(f"JSON does not store this: {error}") from error

    def decode(self, payload: Buffer) -> Any:  # noqa: ANN401
        """Give what the text says."""
        try:
            return json.loads(bytes(payload))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"not a payload of the codec `json`: {error}") from error


class ImageCodec:
    """Pictures as PNG (exact) or JPEG; needs `pip install "evlib[image]"`.

    Arrays of shape (height, width), (height, width, 3) or, PNG only, (height, width, 4), uint8; PNG also takes
    uint16 of shape (height, width). Bytes of a picture of the same format, and Pillow's pictures, are taken too.

    Parameters
    ----------
    format
        `"png"` or `"jpeg"`.
    quality
        Of JPEG, 1 to 95.
    """

    name: ClassVar[str] = "image"
    version: ClassVar[int] = 1
    _MAGIC: ClassVar[dict[str, bytes]] = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff"}

    def __init__(self, *, format: Literal["png", "jpeg"] = "png", quality: int = 90) -> None:  # noqa: A002
        self.format = _choice(format, "format", ("png", "jpeg"))
        self.quality = _arguments.integer(quality, "quality", low=1, high=95)
        self.metadata = {"format": self.format}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ImageCodec:
        """Make the codec for reading."""
        return cls(format="jpeg" if metadata.get("format") == "jpeg" else "png")

    def encode(self, item: Any) -> bytes:  # noqa: ANN401
        """Give the compressed picture."""
        image = _extra("PIL.Image", "image")
        if isinstance(item, bytes | bytearray | memoryview):
            if not bytes(item[:8]).startswith(self._MAGIC[self.format]):
                raise ArgumentError(f"bytes of a {self.format.upper()} picture are stored, found others")
            return bytes(item)
        if isinstance(item, np.ndarray):
            channels = item.shape[2] if item.ndim == 3 else 1
            depth = item.dtype == np.uint8 or (item.dtype == np.uint16 and channels == 1 and self.format == "png")
            if item.ndim not in (2, 3) or channels not in ((1, 3, 4) if self.format == "png" else (1, 3)) or not depth:
                raise ArgumentError(
                    f"{self.format.upper()} does not store arrays of shape {item.shape} and type {item.dtype}"
                )
            item = image.fromarray(item[:, :, 0] if item.ndim == 3 and channels == 1 else np.ascontiguousarray(item))
        elif not isinstance(item, image.Image):
            raise ArgumentError(f"a picture is an array, bytes or a Pillow picture, found {type(item).__name__}")
        out = BytesIO()
        options = {"quality": self.quality} if self.format == "jpeg" else {}
        item.save(out, self.format.upper(), **options)
        return out.getvalue()

    def decode(self, payload: Buffer) -> np.ndarray[Any, Any]:
        """Give the picture as an array."""
        image = _extra("PIL.Image", "image")
        try:
            with image.open(BytesIO(payload), formats=[self.format.upper()]) as picture:
                return np.asarray(picture)
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
            raise FormatError(f"not a payload of the codec `image`: {error}") from error


class ProtobufCodec:
    """Messages of protocol buffers; needs `pip install "evlib[protobuf]"`.

    The description of the message is stored with the channel, so that reading works without its class, and other
    readers of MCAP show it.

    Parameters
    ----------
    message
        Class of the messages. Without it, for reading, a class is made of the stored description.
    """

    name: ClassVar[str] = "protobuf"
    version: ClassVar[int] = 1
    mcap_encoding: ClassVar[str] = "protobuf"

    def __init__(self, message: type[Any]) -> None:
        self.message = message

    @property
    def metadata(self) -> dict[str, str]:
        """What is stored with the channel."""
        return {"message": self.message.DESCRIPTOR.full_name, "descriptors": self.mcap_schema[2].hex()}

    @property
    def mcap_schema(self) -> tuple[str, str, bytes]:
        """Name, encoding and content of MCAP's schema: the file of the message and all that it needs."""
        descriptors = _extra("google.protobuf.descriptor_pb2", "protobuf").FileDescriptorSet()
        seen = set()

        def add(file: Any) -> None:  # noqa: ANN401
            if file.name not in seen:
                seen.add(file.name)
                for needed in file.dependencies:
                    add(needed)
                file.CopyToProto(descriptors.file.add())

        add(self.message.DESCRIPTOR.file)
        return self.message.DESCRIPTOR.full_name, "protobuf", descriptors.SerializeToString()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ProtobufCodec:
        """Make the codec for reading, with a class made of the stored description."""
        _extra("google.protobuf", "protobuf")
        pools, factory = (
            import_module("google.protobuf.descriptor_pool"),
            import_module("google.protobuf.message_factory"),
        )
        name = metadata.get("message") or metadata.get("schema", "")
        content = metadata.get("descriptors") or metadata.get("schema_data", "")
        try:
            descriptors = import_module("google.protobuf.descriptor_pb2").FileDescriptorSet.FromString(
                bytes.fromhex(content)
            )
            pool = pools.DescriptorPool()
            for file in descriptors.file:
                pool.Add(file)
            return cls(factory.GetMessageClass(pool.FindMessageTypeByName(name)))
        except (KeyError, TypeError, ValueError, import_module("google.protobuf.message").DecodeError) as error:
            raise FormatError(f"the description of the messages cannot be read: {error}") from error

    def encode(self, item: Any) -> bytes:  # noqa: ANN401
        """Give the serialised message."""
        if not isinstance(item, self.message):
            wanted = self.message.DESCRIPTOR.full_name
            raise ArgumentError(f"messages of type {wanted} are stored, found {type(item).__name__}")
        data: bytes = item.SerializeToString()
        return data

    def decode(self, payload: Buffer) -> Any:  # noqa: ANN401
        """Give the message."""
        try:
            return self.message.FromString(bytes(payload))
        except import_module("google.protobuf.message").DecodeError as error:
            raise FormatError(f"not a payload of the codec `protobuf`: {error}") from error


class PandasDataFrameCodec:
    """Frames of pandas with their index; needs `pip install "evlib[pandas]"`.

    The payload is an Arrow IPC stream, which `ArrowCodec` reads too.
    """

    name: ClassVar[str] = "pandas"
    version: ClassVar[int] = 1

    def encode(self, item: Any) -> Buffer:  # noqa: ANN401
        """Give the stream of a frame."""
        arrow, pandas = _extra("pyarrow", "pandas"), _extra("pandas", "pandas")
        if not isinstance(item, pandas.DataFrame):
            raise ArgumentError(f"a DataFrame of pandas is stored, found {type(item).__name__}")
        try:
            return _evlib.log_encode_arrow(arrow.Table.from_pandas(item))
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise ArgumentError(f"Arrow does not store this frame: {error}") from error

    def decode(self, payload: Buffer) -> Any:  # noqa: ANN401
        """Give the frame."""
        return _extra("pyarrow", "pandas").table(_evlib.log_decode_arrow(payload)).to_pandas()


class PickleCodec:
    """Any object. Unpickling runs code of the file's author: reading needs `allow_pickle=True`, or this codec."""

    name: ClassVar[str] = "pickle"
    version: ClassVar[int] = 1

    def encode(self, item: object) -> bytes:
        """Give the pickled object."""
        return pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)

    def decode(self, payload: Buffer) -> Any:  # noqa: ANN401
        """Give the object."""
        try:
            return pickle.loads(payload)
        except (EOFError, pickle.UnpicklingError) as error:
            raise FormatError(f"not a payload of the codec `pickle`: {error}") from error


_REGISTRY: dict[str, type[Any]] = {}


def register(codec: type[_T]) -> type[_T]:
    """Make a class known as the codec of its `name`, so that channels written with it are read; usable as a decorator.

    Raises
    ------
    ValueError
        It lacks what a :class:`Codec` has, or another class has the name.

    Examples
    --------
    >>> from evlib.codecs import register
    >>> @register
    ... class TextCodec:
    ...     name, version = "text", 1
    ...     def encode(self, item):
    ...         return item.encode()
    ...     def decode(self, payload):
    ...         return str(payload, "utf-8")
    """
    missing = [name for name in ("name", "version", "encode", "decode") if not hasattr(codec, name)]
    if missing:
        raise ArgumentError(f"a codec has name, version, encode and decode; missing: {', '.join(missing)}")
    name = _name(codec)
    known = _REGISTRY.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (codec.__module__, codec.__qualname__):
        raise ArgumentError(f"the codec `{name}` is {known.__module__}.{known.__qualname__} already")
    _REGISTRY[name] = codec
    return codec


def registered() -> dict[str, type[Any]]:
    """Codecs by their names."""
    return dict(_REGISTRY)


def describe(codec: Codec) -> tuple[str, int, list[tuple[str, str]], str | None, tuple[str, str, bytes] | None]:
    """Name, version, metadata, MCAP encoding and MCAP schema of a codec."""
    if not isinstance(codec, Codec) or isinstance(codec, type):
        raise ArgumentError(f"a codec has name, version, encode and decode, found {codec!r}")
    version = _arguments.integer(codec.version, "version", low=0, high=2**32 - 1)
    metadata = [(str(key), str(value)) for key, value in dict(getattr(codec, "metadata", {})).items()]
    return _name(codec), version, metadata, getattr(codec, "mcap_encoding", None), getattr(codec, "mcap_schema", None)


def encoder(codec: Codec) -> Callable[[Any], Any] | None:
    """Give the function that encodes; None for arrays, which the extension module encodes."""
    return None if type(codec) is NumpyArrayCodec else codec.encode


def resolver(
    channel: str, codec: Codec | None, *, allow_pickle: bool
) -> Callable[[str, int, list[tuple[str, str]]], Callable[[memoryview], Any] | None]:
    """Give the function that finds, for what a file says of its codec, the function that decodes."""

    def resolve(name: str, version: int, metadata: list[tuple[str, str]]) -> Callable[[memoryview], Any] | None:
        found = codec
        if found is None:
            found = _find(channel, name, dict(metadata), allow_pickle=allow_pickle)
        elif not _fits(found, name, dict(metadata)):
            raise ArgumentError(f"channel `{channel}` was written with the codec `{name}`, not with `{found.name}`")
        if version > found.version and not name.startswith(_FOREIGN):
            raise UnsupportedError(
                f"channel `{channel}` was written with version {version} of the codec `{name}`, this is version "
                f"{found.version}"
            )
        return None if type(found) is NumpyArrayCodec else found.decode

    return resolve


_FOREIGN = ("mcap/", "blog")
_OWN_PREFIX = "evlib."


def _fits(codec: Codec, name: str, metadata: dict[str, str]) -> bool:
    # Foreign files do not name codecs of this library, but for those that it wrote itself.
    del metadata
    return name == codec.name or name.startswith(_FOREIGN) or {name, codec.name} == {"arrow", "pandas"}


def _find(channel: str, name: str, metadata: dict[str, str], *, allow_pickle: bool) -> Codec:
    if name == "":
        return BytesCodec()  # nothing can be read from a file that was cut off in its first bytes
    if name == "blog":
        name = _blog_codec(metadata.get("pickle", ""))
    elif name.startswith("mcap/"):
        name = name.removeprefix("mcap/").removeprefix(_OWN_PREFIX)
        if name not in _REGISTRY or (name == "protobuf" and "schema_data" not in metadata):
            name = "bytes"
    if name == "pickle" and not allow_pickle:
        raise ArgumentError(
            f"channel `{channel}` holds pickled objects, and unpickling runs code of the file's author\n"
            "hint: pass `allow_pickle=True` if you trust the file"
        )
    found = _REGISTRY.get(name)
    if found is None:
        raise UnsupportedError(
            f"channel `{channel}` was written with the codec `{name}`, which is not known: known are "
            f"{', '.join(f'`{known}`' for known in sorted(_REGISTRY))}\n"
            "hint: make it known with `evlib.codecs.register`, or pass `codec=`"
        )
    make: Callable[[Mapping[str, str]], Codec] | None = getattr(found, "from_metadata", None)
    try:
        codec: Codec = found() if make is None else make(metadata)
    except TypeError as error:
        raise UnsupportedError(
            f"the codec `{name}` of channel `{channel}` cannot be made without arguments: {error}\n"
            "hint: pass `codec=`, or give its class a `from_metadata`"
        ) from error
    return codec


_BLOG_CODECS = {
    "NumpyArrayCodec": "numpy",
    "PickleCodec": "pickle",
    "ImageCodec": "image",
    "JsonCodec": "json",
    "JSONCodec": "json",
}


def _blog_codec(pickled: str) -> str:
    """Tell the codec of a `.blog` file by the names in its pickled description, which is not unpickled."""
    try:
        words = [argument for _, argument, _ in pickletools.genops(bytes.fromhex(pickled)) if isinstance(argument, str)]
    except ValueError:
        return "bytes"
    # Old protocols have module and class in one.
    names = [name for word in words for name in word.split()]
    return next((_BLOG_CODECS[name] for name in names if name in _BLOG_CODECS), "bytes")


def _name(codec: Any) -> str:  # noqa: ANN401
    name = codec.name
    if not isinstance(name, str) or not name or name.startswith(_FOREIGN):
        raise ArgumentError(f"the name of a codec is a text, not in front `mcap/` or `blog`, found {name!r}")
    return name


def _choice(value: Any, name: str, known: tuple[str, ...]) -> Any:  # noqa: ANN401
    if value not in known:
        raise ArgumentError(f"`{name}` is {' or '.join(repr(item) for item in known)}, found {value!r}")
    return value


def _extra(module: str, extra: str) -> Any:  # noqa: ANN401
    """Import an optional dependency."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f'this codec needs `{module}`: pip install "evlib[{extra}]"') from error


class MissingDependencyError(EvlibError, ImportError):
    """An optional dependency is not installed."""


for _codec in (
    NumpyArrayCodec, EventsCodec, ArrowCodec, BytesCodec, JsonCodec, ImageCodec, ProtobufCodec, PandasDataFrameCodec,
    PickleCodec,
):  # fmt: skip
    register(_codec)
