"""One row at a time: every way takes turns with all the others in slices of 20 ms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.peers import SETTLE_SECONDS, Array, Setup, Way, ways
from benchmarks.peers.plain import DEFAULT
from benchmarks.results import Latency
from edgeae.errors import EdgeaeError
from edgeae.timing import measure, ratio

__all__ = ["check", "collect", "measure_latency"]

# float32 networks with the same weights agree far better; anything else is another network
TOLERANCE = 1e-3


def collect(case: Case, peers: Sequence[str], setup: Setup, remarks: list[str]) -> dict[str, Way]:
    """Return every way that the peers have for this case, by name; reasons why not are added to `remarks`."""
    found: dict[str, Way] = {}
    for peer in peers:
        try:
            found |= {way.name: way for way in ways(peer, case, setup)}
        except NotImplementedError as reason:
            remarks.append(f"{case.name}: {peer}: {reason}")
    return found


def measure_latency(
    case: Case, peers: Sequence[str], *, seconds: float, remarks: list[str], device: str = "cpu"
) -> list[Latency]:
    """Time each way for `seconds`, full and bare, on one thread (ONNX Runtime's default session excepted).

    Raises:
        EdgeaeError: if a way with the same weights gave another score.
    """
    rows = case.batch(1)
    found = collect(case, peers, Setup(1, 1, device=device), remarks)
    candidates: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, way in found.items():
        candidates[name, "full"] = partial(way.score, rows[0] if way.takes_row else rows)
        if way.bare is not None:
            candidates[name, "bare"] = way.bare
    labels = {f"{name}|{call}": (name, call) for name, call in candidates}
    timings = measure(
        {label: candidates[key] for label, key in labels.items()},
        seconds=seconds,
        slice_seconds=0.02,
        settle_seconds=SETTLE_SECONDS,
    )
    wanted = case.expected(rows)
    default = timings.get(f"{DEFAULT}|full")
    results = []
    for label, (name, call) in labels.items():
        way, timing = found[name], timings[label]
        scores = way.result() if call == "bare" and way.result is not None else candidates[name, call]()
        compared = None if default is None else ratio(timing, default)
        results.append(
            Latency(
                model=case.name,
                way=name,
                call=call,
                precision=way.precision,
                calls=timing.calls,
                p10=1e6 * timing.p10,
                p50=1e6 * timing.p50,
                p90=1e6 * timing.p90,
                p99=1e6 * timing.p99,
                ratio=None if compared is None else compared.median,
                ratio_p10=None if compared is None else compared.p10,
                deviation=check(way.name, way.precision, way.same, scores, wanted)[0],
            )
        )
    return sorted(results, key=lambda row: (row.call == "bare", row.p50))


def check(name: str, precision: str, same: bool, scores: Any, wanted: Array) -> tuple[float | None, float | None]:
    """Return the largest and the median relative difference of scores from those of float64 PyTorch.

    Raises:
        EdgeaeError: if fp32 scores of the same weights differ by more than rounding.
    """
    if not same:
        return None, None
    found = np.asarray(scores, np.float64).reshape(-1)
    difference = np.abs(found - wanted) / wanted
    largest = float(np.max(difference))
    if precision == "fp32" and not largest < TOLERANCE:
        raise EdgeaeError(f"benchmarks: {name} gives other scores than PyTorch: relative difference {largest:.2g}")
    return largest, float(np.median(difference))
