"""A foreign model's nodes, rewritten so that the batch is free (or fixed) and every other size is a constant.

Which sizes depend on the batch is read off runs at one or two batch sizes (`observe`): what is the same in both is a
constant, so that arithmetic on shapes disappears, and with it what a graph of batch 1 has written into its Reshapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from edgeae.errors import ExportError
from edgeae.export.adopt.observe import Seen, of_rows
from edgeae.export.graph import constants_of

__all__ = ["BATCH", "Array", "Work", "attributes_of"]

# stands in a rewritten graph for the number of rows, int64 [1]; each core makes it from its own input
BATCH: Final = "edgeae.batch"
_RECURRENT: Final = ("LSTM", "GRU", "RNN")

Array = np.ndarray[Any, Any]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


@dataclass(frozen=True)
class _Runs:
    """One run, or two where the batch is free in the model as it is."""

    first: Seen
    second: Seen | None


class Work:
    """Nodes and constants under their names in the model, and what is known of the values.

    Attributes:
        nodes: The new nodes, in order.
        constants: By name, float64 and float16 as float32.
        where: What to call the model in messages.
        symbolic: Whether the batch shall be free.
        opset: Of the nodes.
        per_row: What is the same for each row, once.
        head: What the graph reads instead of the model's own input.
        unmerged: Values that the model has with the batch merged into the next axes, [batch * T, C], and that stay
            [batch, T, C] here.
    """

    def __init__(
        self, model: onnx.ModelProto, first: Seen, second: Seen | None, *, symbolic: bool, opset: int, where: str
    ) -> None:
        """Take a model and what was seen at one batch size, or at two."""
        self.where = where
        self.symbolic = symbolic
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.source = self.head = model.graph.input[0].name
        self.constants = {name: as_float32(array) for name, array in constants_of(model.graph).items()}
        self.dependent = of_rows(model.graph, self.source)
        self._runs = _Runs(first, second)
        self._aliases: dict[str, str] = {}
        self._axes: dict[str, int | None] = {self.source: 0}
        self._count = 0
        self.per_row: dict[str, Array] = {}
        self.unmerged: set[str] = set()

    @property
    def batch(self) -> int:
        """The batch size of the shapes."""
        return self._runs.first.batch

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that a value had at `batch`."""
        if name in self.constants:
            return tuple(self.constants[name].shape)
        return self._runs.first.shapes[name]

    def dtype(self, name: str) -> str:
        """Return NumPy's name of a value's type in the model."""
        if name in self.constants:
            return str(self.constants[name].dtype.name)
        return self._runs.first.dtypes[name]

    def shape_list(self, shape: Sequence[int], axis: int | None) -> str:
        """Return the name of a list of the numbers in `shape`, of which that of `axis` is the batch."""
        numbers = np.array(shape, np.int64)
        if not self.symbolic or axis is None:
            return self.constant(numbers, "shape")
        name = self.fresh("shape")
        self._shape_with_batch(numbers[:axis], numbers[axis + 1 :], name)
        return self.resolve(name)

    def rank(self, name: str) -> int:
        """Return how many axes a value has, those of the batch included."""
        return len(self.shape(name))

    def is_matrix(self, name: str) -> bool:
        """Whether a value has rows and columns, and no more."""
        return self.rank(name) == 2 and name not in self.unmerged

    def batch_axis(self, name: str) -> int | None:
        """Return which axis of a value is the batch, or None where none is."""
        return self._axes.get(name)

    def resolve(self, name: str) -> str:
        """Return the name of a value that may have been another's copy."""
        while name in self._aliases:
            name = self._aliases[name]
        return name

    def alias(self, name: str, original: str) -> None:
        """Let whatever reads `name` read `original`."""
        self._aliases[name] = self.resolve(original)

    def constant(self, array: Any, hint: str = "constant") -> str:
        """Add a constant and return its name."""
        self._count += 1
        name = f"edgeae.{hint}_{self._count}"
        self.constants[name] = np.asarray(array)
        return name

    def fresh(self, hint: str) -> str:
        """Return a name for a new value."""
        self._count += 1
        return f"edgeae.{hint}_{self._count}"

    def add(
        self, op: str, inputs: Sequence[str], outputs: str | Sequence[str], *, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node and return the name of its first output."""
        named = [outputs] if isinstance(outputs, str) else list(outputs)
        made = helper.make_node(op, [self.resolve(name) for name in inputs], named, name=named[0], domain=domain)
        made.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(made)
        return named[0]

    def declare(self, name: str, row: Sequence[int], dtype: str = "float32") -> str:
        """Say what a value is that the model does not have: rows of the shape `row`; return its name."""
        self._runs.first.shapes[name] = (self.batch, *row)
        self._runs.first.dtypes[name] = dtype
        self.dependent.add(name)
        self._axes[name] = 0
        return name

    def reshape(self, source: str, output: str, shape: Sequence[int], axis: int | None = 0) -> None:
        """Add a Reshape to `shape`, in which `axis` is the batch."""
        target = list(shape)
        if self.symbolic and axis is not None:
            target[axis] = -1
        self.add("Reshape", [source, self.constant(np.array(target, np.int64), "shape")], output)

    def copy(self, node: onnx.NodeProto) -> None:
        """Add a node as it is, under its name in the standard domain."""
        self.add(node.op_type, list(node.input), list(node.output), **attributes_of(node))

    def watch(self, node: onnx.NodeProto) -> None:
        """Find out which axis of a node's results is the batch."""
        for index, name in enumerate(node.output):
            if name in self.dependent and name in self._runs.first.shapes:
                self._axes[name] = self._find_axis(node, index, name)
                if self._axes[name] is None and self.unmerged.intersection(node.input):
                    self.unmerged.add(name)

    def _find_axis(self, node: onnx.NodeProto, index: int, name: str) -> int | None:
        shape, second = self._runs.first.shapes[name], self._runs.second
        if second is not None:
            other = second.shapes.get(name, ())
            moved = [axis for axis, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b]
            fits = len(moved) == 1 and shape[moved[0]] == self.batch and other[moved[0]] == second.batch
            return moved[0] if fits else None
        axes = [self._axes[each] for each in node.input if self._axes.get(each) is not None]
        axis = axes[0] if axes else None
        if axis is None:
            return None
        if node.op_type == "Transpose":
            order = attributes_of(node).get("perm", range(len(shape))[::-1])
            return list(order).index(axis)
        if node.op_type in _RECURRENT:
            return 2 if index == 0 else 1
        if node.op_type in ("Squeeze", "Unsqueeze") and len(node.input) > 1 and node.input[1] in self.constants:
            dropped = [int(each) for each in self.constants[node.input[1]]]
            if node.op_type == "Squeeze":
                rank = self.rank(node.input[0])
                return axis - sum(each % rank < axis for each in dropped)
            kept = [each for each in range(len(shape)) if each not in {i % len(shape) for i in dropped}]
            return kept[axis]
        for each in (axis, 0):
            if each < len(shape) and shape[each] == self.batch:
                return each
        return None

    def settle(self, node: onnx.NodeProto) -> None:
        """Make constants of what a node gives that does not depend on what is in the rows.

        Raises:
            ExportError: if it depends on the batch in a way that has no simple form.
        """
        for name in node.output:
            if name not in self._runs.first.values:
                continue
            value, second = self._runs.first.values[name], self._runs.second
            other = value if second is None else second.values[name]
            if value.shape == other.shape and np.array_equal(value, other, equal_nan=value.dtype.kind == "f"):
                self.constants[name] = as_float32(value)
            elif value.shape == other.shape and value.ndim <= 1 and value.dtype.kind == "i":
                self._numbers(name, value, other)
            elif second is not None and value.ndim == other.ndim:
                self._repeated(name, value, other, second.batch)

    def _numbers(self, name: str, value: Array, other: Array) -> None:
        """Make a list of numbers in which one is the batch."""
        moved = np.flatnonzero(np.atleast_1d(value != other))
        second = self._runs.second
        if second is None or len(moved) != 1 or np.atleast_1d(value)[moved[0]] != self.batch:
            return
        if np.atleast_1d(other)[moved[0]] != second.batch:
            return
        if value.ndim == 0:
            self.add("Squeeze", [BATCH, self.constant(np.array([0], np.int64), "axes")], name)
            return
        at = int(moved[0])
        self._shape_with_batch(value[:at], value[at + 1 :], name)

    def _shape_with_batch(self, before: Array, after: Array, name: str) -> None:
        """Name the list of the numbers `before`, the batch, the numbers `after`."""
        first, last = (self.constant(part.astype(np.int64)) if len(part) else "" for part in (before, after))
        parts = [each for each in (first, BATCH, last) if each]
        if len(parts) == 1:
            self.alias(name, BATCH)
        else:
            self.add("Concat", parts, name, axis=0)

    def _repeated(self, name: str, value: Array, other: Array, batch: int) -> None:
        """Make an array that is the same for each row, such as a first state of zeros."""
        moved = [axis for axis, (a, b) in enumerate(zip(value.shape, other.shape, strict=True)) if a != b]
        if len(moved) != 1 or value.shape[moved[0]] != self.batch or other.shape[moved[0]] != batch:
            return
        axis = moved[0]
        one = np.take(value, [0], axis=axis)
        if not all(np.array_equal(each, np.repeat(one, each.shape[axis], axis)) for each in (value, other)):
            return
        ones, target = np.ones(value.ndim, np.int64), self.fresh("shape")
        self._shape_with_batch(ones[:axis], ones[axis + 1 :], target)
        self.per_row[name] = as_float32(one)
        self.add("Expand", [self.constant(self.per_row[name]), target], name)

    def refuse(self, node: onnx.NodeProto, reason: str) -> ExportError:
        """Return an error that names a node."""
        return ExportError(f"{self.where}: {node.op_type}, which makes {node.output[0]!r}: {reason}")


def as_float32(array: Array) -> Array:
    """Return float64 and float16 as float32."""
    return array.astype(np.float32) if array.dtype in (np.float64, np.float16) else array
