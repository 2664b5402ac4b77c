"""Where an autoencoder can be cut: values that everything passes through on its way from the rows to the output."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeae.errors import ExportError
from edgeae.export.adopt.rewrite import BATCH, Work

__all__ = ["Waist", "choose_latent", "part", "waists"]

_MOVES: Final = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DequantizeLinear")
_FLOATS: Final = ("float32", "float64", "float16")


@dataclass(frozen=True)
class Waist:
    """A value that everything passes through.

    Attributes:
        name: Its name.
        width: How many numbers of it a row has.
        moved: Whether it is only another form of the value before.
    """

    name: str
    width: int
    moved: bool


def waists(work: Work, output: str) -> list[Waist]:
    """Return all float values between rows and `output` that everything passes through, in order.

    After the node that makes such a value, it is the only one that later nodes still read.
    """
    needed, kept = {output}, []
    for node in reversed(work.nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    last: dict[str, int] = {output: len(kept)}
    rows = {work.head}
    for index, node in enumerate(kept):
        for name in rows.intersection(node.input):
            last[name] = max(last.get(name, 0), index)
        if rows.intersection(node.input):
            rows.update(node.output)
    found: list[Waist] = []
    live = {work.head}
    for index, node in enumerate(kept):
        live = {name for name in live if last.get(name, -1) > index}
        live.update(name for name in rows.intersection(node.output) if last.get(name, -1) > index)
        if len(live) != 1:
            continue
        (name,) = live
        inner = (
            name not in (work.head, work.source, output) and work.batch_axis(name) == 0 and work.dtype(name) in _FLOATS
        )
        if inner and (not found or found[-1].name != name):
            moved = node.op_type in _MOVES and name in node.output
            found.append(Waist(name, math.prod(work.shape(name)[1:]), moved))
    return found


def choose_latent(found: Sequence[Waist], row: int, where: str) -> str:
    """Return the narrowest waist; of several in a row, the last, which is after the activation.

    Args:
        found: In order.
        row: Numbers in one row.
        where: What to call the model.

    Raises:
        ExportError: if there is none, or none that is narrower than the rows.
    """
    if not found:
        raise ExportError(
            f"{where}: cannot be cut into encoder and decoder: connections lead past every value between its input and "
            "its output (skip connections?); give encoder and decoder as two files"
        )
    narrowest = min(waist.width for waist in found)
    if narrowest >= row:
        raise ExportError(
            f"{where}: has no bottleneck: nothing between its input and its output has fewer than the {row} values of "
            f"a row; say which value is the latent (--latent NAME): {listed(found)}"
        )
    index = next(index for index, waist in enumerate(found) if waist.width == narrowest)
    alike = list(itertools.takewhile(lambda waist: waist.width == narrowest, found[index:]))
    return ([waist.name for waist in alike if not waist.moved] or [alike[-1].name])[-1]


def listed(found: Sequence[Waist]) -> str:
    """Name waists and their widths, at most eight."""
    shown = ", ".join(f"{waist.name} ({waist.width})" for waist in found[:8])
    return shown + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "there is none"


def part(
    work: Work, source: str, target: str, *, name: str, sides: Sequence[int], output: str, made: Sequence[int]
) -> onnx.GraphProto:
    """Return the graph from `source` to `target`, called `name` and `output`.

    Args:
        work: Nodes to take.
        source: A value that becomes the input.
        target: The value that becomes the output.
        name: The input's name in the result, float32 [batch, *sides].
        sides: Of one row of the input.
        output: The output's name, float32 [batch, *made].
        made: Of one row of the output.

    Raises:
        ExportError: if `target` needs more than `source`.
    """
    needed, kept = {target}, []
    for node in reversed(work.nodes):
        if needed.intersection(node.output) and source not in node.output:
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    if work.head in needed and source != work.head:
        raise ExportError(
            f"{work.where}: cannot be cut at {source!r}: connections lead past it; possible are "
            f"{listed(waists(work, target))}"
        )
    batch: int | str = "batch" if work.symbolic else work.batch
    taken = {each for node in kept for each in (*node.input, *node.output)}
    taken.update(work.constants.keys() & needed)
    names = {source: name, target: output}
    for old in (name, output):
        if old in taken and old not in names:
            names[old] = work.fresh("renamed")
    nodes = []
    if BATCH in taken:
        nodes.append(helper.make_node("Shape", [name], [BATCH], name=BATCH, start=0, end=1))
    if tuple(sides) != work.shape(source)[1:]:
        names[source] = work.fresh("shaped")
        nodes.append(_to_shape(work, name, names[source], work.shape(source)[1:], needed))
    if tuple(made) != work.shape(target)[1:]:
        names[target] = work.fresh("unshaped")
    for node in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(each, each) for each in node.input]
        copy.output[:] = [names.get(each, each) for each in node.output]
        copy.name = copy.output[0]
        nodes.append(copy)
    if names[target] != output:
        nodes.append(_to_shape(work, names[target], output, made, needed))
    weights = [
        numpy_helper.from_array(work.constants[each], names.get(each, each))
        for each in sorted(needed)
        if each in work.constants
    ]
    return helper.make_graph(
        nodes,
        "core",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *sides])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, *made])],
        weights,
    )


def _to_shape(work: Work, source: str, target: str, row: Sequence[int], needed: set[str]) -> onnx.NodeProto:
    shape = work.constant(np.array([-1, *row], np.int64), "shape")
    needed.add(shape)
    return helper.make_node("Reshape", [source, shape], [target], name=target)
