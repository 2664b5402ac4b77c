"""One chunk of rows and latents to the bytes that a latent file promises something about."""

from __future__ import annotations

import logging
import math
import zlib
from typing import Final, NamedTuple

import numpy as np

from edgeae.codec.coders import Array, Coder
from edgeae.codec.format import Header
from edgeae.codec.latents import pack_latents
from edgeae.codec.report import Report, Tally
from edgeae.codec.residuals import (
    WORTH,
    Corrected,
    Grid,
    check_margins,
    correct,
    grid_for,
    grid_within,
    margins_of,
    pack_residuals,
)
from edgeae.codec.settings import least_steps, measured_drift, peak, reference_of
from edgeae.errors import BundleError
from edgeae.runtime import Autoencoder

__all__ = ["ChunkCoder", "Coded"]

_logger = logging.getLogger("edgeae")
MEASURED: Final = 2**17  # values of the first chunk's rows


class Coded(NamedTuple):
    """A chunk's payload.

    Attributes:
        payload: The bytes.
        unknown: How many rows are anomalies to the model, where something is promised.
        crc: CRC-32 of the rows that must come out, where something is promised.
    """

    payload: bytes
    unknown: int = 0
    crc: int = 0


class ChunkCoder:
    """Codes the chunks of a file, one after the other; what it found out in the first one it uses for all.

    Attributes:
        least: How fine latents need to be; see `least_steps`.
        tally: What was coded so far.
    """

    def __init__(self, model: Autoencoder) -> None:
        """Begin a file."""
        self.least: Array | None = None
        self.tally = Tally()
        self._model = model
        self._coder = Coder()
        self._reference = reference_of(model)
        self._drift = 0.0
        self._largest: float | None = None
        self._counts_unknown = True
        self._peak = 1.0

    def look_at(self, header: Header, rows: Array, z: Array) -> None:
        """Find out what the first chunk tells about all of them: rows [n, *shape], latents float32 [n, latent_dim]."""
        self._peak = peak(self._model, header.dtype, rows)
        self.least = least_steps(self._model.decode, z, header.bits) if header.bits <= 8 else None

    @staticmethod
    def sample(rows: Array) -> Array:
        """Return those of the first chunk's rows that the report looks at where nothing is promised."""
        return rows[: max(1, MEASURED // max(1, rows[:1].size))]

    def first(self, header: Header, sample: Array, z: Array) -> bytes:
        """Return the first chunk's payload where nothing is promised, and measure what comes out of it."""
        payload, latents = pack_latents(self._coder, z, header.bits, self.least)
        self.tally.measure(self._model.decode(latents()[: len(sample)]), sample)
        return payload

    def code(self, header: Header, rows: Array, z: Array) -> Coded:
        """Return a chunk with what its header promises about the rows.

        Raises:
            InputError: for rows that the promise cannot be kept for.
        """
        if header.bound == "none":
            if not self.tally.rows:
                return Coded(self.first(header, self.sample(rows), z))
            return Coded(pack_latents(self._coder, z, header.bits, self.least)[0])
        payload, latents = pack_latents(self._coder, z, header.bits, self.least)
        corrected, grid = self._correct(header, rows.reshape(len(rows), -1), latents())
        residuals = pack_residuals(self._coder, corrected, grid)
        if grid.step and len(residuals) > WORTH * corrected.rows.size:
            plain = self._without_model(header, rows, grid)
            other = pack_residuals(self._coder, plain, grid, without=True)
            if len(other) < len(residuals):
                corrected, residuals = plain, other
        anomalies = self._anomalies(rows)
        self.tally.add(corrected, anomalies)
        return Coded(payload + residuals, int(anomalies.sum()), zlib.crc32(corrected.rows.data))

    def report(self, header: Header, *, coded_bytes: int, zstd_bytes: int | None) -> Report:
        """Return what was coded; see `Tally.report`."""
        return self.tally.report(
            header, coded_bytes=coded_bytes, zstd_bytes=zstd_bytes, peak=self._peak, counted=self._counts_unknown
        )

    def _correct(self, header: Header, x: Array, latents: Array) -> tuple[Corrected, Grid]:
        x_hat = self._model.decode(latents).reshape(len(x), -1)
        first = not self._drift
        if first:
            self._drift = measured_drift(self._model.decode, latents, self._reference)
        margins = margins_of(x_hat, self._reference, self._drift)
        whole = header.bound == "lossless" or header.dtype == "uint8"
        if header.bound == "max-mse":
            if first:
                check_margins(margins, grid_for(math.sqrt(header.value), whole=whole))
            grid, corrected = grid_within(x, x_hat, header.value, margins, whole=whole, first=self._largest)
            self._largest = grid.step * grid.unit / 2 * 2**0.25 if grid.step else None
            return corrected, grid
        error = 0.0 if header.bound == "lossless" else header.value
        grid = grid_for(error, whole=whole)
        if first:
            check_margins(margins, grid)
        return correct(x, x_hat, grid, margins, error), grid

    def _without_model(self, header: Header, rows: Array, grid: Grid) -> Corrected:
        """Return rows on the same grid that owe nothing to the decoder: smaller where it does not know them at all."""
        x = rows.reshape(len(rows), -1)
        error = {"lossless": 0.0, "max-error": header.value}.get(header.bound, grid.step * grid.unit / 2)
        return correct(x, np.zeros(x.shape, np.float32), grid, np.zeros(x.shape[1]), error)

    def _anomalies(self, rows: Array) -> Array:
        if self._counts_unknown:
            try:
                return self._model.predict(rows)
            except BundleError as problem:
                _logger.warning("anomalies are not counted: %s", problem)
                self._counts_unknown = False
        return np.zeros(len(rows), np.bool_)
