"""How small rows become as latents of a depth, and how far what comes out is from them."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

from edgeae.codec.coders import Array
from edgeae.codec.latent_reader import LatentReader
from edgeae.codec.latent_writer import LatentWriter
from edgeae.errors import InputError
from edgeae.runtime import Autoencoder

__all__ = ["CodedSize", "coded_size"]


@dataclass(frozen=True)
class CodedSize:
    """What a latent file of some rows takes, and its error.

    Attributes:
        dtype: Of the stored latents.
        rows: How many.
        bytes: Of the whole file, header and index included.
        bytes_per_row: The same for each row.
        ratio: Bytes of the rows as they came over those of the file.
        mean_squared_error: Over all values, in the units of the rows.
        normalised_error: The same in normalised space, where the loss and most scores are.
        largest_error: Of a value.
    """

    dtype: str
    rows: int
    bytes: int
    bytes_per_row: float
    ratio: float
    mean_squared_error: float
    normalised_error: float
    largest_error: float

    def psnr(self, peak: float) -> float:
        """Return the peak signal-to-noise ratio in decibels for values from 0 to `peak`; infinite without an error."""
        mse = self.mean_squared_error
        return 10 * math.log10(peak**2 / mse) if mse else math.inf


def coded_size(model: Autoencoder, x: Array, dtype: str = "int8") -> CodedSize:
    """Write rows into a latent file in memory, without a bound, read them again and compare.

    Args:
        model: What compresses.
        x: Rows [n, *input_shape], at least one.
        dtype: Of the stored latents: "float32", "float16", "int8" to "int2".

    Raises:
        InputError: for rows that the model does not take, or none at all.

    Example:
        >>> import edgeae
        >>> with edgeae.load("export/golden/dense", device="cpu") as model:
        ...     rows = np.tile(model.bundle.golden().x, (50, 1, 1))
        ...     sizes = [coded_size(model, rows, dtype).bytes for dtype in ("float32", "int8", "int3")]
        >>> sizes[0] > sizes[1] > sizes[2]
        True
    """
    if not len(x):
        raise InputError("x: no rows; a size needs at least one")
    file = io.BytesIO()
    with LatentWriter(file, model, dtype=dtype) as writer:
        writer.write(x)
    _, scale = model.manifest.normalisation.arrays(model.input_shape, model.manifest.input.layout)
    squares, normalised, largest, start = 0.0, 0.0, 0.0, 0
    with LatentReader(io.BytesIO(file.getvalue()), model) as reader:
        for block in reader:
            error = np.abs(np.subtract(block, x[start : start + len(block)], dtype=np.float64))
            squares += float(np.square(error).sum())
            normalised += float(np.square(error / scale).sum())
            largest = max(largest, float(error.max()))
            start += len(block)
    size = len(file.getvalue())
    return CodedSize(
        dtype, len(x), size, size / len(x), x.nbytes / size, squares / x.size, normalised / x.size, largest
    )
