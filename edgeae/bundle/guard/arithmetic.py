"""Shape rules of arithmetic: elementwise operators, normalisation, products, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeae.bundle.guard.recurrent import broadcast_series, product
from edgeae.bundle.guard.values import BOOL, INT32, INT64, Node, Shape, Value, like, require

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
    known = value.known if node.op == "Identity" else None
    return [Value(value.dtype, value.shape, value.rows, known, value.axis)]


def elementwise(node: Node) -> list[Value]:
    """Any number of inputs that broadcast."""
    values = [value for value in node.inputs if value is not None]
    if any(value.axis for value in values):
        return [broadcast_series(values)]
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
    return [gemm_value(node, node.value(0), node.value(1), node.optional(2))]


def gemm_value(node: Node, left: Value, right: Value, bias: Value | None) -> Value:
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
    return [matmul_value(node, node.value(0), node.value(1))]


def matmul_value(node: Node, left: Value, right: Value) -> Value:
    if left.axis or right.axis:
        return product(node, left, right)
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


# --- reductions ---------------------------------------------------------------------------------------------------


def reduction(node: Node) -> list[Value]:
    """ReduceSum and its like: over given axes that are not the batch."""
    value = node.value(0)
    axes = node.axes(1, value)
    kept = [1 if axis in axes else side for axis, side in enumerate(value.shape)]
    if not node.attributes["keepdims"]:
        kept = [side for axis, side in enumerate(value.shape) if axis not in axes]
    return [like(value, kept)]


def test(node: Node) -> list[Value]:
    """IsNaN and IsInf."""
    return [like(node.value(0), node.value(0).shape, BOOL)]


def arg(node: Node) -> list[Value]:
    """ArgMax and ArgMin."""
    value = node.value(0)
    axis = node.axis(node.attributes["axis"], value)
    kept = (1,) if node.attributes["keepdims"] else ()
    return [like(value, (*value.shape[:axis], *kept, *value.shape[axis + 1 :]), INT64)]


def cumulative(node: Node) -> list[Value]:
    """CumSum along a known axis."""
    axes = node.integers(1)
    require(len(axes) == 1 and node.value(1).shape == (), "its axis must be one number")
    node.axis(axes[0], node.value(0))
    return [node.value(0)]


def local_norm(node: Node) -> list[Value]:
    """LRN."""
    value = node.value(0)
    require(value.rows and len(value.shape) == 4, "it needs rows of images with channels")
    require(node.attributes["size"] % 2 == 1, "its size must be odd")
    node.work = value.size * node.attributes["size"]
    return [value]


def topk(node: Node) -> list[Value]:
    """TopK."""
    value, (count, *rest) = node.value(0), node.integers(1)
    require(node.value(1).shape == (1,) and not rest, "its k must be one number")
    axis = node.axis(node.attributes["axis"], value)
    require(1 <= count <= value.shape[axis], f"k is {count} of {value.shape[axis]}")
    shape = (*value.shape[:axis], count, *value.shape[axis + 1 :])
    node.work = 32 * value.size
    return [like(value, shape), like(value, shape, INT64)]
