"""Shape rules of what moves values without computing: reshape, slice, pad, resize and the like."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeae.bundle.guard.arithmetic import broadcast
from edgeae.bundle.guard.recurrent import reshape_series, without
from edgeae.bundle.guard.values import BATCH, INT64, Node, Value, like, require


def shape_of(node: Node) -> list[Value]:
    """Shape: known numbers, with BATCH for a symbolic batch."""
    value = node.value(0)
    numbers: list[Any] = list(value.shape)
    if value.rows and node.batch is None:
        numbers[0] = BATCH
    taken = tuple(numbers[node.attributes["start"] : node.attributes["end"]])
    require(len(taken) > 0, "nothing is left of it")
    return [Value(INT64, (len(taken),), known=taken)]


def _is_batch(node: Node, number: Any) -> bool:
    return number is BATCH or (node.batch is not None and number == node.batch)


def reshape(node: Node) -> list[Value]:
    """Reshape that keeps the batch first."""
    value, target = node.value(0), list(node.numbers(1))
    require(len(node.value(1).shape) == 1 and len(target) > 0, "its shape must be a list of numbers")
    zeros = not node.attributes["allowzero"]
    for axis, number in enumerate(target):
        if number == 0:
            require(zeros and axis < len(value.shape), "it has a zero in its shape")
            target[axis] = BATCH if value.rows and axis == value.axis else value.shape[axis]
    if value.axis:
        return [reshape_series(node, value, target)]
    require(sum(number == -1 for number in target) <= 1, "it has more than one -1 in its shape")
    require(all(number is BATCH or number == -1 or 1 <= number < 2**31 for number in target), "its shape")
    total = value.size
    if value.rows:
        total //= value.shape[0]
        first, target = target[0], target[1:]
        require(_is_batch(node, first) or first == -1, "it reshapes the batch")
        require(first is not BATCH or BATCH not in target, "it reshapes the batch")
    require(BATCH not in target, "it reshapes the batch")
    rest = math.prod(number for number in target if number != -1)
    if -1 in target:
        require(total % rest == 0, f"{total} values cannot become multiples of {rest}")
        target = [total // rest if number == -1 else number for number in target]
    require(math.prod(target) == total, f"{total} values cannot become {math.prod(target)}")
    if value.rows:
        return [like(value, (value.shape[0], *target))]
    known = value.known if len(target) == 1 else None
    return [Value(value.dtype, tuple(target), known=known)]


def flatten(node: Node) -> list[Value]:
    """Flatten all axes but the batch."""
    value = node.value(0)
    axis = node.attributes["axis"]
    axis += len(value.shape) if axis < 0 else 0
    require(value.rows and axis == 1, "it must flatten all axes but the batch")
    return [like(value, (value.shape[0], value.size // value.shape[0]))]


def squeeze(node: Node) -> list[Value]:
    """Squeeze given axes."""
    value = node.value(0)
    axes = node.axes(1, value)
    require(all(value.shape[axis] == 1 for axis in axes), "it drops an axis that is not 1 long")
    shape = tuple(side for axis, side in enumerate(value.shape) if axis not in axes)
    return [Value(value.dtype, shape, value.rows, value.known, without(value, axes))]


def unsqueeze(node: Node) -> list[Value]:
    """Unsqueeze."""
    value = node.value(0)
    added = [axis % (len(value.shape) + len(node.integers(1))) for axis in node.integers(1)]
    if value.axis:
        require(len(set(added)) == len(added), "its axes must be given, each once")
        kept = [axis for axis in range(len(value.shape) + len(added)) if axis not in added]
        shape = [1] * (len(kept) + len(added))
        for axis, side in zip(kept, value.shape, strict=True):
            shape[axis] = side
        return [Value(value.dtype, tuple(shape), value.rows, axis=kept[value.axis])]
    axes = node.axes(1, value, extra=len(node.integers(1)))
    sides = iter(value.shape)
    shape = [1 if axis in axes else next(sides) for axis in range(len(value.shape) + len(axes))]
    return [Value(value.dtype, tuple(shape), value.rows, value.known if len(shape) == 1 else None)]


def transpose(node: Node) -> list[Value]:
    """Transpose; where it moves the batch, only operators for series go on with the result."""
    value, order = node.value(0), node.attributes["perm"]
    require(order is not None and sorted(order) == list(range(len(value.shape))), "its perm is no order of its axes")
    axis = order.index(value.axis) if value.rows else 0
    return [Value(value.dtype, tuple(value.shape[each] for each in order), value.rows, axis=axis)]


def concat(node: Node) -> list[Value]:
    """Concat."""
    values = [value for value in node.inputs if value is not None]
    first = values[0]
    require(len(first.shape) >= 1, "it joins scalars")
    rows = any(value.rows for value in values)
    alike = all(value.rows == rows and value.axis == first.axis for value in values)
    require(alike, "it joins rows and constants, or rows whose batch is elsewhere")
    axis = node.axis(node.attributes["axis"], first)
    for value in values:
        fits = len(value.shape) == len(first.shape)
        require(fits and all(value.shape[i] == side for i, side in enumerate(first.shape) if i != axis), "its shapes")
    shape = list(first.shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    known: tuple[Any, ...] | None = None
    parts = [value.known for value in values]
    if len(shape) == 1 and not rows and all(part is not None for part in parts):
        known = tuple(number for part in parts if part is not None for number in part)
    return [Value(first.dtype, tuple(shape), rows, known, first.axis)]


def sliced(node: Node) -> list[Value]:
    """Slice with known bounds."""
    value = node.value(0)
    starts, ends = node.integers(1), node.integers(2)
    given = node.optional(3)
    axes = range(len(starts)) if given is None else node.integers(3)
    steps = (1,) * len(starts) if node.optional(4) is None else node.integers(4)
    require(0 < len(starts) == len(ends) == len(axes) == len(steps), "its lists differ in length")
    taken = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = node.axis(axis, value)
        require(axis not in taken and step != 0 and abs(step) < 2**31, "its axes or steps")
        # which ONNX Runtime takes for "to the beginning", and ONNX for "to the end"
        require(step > 0 or end < 2**31 - 1, "it goes backwards to an end that is ambiguous")
        taken[axis] = _cut(start, end, step, value.shape[axis])
    shape = [len(taken[axis]) if axis in taken else side for axis, side in enumerate(value.shape)]
    require(min(shape) > 0, "nothing is left of it")
    known = None if value.known is None else tuple(value.known[index] for index in taken[0])
    return [Value(value.dtype, tuple(shape), value.rows, known, value.axis)]


def _cut(start: int, end: int, step: int, side: int) -> range:
    """Return the indices of a slice; unlike Python, ONNX starts at 0 where a negative step starts far below it."""
    first, last = (0, side) if step > 0 else (-1, side - 1)
    start, end = (bound + side if bound < 0 else bound for bound in (start, end))
    return range(min(max(start, 0), last), min(max(end, first), last), step)


def gather(node: Node) -> list[Value]:
    """Gather with known indices."""
    value, indices = node.value(0), node.integers(1)
    axis = node.axis(node.attributes["axis"], value)
    side = value.shape[axis]
    require(all(-side <= index < side for index in indices), f"an index beyond {side}")
    shape = (*value.shape[:axis], *node.value(1).shape, *value.shape[axis + 1 :])
    known = None if value.known is None else tuple(value.known[index] for index in indices)
    batch = value.axis + (len(node.value(1).shape) - 1 if axis < value.axis else 0)
    return [Value(value.dtype, shape, value.rows, known, batch)]


def expand(node: Node) -> list[Value]:
    """Expand, also of a constant to the batch."""
    value, target = node.value(0), list(node.numbers(1))
    require(all(number is BATCH or 1 <= number < 2**31 for number in target), "its shape")
    require(BATCH not in target[1:], "it moves the batch")
    to_rows = target[:1] == [BATCH] or (value.rows and len(target) > 0 and target[0] == node.batch)
    if to_rows:
        target[0] = node.batch or 1
    shape, rows = broadcast([value, Value(value.dtype, tuple(target), to_rows)])
    return [Value(value.dtype, shape, rows)]


def tile(node: Node) -> list[Value]:
    """Tile of everything but the batch."""
    value, repeats = node.value(0), node.integers(1)
    require(len(repeats) == len(value.shape) and all(1 <= count < 2**31 for count in repeats), "its repeats")
    require(not value.rows or repeats[0] == 1, "it repeats the batch")
    return [like(value, [side * count for side, count in zip(value.shape, repeats, strict=True)])]


def pad(node: Node) -> list[Value]:
    """Pad with constants, the edge or a reflection; no cropping."""
    value, pads = node.value(0), node.integers(1)
    axes = range(len(value.shape)) if node.optional(3) is None else node.axes(3, like_constant(value))
    require(len(pads) == 2 * len(axes) and all(0 <= count < 2**31 for count in pads), "its pads")
    filling = node.optional(2)
    require(filling is None or filling.size == 1, "its value must be one number")
    shape = list(value.shape)
    for index, axis in enumerate(axes):
        low, high = pads[index], pads[index + len(axes)]
        require(not (value.rows and axis == 0 and low + high), "it pads the batch")
        if node.attributes["mode"] == b"reflect":
            require(max(low, high) < value.shape[axis], "it reflects more than there is")
        shape[axis] += low + high
    return [like(value, shape)]


def like_constant(value: Value) -> Value:
    """Return the value as if its first axis were no batch, for rules that look at that themselves."""
    return Value(value.dtype, value.shape)


def resize(node: Node) -> list[Value]:
    """Resize by known sizes or scales."""
    value = node.value(0)
    require(node.optional(1) is None, "it has a region of interest")
    scales, sizes = node.optional(2), node.optional(3)
    require((scales is None) != (sizes is None), "it needs scales or sizes")
    require(len(node.numbers(2 if sizes is None else 3)) == len(value.shape), "one number per axis")
    if sizes is None:
        factors = node.integers(2)
        require(all(math.isfinite(factor) and 0 < factor <= 2**16 for factor in factors), "its scales")
        require(not value.rows or factors[0] == 1, "it resizes the batch")
        # in float32, as ONNX Runtime computes it
        shape = [int(np.float32(side) * np.float32(factor)) for side, factor in zip(value.shape, factors, strict=True)]
    else:
        numbers = node.numbers(3)
        first = numbers[0]
        kept = _is_batch(node, first) if value.rows else True
        require(kept and all(number is not BATCH and number < 2**31 for number in numbers[1:]), "its sizes")
        shape = [value.shape[0] if value.rows else first, *numbers[1:]]
    require(min(shape) >= 1, "nothing is left of it")
    result = like(value, shape)
    node.work = result.size * (1 if node.attributes["mode"] == b"nearest" else 8)
    return [result]


def depth_to_space(node: Node) -> list[Value]:
    """DepthToSpace and SpaceToDepth."""
    value, block = node.value(0), node.attributes["blocksize"]
    require(value.rows and len(value.shape) == 4, "it needs rows of images")
    n, c, h, w = value.shape
    if node.op == "DepthToSpace":
        require(c % block**2 == 0, "its channels are no multiple of its block")
        return [like(value, (n, c // block**2, h * block, w * block))]
    require(h % block == 0 and w % block == 0, "its sides are no multiples of its block")
    return [like(value, (n, c * block**2, h // block, w // block))]
