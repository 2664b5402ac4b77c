"""`train`: data in, run directory out."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from torch import nn
from torch.multiprocessing.spawn import ProcessException
from torch.utils.flop_counter import FlopCounterMode

from edgeae.bundle.atomic import check_new
from edgeae.bundle.manifest import Normalisation, Provenance
from edgeae.data import Dataset, describe_dataset, digest_rows, fit_normalisation, load_data, normalise, split_rows
from edgeae.data.dataset import Array, describe_constants, row_blocks
from edgeae.data.series import Windowing
from edgeae.data.windows import map_steps, split_windows, take_rows
from edgeae.errors import DeviceError, InputError, TrainingError
from edgeae.evaluation.baselines import say
from edgeae.models.autoencoder import Autoencoder
from edgeae.training.beside import compare_network
from edgeae.training.config import TrainConfig, chosen
from edgeae.training.contamination import typical_part
from edgeae.training.defaults import Facts, Plan, check_range, resolve
from edgeae.training.fit import Job, Outcome, fit, fit_apart
from edgeae.training.loop import mixed_seed
from edgeae.training.progress import Epoch
from edgeae.training.resume import State, check_rate, check_state, merge_options, read_state, state_path
from edgeae.training.run import FORMAT_VERSION, Results, Run, RunRecord, sample_reference, write_run

__all__ = ["load_training_data", "train"]

log = logging.getLogger("edgeae")

# below this many operations in the forward pass of a batch, two threads gain little alone and lose a lot in company
ONE_THREAD_FLOPS = 2e9

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16-mixed": "bf16-mixed",
    "fp16-mixed": "16-mixed",
}


def train(
    data: Any,
    out: str | os.PathLike[str],
    *,
    config: TrainConfig | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool | Callable[[Epoch], object] = False,
    **options: Any,
) -> Run:
    """Train an autoencoder and write a run directory.

    The rows are split into training and validation rows, normalised with statistics of the training rows, and the
    weights of the epoch with the lowest validation loss are kept. With 0/1 labels, where 1 marks an anomaly, only rows
    labelled 0 are trained on; other labels are ignored.

    Ctrl-C ends training after the first epoch with the best weights so far (`run.results.stopped` says so). The
    state to resume from is in the run directory, and beside it as OUT.resume.pt while training runs. With several
    devices on one machine the processes are spawned, so a script needs the `if __name__ == "__main__":` guard; under
    torchrun, its processes are used.

    Args:
        data: What `edgeae.data.load_data` takes: a path, a name such as "mnist-5k", an array [n, *shape], a Dataset.
        out: The run directory to write.
        config: Options; see `TrainConfig`.
        resume: Go on with the run at `out`, with its own options; only epochs, patience, and what it runs on can be
            changed. The result is that of an uninterrupted run.
        force: Replace what stands at `out`.
        progress: True for a bar on standard error, where that is a terminal; or a function that is called with an
            `Epoch` after each.
        options: Single options, which override `config`.

    Returns:
        The run, as `Run.load(out)` would load it.

    Raises:
        InputError: for data or options that cannot be used, or if `out` exists.
        DeviceError: if the device that was asked for is absent.
        TrainingError: if the loss is not finite in the first epoch.

    Example:
        >>> import edgeae
        >>> run = edgeae.train("digits", "run", latent_dim=8, epochs=20)  # doctest: +SKIP
        >>> run.config.describe()  # doctest: +SKIP
        'dense 64-8-64, relu latent, sigmoid output'
    """
    out = Path(out)
    wanted = (config or TrainConfig()).with_options(**options)
    state = None
    if resume:
        state = read_state(out)
        wanted = merge_options(state.options, wanted)
    else:
        check_new(out, force=force, what="the run directory", holds="model.json")
        check_state(out, force=force)
    fabric = _fabric(wanted)
    dataset = load_training_data(data, wanted)
    log.info("%s: %s", dataset.source, describe_dataset(dataset))
    rows = _split(dataset, wanted)
    prepared = _prepare(rows, dataset, wanted)
    if rows.left_out:
        every = rows.left_out + len(rows.train)
        log.info("trim: %d of %d training rows left out, the farthest from most others", rows.left_out, every)
    if state is not None:
        _check_resumable(state, prepared, out)
    job = _job(rows, prepared, dataset, state_path(out), state)
    log.info(
        "%s; normalise %s, loss %s, %d epochs",
        *(prepared.plan.model.describe(), prepared.plan.options.normalise, prepared.plan.objective.loss),
        chosen(prepared.plan.options.epochs),
    )
    if state is not None:
        check_rate(state, prepared.plan.options, out)
    else:
        state_path(out).unlink(missing_ok=True)  # of a run that this one replaces
    state, outcome = _launch(fabric, job, progress, out)
    job.model.load_state_dict(state.best_weights)
    record = _record(rows, prepared, dataset, state, outcome)
    if fabric.is_global_zero:
        beside = compare_network(
            job.model.eval(), rows.train, rows.validation, rows.anomalies, prepared.normalisation, dataset.layout
        )
        record = replace(record, results=replace(record.results, baselines=beside))
    _report(record)
    if outcome.validation_mse < outcome.variance:
        say(record.results.baselines)
    else:
        log.warning("the model reconstructs no better than the mean of its rows would; a lower lr may help")
    if prepared.plan.model.bottleneck != "sparse" and prepared.plan.model.latent_dim >= prepared.plan.model.values:
        log.warning(
            "the latent has %d values and a row %d: such a model can copy anything, anomalies too; use a smaller one",
            prepared.plan.model.latent_dim,
            prepared.plan.model.values,
        )
    if wanted.missing != "refuse":
        log.warning("missing values are filled in training only; the bundle refuses or flags rows that have any")
    if fabric.is_global_zero:
        write_run(
            out,
            record,
            weights=state.best_weights,
            history=state.history,
            resume=state.to_bytes(),
            reference=sample_reference(rows.train, rows.validation, rows.anomalies, wanted.seed),
            force=force or resume,
        )
        state_path(out).unlink(missing_ok=True)
    return Run(**vars(record), path=out, model=job.model)


def load_training_data(data: Any, options: TrainConfig) -> Dataset:
    """Load what `train` trains on: rows, or windows of a series, as the options say.

    Raises:
        InputError: for data that cannot be used, and for options of series where there is none.
    """
    return load_data(
        data,
        data_dir=options.data_dir,
        label_column=options.label_column,
        columns=options.columns,
        missing=options.missing,
        layout=options.layout,
        windows=_windowing(options),
    )


@dataclass(frozen=True)
class _Rows:
    """In the user's units."""

    train: Array
    validation: Array
    anomalies: Array | None
    left_out: int


@dataclass(frozen=True)
class _Prepared:
    plan: Plan
    normalisation: Normalisation
    minimum: float
    maximum: float
    digest: str


def _split(dataset: Dataset, options: TrainConfig) -> _Rows:
    usable, anomalies = np.arange(len(dataset)), None
    if dataset.anomaly_labels and dataset.y is not None:
        marked = np.flatnonzero(dataset.y == 1)
        anomalies = dataset.x[marked] if len(marked) else None
        if options.train_on == "normal":
            usable = np.flatnonzero(dataset.y == 0)
            log.info("training on the %d rows labelled 0, %d labelled 1 are kept apart", len(usable), len(marked))
    elif dataset.y is not None:
        _say_ignored(dataset, dataset.y, options)
    if len(usable) < 2:
        marked_all = anomalies is not None and not len(usable)
        hint = "all are labelled 1, an anomaly: recode the labels, or use --train-on all" if marked_all else "give more"
        raise InputError(
            f"{dataset.source}: {len(usable)} row(s) to train on, training needs at least 2, better 1000; {hint}"
        )
    constants = describe_constants(dataset.x, dataset.feature_names) if dataset.layout == "vector" else None
    if constants:
        log.warning("%s: %s: nothing to learn there; leave it out with --columns=-NAME", dataset.source, constants)
    if dataset.series is None or dataset.steps is None:
        training, held_out = split_rows(len(usable), options.validation, options.seed)
    else:
        length, stride = dataset.row_shape[0], dataset.series.stride
        training, held_out = split_windows(dataset.steps[usable], length, stride, options.validation)
    trained_on = typical_part(dataset.x, usable[training], options.trim, options.seed)
    train, validation = (_writable(take_rows(dataset.x, rows)) for rows in (trained_on, usable[held_out]))
    return _Rows(train, validation, anomalies, len(training) - len(trained_on))


def _writable(x: Array) -> Array:
    """Return rows as PyTorch takes them: not those of a file's read-only map."""
    return x if x.flags.writeable else map_steps(x, np.array)


def _windowing(options: TrainConfig) -> Windowing | None:
    if options.window is None:
        unset = TrainConfig()
        for name in ("stride", "time", "resample", "gaps", "window_label"):
            if getattr(options, name) != getattr(unset, name):
                raise InputError(f"{name} is for series: say how many steps a window has, such as --window 64")
        return None
    return Windowing(
        options.window,
        stride=options.stride,
        time=options.time,
        resample=options.resample,
        gaps=options.gaps,
        label=options.window_label,
    )


def _say_ignored(dataset: Dataset, labels: Array, options: TrainConfig) -> None:
    """Classes are no mistake; what the user named a label, or has two values, may have been meant to mark anomalies."""
    values = np.unique(labels)
    row = int(np.flatnonzero(~np.isin(labels, (0, 1)))[0])
    column = f" of column {options.label_column!r}" if options.label_column else ""
    log.log(
        logging.WARNING if options.label_column or len(values) <= 2 else logging.INFO,
        "%s: the labels%s are not 0 and 1 and are ignored (row %d, counting from 0, has %d): all rows are trained on; "
        "if they mark anomalies, write 0 for normal rows and 1 for anomalies",
        *(dataset.source, column, row, labels[row]),
    )


def _prepare(rows: _Rows, dataset: Dataset, options: TrainConfig) -> _Prepared:
    x = rows.train
    minimum, maximum = float(x.min()), float(x.max())
    facts = Facts(len(x), dataset.row_shape, dataset.layout, dataset.whole_numbers, minimum, maximum)
    plan = resolve(options, facts)
    if plan.model.batch_norm and len(x) < 2:
        raise InputError(f"{dataset.source}: 1 row to train on; batch_norm needs at least 2")
    normalisation = fit_normalisation(x, chosen(plan.options.normalise), dataset.layout)
    low, high = math.inf, -math.inf
    for _, block in row_blocks(x):
        normalised = normalise(block, normalisation, dataset.layout)
        low, high = min(low, float(normalised.min())), max(high, float(normalised.max()))
    plan = check_range(plan, low, high)
    return _Prepared(plan, normalisation, minimum, maximum, digest_rows(x))


def _job(rows: _Rows, prepared: _Prepared, dataset: Dataset, state_file: Path, state: State | None) -> Job:
    plan = prepared.plan
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed_seed(plan.options.seed))
        model = Autoencoder(plan.model)
    if plan.objective.sparsity == "kl" and plan.objective.sparsity_target is not None:
        _start_at_rate(model, plan.objective.sparsity_target)
    return Job(
        plan=replace(
            plan, options=replace(plan.options, threads=plan.options.threads or _threads(model, plan.options))
        ),
        model=model,
        x_train=torch.from_numpy(rows.train),
        x_validation=torch.from_numpy(rows.validation),
        normalisation=prepared.normalisation,
        layout=dataset.layout,
        data_digest=prepared.digest,
        state_file=state_file,
        state=state,
    )


def _start_at_rate(model: Autoencoder, target: float) -> None:
    """Let sigmoid units start at their target rate: from one half they are still on their way ten epochs later."""
    layers = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Linear | nn.BatchNorm1d)]
    nn.init.constant_(layers[-1].bias, math.log(target / (1 - target)))


def _threads(model: Autoencoder, options: TrainConfig) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, *model.config.input_shape))
    flops = counter.get_total_flops() * chosen(options.batch_size)
    return 1 if flops < ONE_THREAD_FLOPS else torch.get_num_threads()


def _check_resumable(state: State, prepared: _Prepared, out: Path) -> None:
    if state.data_digest != prepared.digest:
        raise InputError(f"{out}: was trained on other rows than these; give the same data, or start anew with --force")
    done = len(state.history)
    if chosen(prepared.plan.options.epochs) <= done:
        raise InputError(f"{out}: has done {done} epochs already; ask for more, for instance --epochs {2 * done}")


def _launch(fabric: Fabric, job: Job, progress: bool | Callable[[Epoch], object], out: Path) -> tuple[State, Outcome]:
    if isinstance(fabric.strategy.launcher, _MultiProcessingLauncher):
        try:
            outcome = fabric.launch(partial(fit_apart, job=job, progress=progress))
        except ProcessException as problem:
            reason = str(problem).strip().splitlines()[-1].removeprefix("edgeae.errors.TrainingError: ")
            raise TrainingError(f"process {problem.error_index} of {fabric.world_size}: {reason}") from problem
        return read_state(out), Outcome(**outcome)
    fabric.launch()
    return fit(fabric, job, progress)


def _record(rows: _Rows, prepared: _Prepared, dataset: Dataset, state: State, outcome: Outcome) -> RunRecord:
    plan = prepared.plan
    best = state.history[state.best_epoch - 1]
    gap = outcome.validation_mse / max(outcome.train_mse, 1e-12) - 1
    results = Results(
        epochs=len(state.history),
        best_epoch=state.best_epoch,
        train_loss=best.train_loss,
        validation_loss=best.validation_loss,
        train_mse=outcome.train_mse,
        validation_mse=outcome.validation_mse,
        gap=gap,
        # twice the error on rows not seen, unless both are next to nothing
        memorises=gap > 1 and outcome.validation_mse > 0.01 * outcome.variance,
        active_share=outcome.active_share,
        active_units=outcome.active_units,
        stopped=outcome.stopped,
        left_out=rows.left_out,
    )
    return RunRecord(
        format="edgeae-run",
        format_version=FORMAT_VERSION,
        variant=plan.options.variant,
        config=plan.model,
        objective=plan.objective,
        options=state.options,
        normalisation=prepared.normalisation,
        feature_names=dataset.feature_names,
        series=dataset.series,
        input_dtype="uint8" if dataset.x.dtype == np.uint8 else "float32",
        minimum=prepared.minimum,
        maximum=prepared.maximum,
        provenance=Provenance(
            data=dataset.source,
            data_digest=prepared.digest,
            rows=len(rows.train),
            epochs=len(state.history),
            loss=plan.objective.loss,
            seed=plan.options.seed,
        ),
        results=results,
    )


def _report(record: RunRecord) -> None:
    results = record.results
    log.info(
        "best epoch %d of %d: validation loss %.6g; reconstruction error %.6g on training rows, %.6g on rows held out",
        *(results.best_epoch, results.epochs, results.validation_loss, results.train_mse, results.validation_mse),
    )
    if results.memorises:
        log.warning(
            "the model memorises: its error is %.1f times as large on rows held out; more rows, a smaller latent_dim, "
            "noise or dropout help",
            results.gap + 1,
        )
    if results.active_share is not None:
        log.info("active share of the latent: %.4f", results.active_share)
    if results.active_units is not None:
        log.info("active units of the latent: %d of %d", results.active_units, record.config.latent_dim)


def _fabric(options: TrainConfig) -> Fabric:
    name, _, number = options.device.partition(":")
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    asked = f"device {options.device!r} with devices {options.devices}"
    if number and (options.devices != 1 or not number.isdigit()):
        raise DeviceError(f"{asked}: a device is a name, or a name and one number such as 'cuda:1', with devices 1")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"{asked}: PyTorch {torch.__version__} finds no CUDA device; check nvidia-smi and that PyTorch is a CUDA "
            "build, or use device 'cpu'"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is said below, as an error
            fabric = Fabric(
                accelerator=name,
                devices=[int(number)] if number else options.devices,
                num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)) if launched else 1,
                strategy="ddp" if launched else "auto" if options.devices == 1 else "ddp_spawn",
                precision=PRECISIONS[options.precision],
            )
    except Exception as problem:  # Lightning raises a different class for each way in which a device can be wrong
        raise DeviceError(f"{asked}: {str(problem).splitlines()[0]}") from None
    if options.precision == "fp16-mixed" and fabric.device.type == "cpu":
        raise DeviceError("precision 'fp16-mixed' needs a GPU; on the CPU use 'bf16-mixed' or 'fp32'")
    return fabric
