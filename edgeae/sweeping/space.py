"""What a sweep may vary, and how: values and ranges as they are written on the command line, and the grid of them."""

from __future__ import annotations

import itertools
import math
import random
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from edgeae.errors import InputError
from edgeae.sweeping.record import Parameter
from edgeae.training.config import TrainConfig
from edgeae.training.defaults import Facts, resolve

__all__ = [
    "combinations",
    "grid",
    "options_of",
    "read_parameters",
    "suggested_parameters",
    "value_of",
    "without_idle_width",
]

SHAPE = ("width", "depth")
# two models are compared on the same rows, scaled alike, split alike
_FIXED_SECTIONS = ("Data", "Series")
_FIXED = ("seed", "device", "devices", "precision", "threads")
MOST_VALUES = 1000
_KINDS: dict[str, Any] = typing.get_type_hints(TrainConfig) | dict.fromkeys(SHAPE, int)

Vary = Mapping[str, str | Sequence[object]]


def read_parameters(vary: Vary) -> tuple[Parameter, ...]:
    """Read what shall be tried.

    Args:
        vary: Option to values: "8,16,32", a range "1e-4..1e-2", or a sequence. `hidden` is written "256x64"; "none" is
            no hidden layer. "width" and "depth" are those of the hidden layers, see `options_of`.

    Raises:
        InputError: for an option that does not exist or cannot be varied, and for values that are none of its.

    Example:
        >>> read_parameters({"latent_dim": (8, 16), "lr": "1e-4..1e-2"})[1]
        Parameter(name='lr', values=(), low=0.0001, high=0.01)
    """
    known = _variable()
    for name in vary:
        if name in _KINDS and name not in known:
            raise InputError(f"{name} cannot be varied: trials are compared on the same rows, scaled and split alike")
        if name not in known:
            raise InputError(f"unknown parameter {name!r}; what can be varied is {', '.join(known)}")
    if "hidden" in vary and any(name in vary for name in SHAPE):
        raise InputError("hidden cannot be varied together with width or depth, which make hidden layers of their own")
    return tuple(_parameter(name, wanted) for name, wanted in vary.items())


def value_of(name: str, text: str) -> Any:
    """Return the value of an option that stands there as text.

    Raises:
        InputError: if it is none.

    Example:
        >>> value_of("hidden", "256x64"), value_of("lr", "1e-3"), value_of("loss", "mae")
        ((256, 64), 0.001, 'mae')
    """
    kind = _kind(name)
    try:
        if typing.get_origin(kind) is tuple:
            value: Any = () if text == "none" else tuple(int(part) for part in text.split("x"))
        elif kind is bool:
            value = {"true": True, "false": False}[text.lower()]
        elif typing.get_origin(kind) is Literal:
            value = text
        else:
            value = kind(text)
    except (ValueError, KeyError):
        raise InputError(f"{name}: {text!r} is no value of it; expected {_described(kind)}") from None
    if name in SHAPE:
        if value < (0 if name == "depth" else 1):
            raise InputError(f"{name} must be {'0 or more' if name == 'depth' else 'at least 1'}, not {value}")
        return value
    return getattr(TrainConfig().with_options(**{name: value}), name)


def options_of(setting: Mapping[str, str], config: TrainConfig, facts: Facts) -> dict[str, Any]:
    """Return the training options of a setting.

    The hidden layers have `width` units, and each half as many as the one before; of a convolutional network, whose
    widths are channels, each has twice as many. There are `depth` of them. Where only one of the two is given, the
    other is that of the default network.
    """
    options = {name: value_of(name, text) for name, text in setting.items()}
    shape = {name: options.pop(name) for name in SHAPE if name in options}
    if not shape:
        return options
    model = resolve(config.with_options(**options), facts).model
    convolutional = model.architecture == "convolutional"
    width = shape.get("width", model.hidden[0] if model.hidden else 128)
    depth = shape.get("depth", len(model.hidden) or 1)
    growth = 2.0 if convolutional else 0.5
    return options | {"hidden": tuple(max(1, int(width * growth**layer)) for layer in range(depth))}


def suggested_parameters(config: TrainConfig, facts: Facts) -> tuple[Parameter, ...]:
    """Return what is tried unless somebody says otherwise: latents around the default size, a few widths and depths."""
    model = resolve(config, facts).model
    vary: dict[str, Sequence[object]] = {}
    if config.latent_dim is None:
        usual = model.latent_dim
        most = max(model.values - 1, 1) if model.bottleneck != "sparse" else 2 * usual
        vary["latent_dim"] = sorted({min(most, max(1, size)) for size in (usual // 4, usual // 2, usual, 2 * usual)})
    if config.hidden is None:
        if model.architecture == "convolutional":
            vary["width"] = (8, 16, 32)
        else:
            vary |= {"depth": (0, 1), "width": (32, 128, 512)}
    if not vary:
        raise InputError("latent_dim and hidden are given: there is nothing left to vary; say what with vary (--vary)")
    return read_parameters(vary)


def combinations(parameters: Sequence[Parameter]) -> float:
    """Return how many settings there are, infinite where there is a range of numbers that are not whole."""
    if not all(parameter.values for parameter in parameters):
        return math.inf
    if math.prod(len(parameter.values) for parameter in parameters) > 10**6:
        return math.inf
    return len({tuple(setting.items()) for setting in _product(parameters)})


def grid(parameters: Sequence[Parameter], seed: int) -> list[dict[str, str]]:
    """Return all settings, each once, in an order that soon has been everywhere."""
    unique = {tuple(setting.items()): setting for setting in _product(parameters)}
    settings = list(unique.values())
    random.Random(seed).shuffle(settings)
    return settings


def without_idle_width(setting: dict[str, str]) -> dict[str, str]:
    """Return a setting without its width where there is no hidden layer to have it."""
    idle = setting.get("depth") == "0"
    return {name: text for name, text in setting.items() if not (idle and name == "width")}


def _product(parameters: Sequence[Parameter]) -> Iterator[dict[str, str]]:
    names = [parameter.name for parameter in parameters]
    for values in itertools.product(*(parameter.values for parameter in parameters)):
        yield without_idle_width(dict(zip(names, values, strict=True)))


def _parameter(name: str, wanted: str | Sequence[object]) -> Parameter:
    if isinstance(wanted, str) and ".." in wanted:
        return _range(name, wanted)
    items = wanted.split(",") if isinstance(wanted, str) else [_text(item) for item in wanted]
    values = tuple(dict.fromkeys(item.strip() for item in items if item.strip()))
    if not values:
        raise InputError(f"{name}: there are no values to try; write for instance --vary {name}={_example(name)}")
    if len(values) > MOST_VALUES:
        raise InputError(f"{name}: {len(values)} values are more than {MOST_VALUES}; give a range LOW..HIGH")
    for value in values:
        value_of(name, value)
    return Parameter(name, values)


def _range(name: str, wanted: str) -> Parameter:
    kind = _kind(name)
    if kind not in (int, float):
        raise InputError(f"{name}: {wanted!r} is a range, and {name} is no number; list its values")
    ends = [value_of(name, end.strip()) for end in wanted.split("..", 1)]
    low, high = (float(end) for end in ends)
    if not low < high:
        raise InputError(f"{name}: the range {wanted!r} is empty; LOW must be less than HIGH")
    if kind is int and high - low < MOST_VALUES and low <= 0:
        return Parameter(name, tuple(str(value) for value in range(int(low), int(high) + 1)))
    return Parameter(name, (), low, high)


def _variable() -> list[str]:
    section, names = "", list(SHAPE)
    for field in fields(TrainConfig):
        section = field.metadata.get("section", section)
        if section not in _FIXED_SECTIONS and field.name not in _FIXED:
            names.append(field.name)
    return names


def _kind(name: str) -> Any:
    kind = _KINDS[name]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (arm for arm in typing.get_args(kind) if arm is not type(None))
    return kind


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return "widths such as 256x64, or none"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "another")


def _example(name: str) -> str:
    kind = _kind(name)
    if typing.get_origin(kind) is Literal:
        return ",".join(map(str, typing.get_args(kind)[:2]))
    if typing.get_origin(kind) is tuple:
        return "128,256x64"
    examples: dict[Any, str] = {int: "8,16,32", float: "1e-4..1e-2", bool: "true,false"}
    return examples.get(kind, "A,B")
