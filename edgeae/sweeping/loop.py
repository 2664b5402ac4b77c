"""`sweep`: trial after trial, and then the front, the pick, the figure."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from edgeae.bundle.atomic import check_new, explained, write_directory
from edgeae.codec.settings import Settings
from edgeae.data import digest_rows
from edgeae.data.dataset import Dataset
from edgeae.errors import DeviceError, EdgeaeError, InputError, MissingPackageError, TrainingError
from edgeae.report import check_figure_path
from edgeae.sweeping.figure import draw_front
from edgeae.sweeping.front import pareto_front, pick, points_of
from edgeae.sweeping.measure import bundle_of, make_trial, measure_again, quiet
from edgeae.sweeping.record import FORMAT_VERSION, NAME, Limits, Parameter, Point, Sweep, Trial, read_sweep, write_sweep
from edgeae.sweeping.search import check_search, next_setting
from edgeae.sweeping.space import Vary, combinations, options_of, read_parameters, suggested_parameters
from edgeae.training.config import TrainConfig
from edgeae.training.defaults import Facts
from edgeae.training.run import Run
from edgeae.training.trainer import load_training_data

__all__ = ["FIGURE", "sweep"]

FIGURE = "front.png"
LATENTS = ("int8", "int6", "int4", "int3")
WEIGHTS = ("fp32",)
# the rows are loaded once, so that trials are given them with nothing left to read
_READING = (
    "layout", "label_column", "columns", "data_dir", "window", "stride", "time", "resample", "gaps", "window_label",
)  # fmt: skip
Keep = Literal["front", "all"]

log = logging.getLogger("edgeae")


def sweep(
    data: Any,
    out: str | os.PathLike[str],
    *,
    vary: Vary | None = None,
    latents: Sequence[str] | None = None,
    weights: Sequence[str] | None = None,
    trials: int = 20,
    minutes: float | None = None,
    limits: Limits | None = None,
    keep: Keep = "front",
    seconds: float = 0.5,
    config: TrainConfig | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[Trial], object] | None = None,
    **options: Any,
) -> Sweep:
    """Train, export and measure many models; show what size, speed and error cost each other; pick the smallest.

    Every trial trains a model with one setting, exports it, writes the held-out rows into a latent file once for each
    type of latents (which needs no other training), reads them again, and takes the time of scoring. What is no better
    than another model in anything is thrown away. At the end the models that are left are timed again, in turns.

    If there are no more settings than trials, all are tried; else Optuna chooses (`pip install 'edgeae[sweep]'`).
    Ctrl-C ends the sweep with the trials that are done, and `resume` goes on with it as if it had not been stopped.

    Args:
        data: What `edgeae.train` takes.
        out: The folder to write: sweep.json, front.png, trials/N/run and trials/N/bundle, and best, a bundle.
        vary: Training option to its values, a sequence or text as on the command line: {"latent_dim": (8, 16),
            "width": "64,128", "lr": "1e-4..1e-2"}. "width" and "depth" are those of the hidden layers. None: latents
            around the default size, widths, and for dense networks depths.
        latents: Types of stored latents: "float32", "float16", "int8" to "int2"; int8, int6, int4 and int3 if None.
        weights: Precisions to export, "fp32" first; fp32 only if None.
        trials: How many, in all.
        minutes: Begin no trial after so long.
        limits: What the model that is picked has to meet.
        keep: Which trials' folders stay: those on the front, or "all".
        seconds: How long to time each model, for latency and for throughput.
        config: Training options of all trials; see `TrainConfig`.
        resume: Go on with the sweep in `out`, with its own options; data must be the same.
        force: Replace the sweep in `out`.
        progress: Is called with each trial that is done.
        options: Single training options, which override `config`.

    Returns:
        What was found, as sweep.json has it.

    Raises:
        InputError: for data or arguments that cannot be used, or if `out` exists.
        MissingPackageError: if Optuna is needed and not installed.
        TrainingError: if no trial succeeded.

    Example:
        >>> import edgeae
        >>> found = edgeae.sweep("digits", "sweep", vary={"latent_dim": (4, 8, 16)}, epochs=20)  # doctest: +SKIP
        >>> [(point.model_bytes, point.row_bytes, point.mse) for point in found.front]  # doctest: +SKIP
        [(5178, 2.3, 0.031), ...]
    """
    started = time.monotonic()
    out = Path(out)
    _check_numbers(trials, minutes, seconds, keep)
    check_figure_path(out / FIGURE)
    before = read_sweep(out) if resume else None
    if before is None:
        check_new(out, force=force, what="the sweep's folder", holds=NAME)
    wanted = _training_options(before, config, options)
    with quiet(set()):
        dataset = load_training_data(data, wanted)
    wanted = wanted.with_options(**{name: getattr(TrainConfig(), name) for name in _READING})
    facts = _facts(dataset)
    asked = _Asked(
        parameters=None if vary is None else read_parameters(vary),
        latents=None if latents is None else _latents(latents),
        weights=None if weights is None else _weights(weights),
    )
    if before is None:
        found = Sweep(
            format="edgeae-sweep",
            format_version=FORMAT_VERSION,
            data=dataset.source,
            data_digest=digest_rows(dataset.x),
            row_bytes=dataset.x[:1].nbytes,
            held_out=0,
            config=wanted,
            parameters=asked.parameters or suggested_parameters(wanted, facts),
            latents=asked.latents or LATENTS,
            weights=asked.weights or WEIGHTS,
        )
    else:
        _check_same(before, asked, dataset, out)
        found = before
    _check_fixed(found)
    found = replace(found, limits=limits or Limits(), best=None, nearest=None, front=(), stopped="not yet")
    check_search(found.parameters, trials)
    if before is None:
        with explained(out):
            if out.exists():
                shutil.rmtree(out)
            (out / "trials").mkdir(parents=True)
        write_sweep(out, found)
    trials = int(min(trials, combinations(found.parameters)))
    log.info("%s: %d trials, %d of them done", dataset.source, trials, min(trials, len(found.trials)))
    found = _make_trials(
        found,
        dataset,
        facts,
        out,
        trials=trials,
        until=math.inf if minutes is None else started + 60 * minutes,
        keep=keep,
        seconds=seconds,
        progress=progress,
    )
    return _conclude(found, out, keep=keep, seconds=seconds)


def _make_trials(
    found: Sweep,
    dataset: Dataset,
    facts: Facts,
    out: Path,
    *,
    trials: int,
    until: float,
    keep: Keep,
    seconds: float,
    progress: Callable[[Trial], object] | None,
) -> Sweep:
    said: set[str] = set()
    while len(found.trials) < trials:
        number = len(found.trials) + 1
        if time.monotonic() >= until:
            return replace(found, stopped="time")
        setting = next_setting(found.parameters, found.trials, trials=trials, seed=found.config.seed)
        if setting is None:
            return replace(found, stopped="exhausted")
        folder, trial, began = out / "trials" / str(number), Trial(number, setting, 0.0), time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        try:
            with quiet(said, f"trial {number}: "):
                folder.mkdir()
                config = found.config.with_options(**options_of(setting, found.config, facts))
                trial = make_trial(
                    trial, dataset, config, folder, latents=found.latents, weights=found.weights, seconds=seconds
                )
        except KeyboardInterrupt:
            shutil.rmtree(folder, ignore_errors=True)
            log.warning("interrupted; %d trials are done and kept, go on with --resume", len(found.trials))
            return replace(found, stopped="interrupted")
        except (DeviceError, MissingPackageError):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except EdgeaeError as problem:  # of this setting: another one may do
            shutil.rmtree(folder, ignore_errors=True)
            trial = replace(trial, problem=str(problem))
        trial = replace(trial, seconds=time.monotonic() - began)
        found = replace(found, trials=(*found.trials, trial))
        if keep == "front":
            found = _drop(found, out, pareto_front(points_of(found.trials)))
        write_sweep(out, found)
        _tell(trial, trials)
        if progress is not None:
            progress(trial)
    return replace(found, stopped="finished")


def _conclude(found: Sweep, out: Path, *, keep: Keep, seconds: float) -> Sweep:
    """Time the front again, pick, draw, and write all of it."""
    front = pareto_front(points_of(found.trials))
    if not front:
        write_sweep(out, found)
        problems = [trial.problem for trial in found.trials if trial.problem]
        if not problems:
            raise TrainingError(f"{out}: no trial is done; go on with --resume")
        raise TrainingError(f"{out}: no trial succeeded; the first: {problems[0]}")
    rows = Run.load(out / "trials" / str(front[0].trial) / "run").reference.x_validation
    timed = measure_again(front, out / "trials", rows, seconds)
    renewed = {(point.trial, point.weights): (point.latency_us, point.rows_per_second) for point in timed}
    trials = tuple(
        replace(trial, points=tuple(_renewed(point, renewed) for point in trial.points)) for trial in found.trials
    )
    front = pareto_front(timed)
    best, nearest = pick(front, found.limits)
    found = replace(found, trials=trials, front=tuple(front), best=best, nearest=nearest, held_out=len(rows))
    if keep == "front":
        found = _drop(found, out, front)
    with explained(out):
        shutil.rmtree(out / "best", ignore_errors=True)
    if best is not None:
        folder = bundle_of(out / "trials", best.trial)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_directory(out / "best", {name: (folder / name).read_bytes() for name in names})
    draw_front(out / FIGURE, found)
    write_sweep(out, found)
    return found


def _drop(found: Sweep, out: Path, front: Sequence[Point]) -> Sweep:
    """Remove the folders of trials that are not on the front."""
    worth = {point.trial for point in front}
    for trial in found.trials:
        if trial.kept and trial.number not in worth:
            shutil.rmtree(out / "trials" / str(trial.number), ignore_errors=True)
    trials = (replace(trial, kept=trial.kept and trial.number in worth) for trial in found.trials)
    return replace(found, trials=tuple(trials))


def _renewed(point: Point, renewed: Mapping[tuple[int, str], tuple[float, float]]) -> Point:
    latency, rows = renewed.get((point.trial, point.weights), (point.latency_us, point.rows_per_second))
    return replace(point, latency_us=latency, rows_per_second=rows)


def _tell(trial: Trial, trials: int) -> None:
    setting = ", ".join(f"{name} {text}" for name, text in trial.setting.items())
    where = f"trial {trial.number} of {trials}: {setting}"
    if trial.problem is not None:
        log.warning("%s: failed: %s", where, trial.problem)
        return
    exact = min(trial.points, key=lambda point: point.mse)
    log.info(
        "%s: MSE %.4g at %.1f bytes a row (%s), %.1f kB, %.0f µs; %.0f s",
        *(where, exact.mse, exact.row_bytes, exact.dtype, exact.model_bytes / 1e3, exact.latency_us, trial.seconds),
    )


@dataclass(frozen=True)
class _Asked:
    """What this call said; None where it left it open."""

    parameters: tuple[Parameter, ...] | None
    latents: tuple[str, ...] | None
    weights: tuple[str, ...] | None


def _check_same(before: Sweep, asked: _Asked, dataset: Dataset, out: Path) -> None:
    for name in ("parameters", "latents", "weights"):
        value = getattr(asked, name)
        if value is not None and value != getattr(before, name):
            option = "vary" if name == "parameters" else name
            raise InputError(f"{out}: was begun with another {option}; leave it out, or start anew with --force")
    if digest_rows(dataset.x) != before.data_digest:
        raise InputError(f"{out}: was made with other rows than these; give the same data, or start anew with --force")


def _training_options(before: Sweep | None, config: TrainConfig | None, options: Mapping[str, Any]) -> TrainConfig:
    wanted = (config or TrainConfig()).with_options(**options)
    if before is None:
        return wanted
    for name in (field.name for field in fields(TrainConfig)):
        given = getattr(wanted, name)
        if name not in _READING and given not in (getattr(TrainConfig(), name), getattr(before.config, name)):
            raise InputError(
                f"{name} {given!r}: the sweep was begun with {getattr(before.config, name)!r}; leave it out"
            )
    return before.config.with_options(**{name: getattr(wanted, name) for name in _READING})


def _check_fixed(found: Sweep) -> None:
    for parameter in found.parameters:
        name = parameter.name if parameter.name not in ("width", "depth") else "hidden"
        if getattr(found.config, name) != getattr(TrainConfig(), name):
            raise InputError(f"{name} is given, and {parameter.name} is to be varied; leave out one of them")


def _facts(dataset: Dataset) -> Facts:
    low, high = float(dataset.x.min()), float(dataset.x.max())
    return Facts(len(dataset), dataset.row_shape, dataset.layout, dataset.whole_numbers, low, high)


def _latents(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise InputError("latents: there is no type to store latents in; give for instance int8,int4")
    for name in names:
        Settings(dtype=name)
    return tuple(dict.fromkeys(names))


def _weights(names: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in ("fp32", "fp16", "int8")]
    if unknown or not names:
        raise InputError(f"weights {','.join(names)!r}: expected any of fp32, fp16, int8")
    return tuple(dict.fromkeys(names))


def _check_numbers(trials: int, minutes: float | None, seconds: float, keep: str) -> None:
    if trials < 1:
        raise InputError(f"trials must be at least 1, not {trials}")
    if minutes is not None and not minutes > 0:
        raise InputError(f"minutes must be more than 0, not {minutes}")
    if not 0 < seconds < math.inf:
        raise InputError(f"seconds must be more than 0, not {seconds}")
    if keep not in ("front", "all"):
        raise InputError(f"keep {keep!r} is not one of front, all")
