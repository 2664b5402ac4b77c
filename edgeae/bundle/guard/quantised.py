"""Shape rules of the quantised operators."""

from __future__ import annotations

from edgeae.bundle.guard import arrange
from edgeae.bundle.guard.arithmetic import gemm_value, matmul_value
from edgeae.bundle.guard.values import FLOAT, INT8, INT32, UINT8, Node, Value, like, require
from edgeae.bundle.guard.windows import conv_value


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


def resize(node: Node) -> list[Value]:
    """Resize, of 8-bit values only where it repeats them."""
    repeats = node.attributes["mode"] == b"nearest"
    require(repeats or node.value(0).dtype not in (UINT8, INT8), "8-bit values need mode nearest")
    return arrange.resize(node)


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
    result = matmul_value(node, left, right)
    node.scratch = right.size  # kernels widen or pack the matrix
    return [like(result, result.shape, INT32)]


def conv_integer(node: Node) -> list[Value]:
    """ConvInteger."""
    value, weight = node.value(0), node.value(1)
    for part, zero in ((value, node.optional(2)), (weight, node.optional(3))):
        fits = zero is None or (zero.shape in ((), (1,)) and zero.dtype == part.dtype and not zero.rows)
        require(fits, "its zero point does not fit")
    result = conv_value(node, value, weight, None)
    return [like(result, result.shape, INT32)]


def qlinear_conv(node: Node) -> list[Value]:
    """QLinearConv."""
    x, w, zero = node.value(0), node.value(3), node.value(7)
    _scale(node.value(1), node.value(2), None)
    _scale(node.value(4), node.value(5), w.shape[0] if w.shape else None)
    _scale(node.value(6), zero, None)
    require(node.value(2).dtype == x.dtype and node.value(5).dtype == w.dtype, "its zero points have other types")
    result = conv_value(node, x, w, node.optional(8))
    return [like(result, result.shape, zero.dtype)]


def qlinear_matmul(node: Node) -> list[Value]:
    """QLinearMatMul."""
    a, b, zero = node.value(0), node.value(3), node.value(7)
    _scale(node.value(1), node.value(2), None)
    _scale(node.value(4), node.value(5), b.shape[-1] if b.shape else None)
    _scale(node.value(6), zero, None)
    require(node.value(2).dtype == a.dtype and node.value(5).dtype == b.dtype, "its zero points have other types")
    result = matmul_value(node, a, b)
    return [like(result, result.shape, zero.dtype)]


def qgemm(node: Node) -> list[Value]:
    """com.microsoft QGemm."""
    a, b, bias = node.value(0), node.value(3), node.optional(6)
    require(len(b.shape) == 2, "it multiplies matrices")
    width = b.shape[0] if node.attributes["transB"] else b.shape[1]
    _scale(node.value(1), node.value(2), None)
    _scale(node.value(4), node.value(5), width)
    require(node.value(2).dtype == a.dtype and node.value(5).dtype == b.dtype, "its zero points have other types")
    result = gemm_value(node, a, b, bias)
    scale, zero = node.optional(7), node.optional(8)
    require((scale is None) == (zero is None), "it needs both or none of the result's scale and zero point")
    if scale is not None:
        _scale(scale, zero, None)
    return [like(result, result.shape, FLOAT if zero is None else zero.dtype)]
