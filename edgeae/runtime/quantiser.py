"""Rows to quantised latents in one run: the encoder with a grid behind it, in a loop of ONNX Runtime's own.

No latent leaves the caches, and Python's lock is not needed between one piece of the rows and the next.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from edgeae.errors import DeviceError
from edgeae.runtime.denormals import DenormalsAsZero
from edgeae.runtime.inputs import Array
from edgeae.runtime.looped import FLOAT, INT, INTS, UINT8, looped, node, value_info
from edgeae.runtime.model import Autoencoder
from edgeae.runtime.ort import ERRORS

__all__ = ["Quantiser"]


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
        with_codes = partial(_with_codes, summed=dtype == np.float32)
        self._session = encoder.session_beside(
            f"quantiser of {dtype}", lambda data: looped(data, dtype, extend=with_codes)
        )
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


def _with_codes(body: dict[str, Any], own: str, *, summed: bool) -> list[dict[str, Any]]:
    """Put a grid behind an encoder: low, factor and zero go in, codes [latent_dim, rows] come out.

    On request the sum of all values comes out, too, which is not finite where one is not.
    """
    (source,), (target,) = body["inputs"], body["outputs"]
    dimensions = target["type"]["tensor"]["shape"]["dimensions"]
    latent_dim = dimensions[-1]["value"]
    low, factor, zero, one, none, codes, total = (
        f"{own}.{name}" for name in ("low", "factor", "zero", "one", "none", "codes", "sum")
    )
    body["nodes"] += [
        node("Sub", (target["name"], low), f"{own}.1"),
        node("Mul", (f"{own}.1", factor), f"{own}.2"),
        node("Add", (f"{own}.2", zero), f"{own}.3"),
        # the cheapest way to clip and round: it quantises once more, in steps of one
        node("QuantizeLinear", (f"{own}.3", one, none), f"{own}.4"),
        node("Transpose", (f"{own}.4",), codes, {"name": "perm", "type": INTS, "ints": [1, 0]}),
    ]
    body["initializers"] += [
        {"name": one, "dtype": FLOAT, "dimensions": [], "raw": np.float32(1).tobytes()},
        {"name": none, "dtype": UINT8, "dimensions": [], "raw": bytes(1)},
    ]
    body["outputs"] = [value_info(codes, UINT8, (latent_dim, None))]
    if summed:
        body["nodes"].append(node("ReduceSum", (source["name"],), total, {"name": "keepdims", "type": INT, "int": 0}))
        body["outputs"].append(value_info(total, FLOAT, ()))
    return [value_info(name, FLOAT, (latent_dim,)) for name in (low, factor, zero)]
