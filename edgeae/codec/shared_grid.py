"""One grid for many chunks, in the encoder's own graph: rows become codes in one run of ONNX Runtime.

A grid of its own for each chunk has to wait for the chunk's latents, and then goes over them four times while the other
threads encode; here they never leave the caches. What the first chunk did not foresee is found by its code: none
of the latents that the grid was made for gets the first or the last one.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from edgeae.codec.coders import Array
from edgeae.codec.grids import Levels, Quantised, Ranges, grid_of
from edgeae.runtime import Autoencoder
from edgeae.runtime.quantiser import Quantiser

__all__ = ["SharedGrid"]

BITS: Final = 8  # of the codes that a graph can give; fewer have none to spare
SPARE: Final = 8  # codes at either end for latents that are a little further out than those so far
FLAT: Final = 126  # codes to either side of the one value of a flat dimension, up to where it counts as that value
STEEPEST: Final = 1e30  # codes per unit
ODD: Final = 16  # a grid is too small if more than one row in so many has latents that it cannot hold
TURNED: Final = 2**9  # rows that are transposed at a time


class SharedGrid:
    """A grid that grows with what it has to hold; any number of threads may use it at once."""

    def __init__(self, model: Autoencoder, ranges: Ranges, least: Array | None) -> None:
        """Begin with where the latents of the first chunk lie, and steps as in `quantise`."""
        self._model, self._least = model, least
        self._levels = grid_of(ranges, BITS, least, SPARE)
        self._quantiser: tuple[Levels, Quantiser] | None = None
        self._lock = threading.Lock()

    @staticmethod
    def possible(model: Autoencoder, bits: int) -> bool:
        """Return whether latents of so many bits can share a grid."""
        return bits == BITS and Quantiser.possible(model)

    def hold(self, ranges: Ranges) -> None:
        """Make room for latents that lie in these ranges, too."""
        with self._lock:
            self._levels = grid_of(self._levels.ranges.joined(ranges), BITS, self._least, SPARE)

    def quantised(self, rows: Array, codes: Array, turned: Array) -> Quantised | None:
        """Return rows on the grid, or None if the grid is too small for them.

        Args:
            rows: [n, *input_shape].
            codes: uint8 [n, latent_dim] to work in, of the calling thread's own.
            turned: The same once more, which the result lies in.

        Raises:
            InputError: for rows that the model does not take.
        """
        levels, quantiser = self._current()
        quantiser(rows, codes)
        count, dims = codes.shape
        turned = turned.reshape(dims, count)
        for start in range(0, count, TURNED):
            turned[:, start : start + TURNED] = codes[start : start + TURNED].T
        ends = codes.reshape(-1)
        np.subtract(turned.reshape(-1), 1, out=ends)  # modulo 256: the first code and the last one are the largest now
        at_ends = np.greater_equal(ends, levels.last - 1, out=ends.view(np.bool_))
        odd = np.unique(np.flatnonzero(at_ends) % count)
        if ODD * len(odd) > count:
            return None
        z = self._model.encode(rows[odd], workers=1)
        if not np.isfinite(z).all():
            return None
        exact = np.rint((z.astype(np.float64) - levels.start) * levels.factor + levels.zero)
        turned[:, odd] = np.clip(exact, 0, levels.last).T
        dims_of, of_odd = np.nonzero(((z < levels.bottom) | (z > levels.top)).T)  # in the order of their places
        places, values = dims_of * count + odd[of_odd], z[of_odd, dims_of]
        return Quantised(levels.low, levels.step, levels.zero.astype(np.uint8), turned, places, values)

    def _current(self) -> tuple[Levels, Quantiser]:
        with self._lock:
            levels = self._levels
            if self._quantiser is None or self._quantiser[0] is not levels:
                with np.errstate(divide="ignore"):
                    steep = FLAT / (levels.top - levels.low)  # a flat dimension's code tells whether it still is
                factor = np.where(levels.flat, np.minimum(steep, STEEPEST), levels.factor)
                zero = np.where(levels.flat, 2**BITS / 2, levels.zero)
                numbers = (np.ascontiguousarray(each, np.float32) for each in (levels.low, factor, zero))
                self._quantiser = levels, Quantiser(self._model, *numbers)
            return self._quantiser
