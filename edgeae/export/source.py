"""What can be exported: a run directory, or a pair of PyTorch modules with rows to calibrate on."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edgeae.bundle.manifest import Dtype, Input, Layout, Normalisation, NormalisationKind, Provenance, Series
from edgeae.data import Dataset, fit_normalisation, load_data, load_rows, normalise
from edgeae.errors import ExportError, InputError
from edgeae.export.cores import Autoencoder, Network
from edgeae.training import Run

__all__ = ["Arithmetic", "Source", "from_modules", "from_run", "load_source", "split_labels"]

Rows = np.ndarray[Any, Any]
Arithmetic = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Source:
    """A network and what is known about its data; rows are in the user's units.

    Attributes:
        normal: Rows that thresholds, spreads and parity are taken from; empty where none were given.
        anomalies: Labelled anomalies, for the AUROC at export.
        arithmetic: What the network computes in.
        training: Rows the weights were trained on, for int8 ranges; None where `normal` were given instead.
        series: For windows of a series: how they were cut.
        trim: Share of the training rows that may be anomalies.
    """

    network: Autoencoder
    normalisation: Normalisation
    layout: Layout
    dtype: Dtype
    feature_names: tuple[str, ...] | None
    minimum: float
    maximum: float
    normal: Rows
    anomalies: Rows | None
    training: Rows | None
    variant: str
    description: str
    bernoulli: bool
    generative: bool
    provenance: Provenance | None
    arithmetic: Arithmetic = "float32"
    series: Series | None = None
    trim: float = 0.0

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.network.row_shape


def from_run(run: Run, calibrate: object | None, label_column: str | None) -> Source:
    """Make a source of a training run; `calibrate` replaces its reference rows.

    Columns of a table are matched by name. Its labels are in `label_column`, or where the run had them.

    Raises:
        InputError: if the calibration rows are not of the shape the model was trained on.
    """
    reference = run.reference
    normal, anomalies = reference.x_validation, reference.x_anomaly
    if calibrate is not None:
        normal, anomalies = split_labels(_calibration(run, calibrate, label_column))
    rows = torch.from_numpy(normalise(normal[:2], run.normalisation, run.config.layout))
    network = Network.of(run.model.encoder, run.model.decoder, rows, sigmoid=run.config.output_activation == "sigmoid")
    return Source(
        network=network,
        normalisation=run.normalisation,
        layout=run.config.layout,
        dtype=run.input_dtype,
        feature_names=run.feature_names,
        minimum=run.minimum,
        maximum=run.maximum,
        normal=normal,
        anomalies=anomalies,
        training=reference.x_train if calibrate is None else None,
        variant=run.variant,
        description=run.config.describe(),
        bernoulli=run.objective.loss == "bce",
        generative=run.config.bottleneck == "variational",
        provenance=run.provenance,
        series=run.series,
        trim=run.objective.trim if calibrate is None else 0.0,
    )


def from_modules(
    modules: tuple[nn.Module, nn.Module],
    example: object | None,
    calibrate: object | None,
    *,
    normalisation: Normalisation | NormalisationKind | None,
    output_activation: str,
    layout: Layout | None,
    feature_names: tuple[str, ...] | None,
) -> Source:
    """Make a source of an encoder and a decoder module; the arguments are those of `export_bundle`.

    Raises:
        InputError: if neither `example` nor `calibrate` rows are there.
        ExportError: if the modules do not fit the rows.
    """
    given = calibrate if calibrate is not None else example
    if given is None:
        raise InputError(
            "calibrate: normal rows [n, *row] are needed to export a pair of modules (or a few rows as example=, "
            "with threshold=)"
        )
    data = _dataset(given, layout, "example" if calibrate is None else "calibrate")
    rows, anomalies = split_labels(data)
    if normalisation is None:
        normalisation = "none"
    if not isinstance(normalisation, Normalisation):
        normalisation = fit_normalisation(rows, normalisation, data.layout)
    names = feature_names or data.feature_names
    if names is not None and (data.layout != "vector" or len(names) != data.row_shape[0]):
        raise InputError(f"feature_names: {len(names)} names for rows of shape {data.row_shape}")
    network = Network.of(
        *modules,
        torch.from_numpy(normalise(rows[:2], normalisation, data.layout)),
        sigmoid=output_activation == "sigmoid",
    )
    return Source(
        network=network,
        normalisation=normalisation,
        layout=data.layout,
        dtype="uint8" if data.whole_numbers and data.is_image else "float32",
        feature_names=names,
        minimum=float(rows.min()),
        maximum=float(rows.max()),
        normal=rows if calibrate is not None else rows[:0],
        anomalies=anomalies,
        training=None,
        variant="module",
        description=f"{type(modules[0]).__name__} + {type(modules[1]).__name__}",
        bernoulli=output_activation == "sigmoid",
        generative=network.variational,
        provenance=Provenance(data="module", rows=len(rows)),
    )


def load_source(
    source: object,
    example: object | None,
    calibrate: object | None,
    *,
    normalisation: Normalisation | NormalisationKind | None,
    output_activation: str,
    layout: Layout | None,
    feature_names: tuple[str, ...] | None,
    label_column: str | None,
) -> Source:
    """Tell a run from a pair of modules; see `export_bundle` for the arguments."""
    if isinstance(source, Run):
        return from_run(source, calibrate, label_column)
    if isinstance(source, str | os.PathLike):
        return from_run(Run.load(source), calibrate, label_column)
    if isinstance(source, tuple | list) and len(source) == 2 and all(isinstance(part, nn.Module) for part in source):
        return from_modules(
            (source[0], source[1]),
            example,
            calibrate,
            normalisation=normalisation,
            output_activation=output_activation,
            layout=layout,
            feature_names=feature_names,
        )
    raise ExportError(
        f"source: expected a run directory, a Run or a pair (encoder, decoder) of torch.nn.Module, "
        f"got {type(source).__name__}"
    )


def _dataset(rows: object, layout: Layout | None, argument: str) -> Dataset:
    try:
        return load_data(rows, layout=layout)
    except InputError as problem:
        raise InputError(f"{argument}: {problem}") from None


def _calibration(run: Run, calibrate: object, label_column: str | None) -> Dataset:
    row = Input(run.config.input_shape, "float32", run.config.layout, run.feature_names, series=run.series)
    try:
        if label_column is None and run.options.label_column is not None:
            with contextlib.suppress(InputError):  # rows of another file need not be labelled
                return load_rows(calibrate, row, label_column=run.options.label_column)
        return load_rows(calibrate, row, label_column=label_column)
    except InputError as problem:
        raise InputError(f"calibrate: {problem}") from None


def split_labels(data: Dataset) -> tuple[Rows, Rows | None]:
    """Return (normal rows, labelled anomalies or None)."""
    if data.y is None or not data.anomaly_labels:
        return np.asarray(data.x), None
    bad = data.y == 1
    return np.asarray(data.x[~bad]), np.asarray(data.x[bad]) if bad.any() else None
