"""What a writer wrote: sums over chunks, and the report that they become."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeae.codec.coders import Array
from edgeae.codec.format import Bound, Header
from edgeae.codec.residuals import Corrected
from edgeae.codec.settings import dtype_name

__all__ = ["Report", "Tally"]


@dataclass(frozen=True)
class Report:
    """What a writer wrote.

    Attributes:
        rows: Written now, not counting those of a file that was gone on with.
        raw_bytes: Of these rows as they came.
        coded_bytes: What the file grew by.
        ratio: raw_bytes over coded_bytes.
        zstd_bytes: What zstd (level 3) makes of the raw bytes, if asked for.
        dtype: Of the stored latents.
        bound: What is promised.
        value: Its number; see `Header`.
        unknown_rows: Anomalies by the model's own threshold; None without a promise.
        corrected_values: Values that the decoder alone did not bring within the bound.
        corrected_in_unknown: How many of them are in rows that are anomalies.
        stored_values: Values that were stored as they are, beside the grid.
        ties: Values whose rounding was stored, since another decoder could round the other way.
        mean_squared_error: Of what comes out, over all rows if something is promised, else over the first chunk.
        largest_error: The same.
        psnr: Peak signal-to-noise ratio in decibels; None if nothing was measured or nothing is lost.
    """

    rows: int
    raw_bytes: int
    coded_bytes: int
    ratio: float
    zstd_bytes: int | None
    dtype: str
    bound: Bound
    value: float
    unknown_rows: int | None
    corrected_values: int
    corrected_in_unknown: int
    stored_values: int
    ties: int
    mean_squared_error: float | None
    largest_error: float | None
    psnr: float | None


class Tally:
    """Sums over chunks."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.rows = self.raw_bytes = self.unknown = 0
        self.corrected = self.corrected_in_unknown = self.stored = self.ties = 0
        self.measured = 0
        self.squared_error = self.largest_error = 0.0

    def add(self, corrected: Corrected, anomalies: Array) -> None:
        """Count a chunk of corrected rows, of which some are anomalies (bool [n])."""
        touched = np.count_nonzero(corrected.corrections, axis=1)
        self.unknown += int(anomalies.sum())
        self.corrected += int(touched.sum())
        self.corrected_in_unknown += int(touched[anomalies].sum())
        self.stored += len(corrected.places)
        self.ties += len(corrected.ties)
        self.measured += corrected.rows.size
        self.squared_error += corrected.squared_error
        self.largest_error = max(self.largest_error, corrected.largest_error)

    def measure(self, found: Array, rows: Array) -> None:
        """Compare what comes out with the rows, where nothing is corrected."""
        error = np.abs(found.astype(np.float64) - rows)
        self.measured = rows.size
        self.squared_error = float(np.square(error).sum())
        self.largest_error = float(error.max(initial=0))

    def report(self, header: Header, *, coded_bytes: int, zstd_bytes: int | None, peak: float, counted: bool) -> Report:
        """Return the sums as a report.

        Args:
            header: Of the file.
            coded_bytes: What it grew by.
            zstd_bytes: What zstd makes of the raw bytes, if that was asked for.
            peak: What the peak signal-to-noise ratio refers to.
            counted: Whether anomalies could be counted.
        """
        mse = self.squared_error / self.measured if self.measured else None
        return Report(
            rows=self.rows,
            raw_bytes=self.raw_bytes,
            coded_bytes=coded_bytes,
            ratio=self.raw_bytes / coded_bytes if coded_bytes else 0.0,
            zstd_bytes=zstd_bytes,
            dtype=dtype_name(header.bits),
            bound=header.bound,
            value=header.value,
            unknown_rows=self.unknown if header.bound != "none" and counted else None,
            corrected_values=self.corrected,
            corrected_in_unknown=self.corrected_in_unknown,
            stored_values=self.stored,
            ties=self.ties,
            mean_squared_error=mse,
            largest_error=self.largest_error if self.measured else None,
            psnr=10 * math.log10(peak**2 / mse) if mse else None,
        )
