"""What one node of the operator library computes, and the one-node graph that asks for it.

runtime/cpp/ops/README.md has the operator; the names of its activations, scores and constants are the ones used here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeae.bundle.protobuf import write_model

__all__ = ["NEVER_NEGATIVE", "Array", "Chain", "Layer", "quantised", "to_model"]

Array = np.ndarray[Any, Any]

DOMAIN, OPERATOR, OPERATOR_FOR_BYTES = "edgeae", "DenseChain", "DenseChainBytes"
NEVER_NEGATIVE = ("relu", "sigmoid")

FLOAT, UINT8 = 1, 2
# ONNX's numbers of attribute types, by the field that holds the value
ATTRIBUTE_TYPES = {"float": 1, "int": 2, "string": 3, "floats": 6, "ints": 7}


@dataclass(frozen=True)
class Quantised:
    """The integers of an int8 layer: `value = (integer - zero) * scale`.

    Attributes:
        scale: Of each output's weights, float32 [out]; 0: chosen from the largest.
        input_scale: Of the layer's input; 0: chosen anew for every row.
        input_zero: The zero point of the input, 0 to 255.
        input_factor: What multiplies the input before it becomes integers, float32 [in]; None: nothing.
    """

    scale: Array
    input_scale: float
    input_zero: int
    input_factor: Array | None = None


@dataclass(frozen=True)
class Layer:
    """`activation(x @ weight.T + bias)`, of which the largest values are kept.

    Attributes:
        weight: float32 [out, in].
        bias: float32 [out].
        activation: "linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh" or "sigmoid".
        alpha: Of leaky_relu and elu.
        keep: How many values stay, and what ties with the smallest of them; the others become 0. 0: all stay.
        quantised: For int8.
    """

    weight: Array
    bias: Array
    activation: str = "linear"
    alpha: float = 0.0
    keep: int = 0
    quantised: Quantised | None = None


@dataclass(frozen=True)
class Distance:
    """The part of a score that grows with the distance of `u = (x - middle) * spread` from the nearest prototype.

    It is `factor * sum(u²) + min(u @ weight.T + bias)`; middle and spread are constants of the chain.

    Attributes:
        layer: Its weight is [prototypes, values of a row].
        factor: Of the sum.
    """

    layer: Layer
    factor: float


@dataclass(frozen=True)
class Divergence:
    """The part of a score that latents with a variance give: `factor * sum(mean² + exp(v) - v)`.

    Attributes:
        layer: Which layer (from 0) gives the means, then as many log variances v; the next one reads the means.
        factor: Of the sum.
        bound: v is `bound * tanh(output / bound)`; 0: the output.
    """

    layer: int
    factor: float
    bound: float


@dataclass(frozen=True)
class Chain:
    """`(x - shift) * factor`, the layers, and either `y * out_factor + out_shift` or the error of y as a score.

    Attributes:
        layers: At least one; all of them quantised, or none.
        constants: "shift", "factor", "weight", "middle", "spread", "out_factor", "out_shift" -> float32 [values of a
            row], those there are. `weight` multiplies the difference of which the score is made.
        score: "none", "squared", "absolute" or "cross_entropy": what is added up over a row.
        score_factor: What the sum is multiplied by.
        score_shift: What is added to the score.
        clip: For cross_entropy: the input may lie outside 0..1.
        whitening: For squared: what the difference goes through, never quantised.
        distance: A second part of the score.
        divergence: A third one.
    """

    layers: tuple[Layer, ...]
    constants: Mapping[str, Array]
    score: str = "none"
    score_factor: float = 1.0
    score_shift: float = 0.0
    clip: bool = False
    whitening: Layer | None = None
    distance: Distance | None = None
    divergence: Divergence | None = None


def quantised(chain: Chain) -> Chain:
    """Return the chain with int8 weights, one scale per output, and inputs scaled row by row."""
    layers, before = [], "linear"
    for layer in chain.layers:
        zero = 0 if before in NEVER_NEGATIVE else 128
        layers.append(replace(layer, quantised=Quantised(np.zeros(len(layer.bias), np.float32), 0.0, zero)))
        before = layer.activation
    return replace(chain, layers=tuple(layers))


def to_model(chain: Chain, model: Mapping[str, Any]) -> bytes:
    """Return an ONNX file with one node, whose input and output are those of `model` (see `parse_model`)."""
    graph = model["graph"]
    (source,), (target,) = graph["inputs"], graph["outputs"]
    tensor = source["type"]["tensor"]
    row, out_row = (
        [int(side["value"]) for side in value["type"]["tensor"]["shape"]["dimensions"][1:]]
        for value in (source, target)
    )
    numbers = [chain.constants[name] for name in chain.constants]
    for layer in chain.layers:
        numbers += [layer.weight, layer.bias]
        if layer.quantised is not None:
            numbers += [each for each in (layer.quantised.scale, layer.quantised.input_factor) if each is not None]
    for tail in (chain.whitening, chain.distance and chain.distance.layer):
        numbers += [tail.weight, tail.bias] if tail else []
    flat = np.concatenate([part.reshape(-1) for part in numbers]).astype("<f4")
    node = {
        "inputs": [source["name"], "constants"],
        "outputs": [target["name"]],
        "op": OPERATOR_FOR_BYTES if tensor["dtype"] == UINT8 else OPERATOR,
        "domain": DOMAIN,
        "attributes": [_attribute(name, *value) for name, value in _attributes(chain, row, out_row).items()],
    }
    constants = {"name": "constants", "dtype": FLOAT, "dimensions": [flat.size], "raw": flat.tobytes()}
    return write_model(
        {
            "ir_version": model["ir_version"],
            "opsets": [*model["opsets"], {"domain": DOMAIN, "version": 1}],
            "graph": {
                "name": "native",
                "nodes": [node],
                "initializers": [constants],
                "inputs": [source],
                "outputs": [target],
            },
        }
    )


def _attributes(chain: Chain, row: list[int], out_row: list[int]) -> dict[str, tuple[str, Any]]:
    layers, distance, divergence = chain.layers, chain.distance, chain.divergence
    integers = [layer.quantised for layer in layers if layer.quantised is not None]
    widths = [math.prod(row), *(len(layer.bias) for layer in layers)]
    found: dict[str, tuple[str, Any]] = {
        "row": ("ints", row),
        "out_row": ("ints", out_row),
        "widths": ("ints", widths),
        "activations": ("string", ",".join(layer.activation for layer in layers)),
        "alphas": ("floats", [layer.alpha for layer in layers]),
        "keeps": ("ints", [layer.keep for layer in layers]),
        "score": ("string", chain.score),
        "score_factor": ("float", chain.score_factor),
        "score_shift": ("float", chain.score_shift),
        "clip": ("int", int(chain.clip)),
        "whitened": ("int", int(chain.whitening is not None)),
        "prototypes": ("int", len(distance.layer.bias) if distance else 0),
        "distance_factor": ("float", distance.factor if distance else 0.0),
        "gaussian": ("int", divergence.layer + 1 if divergence else 0),
        "divergence_factor": ("float", divergence.factor if divergence else 0.0),
        "log_variance_bound": ("float", divergence.bound if divergence else 0.0),
        "constants": ("string", ",".join(chain.constants)),
        "int8": ("int", int(bool(integers))),
    }
    if integers:
        found["input_scales"] = ("floats", [each.input_scale for each in integers])
        found["input_zeros"] = ("ints", [each.input_zero for each in integers])
        found["evened"] = ("ints", [int(each.input_factor is not None) for each in integers])
    return found


def _attribute(name: str, field: str, value: Any) -> dict[str, Any]:
    return {"name": name, field: value.encode() if field == "string" else value, "type": ATTRIBUTE_TYPES[field]}
