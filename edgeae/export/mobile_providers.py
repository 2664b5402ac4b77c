"""Which operators of a graph the accelerators of ONNX Runtime's mobile packages take, and which fall back to the CPU.

What is listed here is what ONNX Runtime documents, with the conditions that exported graphs can meet or miss:

- NNAPI, CoreML and CoreML's ML Programs: `nnapi_supported_ops.md`, `coreml_supported_neuralnetwork_ops.md` and
  `coreml_supported_mlprogram_ops.md`, as they come with the wheel of ONNX Runtime 1.32
  (`onnxruntime/tools/mobile_helpers`); a test holds these tables against them.
- XNNPACK: the page "XNNPACK Execution Provider" of the documentation (onnxruntime.ai), its list since release 1.14, and
  for the conditions the checks in `onnxruntime/core/providers/xnnpack`.

An operator that is taken is not always worth it: every change between accelerator and CPU copies its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CPU_ONLY", "NOT_LISTED", "PROVIDERS", "SUPPORTED", "Placement", "place_operators"]

NOT_LISTED = "not in its list"
PROVIDERS = ("XNNPACK", "NNAPI", "CoreML", "CoreML ML Program")


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one operator run.

    Attributes:
        operator: Its name, with its domain where that is not ONNX's own.
        nodes: How many the graph has.
        taken: By provider, how many of them it takes; the CPU runs the others.
        reason: By provider, why it does not take the others; "" where it takes all.
    """

    operator: str
    nodes: int
    taken: Mapping[str, int]
    reason: Mapping[str, str]


@dataclass(frozen=True)
class _Node:
    attributes: Mapping[str, Any]
    constants: tuple[np.ndarray[Any, Any] | None, ...]  # per input
    dtype: int  # of the first input, of TensorProto
    rank: int | None  # of the first input

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        return self.constants[index] if index < len(self.constants) else None


# says why a node is not taken, or "" where it is
_Rule = Callable[[_Node], str]


def _any(node: _Node) -> str:
    return ""


def _all(*rules: _Rule) -> _Rule:
    return lambda node: next(filter(None, (rule(node) for rule in rules)), "")


def _constant(*indices: int) -> _Rule:
    def rule(node: _Node) -> str:
        given = [index for index in indices if index < len(node.constants)]
        return "" if all(node.constant(index) is not None for index in given) else "inputs that are not constant"

    return rule


def _spatial(*axes: int, weight: int = 1) -> _Rule:
    def rule(node: _Node) -> str:
        kernel = node.constant(weight)
        if kernel is not None and kernel.ndim - 2 in axes:
            return ""
        return f"only {' and '.join(f'{count}-D' for count in axes)} with constant weights"

    return rule


def _pool(node: _Node) -> str:
    return "" if len(node.attributes.get("kernel_shape", (0, 0))) == 2 else "only 2-D"


def _image(node: _Node) -> str:
    return "" if node.rank in (4, None) else "only 2-D"


def _attribute(name: str, default: object, *allowed: object) -> _Rule:
    def rule(node: _Node) -> str:
        value = node.attributes.get(name, default)
        return "" if value in allowed else f"{name} is {value}"

    return rule


def _resize_2d(node: _Node) -> str:
    given = [array for index in (2, 3) if (array := node.constant(index)) is not None and array.size]
    return "" if given and given[0].size == 4 else "only two spatial axes and constant sizes"


def _same_bytes(node: _Node) -> str:
    rows, weights = node.constant(2), node.constant(5)
    return (
        "" if rows is not None and weights is not None and rows.dtype == weights.dtype else "uint8 rows, int8 weights"
    )


def _last_axis(node: _Node) -> str:
    rank, axis = node.rank, node.attributes.get("axis", -1)
    return "" if axis == -1 or (rank is not None and axis == rank - 1) else "only along the last axis"


def _no_output_padding(node: _Node) -> str:
    return "output_padding" if any(node.attributes.get("output_padding", ())) else ""


def _flat_matmul(node: _Node) -> str:
    weights = node.constant(1)
    return "" if weights is not None and weights.ndim <= 2 else "only by a constant matrix"


_GEMM = _all(_constant(1, 2), _attribute("alpha", 1.0, 1.0), _attribute("beta", 1.0, 1.0), _attribute("transA", 0, 0))
_DCR = _attribute("mode", "DCR", "DCR")
_CONSTANT_PAD = _all(_attribute("mode", "constant", "constant"), _constant(1, 2))


def _plain(*operators: str) -> dict[str, _Rule]:
    return dict.fromkeys(operators, _any)


_POOLS = dict.fromkeys(("AveragePool", "MaxPool"), _pool)
_GLOBAL_POOLS = dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _image)
_COREML_BOTH: dict[str, _Rule] = {
    **_plain("Add", "Cast", "Clip", "Concat", "Div", "LeakyRelu", "Mul", "PRelu", "Pow"),
    **_plain("Reciprocal", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Softmax", "Sqrt", "Squeeze"),
    **_plain("Sub", "Tanh", "Transpose"),
    **_POOLS,
    **_GLOBAL_POOLS,
    "Conv": _spatial(1, 2),
    "Gemm": _constant(1),
    "MatMul": _constant(1),
    "Slice": _constant(1, 2, 3, 4),
}

SUPPORTED: dict[str, dict[str, _Rule]] = {
    "XNNPACK": {
        **_POOLS,
        "Conv": _spatial(2),
        "ConvTranspose": _spatial(2),
        "Gemm": _GEMM,
        "MatMul": _flat_matmul,
        "QLinearConv": _all(_spatial(2, weight=3), _same_bytes),
        "Resize": _all(_attribute("mode", "nearest", "linear"), _resize_2d),
        "Softmax": _last_axis,
    },
    "NNAPI": {
        **_plain("Abs", "Add", "BatchNormalization", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Elu", "Exp"),
        **_plain("Flatten", "Floor", "Gemm", "Identity", "LeakyRelu", "Log"),
        **_plain("MatMul", "Max", "Min", "Mul", "Neg", "PRelu", "Pow", "QLinearMatMul", "QuantizeLinear", "ReduceMean"),
        **_plain("Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose"),
        **_plain("LRN", "Sin", "Unsqueeze"),
        **_POOLS,
        **_GLOBAL_POOLS,
        "Conv": _spatial(2),
        "DepthToSpace": _DCR,
        "Gather": _constant(1),
        "Pad": _CONSTANT_PAD,
        "QLinearConv": _spatial(2, weight=3),
        "Resize": _resize_2d,
    },
    "CoreML": {
        **_COREML_BOTH,
        **_plain("ArgMax", "BatchNormalization", "Flatten", "Gather", "LRN"),
        "DepthToSpace": _DCR,
        "Pad": _CONSTANT_PAD,
        "Resize": _all(
            _resize_2d,
            _attribute("coordinate_transformation_mode", "half_pixel", "asymmetric"),
            _attribute("nearest_mode", "round_prefer_floor", "floor"),
        ),
    },
    "CoreML ML Program": {
        **_COREML_BOTH,
        **_plain("And", "Ceil", "DepthToSpace", "Elu", "Erf", "Exp", "Gelu", "GroupNormalization", "HardSigmoid"),
        **_plain("Identity", "InstanceNormalization", "LayerNormalization", "Max", "ReduceMax", "ReduceMean", "Round"),
        **_plain("ArgMax", "Cos", "Sin", "Softplus", "Tile", "Unsqueeze", "Where"),
        "ConvTranspose": _all(_spatial(1, 2), _no_output_padding),
        "Resize": _resize_2d,
    },
}

# looked up, and in none of the lists: the CPU runs them
CPU_ONLY = frozenset({
    "Acos", "Acosh", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Constant", "ConvInteger", "Cosh",
    "CumSum", "DynamicQuantizeLinear", "Equal", "Expand", "GRU", "Greater", "GreaterOrEqual", "HardSwish",
    "Hardmax", "IsInf", "IsNaN", "LSTM", "Less", "LessOrEqual", "LogSoftmax", "LpNormalization", "MatMulInteger",
    "Mean", "Mish", "Mod", "Not", "Or", "RNN", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMin", "ReduceProd", "ReduceSumSquare", "Selu", "Shrink", "Sign", "Sinh", "Softsign", "SpaceToDepth",
    "Sum", "Tan", "ThresholdedRelu", "TopK", "Xor", "com.microsoft:QGemm",
})  # fmt: skip

_TYPES: dict[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BOOL: "bool"}


def place_operators(graph: bytes) -> list[Placement]:
    """Say operator by operator which provider takes its nodes and where they fall back to the CPU.

    Args:
        graph: The bytes of an ONNX file with a fixed batch: NNAPI and CoreML take no symbolic shapes.

    Returns:
        One placement per operator, in the order of the graph.

    Example:
        >>> from edgeae.bundle import Bundle
        >>> placements = place_operators(Bundle.read("export/golden/dense").graph("fp32", "scorer"))
        >>> [placement.operator for placement in placements if placement.taken["NNAPI"]]
        ['Reshape', 'Mul', 'Gemm', 'Relu', 'Sigmoid', 'Sub', 'ReduceMean']
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph))
    nodes: dict[str, list[_Node]] = {}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    dtypes = {value.name: value.type.tensor_type.elem_type for value in values}
    for node in model.graph.node:
        # inference stops behind com.microsoft.QGemm, which gives bytes where it has an output scale
        first = TensorProto.FLOAT if node.op_type == "QGemm" and len(node.input) < 9 else dtypes.get(node.input[0], 0)
        for output in node.output:
            dtypes.setdefault(output, first)
        operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        nodes.setdefault(operator, []).append(_facts(node, constants, dtypes, ranks))
    return [_placement(operator, held) for operator, held in nodes.items()]


def _facts(
    node: onnx.NodeProto,
    constants: Mapping[str, np.ndarray[Any, Any]],
    dtypes: Mapping[str, int],
    ranks: Mapping[str, int],
) -> _Node:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return _Node(
        attributes={name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()},
        constants=tuple(constants.get(name) for name in node.input),
        dtype=dtypes.get(node.input[0], TensorProto.UNDEFINED),
        rank=ranks.get(node.input[0]),
    )


def _placement(operator: str, nodes: list[_Node]) -> Placement:
    known = operator in CPU_ONLY or any(operator in listed for listed in SUPPORTED.values())
    taken, reason = {}, {}
    for provider in PROVIDERS:
        rule = SUPPORTED[provider].get(operator)
        missing = NOT_LISTED if known else "never looked up"
        reasons = [missing if rule is None else _wrong_type(operator, node) or rule(node) for node in nodes]
        taken[provider] = reasons.count("")
        reason[provider] = next(filter(None, reasons), "")
    return Placement(operator, len(nodes), taken, reason)


def _wrong_type(operator: str, node: _Node) -> str:
    """Say so where a node is not of float32; the operators on bytes and on truth values take what they are for."""
    if operator in ("QLinearConv", "QLinearMatMul", "DequantizeLinear", "And", "Where"):
        return ""
    return "" if node.dtype == TensorProto.FLOAT else f"{_TYPES.get(node.dtype, 'whole-number')} input"
