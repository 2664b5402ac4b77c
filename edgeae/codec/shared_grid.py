"""One grid for many chunks, in the encoder's own graph: rows become codes in one run of ONNX Runtime.

A grid of its own for each chunk has to wait for the chunk's latents, and then goes over them four times while the other
threads encode; here they never leave the caches. What the first chunk did not foresee is found by its code: none
of the latents that the grid was made for gets the first or the last one.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np

from edgeae.codec.coders import Array
from edgeae.codec.grids import Quantised, Ranges, grid_of, ranges_of
from edgeae.runtime import Autoencoder
from edgeae.runtime.quantiser import Quantiser

__all__ = ["SharedGrid"]

BITS: Final = 8  # of the codes that a graph can give; fewer have none to spare
SPARE: Final = 8  # codes at either end for latents that are a little further out than those so far
FLAT: Final = 126  # codes to either side of the one value of a flat dimension, up to where it counts as that value
STEEPEST: Final = 1e30  # codes per unit
MANY_ODD: Final = 1 / 64  # of the rows may have latents beyond the grid before it grows for the chunks to come,
MOST_ODD: Final = 3 / 4  # and so many before this chunk gets a grid of its own


class SharedGrid:
    """A grid that grows with what it has to hold; any number of threads may use it at once.

    Attributes:
        settled: Whether it held almost all rows of the chunk before.
    """

    settled = False

    def __init__(self, model: Autoencoder, dtype: np.dtype[Any], ranges: Ranges, least: Array | None) -> None:
        """Begin with where the latents of the first chunk lie, and steps as in `quantise`, for rows of a dtype."""
        self._model, self._least = model, least
        self._quantiser = Quantiser(model, dtype)
        self._levels = grid_of(ranges, BITS, least, SPARE)
        self._lock = threading.Lock()

    @staticmethod
    def possible(model: Autoencoder, dtype: np.dtype[Any], bits: int) -> bool:
        """Return whether latents of so many bits, of rows of a dtype, can share a grid."""
        return bits == BITS and Quantiser.possible(model, dtype)

    def hold(self, ranges: Ranges) -> None:
        """Make room for latents that lie in these ranges, too."""
        with self._lock:
            self._levels = grid_of(self._levels.ranges.joined(ranges), BITS, self._least, SPARE)

    def quantised(self, rows: Array, codes: Array, marks: Array) -> Quantised | None:
        """Return rows on the grid, or None if the grid is too small for them or some are not finite.

        Args:
            rows: [n, *input_shape], contiguous.
            codes: uint8 [latent_dim · n], of the calling thread's own, for the result.
            marks: uint8 [latent_dim · n], of the calling thread's own, to work in.
        """
        levels = self._levels
        with np.errstate(divide="ignore"):
            steep = FLAT / (levels.top - levels.low)  # a flat dimension's code tells whether it still is
        factor = np.where(levels.flat, np.minimum(steep, STEEPEST), levels.factor)
        zero = np.where(levels.flat, 2**BITS / 2, levels.zero)
        count = len(rows)
        on_grid = codes.reshape(-1, count)
        if not self._quantiser(rows, (levels.low, factor.astype(np.float32), zero.astype(np.float32)), on_grid):
            return None
        np.subtract(codes, 1, out=marks)  # modulo 256: the first code and the last one are the largest now
        at_ends = np.greater_equal(marks, levels.last - 1, out=marks.view(np.bool_))
        odd = np.unique(np.flatnonzero(at_ends) % count)
        if len(odd) > MOST_ODD * count:
            return None
        z = self._model.encode(rows[odd], workers=1)
        if not np.isfinite(z).all():
            return None
        self.settled = len(odd) <= MANY_ODD * count
        if not self.settled:
            self.hold(ranges_of(z))
        exact = np.rint((z.astype(np.float64) - levels.start) * levels.factor + levels.zero)
        on_grid[:, odd] = np.clip(exact, 0, levels.last).T
        dims_of, of_odd = np.nonzero(((z < levels.bottom) | (z > levels.top)).T)  # in the order of their places
        places, values = dims_of * count + odd[of_odd], z[of_odd, dims_of]
        return Quantised(levels.low, levels.step, levels.zero.astype(np.uint8), on_grid, places, values)
