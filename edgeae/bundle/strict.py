"""Strict conversion between frozen dataclasses and plain JSON or TOML values.

One place decides what a manifest, a run's model.json and a training configuration file may contain: the dataclass. A
missing key, an unknown key or a value of the wrong type is an error that names the path to it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, Union

from edgeae.errors import BundleError, EdgeaeError

__all__ = ["from_plain", "json_schema", "parse_json", "shown", "to_json", "to_plain"]

T = TypeVar("T")

# What json.loads makes of a byte is bounded by these, whatever the bytes are.
MAX_DEPTH: Final = 32
MAX_CONTAINERS: Final = 2**16  # lists, objects and keys
MAX_STRINGS: Final = 2**20

# Half characters cannot be written or printed; the others can rewrite what stands on a terminal.
_NO_TEXT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def from_plain(cls: type[T], value: object, *, where: str, error: type[EdgeaeError] = BundleError) -> T:
    """Build the dataclass `cls` from plain values, refusing whatever its fields do not declare.

    Args:
        cls: A dataclass whose fields are of type str, int, float, bool, Literal, X | None, tuple[X, ...],
            dict[str, X] or another such dataclass.
        value: What a JSON or TOML parser returned.
        where: What to call the value in messages, for instance a file name.
        error: The error class to raise.

    Raises:
        EdgeaeError: of class `error`, naming the path to the offending key.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Point:
        ...     x: int
        ...     y: float = 0.0
        >>> from_plain(Point, {"x": 3}, where="point.json")
        Point(x=3, y=0.0)
    """
    return typing.cast(T, _convert(cls, value, where, error))


def _convert(kind: Any, value: object, where: str, error: type[EdgeaeError]) -> object:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, where, error)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in typing.get_args(kind):
            return None
        (inner,) = (arm for arm in typing.get_args(kind) if arm is not type(None))
        return _convert(inner, value, where, error)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices or type(value) not in {type(choice) for choice in choices}:
            raise error(f"{where}: {shown(value)} is not one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise error(f"{where}: expected a list, got {shown(value)}")
        inner = typing.get_args(kind)[0]
        return tuple(_convert(inner, item, f"{where}[{index}]", error) for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise error(f"{where}: expected an object, got {shown(value)}")
        inner = typing.get_args(kind)[1]
        made = {}
        for key, item in value.items():
            _convert(str, str(key), f"{where}: a key", error)
            made[str(key)] = _convert(inner, item, f"{where}.{str(key)[:60]}", error)
        return made
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise error(f"{where}: expected a number, got {shown(value)}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise error(f"{where}: expected a finite number, got {shown(value)}")
        return number
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise error(f"{where}: expected a whole number, got {shown(value)}")
        if not -(2**63) <= value < 2**63:
            raise error(f"{where}: expected a whole number of 64 bits, got {shown(value)}")
        return value
    if not isinstance(value, kind):
        raise error(f"{where}: expected {kind.__name__}, got {shown(value)}")
    if isinstance(value, str) and _NO_TEXT.search(value):
        raise error(f"{where}: {shown(value)} holds control characters or half characters")
    return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)  # evaluates every annotation


def _convert_dataclass(cls: type, value: object, where: str, error: type[EdgeaeError]) -> object:
    if not isinstance(value, Mapping):
        raise error(f"{where}: expected an object with the keys of {cls.__name__}, got {shown(value)}")
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(str(key) for key in value if key not in fields)
    if unknown:
        raise error(f"{where}: unknown key {shown(unknown[0])}; known keys are {', '.join(fields)}")
    for name, field in fields.items():
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(f"{where}: the key {name!r} is missing")
    return cls(**{name: _convert(hints[name], item, f"{where}.{name}", error) for name, item in value.items()})


def shown(value: object) -> str:
    """Return a value for a message: one line, not long, nothing in it that is not printable."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def to_plain(value: object) -> Any:
    """Turn dataclasses and tuples into the dicts and lists that `json.dumps` writes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def to_json(value: object) -> bytes:
    """Serialise a dataclass as indented UTF-8 JSON, lists of numbers on one line each; no NaN, no infinity."""
    return (_dump(to_plain(value), "") + "\n").encode()


def _dump(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = (f"{deeper}{json.dumps(key)}: {_dump(item, deeper)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def parse_json(data: bytes, *, where: str, error: type[EdgeaeError] = BundleError) -> object:
    """Parse UTF-8 JSON, refusing duplicate keys, numbers that are not finite, and what is too deep or too much.

    Depth and amount are counted in the bytes, before Python's parser allocates or recurses.

    Raises:
        EdgeaeError: of class `error`, naming `where`.

    Example:
        >>> parse_json(b'{"x": [1, 2.5]}', where="point.json")
        {'x': [1, 2.5]}
    """

    def no_constant(name: str) -> object:
        raise error(f"{where}: {name} is not allowed in JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise error(f"{where}: the number {shown(digits)} is beyond float64")
        return number

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise error(f"{where}: the key {shown(twice)} stands there twice")
        return made

    _require_bounded(data, where, error)
    try:
        text = data.decode("utf-8")
        parsed = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant, parse_float=finite)
        return typing.cast(object, parsed)
    except UnicodeDecodeError as problem:
        raise error(f"{where}: not UTF-8 at byte {problem.start}") from None
    except RecursionError:
        raise error(f"{where}: nested too deeply") from None
    except ValueError as problem:
        raise error(f"{where}: not valid JSON: {problem}") from None


def _require_bounded(data: bytes, where: str, error: type[EdgeaeError]) -> None:
    if data.count(b'"') > 2 * MAX_STRINGS:
        raise error(f"{where}: holds more than {MAX_STRINGS:,} strings")
    # Without escapes every second piece between quotation marks is outside of strings; where that is not so, the bytes
    # are no JSON, and the parser stops there.
    pieces = data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
    outside = b"".join(pieces[::2])
    depth = containers = 0
    for byte in outside.translate(None, _NO_BRACKETS):
        opened = byte in b"[{"
        depth, containers = depth + (1 if opened else -1), containers + opened
        if depth > MAX_DEPTH:
            raise error(f"{where}: nested deeper than {MAX_DEPTH} lists and objects")
        if containers > MAX_CONTAINERS:
            break
    if containers + outside.count(b":") > MAX_CONTAINERS:
        raise error(f"{where}: holds more than {MAX_CONTAINERS:,} lists, objects and keys")


def json_schema(cls: type, *, title: str) -> dict[str, Any]:
    """Describe the dataclass `cls` as a JSON Schema (draft 2020-12), its field docs as descriptions."""
    definitions: dict[str, Any] = {}
    body = _schema(cls, definitions)
    name = body["$ref"].rsplit("/", 1)[1]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **definitions.pop(name),
        "$defs": definitions,
    }


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        cls = typing.cast(type, kind)
        if cls.__name__ not in definitions:
            definitions[cls.__name__] = {}
            hints = _hints(cls)
            fields = dataclasses.fields(cls)
            properties = {}
            for field in fields:
                properties[field.name] = _schema(hints[field.name], definitions)
                if "doc" in field.metadata:
                    properties[field.name]["description"] = field.metadata["doc"]
            definitions[cls.__name__] = {
                "type": "object",
                "description": (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "),
                "properties": properties,
                "required": [
                    field.name
                    for field in fields
                    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
                ],
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{cls.__name__}"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(arm, definitions) for arm in typing.get_args(kind)]}
    if origin is Literal:
        return {"enum": list(typing.get_args(kind))}
    if origin is tuple:
        return {"type": "array", "items": _schema(typing.get_args(kind)[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(typing.get_args(kind)[1], definitions)}
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    return {"type": names[kind]}
