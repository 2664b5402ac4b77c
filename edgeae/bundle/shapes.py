"""Static shape inference for the operators that a bundle may use, one rule per group of operators.

A value is either *rows*, whose first axis is the batch and stays it, or a constant. Every rule keeps the rows apart: it
refuses to reduce, transpose, slice, reshape or contract over the batch, since one row never changes another. All
integers that shape a result (a target shape, paddings, a kernel) are known here, and computed as ONNX has it.

Source: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgeae.bundle.protobuf import Refused

__all__ = ["BATCH", "Node", "Value"]

# Stands for the unknown batch among the known numbers of a shape.
BATCH: Final = None

FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16 = 1, 2, 3, 6, 7, 9, 10

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """What is known of a tensor before anything runs.

    Attributes:
        dtype: ONNX's number of it.
        shape: Of rows with a symbolic batch, the first entry is 1 and stands for it.
        rows: Whether the first axis is the batch.
        known: The numbers of a small constant of rank 0 or 1; BATCH stands for the batch.
    """

    dtype: int
    shape: Shape
    rows: bool = False
    known: tuple[Any, ...] | None = None

    @property
    def size(self) -> int:
        """How many numbers it has, at batch 1 where the batch is symbolic."""
        return math.prod(self.shape)

    @property
    def of_batch(self) -> bool:
        """Whether it is a shape that holds the unknown batch."""
        return self.known is not None and BATCH in self.known


@dataclass
class Node:
    """An operator with what goes into it; rules fill in `work` and `scratch`.

    Attributes:
        inputs: One per declared slot, None where an optional one is absent.
        attributes: By name, checked against the table, defaults filled in.
        outputs: How many outputs it names.
        batch: The fixed batch, or None.
        work: Multiply-adds (or steps of that order) at batch 1.
        scratch: Numbers of temporary memory, at batch 1.
    """

    op: str
    inputs: list[Value | None]
    attributes: dict[str, Any]
    outputs: int = 1
    batch: int | None = None
    work: int = 0
    scratch: int = 0

    def value(self, index: int) -> Value:
        """Return an input that the table makes mandatory."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise Refused(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """Return an input that may be absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def numbers(self, index: int) -> tuple[Any, ...]:
        """Return the known numbers of an input."""
        known = self.value(index).known
        if known is None:
            raise Refused(f"input {index} must be a small constant")
        return known

    def integers(self, index: int) -> tuple[int, ...]:
        """Return the known integers of an input, the batch not among them."""
        numbers = self.numbers(index)
        require(BATCH not in numbers, f"input {index} must not depend on the batch")
        return numbers

    def axis(self, axis: int, value: Value, *, extra: int = 0) -> int:
        """Normalise an axis of `value`, refusing the batch."""
        rank = len(value.shape) + extra
        require(-rank <= axis < rank, f"axis {axis} of {rank}")
        require(not value.rows or axis % rank != 0, "it works along the batch")
        return axis % rank

    def axes(self, index: int, value: Value, *, extra: int = 0) -> tuple[int, ...]:
        """Normalise axes given as an input."""
        axes = tuple(self.axis(axis, value, extra=extra) for axis in self.integers(index))
        require(len(axes) > 0 and len(set(axes)) == len(axes), "its axes must be given, each once")
        return axes


def require(condition: bool, reason: str) -> None:
    """Refuse unless `condition` holds."""
    if not condition:
        raise Refused(reason)


def like(value: Value, shape: Sequence[int], dtype: int | None = None) -> Value:
    """Return a value with another shape, rows or not as before."""
    return Value(value.dtype if dtype is None else dtype, tuple(shape), value.rows)


# --- elementwise --------------------------------------------------------------------------------------------------


def broadcast(values: Sequence[Value]) -> tuple[Shape, bool]:
    """Return the common shape and whether it is rows; a constant must not reach into the batch axis."""
    rank = max(len(value.shape) for value in values)
    rows = any(value.rows for value in values)
    shape = [1] * rank
    for value in values:
        offset = rank - len(value.shape)
        require(not value.rows or offset == 0, "broadcasting would move the batch")
        for axis, side in enumerate(value.shape, start=offset):
            if rows and axis == 0:
                require(value.rows or side == 1, "a constant has a first axis where the batch is")
                shape[0] = max(shape[0], side)
            else:
                require(side in (1, shape[axis]) or shape[axis] == 1, f"{side} values meet {shape[axis]}")
                shape[axis] = shape[axis] if side == 1 else side
    return tuple(shape), rows


def same(node: Node) -> list[Value]:
    """One input, the same shape out."""
    value = node.value(0)
    return [Value(value.dtype, value.shape, value.rows, value.known if node.op == "Identity" else None)]


def elementwise(node: Node) -> list[Value]:
    """Any number of inputs that broadcast."""
    values = [value for value in node.inputs if value is not None]
    shape, rows = broadcast(values)
    return [Value(values[0].dtype, shape, rows)]


def compare(node: Node) -> list[Value]:
    """As elementwise, with truth values out."""
    shape, rows = broadcast([node.value(0), node.value(1)])
    return [Value(BOOL, shape, rows)]


def select(node: Node) -> list[Value]:
    """Where."""
    values = [node.value(index) for index in range(3)]
    shape, rows = broadcast(values)
    return [Value(values[1].dtype, shape, rows)]


def clip(node: Node) -> list[Value]:
    """Clip: the bounds are scalars."""
    for index in (1, 2):
        bound = node.optional(index)
        require(bound is None or bound.shape == (), "its bounds must be scalars")
    return same(node)


def prelu(node: Node) -> list[Value]:
    """PRelu: the slope broadcasts to the input and not the other way round."""
    value, slope = node.value(0), node.value(1)
    shape, _ = broadcast([value, slope])
    require(shape == value.shape, "its slope is larger than its input")
    return [value]


def cast(node: Node) -> list[Value]:
    """Cast."""
    value = node.value(0)
    to = node.attributes["to"]
    integers = value.dtype in (INT32, INT64) and to in (INT32, INT64)
    return [Value(to, value.shape, value.rows, value.known if integers else None)]


def softmax(node: Node) -> list[Value]:
    """Softmax and LogSoftmax."""
    node.axis(node.attributes["axis"], node.value(0))
    return same(node)


# --- normalisation ------------------------------------------------------------------------------------------------


def channels(node: Node, count: int) -> list[Value]:
    """[batch, channels, ...] with `count` vectors of one number per channel."""
    value = node.value(0)
    require(value.rows and len(value.shape) >= 2, "it needs rows with channels")
    for index in range(1, count + 1):
        require(node.value(index).shape == (value.shape[1],) and not node.value(index).rows, "one number per channel")
    return same(node)


def batch_norm(node: Node) -> list[Value]:
    """BatchNormalization in its inference form."""
    return channels(node, 4)


def instance_norm(node: Node) -> list[Value]:
    """InstanceNormalization."""
    return channels(node, 2)


def group_norm(node: Node) -> list[Value]:
    """GroupNormalization since opset 21."""
    require(
        node.value(0).shape[1:2] != () and node.value(0).shape[1] % node.attributes["num_groups"] == 0, "its groups"
    )
    return channels(node, 2)


def layer_norm(node: Node) -> list[Value]:
    """LayerNormalization over the last axes."""
    value = node.value(0)
    axis = node.axis(node.attributes["axis"], value)
    for index in (1, 2):
        scale = node.optional(index)
        fits = scale is None or (scale.shape == value.shape[axis:] and not scale.rows)
        require(fits, "its scale must have the shape of what is normalised")
    return same(node)


# --- products -----------------------------------------------------------------------------------------------------


def gemm(node: Node) -> list[Value]:
    """Gemm: rows times a constant matrix."""
    return [_gemm(node, node.value(0), node.value(1), node.optional(2))]


def _gemm(node: Node, left: Value, right: Value, bias: Value | None) -> Value:
    require(left.rows and not right.rows, "rows must stand left, a constant matrix right")
    require(len(left.shape) == len(right.shape) == 2, "it multiplies matrices")
    inner, width = reversed(right.shape) if node.attributes["transB"] else right.shape
    require(left.shape[1] == inner, f"{left.shape[1]} columns meet {inner} rows")
    result = like(left, (left.shape[0], width))
    if bias is not None:
        require(broadcast([result, bias])[0] == result.shape, "its bias is larger than its result")
    node.work = left.shape[0] * inner * width
    return result


def matmul(node: Node) -> list[Value]:
    """MatMul as NumPy has it."""
    return [_matmul(node, node.value(0), node.value(1))]


def _matmul(node: Node, left: Value, right: Value) -> Value:
    require(len(left.shape) >= 1 and len(right.shape) >= 1, "it multiplies matrices")
    require(not (left.rows and len(left.shape) < 2), "it sums over the batch")
    require(not (right.rows and len(right.shape) < 3), "it sums over the batch")
    a = left if len(left.shape) > 1 else like(left, (1, *left.shape))
    b = right if len(right.shape) > 1 else like(right, (*right.shape, 1))
    require(a.shape[-1] == b.shape[-2], f"{a.shape[-1]} columns meet {b.shape[-2]} rows")
    outer: Shape = ()
    rows = left.rows
    if left.rows and len(left.shape) == 2:
        require(len(b.shape) == 2, "broadcasting would move the batch")
    else:
        outer, rows = broadcast([like(a, a.shape[:-2]), like(b, b.shape[:-2])])
    high = a.shape[-2]
    node.work = math.prod(outer) * high * a.shape[-1] * b.shape[-1]
    shape = [*outer]
    if len(left.shape) > 1:
        shape.append(high)
    if len(right.shape) > 1:
        shape.append(b.shape[-1])
    return Value(left.dtype, tuple(shape), rows)


# --- convolutions and pools ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or a pool, one entry per spatial axis."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    low: Shape
    high: Shape


def window(node: Node, kernel: Shape | None, sides: Shape) -> Window:
    """Read and check the geometry."""
    count = len(sides)
    require(1 <= count <= 3, f"{count} spatial axes")
    given = tuple(node.attributes.get("kernel_shape") or kernel or ())
    require(kernel is None or given == kernel, "its kernel_shape is not its weight's")

    def filled(name: str, default: int, length: int) -> Shape:
        values = tuple(node.attributes.get(name) or (default,) * length)
        require(len(values) == length, f"{name} has {len(values)} numbers for {count} axes")
        return values

    require(len(given) == count, f"a kernel of {len(given)} axes for {count}")
    pads = filled("pads", 0, 2 * count)
    return Window(given, filled("strides", 1, count), filled("dilations", 1, count), pads[:count], pads[count:])


def shrunk(view: Window, sides: Shape) -> Shape:
    """Return the spatial shape of a convolution's or a pool's result."""
    shape = []
    for axis, side in enumerate(sides):
        reach = (view.kernel[axis] - 1) * view.dilations[axis] + 1
        room = side + view.low[axis] + view.high[axis] - reach
        require(room >= 0, "its kernel is larger than its padded input")
        shape.append(room // view.strides[axis] + 1)
    return tuple(shape)


def conv(node: Node) -> list[Value]:
    """Conv."""
    return [_conv(node, node.value(0), node.value(1), node.optional(2))]


def _conv(node: Node, value: Value, weight: Value, bias: Value | None) -> Value:
    group = node.attributes["group"]
    view = _convolved(value, weight, node)
    require(value.shape[1] == weight.shape[1] * group and weight.shape[0] % group == 0, "its channels do not fit")
    _bias(bias, weight.shape[0])
    sides = shrunk(view, value.shape[2:])
    result = like(value, (value.shape[0], weight.shape[0], *sides))
    taps = math.prod(weight.shape[1:])
    node.work = result.size * taps
    # the unrolled input that some kernels make, where it is not made in small pieces
    node.scratch = 0 if node.op == "Conv" else taps * math.prod(sides)
    return result


def conv_transpose(node: Node) -> list[Value]:
    """ConvTranspose."""
    value, weight = node.value(0), node.value(1)
    group = node.attributes["group"]
    view = _convolved(value, weight, node)
    require(value.shape[1] == weight.shape[0] and weight.shape[0] % group == 0, "its channels do not fit")
    width = weight.shape[1] * group
    _bias(node.optional(2), width)
    count = len(view.kernel)
    extra = tuple(node.attributes["output_padding"] or (0,) * count)
    require(len(extra) == count, "output_padding")
    sides = []
    for axis, side in enumerate(value.shape[2:]):
        require(extra[axis] < max(view.strides[axis], view.dilations[axis]), "its output_padding is too large")
        reach = (view.kernel[axis] - 1) * view.dilations[axis] + 1
        sides.append(view.strides[axis] * (side - 1) + extra[axis] + reach - view.low[axis] - view.high[axis])
        require(sides[-1] >= 1, "nothing is left of its result")
    steps = math.prod(value.shape[2:]) * math.prod(weight.shape[1:])  # per input channel
    node.work = value.shape[0] * value.shape[1] * steps
    node.scratch = steps
    return [like(value, (value.shape[0], width, *sides))]


def _convolved(value: Value, weight: Value, node: Node) -> Window:
    require(value.rows and len(value.shape) >= 3, "it needs rows with channels and space")
    require(not weight.rows and len(weight.shape) == len(value.shape), "its weight must be a constant of the same rank")
    return window(node, weight.shape[2:], value.shape[2:])


def _bias(bias: Value | None, width: int) -> None:
    require(bias is None or (bias.shape == (width,) and not bias.rows), "its bias must have one number per channel")


def pool(node: Node) -> list[Value]:
    """MaxPool and AveragePool."""
    value = node.value(0)
    require(value.rows and len(value.shape) >= 3, "it needs rows with channels and space")
    view = window(node, None, value.shape[2:])
    for low, high, kernel in zip(view.low, view.high, view.kernel, strict=True):
        require(max(low, high) < kernel, "its padding is not smaller than its kernel")
    result = like(value, (*value.shape[:2], *shrunk(view, value.shape[2:])))
    node.work = result.size * math.prod(view.kernel)
    return [result]


def global_pool(node: Node) -> list[Value]:
    """GlobalAveragePool and GlobalMaxPool."""
    value = node.value(0)
    require(value.rows and len(value.shape) >= 3, "it needs rows with channels and space")
    return [like(value, (*value.shape[:2], *(1 for _ in value.shape[2:])))]


# --- reductions ---------------------------------------------------------------------------------------------------


def reduction(node: Node) -> list[Value]:
    """ReduceSum and its like: over given axes that are not the batch."""
    value = node.value(0)
    axes = node.axes(1, value)
    kept = [1 if axis in axes else side for axis, side in enumerate(value.shape)]
    if not node.attributes["keepdims"]:
        kept = [side for axis, side in enumerate(value.shape) if axis not in axes]
    return [like(value, kept)]


def topk(node: Node) -> list[Value]:
    """TopK."""
    value, (count, *rest) = node.value(0), node.integers(1)
    require(node.value(1).shape == (1,) and not rest, "its k must be one number")
    axis = node.axis(node.attributes["axis"], value)
    require(1 <= count <= value.shape[axis], f"k is {count} of {value.shape[axis]}")
    shape = (*value.shape[:axis], count, *value.shape[axis + 1 :])
    node.work = 32 * value.size
    return [like(value, shape), like(value, shape, INT64)]


# --- shapes -------------------------------------------------------------------------------------------------------


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
            target[axis] = BATCH if value.rows and axis == 0 else value.shape[axis]
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
    return [Value(value.dtype, shape, value.rows, value.known)]


def unsqueeze(node: Node) -> list[Value]:
    """Unsqueeze."""
    value = node.value(0)
    axes = node.axes(1, value, extra=len(node.integers(1)))
    sides = iter(value.shape)
    shape = [1 if axis in axes else next(sides) for axis in range(len(value.shape) + len(axes))]
    return [Value(value.dtype, tuple(shape), value.rows, value.known if len(shape) == 1 else None)]


def transpose(node: Node) -> list[Value]:
    """Transpose that keeps the batch first."""
    value, order = node.value(0), node.attributes["perm"]
    require(order is not None and sorted(order) == list(range(len(value.shape))), "its perm is no order of its axes")
    require(not value.rows or order[0] == 0, "it moves the batch")
    return [like(value, [value.shape[axis] for axis in order])]


def concat(node: Node) -> list[Value]:
    """Concat."""
    values = [value for value in node.inputs if value is not None]
    first = values[0]
    require(len(first.shape) >= 1, "it joins scalars")
    rows = any(value.rows for value in values)
    require(all(value.rows == rows for value in values), "it joins rows and constants")
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
    return [Value(first.dtype, tuple(shape), rows, known)]


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
    return [Value(value.dtype, tuple(shape), value.rows, known)]


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
    return [Value(value.dtype, shape, value.rows, known)]


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


# --- quantised ----------------------------------------------------------------------------------------------------


def _scale(scale: Value, zero: Value | None, width: int | None) -> None:
    """Check a scale and a zero point: scalars, or one number per channel where there is a `width`."""
    shapes = [(), (1,)] + ([] if width is None else [(width,)])
    require(not scale.rows and scale.shape in shapes, "its scale does not fit")
    require(zero is None or (not zero.rows and zero.shape == scale.shape), "its zero point does not fit its scale")


def quantise(node: Node) -> list[Value]:
    """QuantizeLinear."""
    value, zero = node.value(0), node.value(2)
    _scale_along_axis(node, value, zero)
    return [like(value, value.shape, zero.dtype)]


def dequantise(node: Node) -> list[Value]:
    """DequantizeLinear."""
    value = node.value(0)
    zero = node.optional(2)
    require(zero is None or zero.dtype == value.dtype, "its zero point has another type")
    _scale_along_axis(node, value, zero)
    return [like(value, value.shape, node.value(1).dtype)]


def _scale_along_axis(node: Node, value: Value, zero: Value | None) -> None:
    scale = node.value(1)
    if scale.shape in ((), (1,)):
        _scale(scale, zero, None)
        return
    axis = node.axis(node.attributes["axis"], value)
    _scale(scale, zero, value.shape[axis])


def dynamic_quantise(node: Node) -> list[Value]:
    """DynamicQuantizeLinear: one scale for all rows, so only at batch 1."""
    value = node.value(0)
    require(not value.rows or node.batch == 1, "it scales all rows by the largest: allowed at a fixed batch of 1 only")
    return [like(value, value.shape, UINT8), Value(FLOAT, ()), Value(UINT8, ())]


def matmul_integer(node: Node) -> list[Value]:
    """MatMulInteger."""
    left, right = node.value(0), node.value(1)
    for value, zero, width in ((left, node.optional(2), None), (right, node.optional(3), right.shape[-1:])):
        if zero is not None:
            require(not zero.rows and zero.dtype == value.dtype, "its zero point has another type")
            require(zero.shape in ((), (1,), width), "its zero point does not fit")
    result = _matmul(node, left, right)
    node.scratch = right.size  # kernels widen or pack the matrix
    return [like(result, result.shape, INT32)]


def conv_integer(node: Node) -> list[Value]:
    """ConvInteger."""
    value, weight = node.value(0), node.value(1)
    for part, zero in ((value, node.optional(2)), (weight, node.optional(3))):
        fits = zero is None or (zero.shape in ((), (1,)) and zero.dtype == part.dtype and not zero.rows)
        require(fits, "its zero point does not fit")
    result = _conv(node, value, weight, None)
    return [like(result, result.shape, INT32)]


def qlinear_conv(node: Node) -> list[Value]:
    """QLinearConv."""
    x, w, zero = node.value(0), node.value(3), node.value(7)
    _scale(node.value(1), node.value(2), None)
    _scale(node.value(4), node.value(5), w.shape[0] if w.shape else None)
    _scale(node.value(6), zero, None)
    require(node.value(2).dtype == x.dtype and node.value(5).dtype == w.dtype, "its zero points have other types")
    result = _conv(node, x, w, node.optional(8))
    return [like(result, result.shape, zero.dtype)]


def qlinear_matmul(node: Node) -> list[Value]:
    """QLinearMatMul."""
    a, b, zero = node.value(0), node.value(3), node.value(7)
    _scale(node.value(1), node.value(2), None)
    _scale(node.value(4), node.value(5), b.shape[-1] if b.shape else None)
    _scale(node.value(6), zero, None)
    require(node.value(2).dtype == a.dtype and node.value(5).dtype == b.dtype, "its zero points have other types")
    result = _matmul(node, a, b)
    return [like(result, result.shape, zero.dtype)]


def qgemm(node: Node) -> list[Value]:
    """com.microsoft QGemm."""
    a, b, bias = node.value(0), node.value(3), node.optional(6)
    require(len(b.shape) == 2, "it multiplies matrices")
    width = b.shape[0] if node.attributes["transB"] else b.shape[1]
    _scale(node.value(1), node.value(2), None)
    _scale(node.value(4), node.value(5), width)
    require(node.value(2).dtype == a.dtype and node.value(5).dtype == b.dtype, "its zero points have other types")
    result = _gemm(node, a, b, bias)
    scale, zero = node.optional(7), node.optional(8)
    require((scale is None) == (zero is None), "it needs both or none of the result's scale and zero point")
    if scale is not None:
        _scale(scale, zero, None)
    return [like(result, result.shape, FLOAT if zero is None else zero.dtype)]
