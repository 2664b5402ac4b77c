"""The manifest: what a bundle promises, as frozen dataclasses.

`export/FORMAT.md` says in prose what these classes say in types, and `export/manifest.schema.json` is generated from
them. Nothing here knows PyTorch, ONNX or ONNX Runtime.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Any, Literal, get_args

import numpy as np

from edgeae.bundle.names import check_name
from edgeae.bundle.record import record
from edgeae.bundle.strict import from_plain, json_schema, parse_json, shown, to_json
from edgeae.errors import BundleError, InputError

__all__ = [
    "FORMAT_VERSION",
    "GRAPHS",
    "LAYOUTS",
    "MAX_FILE_BYTES",
    "PRECISIONS",
    "SCORES",
    "Dtype",
    "File",
    "Input",
    "Layout",
    "Manifest",
    "Normalisation",
    "NormalisationKind",
    "PrecisionEntry",
    "PrecisionName",
    "Provenance",
    "Quality",
    "Score",
    "ScoreKind",
    "Series",
    "StepLabel",
    "Threshold",
    "ThresholdMethod",
    "Tolerance",
]

FORMAT_VERSION = 1
GRAPHS = ("encoder", "decoder", "scorer")
MAX_FILE_BYTES = 2**31  # what one protobuf message can hold
MAX_ROW = 2**24  # values in one row, and in a latent

PrecisionName = Literal["fp32", "fp16", "int8"]
ScoreKind = Literal["mse", "mae", "bce", "zscore", "mahalanobis", "prototype", "elbo"]
ThresholdMethod = Literal["quantile", "conformal", "evt", "sigma", "best-f1", "recall", "fixed"]
Layout = Literal["vector", "HW", "CHW", "HWC", "TC"]
Dtype = Literal["float32", "uint8"]
NormalisationKind = Literal["none", "minmax", "standard", "robust"]
StepLabel = Literal["any", "last"]

PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
SCORES: tuple[ScoreKind, ...] = get_args(ScoreKind)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


_LARGEST = float(np.finfo(np.float32).max)


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@record(frozen=True)
class File:
    """One file of the bundle and the bytes it must have."""

    path: str = field(metadata=_doc("relative to the bundle, forward slashes, no '..'"))
    size: int = field(metadata=_doc("bytes"))
    sha256: str = field(metadata=_doc("lower-case hexadecimal; integrity, not authenticity"))


@record(frozen=True)
class Tolerance:
    """How far a result may be from the golden one: |actual - expected| <= atol + rtol * |expected|."""

    rtol: float
    atol: float


@record(frozen=True)
class Threshold:
    """Where a score turns into an anomaly: a row is one when `not (score <= value)`, so NaN is one."""

    value: float = field(metadata=_doc("a float32 value, compared with a float32 score"))
    method: ThresholdMethod = field(metadata=_doc("how it was chosen"))
    fpr: float | None = field(default=None, metadata=_doc("the chance that a fresh normal row exceeds it"))
    rows: int = field(default=0, metadata=_doc("how many normal rows it was taken from"))
    interval: tuple[float, ...] | None = field(
        default=None, metadata=_doc("the two ends of the 95 % confidence interval of that chance")
    )
    recall: float | None = field(
        default=None, metadata=_doc("for the method recall: the chance that a fresh anomaly exceeds it")
    )


@record(frozen=True)
class Quality:
    """What export measured for one precision."""

    parity: dict[str, float] = field(
        metadata=_doc("per tensor (z, x_hat, score) the largest |ONNX Runtime - PyTorch| over the spread of the values")
    )
    parity_rows: int = field(metadata=_doc("rows compared"))
    near_ties: int = field(
        default=0, metadata=_doc("rows set aside because a k-sparse unit was within rounding of its neighbour")
    )
    reconstruction_mse: float | None = field(
        default=None, metadata=_doc("on validation rows, in normalised space, mean over all values")
    )
    mean_mse: float | None = field(
        default=None, metadata=_doc("the same error if every row were reconstructed as the training mean")
    )
    auroc: float | None = field(default=None, metadata=_doc("where the run had labelled anomalies"))
    rank_correlation: float | None = field(default=None, metadata=_doc("Spearman, scores against fp32's"))
    label_flips: float | None = field(default=None, metadata=_doc("share of validation rows judged unlike fp32"))


@record(frozen=True)
class PrecisionEntry:
    """The graphs at one precision, with their own threshold and golden rows."""

    encoder: File
    decoder: File
    scorer: File
    golden: File
    threshold: Threshold
    tolerance: dict[str, Tolerance] = field(metadata=_doc("for z, x_hat and score of the golden rows"))
    quality: Quality


@record(frozen=True)
class Series:
    """How windows, rows of the layout TC, were cut from series of time steps; their length is the row's first axis."""

    stride: int = field(default=1, metadata=_doc("steps from one training window to the next"))
    channel_names: tuple[str, ...] | None = field(default=None, metadata=_doc("one name per channel"))
    period: float | None = field(default=None, metadata=_doc("seconds from one step to the next, where known"))
    resampled: bool = field(default=False, metadata=_doc("whether steps were made from timestamps, to that period"))
    label: StepLabel = field(
        default="any", metadata=_doc("a window is an anomaly if any of its steps is labelled so, or if its last one is")
    )


@record(frozen=True)
class Input:
    """One row of the user's data, in the user's units."""

    shape: tuple[int, ...] = field(metadata=_doc("without the batch dimension"))
    dtype: Dtype = field(metadata=_doc("what x must be; x_hat is float32 in the same units"))
    layout: Layout
    feature_names: tuple[str, ...] | None = field(default=None, metadata=_doc("for a vector, one name per value"))
    minimum: float | None = field(default=None, metadata=_doc("smallest value among the training rows"))
    maximum: float | None = field(default=None, metadata=_doc("largest value among the training rows"))
    series: Series | None = field(default=None, metadata=_doc("for windows: how they were cut from series"))


@record(frozen=True)
class Normalisation:
    """Normalised = (x - shift) / scale; the graphs do it, nobody else has to.

    `shift` and `scale` have one value for the whole row, or one per feature (vector) or channel (CHW, HWC, TC).
    """

    kind: NormalisationKind
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def arrays(self, shape: tuple[int, ...], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
        """Return (shift, scale) as float32 arrays that broadcast against [batch, *shape].

        Raises:
            InputError: if there are neither one value nor as many as features or channels.
        """
        axis = 0 if layout == "CHW" else len(shape) - 1
        wanted = shape[axis] if layout != "HW" else 1
        if len(self.shift) != len(self.scale) or len(self.shift) not in (1, wanted):
            raise InputError(
                f"normalisation: {len(self.shift)} shifts and {len(self.scale)} scales for rows of shape {shape} "
                f"({layout}); expected 1 or {wanted} of each"
            )
        broadcast = [1] * len(shape)
        broadcast[axis] = len(self.shift)
        return (
            np.asarray(self.shift, np.float32).reshape(broadcast),
            np.asarray(self.scale, np.float32).reshape(broadcast),
        )


@record(frozen=True)
class Score:
    """Which error the scorer computes; higher is more anomalous."""

    kind: ScoreKind
    decoder_variance: float | None = field(default=None, metadata=_doc("for elbo with a Gaussian decoder"))


@record(frozen=True)
class Provenance:
    """Where the weights come from."""

    data: str = field(metadata=_doc("the file name or data set name, without its folder"))
    data_digest: str | None = field(default=None, metadata=_doc("SHA-256 over the training rows"))
    rows: int = field(default=0, metadata=_doc("training rows"))
    epochs: int = 0
    loss: str = ""
    seed: int = 0


@record(frozen=True)
class Manifest:
    """Everything a program needs to know about a bundle before it opens a graph."""

    format: Literal["edgeae-bundle"]
    format_version: int
    name: str
    created: str = field(metadata=_doc("UTC, ISO 8601"))
    producer: dict[str, str] = field(metadata=_doc("package versions that made the bundle"))
    variant: str = field(metadata=_doc("dense, denoising, sparse, variational, convolutional, ... or 'module'"))
    description: str = field(metadata=_doc("the network in one line"))
    parameters: int = field(metadata=_doc("number of weights"))
    latent_dim: int
    input: Input
    normalisation: Normalisation
    score: Score
    batch: int | None = field(metadata=_doc("the fixed batch size, or null when it is symbolic"))
    opset: int
    ir_version: int
    precisions: dict[str, PrecisionEntry] = field(metadata=_doc("by name: fp32, fp16, int8"))
    generative: bool = field(default=False, metadata=_doc("decoding standard normal latents gives plausible rows"))
    statistics: File | None = field(
        default=None, metadata=_doc("optional .npz: what a score took from normal rows, see FORMAT.md")
    )
    training: Provenance | None = None

    def files(self) -> list[File]:
        """Return the entries of all files of the bundle but the manifest itself."""
        files = [getattr(entry, role) for entry in self.precisions.values() for role in (*GRAPHS, "golden")]
        return files if self.statistics is None else [*files, self.statistics]

    def to_json(self) -> bytes:
        """Serialise as the bytes of manifest.json."""
        return to_json(self)

    @staticmethod
    def from_json(data: bytes, *, where: str = "manifest.json") -> Manifest:
        """Parse and check the bytes of a manifest.json.

        Raises:
            BundleError: naming `where`, the key, what is wrong and what to do.
        """
        plain = parse_json(data, where=where)
        if not isinstance(plain, dict) or plain.get("format") != "edgeae-bundle":
            raise BundleError(f"{where}: not an edgeae manifest (its 'format' is not 'edgeae-bundle')")
        version = plain.get("format_version")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise BundleError(f"{where}: format_version must be a whole number from 1, got {shown(version)}")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{where}: format version {shown(version)} is newer than this edgeae reads ({FORMAT_VERSION}); "
                "upgrade with: pip install -U edgeae"
            )
        manifest = from_plain(Manifest, plain, where=where)
        _check(manifest, where)
        return manifest

    @staticmethod
    def schema() -> dict[str, Any]:
        """Return the JSON Schema of manifest.json, generated from these classes."""
        return json_schema(Manifest, title="edgeae bundle manifest, format version 1")


def _check(manifest: Manifest, where: str) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise BundleError(f"{where}: {message}; export the bundle again")

    row, latent, batch = manifest.input, manifest.latent_dim, manifest.batch
    require(0 < len(row.shape) <= 3, f"input.shape has {len(row.shape)} axes, expected 1 to 3")
    sides = shown(list(row.shape))
    require(all(0 < side <= MAX_ROW for side in row.shape), f"input.shape {sides} is out of bounds")
    ranks = {"vector": 1, "HW": 2, "TC": 2, "CHW": 3, "HWC": 3}
    require(len(row.shape) == ranks[row.layout], f"input.shape {sides} does not fit the layout {row.layout}")
    require(math.prod(row.shape) <= MAX_ROW, f"input.shape {sides}: more than {MAX_ROW:,} values")
    if row.feature_names is not None:
        require(
            row.layout == "vector" and len(row.feature_names) == row.shape[0],
            f"input.feature_names: {len(row.feature_names)} names for rows of shape {sides}",
        )
    require(0 < latent <= MAX_ROW, f"latent_dim {shown(latent)} is out of bounds")
    require(batch is None or 0 < batch <= 2**20, f"batch {shown(batch)} is out of bounds")
    limits = [limit for limit in (row.minimum, row.maximum) if limit is not None]
    require(_fit_float32(limits), "input.minimum and .maximum must be within float32")
    _check_normalisation(manifest, where)
    _check_series(row, require)
    variance = manifest.score.decoder_variance
    require(variance is None or variance > 0, "score.decoder_variance must be positive")
    require("fp32" in manifest.precisions, "precisions: fp32 is missing")
    for name, entry in manifest.precisions.items():
        require(name in PRECISIONS, f"precisions: unknown precision {shown(name)}; known are {', '.join(PRECISIONS)}")
        require(set(entry.tolerance) == {"z", "x_hat", "score"}, f"precisions.{name}.tolerance: need z, x_hat, score")
        bounds = [bound for each in entry.tolerance.values() for bound in (each.rtol, each.atol)]
        require(all(bound >= 0 for bound in bounds), f"precisions.{name}.tolerance must not be below 0")
        value = entry.threshold.value
        exact = _fit_float32([value]) and value == float(np.float32(value))
        require(exact, f"precisions.{name}.threshold.value is not a float32 value")
        ends = entry.threshold.interval
        ordered = ends is None or (len(ends) == 2 and 0 <= ends[0] <= ends[1] <= 1)
        require(ordered, f"precisions.{name}.threshold.interval is not two ascending numbers from 0 to 1")
    _check_files(manifest, where)


def _check_series(row: Input, require: Callable[[bool, str], None]) -> None:
    series = row.series
    if series is None:
        return
    require(row.layout == "TC", f"input.series: rows of the layout {row.layout} are no windows")
    require(0 < series.stride <= MAX_ROW, f"input.series.stride {shown(series.stride)} is out of bounds")
    names = series.channel_names
    require(
        names is None or len(names) == row.shape[1],
        f"input.series.channel_names: {len(names or ())} names for windows of shape {shown(list(row.shape))}",
    )
    period = series.period
    require(period is None or 0 < period <= _LARGEST, "input.series.period must be positive")
    require(period is not None or not series.resampled, "input.series: resampled, and no period")


def _check_normalisation(manifest: Manifest, where: str) -> None:
    row, normalisation = manifest.input, manifest.normalisation
    if not _fit_float32((*normalisation.shift, *normalisation.scale)):
        raise BundleError(f"{where}: normalisation.shift and .scale must be within float32; export the bundle again")
    try:
        normalisation.arrays(row.shape, row.layout)
    except InputError as problem:
        raise BundleError(f"{where}: {problem}") from None
    if not all(np.asarray(normalisation.scale, np.float32) > 0):
        raise BundleError(f"{where}: normalisation.scale must be positive; export the bundle again")


def _check_files(manifest: Manifest, where: str) -> None:
    seen: set[str] = set()
    for file in manifest.files():
        check_name(file.path, where)
        if file.path.casefold() in {*seen, "manifest.json"}:
            raise BundleError(f"{where}: lists {file.path!r} twice; export the bundle again")
        seen.add(file.path.casefold())
        if not 0 <= file.size <= MAX_FILE_BYTES:
            raise BundleError(f"{where}: the size {file.size} of {file.path} is out of bounds; export the bundle again")
        if not re.fullmatch("[0-9a-f]{64}", file.sha256):
            raise BundleError(f"{where}: the sha256 of {file.path} is not one; export the bundle again")


def _fit_float32(values: Iterable[float]) -> bool:
    return all(abs(value) <= _LARGEST for value in values)
