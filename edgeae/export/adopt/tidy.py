"""Layers in one form: dense ones as Gemm with its weight transposed, batch normalisation in the layer before."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx

from edgeae.export.adopt.rewrite import Array, Work, attributes_of

__all__ = ["tidy"]


def tidy(work: Work, keep: Collection[str]) -> None:
    """Rewrite the layers of `work`; values called `keep` stay what they are.

    Dense layers as edgeae writes them are those that normalisation folds into (`edgeae.export.fold`).
    """
    taken: set[str] = set()  # what has become a part of the layer before
    nodes, work.nodes = work.nodes, []
    readers = _readers(nodes, keep)
    for node in nodes:
        if node.output[0] in taken:
            continue
        if node.op_type in ("Gemm", "MatMul") and _dense(work, node, readers, taken):
            continue
        work.nodes.append(node)
    nodes, work.nodes, taken = work.nodes, [], set()
    readers = _readers(nodes, keep)
    for node in nodes:
        if node.output[0] in taken:
            continue
        norm = _only_reader(readers, node.output[0])
        if norm is not None and norm.op_type == "BatchNormalization" and _fold(work, node, norm):
            taken.update(norm.output)
        work.nodes.append(node)


def _readers(nodes: Collection[onnx.NodeProto], keep: Collection[str]) -> dict[str, list[onnx.NodeProto | None]]:
    readers: dict[str, list[onnx.NodeProto | None]] = {name: [None] for name in keep}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _only_reader(readers: dict[str, list[onnx.NodeProto | None]], name: str) -> onnx.NodeProto | None:
    found = readers.get(name, [])
    return found[0] if len(found) == 1 else None


def _dense(work: Work, node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto | None]], taken: set[str]) -> bool:
    """Write a product with a constant matrix as Gemm; an Add of a constant behind it becomes the bias."""
    found = attributes_of(node)
    weight = work.constants.get(node.input[1])
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or found.get("transA"):
        return False
    weight = found.get("alpha", 1.0) * (weight if found.get("transB") else weight.T)
    output = node.output[0]
    bias: Array = np.zeros(len(weight), np.float32)
    if len(node.input) > 2 and node.input[2]:
        given = work.constants.get(node.input[2])
        if given is None or given.size not in (1, len(weight)):
            return False
        bias = bias + found.get("beta", 1.0) * given.reshape(-1)
    add = _only_reader(readers, output)
    if node.op_type == "MatMul" and add is not None and add.op_type == "Add":
        other = [name for name in add.input if name != output]
        given = work.constants.get(other[0]) if other else None
        if given is not None and given.shape in ((), (1,), (len(weight),), (1, len(weight))):
            bias = bias + given.reshape(-1)
            output = add.output[0]
            taken.add(output)
    weight, bias = np.ascontiguousarray(weight, np.float32), bias.astype(np.float32)
    if not work.is_matrix(node.input[0]):
        product = output if not np.any(bias) else work.fresh("product")
        work.add("MatMul", [node.input[0], work.constant(np.ascontiguousarray(weight.T), "weight")], product)
        if product != output:
            work.add("Add", [product, work.constant(bias, "bias")], output)
        return True
    inputs = [node.input[0], work.constant(weight, "weight"), work.constant(bias, "bias")]
    work.add("Gemm", inputs, output, transB=1)
    return True


def _fold(work: Work, layer: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
    """Fold batch normalisation into a layer with constant weights, in float64, in place."""
    statistics = [work.constants.get(name) for name in norm.input[1:5]]
    names = [*layer.input, ""][:3]
    weight = work.constants.get(names[1])
    bias = work.constants.get(names[2]) if names[2] else np.zeros(1)
    known = [each for each in statistics if each is not None]
    if weight is None or bias is None or len(known) < 4 or attributes_of(norm).get("training_mode"):
        return False
    scale, shift, mean, variance = (each.astype(np.float64) for each in known)
    factor = scale / np.sqrt(variance + attributes_of(norm).get("epsilon", 1e-5))
    if layer.op_type == "ConvTranspose" and attributes_of(layer).get("group", 1) == 1:
        spread: Array = factor.reshape(1, -1, *[1] * (weight.ndim - 2))
    elif layer.op_type in ("Conv", "Gemm"):
        spread = factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        return False
    folded: list[Any] = [weight * spread, (bias - mean) * factor + shift]
    layer.input[:] = [names[0], *(work.constant(each.astype(np.float32), "folded") for each in folded)]
    layer.output[0] = norm.output[0]
    return True
