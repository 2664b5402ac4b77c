"""From float32 cores and a source's rows to integer cores."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from edgeae.data import normalise
from edgeae.errors import InputError
from edgeae.export.assemble import Cores, Plan, assemble
from edgeae.export.int8.choose import quantise_cores
from edgeae.export.parity import run_graph
from edgeae.export.quality import Wanted
from edgeae.export.source import Source

__all__ = ["integer_cores"]

_log = logging.getLogger("edgeae")

# calibration rows, and rows that recipes are compared on
_ROWS = 1024
# a quarter of what is allowed: more rows or other ones will not bring it over
_ENOUGH_DRIFT = 0.25
# of what the gate allows: it will see other rows, too
_ALLOWED = 0.9

Array = np.ndarray[Any, Any]


def integer_cores(
    cores: Cores, source: Source, plan: Plan, normal: Array, *, scores: Array, threshold: float, fixed: bool
) -> Cores | str:
    """Make integer cores, or say why there are none.

    Ranges come from a run's training rows; where it has none, from every other normal row, so that the rest can judge.

    Args:
        cores: The float32 cores.
        source: Where the rows are from.
        plan: How graphs are put together.
        normal: Normal rows in the graphs' dtype, [n, *row].
        scores: What the float32 scorer gives for them, [n].
        threshold: Of these scores.
        fixed: Whether that threshold was given.

    Raises:
        InputError: if there are no rows to calibrate on.
    """
    if len(normal) < 2:
        raise InputError("calibrate: int8 needs normal rows to take its ranges from; give some (--calibrate DATA)")
    own = source.training is None
    seen = source.normal[::2] if source.training is None else source.training
    held_out, kept = (_some(rows[1::2] if own else rows) for rows in (normal, scores))
    anomalies = None if source.anomalies is None else _some(source.anomalies).astype(plan.input.dtype)

    def scores_of(cores: Cores) -> tuple[Array, Array | None]:
        scorer = assemble("scorer", cores, plan, {}).SerializeToString()
        anomalous = None if anomalies is None else run_graph(scorer, anomalies, batch=plan.batch)
        return run_graph(scorer, held_out, batch=plan.batch), anomalous

    wanted = Wanted(kept, scores_of(cores)[1], threshold, fixed=fixed)
    rows = normalise(_some(seen), source.normalisation, source.layout)
    made = quantise_cores(
        cores,
        plan.opset,
        rows,
        lambda candidate: wanted.drift(*scores_of(candidate)),
        lambda candidate: wanted.gate(*scores_of(candidate)),
        enough=_ENOUGH_DRIFT,
        allowed=_ALLOWED,
        sigmoid=plan.sigmoid and not plan.score.of_logits,
    )
    if made is None:
        return "none of its layers has an integer kernel"
    _log.info("int8: %s", made.describe())
    return made.cores


def _some(rows: Array) -> Array:
    """Return at most _ROWS of the rows, evenly spread."""
    return rows[:: max(1, -(-len(rows) // _ROWS))]
