"""Rows to quantised latents in one run: the encoder with a grid behind it, in a loop of ONNX Runtime's own.

No latent leaves the caches, and Python's lock is not needed between one piece of the rows and the next.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeae.bundle.protobuf import graph_attribute, parse_model, write_model
from edgeae.errors import DeviceError
from edgeae.runtime.denormals import DenormalsAsZero
from edgeae.runtime.inputs import Array
from edgeae.runtime.model import Autoencoder
from edgeae.runtime.ort import ERRORS

__all__ = ["Quantiser"]

# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: TensorProto.DataType, AttributeProto.AttributeType
FLOAT, UINT8 = 1, 2
INT, INTS = 2, 7


class Quantiser:
    """Codes of latents, clip(rint((encode(x) - low) · factor + zero), 0, 255), without the latents.

    Any number of threads may call it. The session behind it has the weights of the encoder once more, and is kept with
    the model.

    Example:
        >>> import edgeae
        >>> model = edgeae.load("export/golden/table", device="cpu")
        >>> rows, ones = model.bundle.golden().x, np.ones(model.latent_dim, np.float32)
        >>> codes = np.empty((model.latent_dim, len(rows)), np.uint8)
        >>> Quantiser(model, rows.dtype)(rows, (0 * ones, 8 * ones, 128 * ones), codes)
        True
        >>> bool((abs(codes.T - (8 * model.encode(rows) + 128)) <= 0.51).all())
        True
    """

    def __init__(self, model: Autoencoder, dtype: np.dtype[Any]) -> None:
        """Make the graph, or take the one that was made for this model before.

        Args:
            model: Whose encoder, where `possible`.
            dtype: Of the rows.
        """
        encoder = model._graph("encoder")

        def made() -> bytes:
            return _looped(model.bundle.graph(model.precision, "encoder"), model.latent_dim, dtype)

        self._session = encoder.session_beside(f"quantiser of {dtype}", made)
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._failed = f"{encoder.where}: failed on {encoder.device}"
        self._options = encoder.run_options
        self._piece = model._chunk_of("encode", dtype.itemsize * math.prod(model.input_shape))

    @staticmethod
    def possible(model: Autoencoder, dtype: np.dtype[Any]) -> bool:
        """Return whether codes come as the latents do: from ONNX Runtime's own operators, on the CPU.

        Args:
            model: Whose latents.
            dtype: Of the rows.
        """
        encoder = model._graph("encoder")
        taken = dtype in (encoder.source_dtype, np.uint8)
        return model.device == "cpu" and not encoder.native and model.manifest.batch is None and taken

    def __call__(self, rows: Array, grid: tuple[Array, Array, Array], out: Array) -> bool:
        """Write codes to `out`, in the calling thread; are they worth anything, because all values are finite?

        Args:
            rows: [n, *input_shape], contiguous, of the dtype.
            grid: low, factor and zero, float32 [latent_dim], finite.
            out: uint8 [latent_dim, n].

        Raises:
            DeviceError: if ONNX Runtime fails.
        """
        finite, whole = True, len(rows) - len(rows) % self._piece
        for start, stop, size in ((0, whole, self._piece), (whole, len(rows), len(rows) - whole)):
            if start == stop:
                continue
            pieces = rows[start:stop].reshape(-1, size, *rows.shape[1:])
            try:
                with DenormalsAsZero():
                    codes, *sums = self._session.run(
                        None, dict(zip(self._inputs, (pieces, *grid), strict=True)), self._options
                    )
            except ERRORS as problem:
                raise DeviceError(f"{self._failed}: {str(problem).splitlines()[0]}") from problem
            out[:, start:stop].reshape(len(out), -1, size)[...] = codes.transpose(1, 0, 2)
            finite = finite and all(bool(np.isfinite(each).all()) for each in sums)
        return finite


def _looped(data: bytes, latent_dim: int, dtype: np.dtype[Any]) -> bytes:
    """Return a graph that runs the encoder `data` over pieces of rows, with what makes codes of its output.

    Its inputs are the pieces [pieces, rows, *input_shape], and low, factor and zero [latent_dim]; its outputs are the
    codes, uint8 [pieces, latent_dim, rows], and for float32 rows their sums [pieces], which are not finite where a
    value is not.
    """
    model = parse_model(data)
    body = model["graph"]
    (source,), (target,) = body["inputs"], body["outputs"]
    tensor = source["type"]["tensor"]
    taken = {name for node in body["nodes"] for name in (*node["inputs"], *node["outputs"])}
    own = "grid"
    while any(name.startswith(own) for name in taken):
        own += "_"
    pieces, rows, low, factor, zero, one, none, steps = (f"{own}.{number}" for number in range(8))
    codes, sums = f"{own}.codes", f"{own}.sums"
    before: list[dict[str, Any]] = []
    results: list[tuple[str, int, tuple[int | None, ...]]] = [(codes, UINT8, (latent_dim, None))]
    if dtype != np.float32 and tensor["dtype"] == FLOAT:
        before = [_node("Cast", (rows,), source["name"], {"name": "to", "type": INT, "int": FLOAT})]
        source["name"], tensor["dtype"] = rows, UINT8
    elif dtype == np.float32:
        before = [_node("ReduceSum", (source["name"],), sums, {"name": "keepdims", "type": INT, "int": 0})]
        results.append((sums, FLOAT, ()))
    body["nodes"] = [
        *before,
        *body["nodes"],
        _node("Sub", (target["name"], low), f"{steps}.1"),
        _node("Mul", (f"{steps}.1", factor), f"{steps}.2"),
        _node("Add", (f"{steps}.2", zero), f"{steps}.3"),
        # the cheapest way to clip and round: it quantises once more, in steps of one
        _node("QuantizeLinear", (f"{steps}.3", one, none), f"{steps}.4"),
        _node("Transpose", (f"{steps}.4",), codes, {"name": "perm", "type": INTS, "ints": [1, 0]}),
    ]
    body["initializers"] += [
        {"name": one, "dtype": FLOAT, "dimensions": [], "raw": np.float32(1).tobytes()},
        {"name": none, "dtype": UINT8, "dimensions": [], "raw": bytes(1)},
    ]
    body["outputs"] = [_value(*each) for each in results]
    loop = _node("Scan", (pieces,), "", {"name": "num_scan_inputs", "type": INT, "int": 1})
    loop["attributes"].append(graph_attribute("body", body))
    loop["outputs"] = [f"{name}.all" for name, _, _ in results]
    sizes = [dimension.get("value") for dimension in tensor["shape"]["dimensions"]]
    model["graph"] = {
        "name": "quantiser",
        "nodes": [loop],
        "inputs": [
            _value(pieces, tensor["dtype"], (None, *sizes)),
            *(_value(name, FLOAT, (latent_dim,)) for name in (low, factor, zero)),
        ],
        "outputs": [_value(f"{name}.all", kind, (None, *shape)) for name, kind, shape in results],
    }
    return write_model(model)


def _node(operator: str, inputs: tuple[str, ...], output: str, *attributes: dict[str, Any]) -> dict[str, Any]:
    return {"op": operator, "inputs": inputs, "outputs": [output], "attributes": list(attributes)}


def _value(name: str, dtype: int, shape: tuple[int | None, ...]) -> dict[str, Any]:
    dimensions = [{} if size is None else {"value": size} for size in shape]
    return {"name": name, "type": {"tensor": {"dtype": dtype, "shape": {"dimensions": dimensions}}}}
