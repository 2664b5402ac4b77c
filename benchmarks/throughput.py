"""Many rows: rows per second over the batch size, and over a large memory-mapped array in each peer's best chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.cases import Case
from benchmarks.latency import check, collect
from benchmarks.peers import SETTLE_SECONDS, Array, Bulk, Setup, bulks
from benchmarks.peers.plain import DEFAULT
from benchmarks.results import Bulk as BulkResult
from benchmarks.results import Curve, Limits
from edgeae.timing import measure

__all__ = ["bulk_rows", "measure_bulk", "measure_curve"]

ROUNDS = 5
LARGEST_CALL = 10**10


def measure_curve(
    case: Case,
    peers: Sequence[str],
    batches: Sequence[int],
    *,
    operations_per_row: int,
    seconds: float,
    threads: int,
    remarks: list[str],
    device: str = "cpu",
) -> list[Curve]:
    """Time single calls with so many rows, on all cores, for `seconds` each; calls above 10 GFLOP are left out."""
    results = []
    for batch in batches:
        if batch * operations_per_row > LARGEST_CALL and batch > 1:
            continue
        rows = case.batch(batch)
        found = collect(case, peers, Setup(batch, threads, bulk=True, device=device), remarks if batch == 1 else [])
        calls = {name: partial(way.score, rows) for name, way in found.items()}
        timings = measure(calls, seconds=seconds, slice_seconds=seconds / 5, settle_seconds=SETTLE_SECONDS)
        for name, timing in timings.items():
            speeds = batch / timing.p50, batch / timing.p10
            results.append(Curve(case.name, name, found[name].precision, batch, *speeds))
    return results


def measure_bulk(
    case: Case,
    peers: Sequence[str],
    folder: Path,
    *,
    rows: int,
    threads: int,
    operations_per_row: int,
    limits: Limits | None,
    remarks: list[str],
    device: str = "cpu",
) -> list[BulkResult]:
    """Score a memory-mapped array in turns, each peer in the chunks that did best on a part of it.

    Raises:
        EdgeaeError: if a way with the same weights gave other scores.
    """
    path = folder / "rows.npy"
    np.save(path, case.batch(rows))
    # copy on write: some peers insist on arrays that they could write to
    x: Array = np.load(path, mmap_mode="c")
    out = np.empty(rows, np.float32)
    chosen = _best_chunks(case, peers, x[: rows // 4], threads, remarks, device)
    processor: dict[str, list[float]] = {name: [] for name in chosen}
    timings = measure(
        {name: partial(_counted, bulk, x, out, processor[name]) for name, bulk in chosen.items()},
        seconds=ROUNDS * 1e-3,
        slice_seconds=1e-3,
        warm_up_seconds=0,
        settle_seconds=SETTLE_SECONDS,
    )
    sample = min(rows, 2048)
    wanted = case.expected(np.asarray(x[:sample]))
    default = timings.get(DEFAULT)
    peak = None if limits is None else 1e9 * limits.gflops_all / operations_per_row
    results = []
    for name, bulk in chosen.items():
        out[:] = np.nan
        bulk.run(x, out)
        timing = timings[name]
        comparable = bulk.same and bulk.precision == "fp32"
        results.append(
            BulkResult(
                case.name,
                name,
                bulk.precision,
                rows,
                bulk.chunk,
                rows / timing.p50,
                rows / timing.p10,
                1e6 * float(np.median(processor[name])) / rows,
                ratio=None if default is None else default.p50 / timing.p50,
                ratio_p10=None if default is None else default.p10 / timing.p10,
                peak_share=rows / timing.p50 / peak if peak is not None and comparable else None,
                deviation=check(name, bulk.precision, bulk.same, out[:sample], wanted)[1],
            )
        )
    return sorted(results, key=lambda row: -row.rows_per_second)


def _counted(bulk: Bulk, x: Array, out: Array, seconds: list[float]) -> None:
    before = time.process_time()
    bulk.run(x, out)
    seconds.append(time.process_time() - before)


def bulk_rows(operations_per_row: int, seconds: float) -> int:
    """Return how many rows take about so many seconds on a machine of 50 GFLOP/s, as a multiple of 4096."""
    return 4096 * int(np.clip(seconds * 5e10 / operations_per_row / 4096, 1, 80 * seconds))


def _best_chunks(
    case: Case, peers: Sequence[str], x: Array, threads: int, remarks: list[str], device: str
) -> dict[str, Bulk]:
    """Try each chunk size of each way twice in turns; return the fastest by the way's name."""
    candidates: list[Bulk] = []
    for peer in peers:
        try:
            candidates += bulks(peer, case, threads, device)
        except NotImplementedError as reason:
            remarks.append(f"{case.name}: {peer}: {reason}")
    out = np.empty(len(x), np.float32)
    calls = {str(index): partial(bulk.run, x, out) for index, bulk in enumerate(candidates)}
    timings = measure(calls, seconds=2e-3, slice_seconds=1e-3, warm_up_seconds=0, settle_seconds=SETTLE_SECONDS)
    chosen: dict[str, tuple[float, Bulk]] = {}
    for index, bulk in enumerate(candidates):
        seconds = timings[str(index)].p10
        if bulk.name not in chosen or seconds < chosen[bulk.name][0]:
            chosen[bulk.name] = seconds, bulk
    return {name: bulk for name, (_, bulk) in chosen.items()}
