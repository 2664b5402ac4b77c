"""A small, strict reader of the protobuf messages that make an ONNX file, without protobuf, onnx or copies.

It is stricter than protobuf on purpose. What one reader may take and another may not (a singular field that stands
there twice and is merged, unknown fields that are skipped, integers that are cut to 32 bits, overlong integers, groups)
is refused, so that ONNX Runtime cannot read something else from the bytes than the guard has read. Nothing in the
schema below refers back to itself, so the depth is bounded; weights stay where they are, as memoryviews.

Sources: https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from edgeae.bundle.record import record

__all__ = ["MODEL", "Malformed", "Refused", "graph_attribute", "parse_model", "with_metadata", "write_model"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
METADATA_FIELD = 14
MAX_FIELDS = 100_000  # in one file: at most a second of Python
MAX_LIST = 2**16  # numbers in one list that is not raw_data
MAX_NUMBERS = 2**18  # numbers in all such lists of one file
MAX_TEXT = 2**24  # bytes of names and metadata in one file


class Malformed(Exception):
    """The bytes are no ONNX file, or one that two readers may read differently."""


class Refused(Exception):
    """The bytes are ONNX, and hold what edgeae does not allow."""


class Kind(enum.Enum):
    """How the bytes of a field are read; singular unless the name ends in S."""

    INT32 = enum.auto()
    INT64 = enum.auto()
    FLOAT = enum.auto()
    TEXT = enum.auto()  # UTF-8 -> str
    VIEW = enum.auto()  # bytes -> memoryview, not copied
    MESSAGE = enum.auto()
    INT32S = enum.auto()
    INT64S = enum.auto()
    FLOATS = enum.auto()  # float32 -> list of floats
    TEXTS = enum.auto()
    MESSAGES = enum.auto()


LISTS: Final = {Kind.INT32S, Kind.INT64S, Kind.FLOATS, Kind.TEXTS, Kind.MESSAGES}


@record(frozen=True)
class Field:
    """One field of a message: its name, how it is read, and how often it may stand there."""

    name: str
    kind: Kind
    message: Message | None = None
    limit: int = MAX_LIST


@record(frozen=True)
class Message:
    """The fields of a message by number; those in `refused` are known to ONNX and not allowed, with what they are."""

    name: str
    fields: Mapping[int, Field]
    refused: Mapping[int, str]


def _message(name: str, fields: Mapping[int, Field], refused: Mapping[int, str] | None = None) -> Message:
    return Message(name, fields, refused or {})


DIMENSION: Final = _message(
    "dimension", {1: Field("value", Kind.INT64), 2: Field("symbol", Kind.TEXT)}, {3: "a denotation"}
)
SHAPE: Final = _message("shape", {1: Field("dimensions", Kind.MESSAGES, DIMENSION, limit=16)})
TENSOR_TYPE: Final = _message("tensor type", {1: Field("dtype", Kind.INT32), 2: Field("shape", Kind.MESSAGE, SHAPE)})
TYPE: Final = _message(
    "type",
    {1: Field("tensor", Kind.MESSAGE, TENSOR_TYPE)},
    {4: "a sequence", 5: "a map", 6: "a denotation", 7: "an opaque type", 8: "a sparse tensor", 9: "an optional"},
)
VALUE: Final = _message(
    "value info",
    {1: Field("name", Kind.TEXT), 2: Field("type", Kind.MESSAGE, TYPE), 3: Field("doc", Kind.TEXT)},
    {4: "metadata of a value"},
)
TENSOR: Final = _message(
    "tensor",
    {
        1: Field("dimensions", Kind.INT64S, limit=16),
        2: Field("dtype", Kind.INT32),
        4: Field("floats", Kind.FLOATS),
        5: Field("int32s", Kind.INT32S),
        7: Field("int64s", Kind.INT64S),
        8: Field("name", Kind.TEXT),
        9: Field("raw", Kind.VIEW),
        12: Field("doc", Kind.TEXT),
        14: Field("location", Kind.INT32),
    },
    {
        3: "a tensor in segments",
        6: "a tensor of strings",
        10: "a tensor of doubles",
        11: "a tensor of unsigned 64-bit integers",
        13: "external data",
        16: "metadata of a tensor",
    },
)
ATTRIBUTE: Final = _message(
    "attribute",
    {
        1: Field("name", Kind.TEXT),
        2: Field("float", Kind.FLOAT),
        3: Field("int", Kind.INT64),
        4: Field("string", Kind.VIEW),
        5: Field("tensor", Kind.MESSAGE, TENSOR),
        7: Field("floats", Kind.FLOATS, limit=64),
        8: Field("ints", Kind.INT64S, limit=64),
        13: Field("doc", Kind.TEXT),
        20: Field("type", Kind.INT32),
    },
    {
        6: "a subgraph",
        9: "a list of strings",
        10: "a list of tensors",
        11: "subgraphs",
        14: "a type",
        15: "a list of types",
        21: "a reference to a function's attribute",
        22: "a sparse tensor",
        23: "sparse tensors",
    },
)
NODE: Final = _message(
    "node",
    {
        1: Field("inputs", Kind.TEXTS, limit=256),
        2: Field("outputs", Kind.TEXTS, limit=16),
        3: Field("name", Kind.TEXT),
        4: Field("op", Kind.TEXT),
        5: Field("attributes", Kind.MESSAGES, ATTRIBUTE, limit=32),
        6: Field("doc", Kind.TEXT),
        7: Field("domain", Kind.TEXT),
        8: Field("overload", Kind.TEXT),
    },
    {9: "metadata of a node", 10: "a device configuration"},
)
ENTRY: Final = _message("metadata entry", {1: Field("key", Kind.TEXT), 2: Field("value", Kind.TEXT)})
GRAPH: Final = _message(
    "graph",
    {
        1: Field("nodes", Kind.MESSAGES, NODE, limit=2_000),
        2: Field("name", Kind.TEXT),
        5: Field("initializers", Kind.MESSAGES, TENSOR, limit=4_000),
        10: Field("doc", Kind.TEXT),
        11: Field("inputs", Kind.MESSAGES, VALUE, limit=16),
        12: Field("outputs", Kind.MESSAGES, VALUE, limit=16),
    },
    {
        13: "declared shapes of intermediate values (value_info)",
        14: "quantisation annotations",
        15: "sparse weights",
        16: "metadata of the graph",
    },
)
OPSET: Final = _message("opset", {1: Field("domain", Kind.TEXT), 2: Field("version", Kind.INT64)})
MODEL: Final = _message(
    "model",
    {
        1: Field("ir_version", Kind.INT64),
        2: Field("producer", Kind.TEXT),
        3: Field("producer_version", Kind.TEXT),
        4: Field("domain", Kind.TEXT),
        5: Field("model_version", Kind.INT64),
        6: Field("doc", Kind.TEXT),
        7: Field("graph", Kind.MESSAGE, GRAPH),
        8: Field("opsets", Kind.MESSAGES, OPSET, limit=16),
        METADATA_FIELD: Field("metadata", Kind.MESSAGES, ENTRY, limit=256),
    },
    {20: "training information", 25: "functions", 26: "a device configuration"},
)


def parse_model(data: bytes) -> dict[str, Any]:
    """Read an ONNX file into nested dicts by the names of the schema above; absent singular fields are absent.

    Raises:
        Malformed: if the bytes are no such file, or an ambiguous one.
        Refused: if they hold a field that edgeae does not allow, or more of something than it allows.

    Example:
        >>> parse_model(bytes([0x08, 10]))["ir_version"]
        10
    """
    if data[4:8] == b"ORTM":
        raise Refused("it is in ORT format, which cannot be checked")
    if not data:
        raise Malformed("it is empty")
    return _Reader().message(memoryview(data), MODEL)


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the ONNX file `data` with `metadata` as its metadata_props and nothing else changed.

    Raises:
        Malformed: if the bytes are no ONNX file.

    Example:
        >>> parse_model(with_metadata(bytes([0x08, 10]), {"a": "b"}))["metadata"]
        [{'key': 'a', 'value': 'b'}]
    """
    view = memoryview(data)
    kept = [view[start:end] for start, end, number in _spans(view) if number != METADATA_FIELD]
    added = []
    for key, value in metadata.items():
        entry = _tagged(1, key.encode()) + _tagged(2, value.encode())
        added.append(_tagged(METADATA_FIELD, entry))
    return b"".join([*kept, *added])


def write_model(model: Mapping[str, Any]) -> bytes:
    """Return the ONNX file that `parse_model` reads as `model`; a message may be the bytes it is written as.

    Example:
        >>> write_model({"ir_version": 10}) == bytes([0x08, 10])
        True
    """
    return _written(model, MODEL)


def graph_attribute(name: str, graph: Mapping[str, Any]) -> bytes:
    """Return an attribute for `write_model` that is a graph: for files of our own making, `parse_model` refuses it."""
    return _tagged(1, name.encode()) + _tagged(6, _written(graph, GRAPH)) + _varint(20 << 3 | VARINT) + _varint(5)


def _written(value: Mapping[str, Any], kind: Message) -> bytes:
    parts = []
    for number, field in kind.fields.items():
        found = value.get(field.name)
        if found is None:
            continue
        for item in found if field.kind in LISTS else (found,):
            if field.message is not None:
                parts.append(_tagged(number, item if isinstance(item, bytes) else _written(item, field.message)))
            elif field.kind in (Kind.TEXT, Kind.TEXTS, Kind.VIEW):
                parts.append(_tagged(number, item.encode() if isinstance(item, str) else item))
            elif field.kind in (Kind.FLOAT, Kind.FLOATS):
                parts.append(_varint(number << 3 | FIXED32) + struct.pack("<f", item))
            else:
                parts.append(_varint(number << 3 | VARINT) + _varint(item % 2**64))
    return b"".join(parts)


def _spans(view: memoryview) -> Iterator[tuple[int, int, int]]:
    position = 0
    reader = _Reader()
    while position < len(view):
        start = position
        number, wire, position = reader.tag(view, position, MODEL)
        _, position = reader.value(view, position, wire, MODEL.name)
        yield start, position, number


def _tagged(number: int, payload: bytes | memoryview) -> bytes:
    return b"".join((_varint(number << 3 | BYTES), _varint(len(payload)), payload))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class _Reader:
    """Counts the fields it has read, so that no file keeps it busy for long."""

    def __init__(self) -> None:
        self.fields_left = MAX_FIELDS
        self.text_left = MAX_TEXT
        self.numbers_left = MAX_NUMBERS

    def message(self, view: memoryview, kind: Message) -> dict[str, Any]:
        """Read one message."""
        found: dict[str, Any] = {field.name: [] for field in kind.fields.values() if field.kind in LISTS}
        position = 0
        while position < len(view):
            number, wire, position = self.tag(view, position, kind)
            field = kind.fields.get(number)
            if field is None:
                if number in kind.refused:
                    raise Refused(f"it holds {kind.refused[number]}")
                raise Malformed(f"its {kind.name} has an unknown field, number {number}")
            value, position = self.value(view, position, wire, kind.name)
            what = f"the {field.name} of its {kind.name}"
            if field.kind in LISTS:
                found[field.name] += self.items(field, wire, value, what)
                if len(found[field.name]) > field.limit:
                    raise Refused(f"{what}: more than {field.limit:,}")
            elif field.name in found:
                raise Malformed(f"{what} stands there twice")
            else:
                found[field.name] = self.item(field, wire, value, what)
        return found

    def tag(self, view: memoryview, position: int, kind: Message) -> tuple[int, int, int]:
        """Read a field's number and wire type."""
        self.fields_left -= 1
        if self.fields_left < 0:
            raise Refused(f"it has more than {MAX_FIELDS:,} fields")
        key, position = _read_varint(view, position)
        if key >> 32 or not key >> 3:
            raise Malformed(f"its {kind.name} has a field number out of range")
        return key >> 3, key & 7, position

    def value(self, view: memoryview, position: int, wire: int, where: str) -> tuple[int | memoryview, int]:
        """Read what follows a tag: an unsigned integer, or the bytes."""
        if wire == VARINT:
            return _read_varint(view, position)
        if wire == BYTES:
            length, position = _read_varint(view, position)
        elif wire == FIXED32:
            length = 4
        elif wire == FIXED64:
            length = 8
        else:
            raise Malformed(f"its {where} uses wire type {wire}")
        end = position + length
        if end > len(view):
            raise Malformed(f"its {where} is cut off: {length:,} bytes promised, {len(view) - position:,} there")
        return view[position:end], end

    def item(self, field: Field, wire: int, value: int | memoryview, what: str) -> Any:
        """Turn the value of a singular field, or one item of a repeated one, into Python."""
        if isinstance(value, int):
            if field.kind in (Kind.INT32, Kind.INT32S):
                return _signed(value, 32, what)
            if field.kind in (Kind.INT64, Kind.INT64S):
                return _signed(value, 64, what)
        elif wire == FIXED32:
            if field.kind in (Kind.FLOAT, Kind.FLOATS):
                return struct.unpack("<f", value)[0]
        elif wire == BYTES:
            if field.kind in (Kind.MESSAGE, Kind.MESSAGES) and field.message is not None:
                return self.message(value, field.message)
            if field.kind in (Kind.TEXT, Kind.TEXTS):
                return self.text(value, what)
            if field.kind is Kind.VIEW:
                return value
        raise Malformed(f"{what} has wire type {wire}")

    def text(self, value: memoryview, what: str) -> str:
        """Decode a name or a text."""
        self.text_left -= len(value)
        if self.text_left < 0:
            raise Refused(f"its names and texts have more than {MAX_TEXT:,} bytes")
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"{what} is not UTF-8") from None

    def items(self, field: Field, wire: int, value: int | memoryview, what: str) -> list[Any]:
        """Turn one occurrence of a repeated field into its items: numbers may be packed, several in one."""
        if wire != BYTES or field.kind in (Kind.TEXTS, Kind.MESSAGES) or isinstance(value, int):
            return [self.item(field, wire, value, what)]
        self.numbers_left -= len(value) // 4 if field.kind is Kind.FLOATS else _count_varints(value)
        if self.numbers_left < 0:
            raise Refused(f"it has more than {MAX_NUMBERS:,} numbers in lists; store weights as raw_data")
        if field.kind is Kind.FLOATS:
            if len(value) % 4:
                raise Malformed(f"{what}: {len(value)} bytes are no whole number of floats")
            floats: list[Any] = np.frombuffer(value, "<f4").tolist()
            return floats
        numbers, position = [], 0
        while position < len(value):
            number, position = _read_varint(value, position)
            numbers.append(_signed(number, 32 if field.kind is Kind.INT32S else 64, what))
        return numbers


def _count_varints(value: memoryview) -> int:
    """Return how many integers end in `value`: the last byte of each has no upper bit."""
    return int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    for byte in view[position : position + 10]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if value >> 64 or (byte == 0 and shift > 7):
                raise Malformed("it has an integer that is too long")
            return value, position + shift // 7
    raise Malformed("it has an integer that " + ("is too long" if shift == 70 else "is cut off"))


def _signed(value: int, bits: int, what: str) -> int:
    """Read a two's complement number; negative ones have 64 bits, whatever their type."""
    number = value - 2**64 if value >= 2**63 else value
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise Malformed(f"{what} is {number}, beyond {bits} bits")
    return number
