"""A run directory: what training leaves behind, and what export starts from."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from edgeae.bundle.atomic import recovered, write_directory
from edgeae.bundle.bundle import pack_arrays
from edgeae.bundle.manifest import Dtype, Normalisation, Provenance, Series
from edgeae.bundle.strict import from_plain, parse_json, to_json
from edgeae.data.dataset import Array
from edgeae.data.npz import DAMAGED, array_names, read_array
from edgeae.errors import InputError
from edgeae.evaluation.baselines import Comparison
from edgeae.models.autoencoder import Autoencoder
from edgeae.models.config import ModelConfig, ObjectiveConfig
from edgeae.training.config import TrainConfig
from edgeae.training.progress import Epoch

__all__ = ["Reference", "Results", "Run", "RunRecord", "write_run"]

FORMAT_VERSION = 1
REFERENCE_ROWS = 10_000
REFERENCE_BYTES = 2**28

Stopped = Literal["finished", "early", "interrupted", "nan"]


@dataclass(frozen=True)
class Results:
    """How training went. Losses are the objective's; mse is the mean squared error of clean rows, normalised.

    Attributes:
        epochs: Epochs done.
        best_epoch: The one whose weights were kept, from 1.
        train_loss: Mean loss over that epoch.
        validation_loss: Loss on the rows held out, after it.
        train_mse: Reconstruction error of training rows with the weights kept.
        validation_mse: Reconstruction error of the rows held out.
        gap: validation_mse / train_mse - 1.
        memorises: Whether the gap is so large that the network knows its training rows rather than their kind.
        active_share: Of a sparse latent: the share of units that are not zero, or with KL their mean activation.
        active_units: Of a variational latent: units whose mean varies by more than 0.01 (Burda et al., 2016,
            https://arxiv.org/abs/1509.00519).
        stopped: Why it ended.
        baselines: The reconstruction error beside simple baselines; None where there are too few rows.
        left_out: Training rows that `trim` left out from the beginning, since they lie far from all others.
    """

    epochs: int
    best_epoch: int
    train_loss: float
    validation_loss: float
    train_mse: float
    validation_mse: float
    gap: float
    memorises: bool
    active_share: float | None
    active_units: int | None
    stopped: Stopped
    baselines: Comparison | None = None
    left_out: int = 0


@dataclass(frozen=True)
class RunRecord:
    """What model.json holds."""

    format: Literal["edgeae-run"]
    format_version: int
    variant: str
    config: ModelConfig
    objective: ObjectiveConfig
    options: TrainConfig
    normalisation: Normalisation
    feature_names: tuple[str, ...] | None
    input_dtype: Dtype
    minimum: float
    maximum: float
    provenance: Provenance
    results: Results
    series: Series | None = field(default=None, kw_only=True)  # for windows: how they were cut


@dataclass(frozen=True)
class Reference:
    """A bounded sample of rows in the user's units, from which export takes thresholds and spreads.

    Attributes:
        x_train: [n, *shape], rows the weights were trained on.
        x_validation: [m, *shape], rows held out.
        x_anomaly: [k, *shape], rows labelled as anomalies, or None where there are no such labels.
    """

    x_train: Array
    x_validation: Array
    x_anomaly: Array | None


@dataclass(frozen=True, eq=False)
class Run(RunRecord):
    """A trained model with all that is needed to export it.

    Attributes:
        path: The run directory.
        model: In eval mode, on the CPU.
        variant: The preset it started from.
        config: The network.
        objective: What it was trained for.
        options: The training options, defaults filled in.
        normalisation: What the model's input went through.
        feature_names: Of a table's columns, or None.
        input_dtype: Of the data.
        minimum: Smallest value among the training rows, in the user's units.
        maximum: Largest value.
        provenance: Where the weights come from.
        results: How training went.
        series: For windows of a series: how they were cut, or None.

    Example:
        >>> run = Run.load("run")  # doctest: +SKIP
        >>> run.results.validation_mse  # doctest: +SKIP
        0.0047
    """

    path: Path
    model: Autoencoder

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Run:
        """Load a run directory; no code in it is run, nothing in it is unpickled.

        Raises:
            InputError: if there is none, or it is incomplete or damaged.
        """
        path = recovered(Path(path))
        if not (path / "model.json").is_file():
            raise InputError(f"{path}: {_why_no_run(path)}")
        where = str(path / "model.json")
        plain = parse_json(_bytes(path / "model.json"), where=where, error=InputError)
        if not isinstance(plain, dict) or plain.get("format") != "edgeae-run":
            raise InputError(f"{where}: not an edgeae run (its 'format' is not 'edgeae-run')")
        version = plain.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise InputError(f"{where}: written by a newer edgeae; upgrade with: pip install -U edgeae")
        record = from_plain(RunRecord, plain, where=where, error=InputError)
        return Run(**_fields(record), path=path, model=_model(record.config, path / "model.safetensors").eval())

    @cached_property
    def reference(self) -> Reference:
        """The rows that export takes thresholds from, read from reference.npz when first asked for.

        Raises:
            InputError: if the file is missing or damaged.
        """
        file = self.path / "reference.npz"
        shape = self.config.input_shape
        try:
            with zipfile.ZipFile(io.BytesIO(_bytes(file))) as archive:
                arrays = {name: read_array(archive, name) for name in array_names(archive)}
        except DAMAGED as problem:
            raise InputError(f"{file}: not a readable .npz file: {_first_line(problem)}; train again") from None
        for name in ("x_train", "x_validation", *(("x_anomaly",) if "x_anomaly" in arrays else ())):
            if name not in arrays or arrays[name].shape[1:] != shape or arrays[name].dtype.name != self.input_dtype:
                raise InputError(f"{file}: {name} is missing or not {self.input_dtype} rows {shape}; train again")
        return Reference(arrays["x_train"], arrays["x_validation"], arrays.get("x_anomaly"))


def write_run(
    path: Path,
    record: RunRecord,
    *,
    weights: Mapping[str, Tensor],
    history: Sequence[Epoch],
    resume: bytes,
    reference: Reference,
    force: bool,
) -> None:
    """Write a run directory atomically.

    Raises:
        InputError: if `path` exists and `force` is false, or cannot be written.
    """
    arrays = {name: array for name, array in vars(reference).items() if array is not None}
    files = {
        "model.json": to_json(record),
        "model.safetensors": safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.items()}),
        "history.csv": _history(history),
        "resume.pt": resume,
        "reference.npz": pack_arrays(**arrays),
    }
    write_directory(path, files, force=force)


def sample_reference(x_train: Array, x_validation: Array, x_anomaly: Array | None, seed: int) -> Reference:
    """Draw at most 10,000 rows (and 256 MiB) in all: validation rows first, since thresholds come from them."""
    row_bytes = max(1, x_train[:1].nbytes)
    room = max(3, min(REFERENCE_ROWS, REFERENCE_BYTES // row_bytes))
    generator = np.random.default_rng(seed)

    def draw(rows: Array, most: int) -> Array:
        if len(rows) <= most:
            return np.ascontiguousarray(rows)
        return np.ascontiguousarray(rows[np.sort(generator.choice(len(rows), most, replace=False))])

    anomalies = None if x_anomaly is None else draw(x_anomaly, max(1, room // 5))
    room -= 0 if anomalies is None else len(anomalies)
    held_out = draw(x_validation, max(1, room // 2))
    return Reference(draw(x_train, max(1, room - len(held_out))), held_out, anomalies)


def _history(history: Sequence[Epoch]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Epoch))
    writer.writerows(dataclasses.astuple(epoch) for epoch in history)
    return text.getvalue().encode()


def _fields(record: RunRecord) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _model(config: ModelConfig, file: Path) -> Autoencoder:
    """Build the network with the weights in `file`, which must be its own before memory is taken for it."""
    try:
        weights = safetensors.torch.load(_bytes(file))
        with torch.device("meta"):
            wanted = Autoencoder(config).state_dict()
    except (SafetensorError, RuntimeError, ValueError, TypeError, OverflowError) as problem:
        raise InputError(f"{file}: does not hold this model's weights: {_first_line(problem)}; train again") from None
    for name in [*wanted, *weights]:
        if name not in wanted or name not in weights:
            raise InputError(f"{file}: does not hold this model's weights: {name!r} is in one only; train again")
        if weights[name].shape != wanted[name].shape or weights[name].dtype != wanted[name].dtype:
            there, needed = (f"{each[name].dtype} {tuple(each[name].shape)}" for each in (weights, wanted))
            raise InputError(
                f"{file}: does not hold this model's weights: {name!r} is {there}, not {needed}; train again"
            )
    model = Autoencoder(config)
    model.load_state_dict(weights)
    return model


def _first_line(problem: BaseException) -> str:
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__


def _bytes(file: Path) -> bytes:
    if file.exists() and not file.is_file():
        raise InputError(f"{file}: is not a regular file; train again with --force")
    try:
        return file.read_bytes()
    except OSError as problem:
        raise InputError(f"{file}: cannot be read: {problem.strerror or problem}") from None


def _why_no_run(path: Path) -> str:
    if not path.exists():
        return f"no such run directory; make one with: edgeae train DATA -o {path}"
    if (path / "manifest.json").exists():
        return "it is a bundle, not a run directory; export starts from what edgeae train wrote"
    return "not a run directory, it has no model.json"
