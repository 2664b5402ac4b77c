"""OpenVINO with its own int8: the reconstruction graph quantised by NNCF on the training rows."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from functools import cache

import openvino

from benchmarks.cases import Case
from benchmarks.peers import Bulk, Setup, Way
from benchmarks.peers.vino import compiled_ways, queued

__all__ = ["bulk", "quantised", "ways"]

FLOAT_REST = {"INFERENCE_PRECISION_HINT": "f32"}


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """As the fp32 ones."""
    yield from compiled_ways(case, setup, quantised(case), "int8", FLOAT_REST)


def bulk(case: Case, setup: Setup) -> Iterator[Bulk]:
    """As the fp32 one."""
    yield from queued(case, setup, quantised(case), "int8", FLOAT_REST)


@cache
def quantised(case: Case) -> openvino.Model:
    """Return the case's network in int8, but for the error, which stays in float."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    rows = nncf.Dataset([row[None] for row in case.training[:300]])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.quantize(openvino.Core().read_model(case.graph), rows)
