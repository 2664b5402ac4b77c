"""Static shape inference for the operators that a bundle may use, one rule per group of operators.

A value is either *rows*, whose first axis is the batch and stays it (but for series, see `recurrent`), or a constant.
Every rule keeps the rows apart: it refuses to reduce, transpose, slice, reshape or contract over the batch, since one
row never changes another. All integers that shape a result (a target shape, paddings, a kernel) are known here, and
computed as ONNX has it.

Source: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from edgeae.bundle.protobuf import Refused
from edgeae.bundle.record import record

__all__ = ["BATCH", "Node", "Value"]

# Stands for the unknown batch among the known numbers of a shape.
BATCH: Final = None

FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16 = 1, 2, 3, 6, 7, 9, 10

Shape = tuple[int, ...]


@record(frozen=True)
class Value:
    """What is known of a tensor before anything runs.

    Attributes:
        dtype: ONNX's number of it.
        shape: Of rows with a symbolic batch, the first entry is 1 and stands for it.
        rows: Whether the first axis is the batch.
        known: The numbers of a small constant of rank 0 or 1; BATCH stands for the batch.
        axis: Which axis of rows is the batch; another than the first only between operators `of_series`.
    """

    dtype: int
    shape: Shape
    rows: bool = False
    known: tuple[Any, ...] | None = None
    axis: int = 0

    @property
    def size(self) -> int:
        """How many numbers it has, at batch 1 where the batch is symbolic."""
        return math.prod(self.shape)

    @property
    def of_batch(self) -> bool:
        """Whether it is a shape that holds the unknown batch."""
        return self.known is not None and BATCH in self.known


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

    def __init__(
        self,
        op: str,
        inputs: list[Value | None],
        attributes: dict[str, Any],
        outputs: int = 1,
        batch: int | None = None,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attributes = attributes
        self.outputs = outputs
        self.batch = batch
        self.work = 0
        self.scratch = 0

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
        require(not value.rows or axis % rank != value.axis, "it works along the batch")
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
    return Value(value.dtype if dtype is None else dtype, tuple(shape), value.rows, axis=value.axis)
