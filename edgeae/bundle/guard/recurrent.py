"""Shape rules of recurrent layers, and of what stands around them while the batch is not the first axis.

ONNX's recurrent operators take [T, batch, values] and give [T, directions, batch, values]. So some operators take rows
whose batch is another axis than the first (`Value.axis`); all others refuse such values.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from edgeae.bundle.guard.values import BATCH, Node, Shape, Value, like, require

__all__ = ["broadcast_series", "product", "recurrent", "reshape_series", "without"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(node: Node) -> list[Value]:
    """LSTM, GRU and RNN over series of one length."""
    x, w, r = node.value(0), node.value(1), node.value(2)
    gates, hidden = _GATES[node.op], node.attributes["hidden_size"]
    directions = 2 if node.attributes["direction"] == b"bidirectional" else 1
    require(len(x.shape) == 3 and (not x.rows or x.axis == 1), "it needs series [T, batch, values]")
    require(x.rows, "it needs rows")
    steps, batch, width = x.shape
    _constant(w, (directions, gates * hidden, width))
    _constant(r, (directions, gates * hidden, hidden))
    if node.optional(3) is not None:
        _constant(node.value(3), (directions, 2 * gates * hidden))
    require(node.optional(4) is None and node.optional(7) is None, "it has lengths or peepholes")
    for index in (5, 6):
        state = node.optional(index)
        if state is not None:
            kept = (state.rows and state.axis == 1) or (not state.rows and node.batch is not None)
            require(state.shape == (directions, batch, hidden) and kept, "its first state has another shape")
    node.work = steps * batch * directions * gates * hidden * (width + hidden)
    node.scratch = steps * batch * directions * gates * hidden
    last = Value(x.dtype, (directions, batch, hidden), rows=True, axis=1)
    return [Value(x.dtype, (steps, directions, batch, hidden), rows=True, axis=2), last, last]


def _constant(value: Value, shape: Shape) -> None:
    require(not value.rows and value.shape == shape, f"its weights must have the shape {list(shape)}")


def without(value: Value, axes: Sequence[int]) -> int:
    """Return where the batch is once `axes` (not negative, none of them the batch) are gone."""
    return value.axis - sum(axis < value.axis for axis in axes)


def broadcast_series(values: Sequence[Value]) -> Value:
    """Return the result of an elementwise operator: all rows have their batch in one place, constants are 1 there."""
    rows = [value for value in values if value.rows]
    first = rows[0]
    rank = len(first.shape)
    alike = all(value.axis == first.axis and len(value.shape) == rank for value in rows)
    require(alike and all(len(value.shape) <= rank for value in values), "broadcasting would move the batch")
    shape = [1] * rank
    for value in values:
        for axis, side in enumerate(value.shape, start=rank - len(value.shape)):
            require(value.rows or axis != first.axis or side == 1, "a constant has an axis where the batch is")
            require(side in (1, shape[axis]) or shape[axis] == 1, f"{side} values meet {shape[axis]}")
            shape[axis] = shape[axis] if side == 1 else side
    return replace(values[0], shape=tuple(shape), rows=True, axis=first.axis, known=None)


def product(node: Node, left: Value, right: Value) -> Value:
    """Return rows whose batch is not first, times a constant matrix."""
    fits = left.rows and not right.rows and len(right.shape) == 2 and left.axis < len(left.shape) - 1
    require(fits, "where the batch is not first, rows must stand left, a constant matrix right")
    require(left.shape[-1] == right.shape[0], f"{left.shape[-1]} columns meet {right.shape[0]} rows")
    node.work = left.size * right.shape[1]
    return like(left, (*left.shape[:-1], right.shape[1]))


def reshape_series(node: Node, value: Value, target: list[object]) -> Value:
    """Return rows whose batch is not first in another shape, in which as many numbers stand before and behind it."""
    before, after = math.prod(value.shape[: value.axis]), math.prod(value.shape[value.axis + 1 :])
    places = [at for at, number in enumerate(target) if number is BATCH]
    if not places:
        places = [at for at, number in enumerate(target) if number == -1 or number == node.batch]
    for at in places:
        others = [number for place, number in enumerate(target) if place != at]
        known = [number for number in others if isinstance(number, int)]
        if len(known) < len(others) or known.count(-1) > 1 or any(number < -1 or number == 0 for number in known):
            continue
        rest = math.prod(number for number in known if number != -1)
        if before * after % rest:
            continue
        sides = [before * after // rest if number == -1 else number for number in known]
        if math.prod(sides[:at]) == before and math.prod(sides[at:]) == after:
            shape = (*sides[:at], value.shape[value.axis], *sides[at:])
            return Value(value.dtype, shape, rows=True, axis=at)
    require(False, "it reshapes the batch")
    return value
