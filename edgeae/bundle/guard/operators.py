"""The operators that a graph in a bundle may use: one table, from which the guard and export/FORMAT.md are made.

An input is described by a letter: the types it may have, and whether its numbers must be known before anything runs.
`?` marks an optional input, `*` any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final, Literal

from edgeae.bundle.guard import arithmetic, arrange, quantised, recurrent, windows
from edgeae.bundle.guard.values import BOOL, FLOAT, FLOAT16, INT8, INT32, INT64, UINT8, Node, Value
from edgeae.bundle.record import record

__all__ = ["DTYPES", "INPUTS", "OPERATORS", "WIDER", "Attribute", "Operator"]

DTYPES: Final = {
    FLOAT: "float32",
    FLOAT16: "float16",
    UINT8: "uint8",
    INT8: "int8",
    INT32: "int32",
    INT64: "int64",
    BOOL: "bool",
}


@record(frozen=True)
class Input:
    """What one letter of a signature stands for; `alike` inputs of a node have one type."""

    types: tuple[int, ...]
    meaning: str
    alike: bool = False
    known: bool = False


INPUTS: Final[Mapping[str, Input]] = {
    "T": Input((FLOAT, FLOAT16), "float32 or float16, all of a node alike", alike=True),
    "A": Input(tuple(DTYPES), "any type, all of a node alike", alike=True),
    "X": Input(tuple(DTYPES), "any type"),
    "N": Input((FLOAT, FLOAT16, INT32, INT64), "a number of any type but 8 bits"),
    "F": Input((FLOAT,), "float32"),
    "B": Input((BOOL,), "bool"),
    "Q": Input((UINT8, INT8), "uint8 or int8"),
    "M": Input((FLOAT, FLOAT16, UINT8, INT8), "float32, float16, uint8 or int8"),
    "D": Input((UINT8, INT8, INT32), "uint8, int8 or int32"),
    "J": Input((INT32,), "int32"),
    "K": Input(
        (INT64,), "int64, known before anything runs: a constant of at most 64 numbers or made of Shape", known=True
    ),
    "S": Input((FLOAT,), "float32, known before anything runs: a constant of at most 64 numbers", known=True),
}

Kind = Literal["int", "float", "string", "ints", "tensor"]


@record(frozen=True)
class Attribute:
    """An attribute: its type, what it is when absent, and what it may be (choices, or bounds both included)."""

    kind: Kind
    default: Any = None
    choices: tuple[Any, ...] | None = None
    low: float = -math.inf
    high: float = math.inf
    required: bool = False

    def allows(self, value: Any) -> bool:
        """Whether `value`, of the right type, may be set."""
        if self.kind == "tensor":
            return True
        numbers = value if self.kind == "ints" else (value,)
        if self.choices is not None:
            return all(number in self.choices for number in numbers)
        return all(self.low <= number <= self.high for number in numbers)

    def describe(self) -> str:
        """Return its type and values in a few words."""
        if self.choices is not None:
            words = [choice.decode() if isinstance(choice, bytes) else str(choice) for choice in self.choices]
            return " or ".join(words)
        if self.kind == "tensor":
            return "tensor"
        return f"{self.kind} {_short(self.low)} to {_short(self.high)}"


def _short(bound: float) -> str:
    return f"{bound:,.0f}" if bound == int(bound) and abs(bound) < 1e7 else f"{bound:g}"


def _flag(default: int = 0) -> Attribute:
    return Attribute("int", default, choices=(0, 1))


def _only(value: int) -> Attribute:
    return Attribute("int", value, choices=(value,))


def _integer(default: int | None, low: int, high: int) -> Attribute:
    return Attribute("int", default, low=low, high=high, required=default is None)


def _number(default: float, low: float = -1e6, high: float = 1e6) -> Attribute:
    return Attribute("float", default, low=low, high=high)


def _word(*choices: bytes) -> Attribute:
    return Attribute("string", choices[0], choices=choices)


def _list(low: int, high: int) -> Attribute:
    return Attribute("ints", None, low=low, high=high)


@record(frozen=True)
class Operator:
    """An operator that may be used.

    Attributes:
        signature: One letter of INPUTS per input.
        infer: Its rule: a node with its inputs to the values that it makes.
        attributes: All that may be set.
        outputs: How many it may name.
        since: The first opset whose version of it is meant.
        of_shapes: Whether it may work on shapes that hold the unknown batch.
        of_series: Whether it may work on rows whose batch is not the first axis.
        note: What its rule asks for beyond, for FORMAT.md.
    """

    signature: str
    infer: Callable[[Node], list[Value]]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    outputs: int = 1
    since: int = 18
    of_shapes: bool = False
    of_series: bool = False
    note: str = ""


_AXIS = _integer(-1, -8, 7)
_EPSILON = _number(1e-5, 0.0, 1.0)
_WINDOW = {
    "auto_pad": _word(b"NOTSET"),
    "kernel_shape": _list(1, 1024),
    "strides": _list(1, 1024),
    "pads": _list(0, 1024),
}
_DILATED = {**_WINDOW, "dilations": _list(1, 1024)}
_CONV = {**_DILATED, "group": _integer(1, 1, 2**20)}
_REDUCTION = {"keepdims": _flag(1), "noop_with_empty_axes": _flag(0)}
_QUANTISE = {
    "axis": _integer(1, -8, 7),
    "block_size": _only(0),
    "output_dtype": _only(0),
    "precision": _only(0),
    "saturate": _flag(1),
}


def _group(names: str, operator: Operator) -> dict[tuple[str, str], Operator]:
    return {("", name): operator for name in names.split()}


_ROWS_LEFT = "rows left, constants right"
_NOT_BATCH = "not along the batch"
_PER_CHANNEL = "one number per channel"
_SERIES = ", or another axis for operators that take series"
_RECURRENT: Mapping[str, Attribute] = {
    "direction": _word(b"forward", b"reverse", b"bidirectional"),
    "hidden_size": _integer(None, 1, 2**16),
    "layout": _only(0),
}
_RECURRENT_NOTE = "series [T, batch, values], weights are constants, no lengths, no peepholes, the usual activations"

OPERATORS: Final[Mapping[tuple[str, str], Operator]] = {
    # elementwise
    **_group("Add Sub Mul Div", Operator("T T", arithmetic.elementwise, of_series=True)),
    **_group("Max Min Sum Mean", Operator("T T*", arithmetic.elementwise)),
    **_group("Pow", Operator("T N", arithmetic.elementwise)),
    **_group("Equal Greater GreaterOrEqual Less LessOrEqual", Operator("T T", arithmetic.compare)),
    **_group("And Or", Operator("B B", arithmetic.compare)),
    **_group("Not", Operator("B", arithmetic.same)),
    **_group("Where", Operator("B A A", arithmetic.select)),
    **_group(
        "Abs Ceil Erf Exp Floor HardSwish Log Mish Neg Reciprocal Relu Round Sigmoid Sign Softplus Softsign Sqrt Tanh",
        Operator("T", arithmetic.same, of_series=True),
    ),
    **_group("Celu", Operator("T", arithmetic.same, {"alpha": _number(1.0, 1e-6)})),
    **_group("Elu ThresholdedRelu", Operator("T", arithmetic.same, {"alpha": _number(1.0)})),
    **_group("LeakyRelu", Operator("T", arithmetic.same, {"alpha": _number(0.01)})),
    **_group("Selu", Operator("T", arithmetic.same, {"alpha": _number(1.67326319), "gamma": _number(1.05070102)})),
    **_group("HardSigmoid", Operator("T", arithmetic.same, {"alpha": _number(0.2), "beta": _number(0.5)})),
    **_group("Gelu", Operator("T", arithmetic.same, {"approximate": _word(b"none", b"tanh")}, since=20)),
    **_group("PRelu", Operator("T T", arithmetic.prelu)),
    **_group("Clip", Operator("T T? T?", arithmetic.clip, note="bounds are scalars")),
    **_group(
        "Cast",
        Operator(
            "X",
            arithmetic.cast,
            {
                "to": Attribute("int", choices=(FLOAT, INT32, INT64, BOOL, FLOAT16), required=True),
                "saturate": _flag(1),
                "round_mode": _word(b"up", b"down", b"nearest"),
            },
            of_shapes=True,
            note="to float32, int32, int64, bool or float16",
        ),
    ),
    **_group("Softmax LogSoftmax", Operator("T", arithmetic.softmax, {"axis": _AXIS}, note=_NOT_BATCH)),
    # normalisation
    **_group(
        "BatchNormalization",
        Operator(
            "T T T T T",
            arithmetic.batch_norm,
            {"epsilon": _EPSILON, "momentum": _number(0.9, 0.0, 1.0), "training_mode": _only(0)},
            note=_PER_CHANNEL,
        ),
    ),
    **_group(
        "InstanceNormalization", Operator("T T T", arithmetic.instance_norm, {"epsilon": _EPSILON}, note=_PER_CHANNEL)
    ),
    **_group(
        "GroupNormalization",
        Operator(
            "T T T",
            arithmetic.group_norm,
            {"epsilon": _EPSILON, "num_groups": _integer(None, 1, 2**20), "stash_type": _only(1)},
            since=21,
            note=_PER_CHANNEL,
        ),
    ),
    **_group(
        "LayerNormalization",
        Operator(
            "T T T?",
            arithmetic.layer_norm,
            {"axis": _AXIS, "epsilon": _EPSILON, "stash_type": _only(1)},
            note="scale and bias of the normalised shape, " + _NOT_BATCH,
        ),
    ),
    # products, convolutions, pools
    **_group(
        "Gemm",
        Operator(
            "T T T?",
            arithmetic.gemm,
            {"alpha": _number(1.0), "beta": _number(1.0), "transA": _only(0), "transB": _flag()},
            note=_ROWS_LEFT,
        ),
    ),
    **_group("MatMul", Operator("T T", arithmetic.matmul, of_series=True, note="no sum over the batch")),
    **_group("Conv", Operator("T T T?", windows.conv, _CONV, note="1 to 3 spatial axes, weights are constants")),
    **_group(
        "ConvTranspose",
        Operator("T T T?", windows.conv_transpose, {**_CONV, "output_padding": _list(0, 1024)}, note="as Conv"),
    ),
    **_group(
        "MaxPool",
        Operator("T", windows.pool, {**_DILATED, "ceil_mode": _only(0), "storage_order": _only(0)}, note="no indices"),
    ),
    **_group(
        "AveragePool", Operator("T", windows.pool, {**_DILATED, "ceil_mode": _only(0), "count_include_pad": _flag()})
    ),
    **_group("GlobalAveragePool GlobalMaxPool", Operator("T", windows.global_pool)),
    # reductions
    **_group(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare",
        Operator("T K", arithmetic.reduction, _REDUCTION, note=_NOT_BATCH),
    ),
    **_group(
        "TopK",
        Operator(
            "T K", arithmetic.topk, {"axis": _AXIS, "largest": _flag(1), "sorted": _flag(1)}, outputs=2, note=_NOT_BATCH
        ),
    ),
    # recurrent
    **_group(
        "LSTM",
        Operator(
            "F F F F? J? F? F? F?",
            recurrent.recurrent,
            {**_RECURRENT, "input_forget": _only(0)},
            outputs=3,
            of_series=True,
            note=_RECURRENT_NOTE,
        ),
    ),
    **_group(
        "GRU",
        Operator(
            "F F F F? J? F?",
            recurrent.recurrent,
            {**_RECURRENT, "linear_before_reset": _flag()},
            outputs=2,
            of_series=True,
            note=_RECURRENT_NOTE,
        ),
    ),
    **_group(
        "RNN",
        Operator("F F F F? J? F?", recurrent.recurrent, _RECURRENT, outputs=2, of_series=True, note=_RECURRENT_NOTE),
    ),
    # shapes
    **_group("Identity", Operator("X", arithmetic.same, of_shapes=True, of_series=True)),
    **_group(
        "Constant", Operator("", lambda node: [node.attributes["value"]], {"value": Attribute("tensor", required=True)})
    ),
    **_group(
        "Shape", Operator("X", arrange.shape_of, {"start": _integer(0, -8, 8), "end": _integer(8, -8, 2**63 - 1)})
    ),
    **_group(
        "Reshape",
        Operator(
            "X K",
            arrange.reshape,
            {"allowzero": _flag()},
            of_shapes=True,
            of_series=True,
            note="keeps the batch where it is",
        ),
    ),
    **_group("Flatten", Operator("X", arrange.flatten, {"axis": _integer(1, -8, 8)}, note="all axes but the batch")),
    **_group("Squeeze", Operator("X K", arrange.squeeze, of_shapes=True, of_series=True, note=_NOT_BATCH)),
    **_group("Unsqueeze", Operator("X K", arrange.unsqueeze, of_shapes=True, of_series=True, note=_NOT_BATCH)),
    **_group(
        "Transpose",
        Operator("X", arrange.transpose, {"perm": _list(0, 7)}, of_series=True, note="keeps the batch first" + _SERIES),
    ),
    **_group(
        "Concat",
        Operator(
            "A A*", arrange.concat, {"axis": _integer(None, -8, 7)}, of_shapes=True, of_series=True, note=_NOT_BATCH
        ),
    ),
    **_group("Slice", Operator("X K K K? K?", arrange.sliced, of_shapes=True, of_series=True, note=_NOT_BATCH)),
    **_group(
        "Gather",
        Operator("X K", arrange.gather, {"axis": _integer(0, -8, 7)}, of_shapes=True, of_series=True, note=_NOT_BATCH),
    ),
    **_group("Expand", Operator("X K", arrange.expand)),
    **_group("Tile", Operator("X K", arrange.tile, note=_NOT_BATCH)),
    **_group(
        "Pad",
        Operator(
            "A K A? K?",
            arrange.pad,
            {"mode": _word(b"constant", b"edge", b"reflect")},
            note="0 or more on each side, " + _NOT_BATCH,
        ),
    ),
    **_group(
        "Resize",
        Operator(
            "M T? S? K?",
            quantised.resize,
            {
                "antialias": _only(0),
                "coordinate_transformation_mode": _word(
                    b"half_pixel", b"asymmetric", b"pytorch_half_pixel", b"align_corners"
                ),
                "cubic_coeff_a": _number(-0.75, -1.0, 1.0),
                "exclude_outside": _only(0),
                "extrapolation_value": _number(0.0),
                "keep_aspect_ratio_policy": _word(b"stretch"),
                "mode": _word(b"nearest", b"linear"),
                "nearest_mode": _word(b"round_prefer_floor", b"round_prefer_ceil", b"floor", b"ceil"),
            },
            note="no region of interest; scales up to 65,536; 8 bits only with mode nearest; " + _NOT_BATCH,
        ),
    ),
    **_group(
        "DepthToSpace",
        Operator("T", arrange.depth_to_space, {"blocksize": _integer(None, 1, 64), "mode": _word(b"DCR", b"CRD")}),
    ),
    **_group("SpaceToDepth", Operator("T", arrange.depth_to_space, {"blocksize": _integer(None, 1, 64)})),
    # quantised
    **_group("QuantizeLinear", Operator("T T Q", quantised.quantise, _QUANTISE, note=_NOT_BATCH)),
    **_group("DequantizeLinear", Operator("D T D?", quantised.dequantise, _QUANTISE, note=_NOT_BATCH)),
    **_group(
        "DynamicQuantizeLinear", Operator("F", quantised.dynamic_quantise, outputs=3, note="at a fixed batch of 1")
    ),
    **_group("MatMulInteger", Operator("Q Q Q? Q?", quantised.matmul_integer, note="as MatMul")),
    **_group("ConvInteger", Operator("Q Q Q? Q?", quantised.conv_integer, _CONV, note="as Conv")),
    **_group("QLinearConv", Operator("Q F Q Q F Q F Q J?", quantised.qlinear_conv, _CONV, note="as Conv")),
    **_group("QLinearMatMul", Operator("Q F Q Q F Q F Q", quantised.qlinear_matmul, note="as MatMul")),
    ("com.microsoft", "QGemm"): Operator(
        "Q F Q Q F Q J? F? Q?",
        quantised.qgemm,
        {"alpha": _number(1.0), "transA": _only(0), "transB": _flag()},
        note=_ROWS_LEFT,
    ),
}

# Operators with rules, but which no fuzzer has tried in ONNX Runtime: for graphs whose maker the user trusts.
WIDER: Final[Mapping[tuple[str, str], Operator]] = {
    **_group("Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan", Operator("F", arithmetic.same)),
    **_group("IsNaN", Operator("F", arithmetic.test)),
    **_group("IsInf", Operator("F", arithmetic.test, {"detect_negative": _flag(1), "detect_positive": _flag(1)})),
    **_group("Xor", Operator("B B", arithmetic.compare)),
    **_group("Mod", Operator("F F", arithmetic.elementwise, {"fmod": Attribute("int", 0, choices=(1,))})),
    **_group("Hardmax", Operator("F", arithmetic.softmax, {"axis": _AXIS}, note=_NOT_BATCH)),
    **_group("Shrink", Operator("F", arithmetic.same, {"bias": _number(0.0), "lambd": _number(0.5)})),
    **_group(
        "LpNormalization",
        Operator("F", arithmetic.softmax, {"axis": _AXIS, "p": _integer(2, 1, 2)}, note=_NOT_BATCH),
    ),
    **_group(
        "LRN",
        Operator(
            "F",
            arithmetic.local_norm,
            {"size": _integer(None, 1, 1024), "alpha": _number(1e-4), "beta": _number(0.75), "bias": _number(1.0)},
            note="rows with channels and space",
        ),
    ),
    **_group("CumSum", Operator("F K", arithmetic.cumulative, {"exclusive": _flag(), "reverse": _flag()})),
    **_group("ReduceProd", Operator("F K", arithmetic.reduction, _REDUCTION, note=_NOT_BATCH)),
    **_group(
        "ArgMax ArgMin",
        Operator(
            "F",
            arithmetic.arg,
            {"axis": _integer(0, -8, 7), "keepdims": _flag(1), "select_last_index": _flag()},
            note=_NOT_BATCH,
        ),
    ),
}
