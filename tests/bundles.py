"""Tiny bundles made by hand with onnx.helper and NumPy, for tests that must not depend on PyTorch or on the exporter.

Each is a dense autoencoder `u = (x - shift) / scale, z = relu(u W1 + b1), v = sigmoid(z W2 + b2)` whose arithmetic
is repeated here in float64, so that what the runtime returns is compared with something that is not ONNX Runtime.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeae.bundle.bundle import Bundle, describe_file, pack_arrays
from edgeae.bundle.manifest import (
    Dtype,
    Input,
    Layout,
    Manifest,
    Normalisation,
    PrecisionEntry,
    Quality,
    Score,
    ScoreKind,
    Threshold,
    Tolerance,
)

Array = np.ndarray[Any, Any]

OPSET, IR_VERSION, DECODER_VARIANCE = 18, 10, 0.05


@dataclass(frozen=True)
class Recipe:
    """What to build; `metadata` overrides entries of the graphs' metadata, `manifest` fields of the manifest."""

    shape: tuple[int, ...] = (12,)
    layout: Layout = "vector"
    latent_dim: int = 4
    dtype: Dtype = "float32"
    batch: int | None = None
    score: ScoreKind = "mse"
    names: tuple[str, ...] | None = None
    shift: float = 0.5
    scale: float = 2.0
    seed: int = 0
    generative: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    metadata: Mapping[str, str] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """The weights of a recipe and the arithmetic of its graphs in float64."""

    recipe: Recipe
    w1: Array
    b1: Array
    w2: Array
    b2: Array
    spread: Array

    @staticmethod
    def of(recipe: Recipe) -> Network:
        rng = np.random.default_rng(recipe.seed)
        width, latent = math.prod(recipe.shape), recipe.latent_dim
        return Network(
            recipe,
            w1=rng.normal(0, 1 / math.sqrt(width), (width, latent)).astype(np.float32),
            b1=rng.normal(0.2, 0.1, latent).astype(np.float32),
            w2=rng.normal(0, 1 / math.sqrt(latent), (latent, width)).astype(np.float32),
            b2=rng.normal(0, 0.1, width).astype(np.float32),
            spread=rng.uniform(0.5, 2.0, width).astype(np.float32),
        )

    def rows(self, n: int, seed: int = 1) -> Array:
        """Draw n rows of the recipe's shape and dtype, in the user's units."""
        rng = np.random.default_rng(seed)
        shape = (n, *self.recipe.shape)
        if self.recipe.dtype == "uint8":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        return rng.normal(self.recipe.shift + 0.5 * self.recipe.scale, 0.3 * self.recipe.scale, shape).astype(
            np.float32
        )

    def encode(self, x: Array) -> Array:
        return np.asarray(np.maximum(self._normalised(x) @ self.w1 + self.b1, 0))

    def decode(self, z: Array) -> Array:
        return np.asarray(self._decoded(z) * self.recipe.scale + self.recipe.shift).reshape(-1, *self.recipe.shape)

    def reconstruct(self, x: Array) -> Array:
        return self.decode(self.encode(x))

    def contributions(self, x: Array) -> Array:
        """What each value adds to the score: [n, *shape]; the mean over a row is the score, but for elbo."""
        u, v = self._normalised(x), self._decoded(self.encode(x))
        inside = np.clip(u, 0, 1)
        each = {
            "mse": (u - v) ** 2,
            "mae": np.abs(u - v),
            "zscore": ((u - v) / self.spread) ** 2,
            "bce": -(inside * np.log(v) + (1 - inside) * np.log(1 - v)) + (u - inside) ** 2,
            "elbo": (u - v) ** 2 / (2 * DECODER_VARIANCE),
        }[self.recipe.score]
        return np.asarray(each).reshape(x.shape)

    def score(self, x: Array) -> Array:
        each = self.contributions(x).reshape(len(x), -1)
        if self.recipe.score == "elbo":
            return np.asarray(each.sum(axis=1) + 0.5 * np.square(self.encode(x)).sum(axis=1))
        return np.asarray(each.mean(axis=1))

    def _normalised(self, x: Array) -> Array:
        return np.asarray((x.reshape(len(x), -1).astype(np.float64) - self.recipe.shift) / self.recipe.scale)

    def _decoded(self, z: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-(z.astype(np.float64) @ self.w2 + self.b2))))


def make_bundle(path: Path, recipe: Recipe | None = None, **changes: Any) -> Network:
    """Write the bundle of `recipe` (with `changes`) to `path` and return the network it holds."""
    recipe = replace(recipe or Recipe(), **changes)
    network = Network.of(recipe)
    manifest, files = parts(network)
    Bundle.write(path, manifest, files, force=True)
    return network


def parts(network: Network) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and the files of the bundle, to be written as they are or spoilt first."""
    recipe = network.recipe
    x = network.rows(8, seed=99)
    threshold = float(np.float32(np.quantile(network.score(network.rows(200, seed=7)), 0.9)))
    z = network.encode(x).astype(np.float32)
    golden = pack_arrays(
        x=x,
        z=z,
        x_hat=network.decode(z).astype(np.float32),
        score=network.score(x).astype(np.float32),
    )
    files: dict[str, bytes] = {}
    precisions = {}
    for precision in recipe.precisions:
        folder = "" if precision == "fp32" else f"{precision}/"
        made = {f"{folder}{role}.onnx": graph(network, role, threshold, precision) for role in GRAPH_MAKERS}
        made[f"{folder}golden.npz"] = golden
        files.update(made)
        entries = {Path(name).stem: describe_file(name, data) for name, data in made.items()}
        precisions[precision] = PrecisionEntry(
            **entries,
            threshold=Threshold(threshold, "quantile", fpr=0.1, rows=200),
            tolerance=dict.fromkeys(("z", "x_hat", "score"), Tolerance(rtol=1e-4, atol=1e-4)),
            quality=Quality(parity={"z": 0.0, "x_hat": 0.0, "score": 0.0}, parity_rows=8),
        )
    statistics = None
    if recipe.score == "zscore":
        files["statistics.npz"] = pack_arrays(spread=network.spread.reshape(recipe.shape))
        statistics = describe_file("statistics.npz", files["statistics.npz"])
    manifest = Manifest(
        format="edgeae-bundle",
        format_version=1,
        name="tiny",
        created="2025-01-01T00:00:00Z",
        producer={"edgeae": "test"},
        variant="variational" if recipe.generative else "dense",
        description="made by hand",
        parameters=sum(array.size for array in (network.w1, network.b1, network.w2, network.b2)),
        latent_dim=recipe.latent_dim,
        input=Input(recipe.shape, recipe.dtype, recipe.layout, recipe.names),
        normalisation=Normalisation("minmax", (recipe.shift,), (recipe.scale,)),
        score=Score(recipe.score, DECODER_VARIANCE if recipe.score == "elbo" else None),
        batch=recipe.batch,
        opset=OPSET,
        ir_version=IR_VERSION,
        precisions=precisions,
        generative=recipe.generative,
        statistics=statistics,
    )
    return replace(manifest, **recipe.manifest), files


def graph(network: Network, role: str, threshold: float, precision: str = "fp32") -> bytes:
    """Return the bytes of one graph."""
    recipe = network.recipe
    batch: Any = recipe.batch or "batch"
    first = recipe.batch or -1
    weights = {name: getattr(network, name) for name in ("w1", "b1", "w2", "b2", "spread")}
    weights |= {
        "shift": np.float32(recipe.shift),
        "scale": np.float32(recipe.scale),
        "flat": np.array([first, math.prod(recipe.shape)]),
        "rows": np.array([first, *recipe.shape]),
        "axes": np.array([1]),
        "share": np.float32(1 / math.prod(recipe.shape)),
        "precision": np.float32(1 / (2 * DECODER_VARIANCE)),
        "half": np.float32(0.5),
        "one": np.float32(1),
        "zero": np.float32(0),
    }
    nodes, source, output = GRAPH_MAKERS[role](recipe)
    shapes: dict[str, list[Any]] = {
        "x": [batch, *recipe.shape],
        "x_hat": [batch, *recipe.shape],
        "z": [batch, recipe.latent_dim],
        "score": [batch],
    }
    read = TensorProto.UINT8 if source == "x" and recipe.dtype == "uint8" else TensorProto.FLOAT
    used = {name for node in nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            role,
            [helper.make_tensor_value_info(source, read, shapes[source])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shapes[output])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items() if name in used],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    metadata = {
        "edgeae.format_version": "1",
        "edgeae.role": role,
        "edgeae.variant": "variational" if recipe.generative else "dense",
        "edgeae.precision": precision,
        "edgeae.input_shape": ",".join(map(str, recipe.shape)),
        "edgeae.input_dtype": recipe.dtype,
        "edgeae.layout": recipe.layout,
        "edgeae.latent_dim": str(recipe.latent_dim),
        "edgeae.score": recipe.score,
        "edgeae.threshold": repr(threshold),
    }
    if recipe.names is not None:
        metadata["edgeae.feature_names"] = json.dumps(recipe.names)
    helper.set_model_props(model, metadata | dict(recipe.metadata))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


Nodes = tuple[list[onnx.NodeProto], str, str]


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind}_{output}", **attributes)


def _encode(recipe: Recipe) -> list[onnx.NodeProto]:
    cast = [_node("Cast", "x", "x_float", to=TensorProto.FLOAT)] if recipe.dtype == "uint8" else []
    return [
        *cast,
        _node("Reshape", "x_float flat" if cast else "x flat", "x_flat"),
        _node("Sub", "x_flat shift", "centred"),
        _node("Div", "centred scale", "u"),
        _node("Gemm", "u w1 b1", "h"),
        _node("Relu", "h", "z"),
    ]


def _encoder(recipe: Recipe) -> Nodes:
    return _encode(recipe), "x", "z"


def _decoder(recipe: Recipe) -> Nodes:
    nodes = [
        _node("Gemm", "z w2 b2", "logits"),
        _node("Sigmoid", "logits", "v"),
        _node("Mul", "v scale", "scaled"),
        _node("Add", "scaled shift", "shifted"),
        _node("Reshape", "shifted rows", "x_hat"),
    ]
    return nodes, "z", "x_hat"


def _scorer(recipe: Recipe) -> Nodes:
    common = [*_encode(recipe), _node("Gemm", "z w2 b2", "logits"), _node("Sigmoid", "logits", "v")]
    difference = _node("Sub", "u v", "difference")
    tails = {
        "mse": [
            difference,
            _node("ReduceSumSquare", "difference axes", "total", keepdims=0),
            _node("Mul", "total share", "score"),
        ],
        "mae": [
            difference,
            _node("Abs", "difference", "absolute"),
            _node("ReduceMean", "absolute axes", "score", keepdims=0),
        ],
        "zscore": [
            difference,
            _node("Div", "difference spread", "standardised"),
            _node("ReduceSumSquare", "standardised axes", "total", keepdims=0),
            _node("Mul", "total share", "score"),
        ],
        "bce": [
            _node("Clip", "u zero one", "inside"),
            _node("Sub", "u inside", "excess"),
            _node("Mul", "excess excess", "excess_squared"),
            _node("Softplus", "logits", "soft"),
            _node("Mul", "inside logits", "product"),
            _node("Sub", "soft product", "entropy"),
            _node("Add", "entropy excess_squared", "each"),
            _node("ReduceMean", "each axes", "score", keepdims=0),
        ],
        "elbo": [
            difference,
            _node("ReduceSumSquare", "difference axes", "total", keepdims=0),
            _node("Mul", "total precision", "distortion"),
            _node("ReduceSumSquare", "z axes", "norm", keepdims=0),
            _node("Mul", "norm half", "rate"),
            _node("Add", "distortion rate", "score"),
        ],
    }
    return common + tails[recipe.score], "x", "score"


GRAPH_MAKERS = {"encoder": _encoder, "decoder": _decoder, "scorer": _scorer}


def assert_close(found: Any, wanted: Any, scale: float = 1.0) -> None:
    """Compare results of float32 graphs with float64 arithmetic; `scale` is the spread of one unit in the rows."""
    np.testing.assert_allclose(np.asarray(found) / scale, np.asarray(wanted) / scale, rtol=1e-4, atol=1e-4)
