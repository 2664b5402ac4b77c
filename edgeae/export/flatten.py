"""Scoring flat rows: a dense network on images flattens them and, last, gives the result their shape again.

The score is a mean over all values of a row, whatever their shape, so a scorer needs the first of these Reshapes only.
Without the second, ONNX Runtime fuses the output activation into the last Gemm: two nodes less of about nine.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx

from edgeae.bundle.manifest import Input, Normalisation
from edgeae.export.graph import constants_of

__all__ = ["flat_cores", "flat_input", "flat_normalisation"]


def flat_cores(
    encoder: onnx.GraphProto, decoder: onnx.GraphProto, row: tuple[int, ...]
) -> tuple[onnx.GraphProto, onnx.GraphProto] | None:
    """Return the cores between rows [batch, values] instead of [batch, *row], or None where they are not dense.

    Args:
        encoder: Its only use of its input may be a Reshape or Flatten to [batch, values].
        decoder: Its output may come from a Reshape of what a Gemm gives.
        row: Shape of one row, of more than one axis.
    """
    values = math.prod(row)
    source = encoder.input[0].name
    readers = [node for node in encoder.node if source in node.input]
    if len(readers) != 1 or not _flattens(readers[0], encoder, values):
        return None
    target = decoder.output[0].name
    makers = {name: node for node in decoder.node for name in node.output}
    last = makers[target]
    flat = makers.get(last.input[0])
    if last.op_type != "Reshape" or flat is None or flat.op_type not in ("Gemm", "QGemm"):
        return None
    return _without(encoder, readers[0].output[0], source), _without(decoder, target, last.input[0])


def flat_input(declared: Input) -> Input:
    """Return what `declared` is once its rows are flat vectors."""
    return replace(declared, shape=(math.prod(declared.shape),), layout="vector")


def flat_normalisation(normalisation: Normalisation, declared: Input) -> Normalisation:
    """Return the normalisation for the flat rows of `declared`: one value, or one for each value of a row."""
    if len(normalisation.shift) == 1:
        return normalisation
    shift, scale = (
        np.broadcast_to(array, declared.shape).ravel()
        for array in normalisation.arrays(declared.shape, declared.layout)
    )
    return replace(normalisation, shift=tuple(map(float, shift)), scale=tuple(map(float, scale)))


def _flattens(node: onnx.NodeProto, core: onnx.GraphProto, values: int) -> bool:
    if node.op_type == "Flatten":
        return all(attribute.i == 1 for attribute in node.attribute)
    shape = constants_of(core).get(node.input[1]) if node.op_type == "Reshape" else None
    return shape is not None and len(shape) == 2 and int(shape[1]) == values


def _without(core: onnx.GraphProto, output: str, instead: str) -> onnx.GraphProto:
    """Return a copy without the node that makes `output`; what read or returned it has `instead`."""
    copy = onnx.GraphProto()
    copy.CopyFrom(core)
    kept = [node for node in core.node if output not in node.output]
    del copy.node[:]
    copy.node.extend(kept)
    for node in copy.node:
        node.input[:] = [instead if name == output else name for name in node.input]
    for declared in copy.output:
        declared.name = instead if declared.name == output else declared.name
    return copy
