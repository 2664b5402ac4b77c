"""The models that are compared: briefly trained, exported by edgeae, with rows to score and rows that are odd.

All rows are in the range that the network itself takes, so that nobody pays for a normalisation. Digits are those of
mnist-5k, the odd ones the eights, which training never saw. The sensor rows of mlperf-tiny-ad are made: 640 channels
driven by 6 factors; in odd rows a tenth of the channels have lost theirs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import edgeae
from edgeae.data import load_data
from edgeae.errors import InputError
from edgeae.models import Autoencoder
from edgeae.runtime.tune import tune
from edgeae.runtime.tuned import Tuning
from edgeae.training import TrainConfig
from edgeae.training.defaults import Facts, resolve

__all__ = ["CASES", "TINY", "Case", "make_case"]

Array = np.ndarray[Any, Any]
ODD_DIGIT = 8
TRAINING_ROWS = 3600
# variant -> passes over the rows: enough for scores that mean something, which timing alone would not need
CASES = {"dense": 10, "sparse": 5, "variational": 5, "convolutional": 4, "mlperf-tiny-ad": 20}
TINY = "tiny"


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its bundle and its rows.

    Attributes:
        name: Of the variant.
        description: The network in one line.
        model: The network in PyTorch, in eval mode.
        bundle: edgeae's export of it.
        graph: ONNX file with encoder and decoder in one graph: x [batch, *shape] -> x_hat.
        training: float32 [n, *shape], for peers that are fitted or calibrated.
        rows: float32 [n, *shape], normal rows that training has not seen.
        odd: float32 [m, *shape], anomalies.
        missing: Precision to the reason why the bundle has none.
        tuning: What `edgeae tune` found for the bundle, if it ran.
    """

    name: str
    description: str
    model: Autoencoder
    bundle: Path
    graph: Path
    training: Array
    rows: Array
    odd: Array
    missing: dict[str, str]
    tuning: Tuning | None = None

    def batch(self, size: int) -> Array:
        """Return `size` normal rows, repeated as often as it takes."""
        return np.ascontiguousarray(np.resize(self.rows, (size, *self.rows.shape[1:])))

    def expected(self, rows: Array) -> Array:
        """Return the scores of rows [n, *shape] as PyTorch has them in float64."""
        x = torch.from_numpy(rows).double()
        with torch.no_grad():
            error: Array = (copy.deepcopy(self.model).double()(x) - x).square().flatten(1).mean(1).numpy()
        return error

    def on(self, device: str) -> Autoencoder:
        """Return the network on a device."""
        return self.model if device == "cpu" else copy.deepcopy(self.model).to(device)


def make_case(
    name: str, folder: Path, *, epochs: int | None = None, tune_seconds: float = 0.0, device: str = "cpu"
) -> Case:
    """Train and export one of `CASES`, or `TINY` (784-4-784, for a quick look).

    Args:
        name: Which.
        folder: New folder to write to.
        epochs: Passes over the training rows; None for the usual number.
        tune_seconds: How long to tune the bundle; 0: not at all.
        device: To tune it for.
    """
    folder.mkdir(parents=True)
    variant = "dense" if name == TINY else name
    training, rows, odd = _sensors() if name == "mlperf-tiny-ad" else _digits(flat=name != "convolutional")
    options = _options(variant, training) | {"epochs": epochs or CASES.get(name, 1)}
    if name == TINY:
        options["latent_dim"] = 4
    run = edgeae.train(training, folder / "run", **options)
    missing: dict[str, str] = {}
    bundle = _export(run, folder / "bundle", missing)
    encoder, decoder = (onnx.load(bundle / f"{role}.onnx") for role in ("encoder", "decoder"))
    for graph in (encoder, decoder):
        del graph.metadata_props[:]
    whole = onnx.compose.merge_models(encoder, decoder, [("z", "z")], prefix1="encoder_", prefix2="decoder_")
    onnx.save(whole, folder / "reconstruct.onnx")
    precisions = None if device == "cpu" else ("fp32",)  # CUDA has no kernels for int8 graphs
    return Case(
        name,
        run.config.describe(),
        run.model.eval(),
        bundle,
        folder / "reconstruct.onnx",
        training,
        rows,
        odd,
        missing,
        tune(bundle, device=device, precisions=precisions, seconds=tune_seconds) if tune_seconds else None,
    )


def _export(run: object, path: Path, missing: dict[str, str]) -> Path:
    """Export with int8 as well, if this edgeae makes it and its scores are good enough."""
    reasons: list[str] = []
    logger, handler = logging.getLogger("edgeae"), _Keep(reasons.append)
    logger.addHandler(handler)
    try:
        bundle = edgeae.export_bundle(run, path, score="mse", precision=("fp32", "int8"))
    except InputError as problem:
        reasons.append(str(problem))
        bundle = edgeae.export_bundle(run, path, score="mse")
    finally:
        logger.removeHandler(handler)
    if "int8" not in bundle.manifest.precisions:
        missing["int8"] = reasons[-1] if reasons else "export left it out"
    return path


class _Keep(logging.Handler):
    def __init__(self, keep: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        self.keep(record.getMessage())


def _options(variant: str, rows: Array) -> dict[str, Any]:
    """Return the variant's defaults for digits as options for rows that are in 0..1 (or standardised) already."""
    if variant == "mlperf-tiny-ad":
        return {"variant": variant, "normalise": "none", "layout": "vector"}
    facts = Facts(len(rows), (28, 28), "HW", whole_numbers=True, minimum=0, maximum=255)
    options = resolve(TrainConfig().with_options(variant=variant), facts).options
    names = ("hidden", "latent_dim", "activation", "latent_activation", "output_activation", "loss")
    chosen = {name: getattr(options, name) for name in names}
    if options.bottleneck == "sparse":
        chosen |= {"sparsity": options.sparsity, "sparsity_target": options.sparsity_target}
    layout = "HW" if options.architecture == "convolutional" else "vector"
    return {"variant": variant, "normalise": "none", "layout": layout} | chosen


def _digits(*, flat: bool) -> tuple[Array, Array, Array]:
    data = load_data("mnist-5k")
    x = np.asarray(data.x, np.float32) / np.float32(255)
    x = x.reshape(len(x), -1) if flat else x
    normal, odd = x[data.y != ODD_DIGIT], x[data.y == ODD_DIGIT]
    return normal[:TRAINING_ROWS], normal[TRAINING_ROWS:], odd


def _sensors() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 1 / np.sqrt(6), (6, 640))

    def rows(count: int) -> Array:
        x = np.tanh(rng.normal(size=(count, 6)) @ mixing) + 0.3 * rng.normal(size=(count, 640))
        made: Array = (x / x.std()).astype(np.float32)
        return made

    training, normal, odd = rows(TRAINING_ROWS), rows(900), rows(500)
    for row in odd:
        lost = rng.choice(640, 64, replace=False)
        row[lost] = 0.4 * rng.normal(size=64)
    return training, normal, odd
