"""One trial: train, export, measure; and at the end the models on the front once more, in turns."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeae.bundle import Bundle
from edgeae.bundle.bundle import GRAPHS
from edgeae.codec import coded_size
from edgeae.codec.settings import peak
from edgeae.data.dataset import Array, Dataset
from edgeae.export import export_bundle
from edgeae.models.autoencoder import Autoencoder
from edgeae.runtime import load
from edgeae.sweeping.record import Point, Trial
from edgeae.timing import Timing, measure
from edgeae.training.config import TrainConfig
from edgeae.training.run import Run
from edgeae.training.trainer import train

__all__ = ["bundle_of", "make_trial", "measure_again", "quiet"]

BULK_VALUES = 2**20
TURNS = 20  # so many calls in bulk, each of many rows, are enough

Names = Sequence[str]


def make_trial(
    trial: Trial,
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    *,
    latents: Names,
    weights: Names,
    seconds: float,
) -> Trial:
    """Train and export what a trial's setting asks for, and measure it.

    Args:
        trial: With number and setting.
        dataset: All rows.
        config: The training options of this setting.
        folder: Gets "run" and "bundle".
        latents: Types of stored latents to measure.
        weights: Precisions to export.
        seconds: How long to time each precision, for latency and for throughput.

    Raises:
        KeyboardInterrupt: if training was interrupted, even if it went on with the best weights so far.
        EdgeaeError: what `train`, `export_bundle` and `load` raise.
    """
    run = train(dataset, folder / "run", config=config)
    if run.results.stopped == "interrupted":
        raise KeyboardInterrupt
    bundle = export_bundle(run, folder / "bundle", precision=tuple(weights), name=f"trial-{trial.number}")
    held = [name for name in weights if name in bundle.manifest.precisions]
    timings = _time([(str(bundle.path), name) for name in held], run.reference.x_validation, seconds)
    points = [
        point
        for name in held
        for point in _points(trial.number, bundle, name, run, latents, timings[str(bundle.path), name])
    ]
    return replace(
        trial,
        model=run.config.describe(),
        latent_dim=run.config.latent_dim,
        operations=_operations(run.model),
        points=tuple(points),
        kept=True,
    )


def measure_again(points: Sequence[Point], folder: Path, rows: Array, seconds: float) -> list[Point]:
    """Time the models of several points in turns, so that what disturbs the machine disturbs all of them.

    Args:
        points: Their models are in `folder`.
        folder: Of all trials.
        rows: What is scored.
        seconds: For each model, for latency and for throughput.
    """
    models = {(point.trial, point.weights): (str(bundle_of(folder, point.trial)), point.weights) for point in points}
    timings = _time(list(models.values()), rows, seconds)
    return [_with_speed(point, timings[models[point.trial, point.weights]]) for point in points]


def bundle_of(folder: Path, trial: int) -> Path:
    """Return where a trial's bundle is."""
    return folder / str(trial) / "bundle"


@contextlib.contextmanager
def quiet(said: set[str], where: str = "") -> Iterator[None]:
    """Within the block let through warnings only, none that was `said` before, and say `where` they come from.

    Those about simple baselines are for one model that somebody wants; here many are bad on purpose.
    """

    def new(entry: logging.LogRecord) -> bool:
        text = entry.getMessage()
        others = entry.module == "baselines" or text.startswith("interrupted after")  # such a trial is not kept
        fresh = entry.levelno >= logging.WARNING and not others and text not in said
        said.add(text)
        entry.msg, entry.args = f"{where}{text}", ()
        return fresh

    logger = logging.getLogger("edgeae")
    logger.addFilter(new)
    try:
        yield
    finally:
        logger.removeFilter(new)


def _points(
    number: int, bundle: Bundle, weights: str, run: Run, latents: Names, speed: tuple[Timing, float]
) -> Iterator[Point]:
    x = run.reference.x_validation
    entry = bundle.entry(weights)
    files = [getattr(entry, role) for role in (*GRAPHS, "golden")]
    files += [] if bundle.manifest.statistics is None else [bundle.manifest.statistics]
    with load(bundle.path, device="cpu", precision=weights) as model:
        span = peak(model, x.dtype.name, x)
        for dtype in latents:
            coded = coded_size(model, x, dtype)
            psnr = coded.psnr(span)
            yield _with_speed(
                Point(
                    trial=number,
                    weights=weights,
                    dtype=dtype,
                    mse=coded.normalised_error,
                    mse_in_units=coded.mean_squared_error,
                    psnr=psnr if math.isfinite(psnr) else None,
                    row_bytes=coded.bytes_per_row,
                    model_bytes=entry.scorer.size,
                    bundle_bytes=sum(file.size for file in files) + len(bundle.manifest.to_json()),
                    latency_us=0.0,
                    rows_per_second=0.0,
                ),
                speed,
            )


def _with_speed(point: Point, speed: tuple[Timing, float]) -> Point:
    latency, rows_per_second = speed
    return replace(point, latency_us=1e6 * latency.p50, rows_per_second=rows_per_second)


def _time(models: Sequence[tuple[str, str]], rows: Array, seconds: float) -> Mapping[tuple[str, str], Any]:
    """Return (latency of a row, rows per second) of each (bundle, precision), all timed in turns."""
    unique = list(dict.fromkeys(models))
    bulk = np.resize(rows, (max(512, BULK_VALUES // rows[0].size), *rows.shape[1:]))
    with contextlib.ExitStack() as stack:
        ones, many = {}, {}
        for index, (path, precision) in enumerate(unique):
            fast = stack.enter_context(load(path, device="cpu", precision=precision, profile="latency"))
            wide = stack.enter_context(load(path, device="cpu", precision=precision))
            ones[str(index)] = partial(fast.bind(1).score, rows[0].astype(fast.manifest.input.dtype))
            many[str(index)] = partial(wide.score, bulk, out=np.empty(len(bulk), np.float32))
        latency = measure(ones, seconds=seconds)
        throughput = measure(many, seconds=seconds, slice_seconds=seconds / TURNS)
    return {model: (latency[str(index)], len(bulk) / throughput[str(index)].p50) for index, model in enumerate(unique)}


def _operations(model: Autoencoder) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, *model.config.input_shape))
    return int(counter.get_total_flops())
