"""What `edgeae tune` does: measure on this device how a bundle runs best.

Two questions, one for each profile: which settings give the lowest latency of one bound row, and which the most rows
per second of a large array? The candidates take turns in short slices (see `edgeae.timing`), and one replaces the
default only where it was clearly faster both in the median and in the 10th percentile: noise changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from edgeae.bundle import Bundle
from edgeae.errors import InputError
from edgeae.runtime.device import choose_device
from edgeae.runtime.model import Autoencoder, load
from edgeae.runtime.native import find_library, rewrite
from edgeae.runtime.options import Profile, available_cores, chunk_rows
from edgeae.runtime.tuned import Choice, Trial, Tuning, tuning_key
from edgeae.timing import measure

__all__ = ["tune"]

# A candidate replaces another where it takes at most this share of its time.
MARGIN = 0.97
CALL_SECONDS = 0.03  # a timed bulk call: long enough for several chunks a worker, short enough for many turns
MAX_BYTES = 2**27

_logger = logging.getLogger("edgeae")

Candidates = Mapping[tuple[str, Choice], Callable[[], object]]


def tune(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precisions: Sequence[str] | None = None,
    seconds: float = 30.0,
    trust: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Tuning:
    """Measure how a bundle runs best on this device; `edgeae.runtime.tuned.store` keeps the result for `edgeae.load`.

    Args:
        path: The bundle.
        device: As in `edgeae.load`.
        precisions: Which of the bundle's precisions to try; all that it has and the device runs if None.
        seconds: About how long to measure, in all.
        trust: As in `edgeae.load`.
        progress: Is told, in a word or two, what is measured next.

    Raises:
        EdgeaeError: what `edgeae.load` and `score` raise.
        InputError: if `seconds` is not positive.

    Example:
        >>> tuning = tune("export/golden/dense", device="cpu", seconds=0.2)
        >>> tuning.fastest["latency"]
        'fp32'
    """
    if not seconds > 0:
        raise InputError(f"tune: seconds must be positive, got {seconds!r}")
    tell = progress or (lambda step: None)
    _mind_load()
    bundle = Bundle.read(path)
    on_gpu = choose_device(device).kind == "cuda"
    offered = [
        name for name in bundle.manifest.precisions if not (on_gpu and name == "int8")
    ]  # CUDA lacks its operators
    names = tuple(offered if precisions is None else precisions)
    if not names:
        raise InputError("tune: there is no precision to try")
    with ExitStack() as stack:

        def opened(precision: str, profile: Profile, choice: Choice) -> Autoencoder:
            settings = choice.options()
            model = load(path, device=device, precision=precision, profile=profile, options=settings, trust=trust)
            return stack.enter_context(model)

        model = opened(names[0], "throughput", Choice())
        rows = bundle.golden(names[0]).x
        natives = [] if on_gpu else [name for name in names if _is_native(bundle, name)]
        tell("latency")
        latency = _race(
            "latency",
            {
                (name, choice): partial(opened(name, "latency", choice).bind().score, rows[0])
                for name in names
                for choice in _latency_choices(on_gpu=on_gpu, native=name in natives)
            },
            rows=1,
            seconds=0.3 * seconds,
        )
        fixed = bundle.manifest.batch
        chunks = [fixed] if fixed else _chunks(chunk_rows(model.input_shape, on_gpu=on_gpu))
        x = _bulk(model, rows, 2 * available_cores() * max(chunks))
        out = np.empty(len(x), np.float32)

        def bulk(name: str, choice: Choice) -> Callable[[], object]:
            return partial(opened(name, "throughput", choice).score, x, out=out)

        tell("rows per call")
        candidates = [(name, Choice(chunk=chunk)) for name in names for chunk in chunks]
        candidates += [(name, choice) for name in natives for choice in _native_choices(chunks)]
        timed = {candidate: bulk(*candidate) for candidate in candidates}
        by_chunk = _race("throughput", timed, rows=len(x), seconds=0.4 * seconds)
        tell("workers and threads")
        usual = Choice(chunk=chunks[len(chunks) // 2])
        candidates = [
            (name, choice) for name in names for choice in _worker_choices(_best(by_chunk, name, usual), on_gpu=on_gpu)
        ]
        timed = {candidate: bulk(*candidate) for candidate in candidates}
        by_worker = _race("throughput", timed, rows=len(x), seconds=0.3 * seconds)
        best = {name: _best(by_chunk, name, usual) for name in names}
        return Tuning(
            key=tuning_key(bundle.digest, model.device),
            bundle=bundle.manifest.name,
            latency=(slow := {name: _best(latency, name, Choice()) for name in names}),
            throughput=(many := {name: _best(by_worker, name, best[name]) for name in names}),
            fastest={"latency": _fastest(latency, slow), "throughput": _fastest(by_worker, many)},
            trials=(*latency, *by_chunk, *by_worker),
        )


def _mind_load() -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5 * available_cores():
        _logger.warning(
            "this machine is busy (load %.1f on %d cores), and what is chosen fits that; tune again when it is idle",
            load,
            available_cores(),
        )


def _is_native(bundle: Bundle, precision: str) -> bool:
    return find_library() is not None and rewrite(bundle.graph(precision, "scorer")) is not None


def _latency_choices(*, on_gpu: bool, native: bool) -> list[Choice]:
    choices = [Choice()]
    if not on_gpu:
        choices.append(Choice(prepack=False))
        if native:
            choices.append(Choice(native=True))
        if available_cores() > 1:
            choices.append(Choice(threads=1))
            choices += [Choice(threads=available_cores(), spin=spin) for spin in (False, True)]
    return choices


def _chunks(usual: int) -> list[int]:
    """Return the usual number of rows in the middle of others, from a sixteenth to sixteen times as many."""
    return [max(1, usual * 4**power // 16) for power in range(5)]


def _native_choices(chunks: Sequence[int]) -> list[Choice]:
    """Return the operator library with as many rows per call as suit it, and with fixed numbers of them."""
    larger = sorted(chunks)[len(chunks) // 2 :] if len(chunks) > 1 else []
    return [Choice(native=True), *(Choice(native=True, chunk=chunk) for chunk in larger)]


def _worker_choices(best: Choice, *, on_gpu: bool) -> list[Choice]:
    cores = available_cores()
    choices = [best]
    if best.native:  # one thread runs the whole network
        choices += [replace(best, workers=1)] if cores > 1 else []
    elif not on_gpu:
        choices.append(replace(best, prepack=False))
        if cores > 1:
            one = replace(best, workers=1)
            choices += [one, replace(one, threads=cores), replace(one, threads=cores, spin=True)]
    return choices


def _bulk(model: Autoencoder, rows: np.ndarray[Any, Any], least: int) -> np.ndarray[Any, Any]:
    """Return rows that take about CALL_SECONDS to score, and at least `least` of them."""
    shape = model.input_shape
    probe = np.resize(rows, (max(64, len(rows)), *shape))
    (timing,) = measure({"probe": partial(model.score, probe)}, seconds=CALL_SECONDS).values()
    most = max(1, MAX_BYTES // rows[:1].nbytes)
    return np.resize(rows, (min(most, max(least, round(len(probe) * CALL_SECONDS / timing.p50))), *shape))


def _race(profile: Profile, candidates: Candidates, *, rows: int, seconds: float) -> list[Trial]:
    turn = 2 * CALL_SECONDS if profile == "throughput" else 0.005
    names = {str(index): candidate for index, candidate in enumerate(candidates)}
    calls = {name: candidates[candidate] for name, candidate in names.items()}
    timings = measure(calls, seconds=seconds / len(calls), slice_seconds=turn, warm_up_seconds=turn)
    return [
        Trial(profile, *names[name], p50=timing.p50 / rows, p10=timing.p10 / rows) for name, timing in timings.items()
    ]


def _best(trials: Iterable[Trial], precision: str, usual: Choice) -> Choice:
    own = {trial.choice: trial for trial in trials if trial.precision == precision}
    standing = own[usual]
    for trial in own.values():
        if _beats(trial, standing):
            standing = trial
    return standing.choice


def _fastest(trials: Iterable[Trial], chosen: Mapping[str, Choice]) -> str:
    own = {trial.precision: trial for trial in trials if chosen[trial.precision] == trial.choice}
    first, *others = own.values()
    for trial in others:
        if _beats(trial, first):
            first = trial
    return first.precision


def _beats(one: Trial, other: Trial) -> bool:
    return one.p50 <= MARGIN * other.p50 and one.p10 <= MARGIN * other.p10
