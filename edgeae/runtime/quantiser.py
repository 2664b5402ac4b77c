"""Rows to quantised latents in one run: the encoder with a grid behind it, so that no latent leaves the caches."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeae.bundle.protobuf import parse_model, write_model
from edgeae.runtime.bulk import run_rows
from edgeae.runtime.inputs import Array, RowReader, as_rows
from edgeae.runtime.model import Autoencoder

__all__ = ["Quantiser"]

FLOAT, UINT8 = 1, 2  # https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, TensorProto.DataType


class Quantiser:
    """Codes of latents, clip(rint((encode(x) - low) · factor + zero), 0, 255), without the latents.

    Any number of threads may call it. It is a session of its own, with the weights of the encoder once more.

    Example:
        >>> import edgeae
        >>> model = edgeae.load("export/golden/table", device="cpu")
        >>> rows, ones = model.bundle.golden().x, np.ones(model.latent_dim, np.float32)
        >>> codes = np.empty((len(rows), model.latent_dim), np.uint8)
        >>> Quantiser(model, 0 * ones, 8 * ones, 128 * ones)(rows, codes)
        >>> bool((abs(codes - (8 * model.encode(rows) + 128)) <= 0.51).all())
        True
    """

    def __init__(self, model: Autoencoder, low: Array, factor: Array, zero: Array) -> None:
        """Make the graph.

        Args:
            model: Whose encoder, where `possible`.
            low: float32 [latent_dim].
            factor: float32 [latent_dim], finite.
            zero: float32 [latent_dim].
        """
        self._model = model
        data = _with_grid(model.bundle.graph(model.precision, "encoder"), low, factor, zero)
        self._graph = model._graph("encoder").derived(data, "codes", np.dtype(np.uint8))

    @staticmethod
    def possible(model: Autoencoder) -> bool:
        """Return whether codes come as the latents do: from ONNX Runtime's own operators, on the CPU."""
        return model.device == "cpu" and not model._graph("encoder").native

    def __call__(self, x: object, out: Array) -> None:
        """Write the codes of rows [n, *input_shape] to `out`, uint8 [n, latent_dim], in the calling thread.

        Raises:
            InputError: for rows that cannot be taken, also where the model was loaded with on_invalid="flag".
        """
        model = self._model
        reader = RowReader(as_rows(x, model._x), model._x, flag=False)
        run_rows(
            (self._graph,), reader, out, chunk=model._chunk_of("encode", reader), workers=1, batch=model.manifest.batch
        )


def _with_grid(data: bytes, low: Array, factor: Array, zero: Array) -> bytes:
    """Return the encoder `data` with what makes codes of its output, in a graph with the output "codes"."""
    model = parse_model(data)
    graph = model["graph"]
    (target,) = graph["outputs"]
    taken = {name for node in graph["nodes"] for name in node["outputs"]}
    taken |= {value["name"] for value in [*graph["inputs"], *graph["initializers"]]}
    own = "codes"
    while any(name.startswith(own) for name in taken - {target["name"]}):
        own += "_"
    constants = {"low": low, "factor": factor, "zero": zero, "one": np.float32(1), "none": np.uint8(0)}
    graph["initializers"] += [_constant(f"{own}.{name}", np.asarray(value)) for name, value in constants.items()]
    # the cheapest way to clip and round is to quantise once more, in steps of one
    steps = (("Sub", "low"), ("Mul", "factor"), ("Add", "zero"), ("QuantizeLinear", "one"))
    before = target["name"]
    for place, (operator, constant) in enumerate(steps, 1):
        last = place == len(steps)
        inputs = [before, f"{own}.{constant}", *([f"{own}.none"] if last else [])]
        before = "codes" if last else f"{own}.{place}"
        graph["nodes"].append({"op": operator, "inputs": inputs, "outputs": [before]})
    shape = target["type"]["tensor"]["shape"]
    graph["outputs"] = [{"name": "codes", "type": {"tensor": {"dtype": UINT8, "shape": shape}}}]
    return write_model(model)


def _constant(name: str, value: Array) -> dict[str, Any]:
    dtype = UINT8 if value.dtype == np.uint8 else FLOAT
    return {"name": name, "dtype": dtype, "dimensions": list(value.shape), "raw": value.tobytes()}
