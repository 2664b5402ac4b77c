"""LiteRT in int8: the file of `litert` quantised by ai-edge-quantizer on the training rows (static, per channel)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from benchmarks.cases import Case
from benchmarks.peers import Setup, Way
from benchmarks.peers.litert import interpreted
from benchmarks.tflite import quantise, write

__all__ = ["quantised", "ways"]


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """As the fp32 one; rows and reconstructions stay float32."""
    yield interpreted("LiteRT, int8", quantised(case, setup.batch), case, setup, "int8")


@cache
def quantised(case: Case, batch: int) -> bytes:
    """Return the .tflite file for a batch size."""
    rows = case.batch(batch * -(-256 // batch)).reshape(-1, batch, *case.rows.shape[1:])
    return quantise(write(case.model, batch), rows)
