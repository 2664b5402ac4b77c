"""`adopt`: from a model that edgeae did not train to a bundle."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from torch import nn

from edgeae.bundle import Bundle
from edgeae.bundle.atomic import check_new
from edgeae.bundle.manifest import Dtype, Input, Layout, Normalisation, NormalisationKind, Provenance, ScoreKind
from edgeae.bundle.rows import random_rows
from edgeae.data import Dataset, fit_normalisation, load_data, load_rows, normalise
from edgeae.errors import ExportError, InputError
from edgeae.export.adopt.coders import Wish, settle_batch
from edgeae.export.adopt.foreign import Foreign, declared_input, open_model
from edgeae.export.adopt.modules import build_module, export_modules, halves
from edgeae.export.adopt.network import OnnxNetwork
from edgeae.export.adopt.read import read_model
from edgeae.export.assemble import Plan
from edgeae.export.bundle import bundle_source, export_bundle
from edgeae.export.mobile import MOBILE_OPSET
from edgeae.export.scores import ScoreSpec
from edgeae.export.source import Source, split_labels
from edgeae.export.target import Target, prepare, write_beside

__all__ = ["adopt", "constants"]

_log = logging.getLogger("edgeae")

_FACTORY: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_LAYERS: Final = (
    "Gemm",
    "MatMul",
    "Conv",
    "ConvTranspose",
    "LSTM",
    "GRU",
    "RNN",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
)

Array = np.ndarray[Any, Any]


def adopt(
    model: str | os.PathLike[str] | nn.Module | tuple[nn.Module, nn.Module],
    path: str | os.PathLike[str],
    *,
    decoder: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    calibrate: object | None = None,
    normalisation: Normalisation | NormalisationKind = "none",
    latent: str | None = None,
    reconstruction: str | None = None,
    shape: Sequence[int] | None = None,
    layout: Layout | None = None,
    score: ScoreKind = "mse",
    fpr: float = 0.01,
    threshold: float | None = None,
    precision: Sequence[str] = ("fp32",),
    label_column: str | None = None,
    golden_from: object | None = None,
    name: str | None = None,
    target: Target = "server",
    onnxruntime_web: str | os.PathLike[str] | None = None,
    trust: bool = False,
    force: bool = False,
) -> Bundle:
    """Turn a model that edgeae did not train into a bundle, if its graphs compute what the model computes.

    An ONNX model is run as it is, in ONNX Runtime, first in a child process: what crashes there is refused. An
    autoencoder in one file is cut at its narrowest value. Its batch is made free where the results stay the same, row
    by row, at batches of 1, 2 and 7; else the bundle has a fixed batch, over which the runtime loops. What was done to
    the model is logged (logger "edgeae").

    Args:
        model: An ONNX autoencoder, or with `decoder` an encoder; "package.module:factory", which is imported and
            called for a `torch.nn.Module` or a pair (encoder, decoder) of them; or such modules themselves.
        path: Directory to write, or a file name that ends in ".zip".
        decoder: An ONNX file that takes the latent.
        weights: For modules, a state dict: .safetensors, or what `torch.save` wrote, read without unpickling code.
        calibrate: Normal rows (a path, a data set name, or [n, *row]) in the user's units: for the threshold, the
            spread of zscore, int8 ranges. Rows labelled 1 are used for the AUROC only.
        normalisation: What the model expects to be done to rows before it sees them: nothing, a kind to fit on
            `calibrate`, or the constants of (x - shift) / scale. What it gives is taken back to the user's units.
        latent: The name of the value that becomes the latent; of an encoder's output, where it has several.
        reconstruction: The name of the output that is the reconstruction, where there are several.
        shape: Shape of one row, where the model leaves it open and there are no rows.
        layout: What the axes of a row mean, where it is not plain.
        score: "mse", "mae", "zscore", or "bce" for models that end in a sigmoid.
        fpr: The share of normal rows that may exceed the threshold.
        threshold: A fixed threshold instead; needed where there are no rows.
        precision: "fp32", and "int8" if asked for. A model that is quantised stays so, under the name fp32.
        label_column: Where the labels of `calibrate` are.
        golden_from: Real rows to keep as golden rows; they become part of the bundle.
        name: The bundle's name; by default the last part of `path`.
        target: As in `edgeae.export_bundle`: "mobile" fixes the batch, at 1 where the model leaves it free, and writes
            the folder PATH-mobile; "web" writes the page PATH.html.
        onnxruntime_web: For "web", a folder with the npm package onnxruntime-web, which becomes part of the page.
        trust: Also take operators that no fuzzer has tried; the bundle then needs `edgeae.load(..., trust=True)`.
        force: Replace what stands at `path`.

    Returns:
        The written bundle, read back.

    Raises:
        InputError: if a file or an argument is not what it should be.
        ExportError: if the model cannot be cut, holds an operator that bundles do not hold, or its graphs differ from
            it; nothing is left behind.

    Example:
        >>> bundle = adopt("autoencoder.onnx", "bundle", calibrate="normal.csv")  # doctest: +SKIP
        >>> bundle.manifest.latent_dim  # doctest: +SKIP
        8
    """
    path = Path(path)
    check_new(path, force=force, what="the output", holds=None if path.suffix == ".zip" else "manifest.json")
    if calibrate is None and threshold is None:
        raise InputError(
            "calibrate: normal rows are needed for the threshold (--calibrate DATA), or a fixed one (--threshold X)"
        )
    batch = prepare(target, path, opset=MOBILE_OPSET, batch=None, onnxruntime_web=onnxruntime_web, force=force)
    asked = _Asked(calibrate, normalisation, None if shape is None else tuple(shape), layout, label_column)
    if not isinstance(model, str | os.PathLike) or _FACTORY.fullmatch(os.fspath(model)):
        if decoder is not None:
            raise InputError("decoder: modules are given as one, or as a pair (encoder, decoder)")
        modules = build_module(model, weights)
        rows = asked.module_rows()
        pair = halves(modules, rows)
        if pair is not None:
            bundle = export_bundle(
                pair,
                path,
                example=asked.example(rows),
                calibrate=calibrate,
                score=score,
                fpr=fpr,
                threshold=threshold,
                precision=precision,
                golden_from=golden_from,
                name=name,
                normalisation=normalisation,
                layout=layout,
                label_column=label_column,
                target=target,
                onnxruntime_web=onnxruntime_web,
                force=force,
            )
            _compare_with_the_mean(bundle)
            return bundle
        parts = modules if isinstance(modules, tuple) else (modules,)
        files = [Path(type(part).__name__) for part in parts]
        read = export_modules(modules, rows)
        asked = replace(asked, shape=rows.shape[1:])
    else:
        if weights is not None:
            raise InputError("weights: an ONNX file holds its own; they are for package.module:factory")
        files = [Path(model)] if decoder is None else [Path(model), Path(decoder)]
        read = [read_model(file) for file in files]
    title = " + ".join(file.name for file in files)
    models = _open(files, read, asked, latent, reconstruction, trust)
    source, plan = _source(models, asked, title, latent, trust=trust, logits=score == "bce")
    if target == "mobile" and plan.opset > MOBILE_OPSET:
        newer = f"opset {plan.opset} is newer than the {MOBILE_OPSET} of older mobile builds"
        raise ExportError(f"{title}: {newer}; export the model with opset {MOBILE_OPSET}")
    bundle = bundle_source(
        source,
        path,
        score=score,
        fpr=fpr,
        threshold=threshold,
        precision=_possible(precision, source),
        opset=plan.opset,
        batch=batch if plan.batch is None else plan.batch,
        input_dtype=plan.input.dtype,
        golden_from=golden_from,
        name=name,
        force=force,
        trust=trust,
    )
    _compare_with_the_mean(bundle)
    write_beside(target, bundle, onnxruntime_web=onnxruntime_web, force=force)
    return bundle


def constants(shift: Sequence[float] | None, scale: Sequence[float] | None) -> Normalisation | None:
    """Return (x - shift) / scale with numbers of the user's own, one or one for each channel; None for none.

    Example:
        >>> constants(None, [255.0])
        Normalisation(kind='minmax', shift=(0.0,), scale=(255.0,))
    """
    if shift is None and scale is None:
        return None
    count = max(len(each) for each in (shift, scale) if each is not None)
    shifts, scales = (
        tuple(map(float, each)) * (count if len(each) == 1 else 1) for each in (shift or (0.0,), scale or (1.0,))
    )
    if not all(map(math.isfinite, (*shifts, *scales))) or min(scales) <= 0:
        raise InputError("normalisation: shift and scale must be finite numbers, and the scale positive")
    return Normalisation("minmax" if not any(shifts) else "standard", shifts, scales)


@dataclass(frozen=True)
class _Asked:
    """What the user said about the rows."""

    calibrate: object | None
    normalisation: Normalisation | NormalisationKind
    shape: tuple[int, ...] | None
    layout: Layout | None
    label_column: str | None

    def plain(self) -> Dataset | None:
        """Return the rows as they are, if that is plain."""
        if self.calibrate is None:
            return None
        if isinstance(self.calibrate, Dataset):
            return self.calibrate
        return load_data(self.calibrate, layout=self.layout, label_column=self.label_column)

    def fitted(self, sides: tuple[int, ...], layout: Layout) -> tuple[Dataset | None, tuple[int, ...], Layout]:
        """Return the rows, and the shape and layout of one, for a model that takes `sides`.

        Where the two differ in axes of one value or in being flat, the bundle takes images as the user has them.
        """
        if self.calibrate is None:
            return None, sides, layout
        try:
            try:
                data: Any = self.plain()
            except InputError:  # which axis is which may be plain once the model's rows are known
                data = self.calibrate
            if isinstance(data, Dataset) and data.is_image and data.row_shape != sides:
                here, there = ([side for side in each if side != 1] for each in (data.row_shape, sides))
                if here == there or sides == (math.prod(data.row_shape),):
                    return data, data.row_shape, data.layout
            wanted = Input(sides, "float32", layout, getattr(data, "feature_names", None))
            known = isinstance(data, Dataset) and self.calibrate is not data  # its labels are there already
            data = load_rows(data, wanted, label_column=None if known else self.label_column)
        except InputError as problem:
            raise InputError(f"calibrate: {problem}") from None
        return data, sides, layout

    def module_rows(self) -> Array:
        """Return a few rows as a module takes them, float32 [n, *row]."""
        data = self.plain()
        if data is not None:
            rows = np.asarray(data.x[:8])
            fitted = self.normalisation
            if not isinstance(fitted, Normalisation):
                fitted = fit_normalisation(np.asarray(data.x), fitted, data.layout)
            return normalise(rows, fitted, data.layout)
        if self.shape is None:
            raise InputError("shape: a module does not say the shape of its rows; give it (--shape 3,32,32) or rows")
        return np.random.default_rng(0).random((8, *self.shape), np.float32)

    def example(self, rows: Array) -> Array | None:
        """Return rows for an export without any of the user's."""
        return rows if self.calibrate is None else None


def _open(
    files: Sequence[Path],
    read: Sequence[onnx.ModelProto],
    asked: _Asked,
    latent: str | None,
    output: str | None,
    trust: bool,
) -> list[Foreign]:
    """Open one autoencoder, or an encoder and a decoder in the same opset."""
    row = asked.shape
    open_row = declared_input(read[0], str(files[0])).row
    if row is None and (open_row is None or None in open_row):
        data = asked.plain()
        row = None if data is None else data.row_shape
    outputs = [output] if len(files) == 1 else [latent, output]
    rows: list[Sequence[int] | None] = [row, None]
    models: list[Foreign] = []
    for index, (file, given, wanted) in enumerate(zip(files, read, outputs, strict=True)):
        if index == 1 and None in (declared_input(given, str(file)).row or (None,)):
            rows[1] = models[0].shape(models[0].output)
        models.append(open_model(file, row=rows[index], output=wanted, trust=trust, given=given))
    opset = max(model.opset for model in models)
    return [
        model
        if model.opset == opset
        else open_model(file, row=model.source.sides, output=model.output, trust=trust, given=given, opset=opset)
        for model, file, given in zip(models, files, read, strict=True)
    ]


def _source(
    models: Sequence[Foreign], asked: _Asked, title: str, latent: str | None, *, trust: bool, logits: bool
) -> tuple[Source, Plan]:
    """Return what is exported, and how its graphs are put together."""
    first = models[0]
    layout = asked.layout or _layout(first.source.sides, series=first.recurrent, where=first.where)
    data, row, layout = asked.fitted(first.source.sides, layout)
    normal, anomalies = (np.zeros((0, *row), np.float32), None) if data is None else split_labels(data)
    bytes_in = first.source.dtype == "uint8" and (data is None or data.whole_numbers)
    low, high = (0.0, 255.0 if bytes_in else 1.0) if data is None else (float(normal.min()), float(normal.max()))
    dtype: Dtype = "uint8" if bytes_in else "float32"
    names = None if data is None else data.feature_names
    normalisation = asked.normalisation
    if not isinstance(normalisation, Normalisation):
        if normalisation != "none" and data is None:
            raise InputError(f"normalisation: {normalisation!r} is fitted on rows; give some (--calibrate DATA)")
        normalisation = fit_normalisation(normal, normalisation, layout)
    plan = Plan(
        input=Input(row, dtype, layout, names if layout == "vector" else None, low, high),
        normalisation=normalisation,
        latent_dim=1,
        sigmoid=False,
        score=ScoreSpec("mse"),
        batch=None,
        opset=first.opset,
        trust=trust,
    )
    rows = normalise(random_rows(plan.input, normalisation, 8, seed=3), normalisation, layout)
    coders = settle_batch(models, Wish(row, latent, logits), plan, rows)
    network = coders.network
    if len(models) == 1:
        _log.info(
            "%s: its latent is %r, %d values of a row of %d",
            first.where,
            network.latent,
            network.latent_dim,
            math.prod(row),
        )
    _say_what_changed(models)
    source = Source(
        network=network,
        normalisation=normalisation,
        layout=layout,
        dtype=dtype,
        feature_names=plan.input.feature_names,
        minimum=low,
        maximum=high,
        normal=normal,
        anomalies=anomalies,
        training=None,
        variant="adopted",
        description=f"adopted from {title}: {_described(network)}",
        bernoulli=network.sigmoid,
        generative=False,
        provenance=Provenance(data="adopted", rows=len(normal)),
        arithmetic=coders.arithmetic,
    )
    return source, replace(plan, batch=coders.batch)


def _layout(sides: tuple[int, ...], *, series: bool, where: str) -> Layout:
    """Return what the axes of a row most likely mean."""
    if len(sides) == 1:
        return "vector"
    if len(sides) == 2:
        return "TC" if series else "HW"
    if len(sides) == 3:
        return "HWC" if sides[-1] in (1, 3, 4) and sides[0] not in (1, 3, 4) else "CHW"
    raise ExportError(f"{where}: takes rows of {len(sides)} axes, {list(sides)}; bundles have rows of 1 to 3")


def _say_what_changed(models: Sequence[Foreign]) -> None:
    for model in models:
        kinds = {model.source.dtype} | {kind for seen in model.seen.values() for kind in seen.dtypes.values()}
        for kind in sorted(kinds & {"float64", "float16"}):
            _log.info("%s: %s is converted to float32", model.where, kind)
        if model.arithmetic == "int8":
            _log.info("%s: it is quantised and stays so; its precision is called fp32 all the same", model.where)


def _described(network: OnnxNetwork) -> str:
    """Return how many layers of which kinds there are, in a few words."""
    layers = Counter(
        node.op_type for core in network.cores for node in core.node if len(node.input) > 1 and node.op_type in _LAYERS
    )
    return ", ".join(f"{kind} x {count}" if count > 1 else kind for kind, count in layers.items()) or "no layers"


def _possible(precision: Sequence[str], source: Source) -> list[str]:
    """Return the precisions wanted, if they can be made of this model."""
    wanted = [precision] if isinstance(precision, str) else list(precision)
    if "fp16" in wanted:
        raise InputError("precision: fp16 graphs are made of trained runs and PyTorch modules only; choose fp32, int8")
    if "int8" in wanted and source.arithmetic == "int8":
        raise InputError("precision: the model is quantised already; leave int8 out")
    return wanted


def _compare_with_the_mean(bundle: Bundle) -> None:
    """Warn when reconstructions are worse than the mean of all rows would be."""
    quality = bundle.manifest.precisions["fp32"].quality
    error, mean = quality.reconstruction_mse, quality.mean_mse
    if error is not None and mean is not None and error > mean:
        _log.warning(
            "%s: the model reconstructs its calibration rows with a mean squared error of %.3g, their mean alone has "
            "%.3g: it probably expects other units, another normalisation or another order of axes (--normalise, "
            "--scale, --shift, --layout)",
            *(bundle.path, error, mean),
        )
