"""Shape rules of what slides over images and series: convolutions and pools."""

from __future__ import annotations

import math

from edgeae.bundle.guard.values import Node, Shape, Value, like, require
from edgeae.bundle.record import record


@record(frozen=True)
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
    return [conv_value(node, node.value(0), node.value(1), node.optional(2))]


def conv_value(node: Node, value: Value, weight: Value, bias: Value | None) -> Value:
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
