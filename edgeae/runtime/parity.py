"""Fresh rows through a loaded bundle: do its three graphs agree with each other, at any batch size?"""

from __future__ import annotations

import math

import numpy as np

from edgeae.bundle import Manifest
from edgeae.bundle.rows import random_rows
from edgeae.errors import BundleError
from edgeae.runtime.explain import NEAREST, WHITENED, contributions
from edgeae.runtime.inputs import Array
from edgeae.runtime.model import Autoencoder

__all__ = ["check_batches", "check_parity"]

BATCHES = (1, 2, 7)
MAX_ROWS = 256
MAX_VALUES = 2**22
# The share of rows in which a k-sparse unit may be within rounding of its neighbour.
MAX_NEAR_TIES = 0.02
# How far, in normalised space, a reconstruction may be from the one inside the scorer; and by which factor rows are
# changed to find near-ties.
_SLACK = {"fp32": 1e-4, "fp16": 2e-2, "int8": 2e-2}
_NUDGE = {"fp32": 1e-5, "fp16": 1e-3, "int8": 1e-3}


def check_parity(model: Autoencoder, *, seed: int) -> str:
    """Compute scores from rows and their reconstructions, and hold the scorer against them.

    For `elbo` the encoder gives the latent's mean but not its variance, so that what can be checked is a lower bound:
    the divergence is at least half the squared mean (Kingma & Welling 2013, https://arxiv.org/abs/1312.6114).

    Args:
        model: Loaded with on_invalid="raise".
        seed: Of the random rows.

    Returns:
        What was compared and how near it came.

    Raises:
        BundleError: if the scores differ beyond rounding.
    """
    x = _rows(model, seed)
    z = model.encode(x)
    x_hat, found = model.decode(z), model.score(x)
    for name, values in (("z", z), ("x_hat", x_hat), ("score", found)):
        if not np.isfinite(values).all():
            raise BundleError(f"{model.precision}: {name} of random rows is not finite; export the bundle again")
    expected, slack = _recomputed(model, x, x_hat)
    tolerance = model.bundle.entry(model.precision).tolerance["score"]
    allowed = tolerance.atol + tolerance.rtol * np.abs(expected) + slack
    difference = found - expected
    if model.manifest.score.kind == "elbo":
        least = 0.5 * np.square(z, dtype=np.float64).sum(axis=1)
        wrong, compared = ~(difference >= least - allowed), "the score is no less than its reconstruction term allows"
    else:
        worst = float(np.max(np.abs(difference) / max(float(np.std(expected)), 1e-30)))
        wrong, compared = ~(np.abs(difference) <= allowed), f"the score agrees within {worst:.1g} of its spread"
    tied = _set_aside(model, x, z, wrong)
    if (wrong & ~tied).any():
        row = int(np.argmax(wrong & ~tied))
        raise BundleError(
            f"{model.precision}: encoder, then decoder, then {model.manifest.score.kind} gives {expected[row]:.6g} for "
            f"random row {row}, the scorer {found[row]:.6g}; export the bundle again"
        )
    return f"{len(x)} fresh rows: {compared}{_said(tied)}"


def check_batches(model: Autoencoder, *, seed: int) -> str:
    """Run the same rows in batches of several sizes; a row's results must not depend on its company.

    Raises:
        BundleError: if they do, beyond the manifest's tolerance.
    """
    x = _rows(model, seed)
    z = model.encode(x)
    whole = {"z": z, "x_hat": model.decode(z), "score": model.score(x)}
    aside = np.zeros(len(x), bool)
    for batch in BATCHES:
        rows = min(len(x), 2 * batch)
        cuts = [slice(start, start + batch) for start in range(0, rows, batch)]
        parts = {
            "z": [model.encode(x[cut]) for cut in cuts],
            "x_hat": [model.decode(z[cut]) for cut in cuts],
            "score": [model.score(x[cut]) for cut in cuts],
        }
        for name, results in parts.items():
            tolerance = model.bundle.entry(model.precision).tolerance[name]
            wanted = whole[name][:rows]
            excess = np.abs(np.concatenate(results) - wanted) - (tolerance.atol + tolerance.rtol * np.abs(wanted))
            wrong = np.zeros(len(x), bool)
            wrong[:rows] = ~(excess.reshape(rows, -1) <= 0).all(axis=1)
            tied = np.zeros(len(x), bool) if name == "x_hat" else _set_aside(model, x, z, wrong)
            aside |= tied
            if (wrong & ~tied).any():
                raise BundleError(
                    f"{model.precision}: {name} of random row {int(np.argmax(wrong & ~tied))} differs between batches "
                    f"of {batch} and of {len(x)}; export the bundle again"
                )
    return f"batches of {', '.join(map(str, BATCHES))} and {len(x)} agree{_said(aside)}"


def _rows(model: Autoencoder, seed: int) -> Array:
    row = model.manifest.input
    count = max(2 * BATCHES[-1], min(MAX_ROWS, MAX_VALUES // math.prod(row.shape)))
    with np.errstate(all="ignore"):
        rows = random_rows(row, model.manifest.normalisation, count, seed=seed)
    return rows if row.dtype == "uint8" else np.nan_to_num(rows)


def _recomputed(model: Autoencoder, x: Array, x_hat: Array) -> tuple[Array, Array]:
    """Return scores [n], for elbo without the divergence, and how far rounding may have moved them, both float64."""
    manifest = model.manifest
    statistics = model.bundle.statistics()
    _, scale = manifest.normalisation.arrays(manifest.input.shape, manifest.input.layout)
    exact, decoded = x.astype(np.float64), x_hat.astype(np.float64)
    rounding = 8 * float(np.finfo(np.float32).eps) * (np.abs(exact) + np.abs(decoded)) + _SLACK[model.precision] * scale
    with np.errstate(all="ignore"):
        each = contributions(manifest, statistics, exact, decoded).astype(np.float64)
        if manifest.score.kind in WHITENED:  # each value's error moves all whitened errors
            moved = (rounding / scale).reshape(len(x), -1) @ np.abs(statistics["whitening"].astype(np.float64))
            moved = moved.reshape(each.shape) + rounding / scale / statistics.get("spread", np.inf)
            slack = (2 * np.sqrt(each) + moved) * moved
        else:
            sides = [contributions(manifest, statistics, exact, decoded + side * rounding) for side in (-1, 1)]
            slack = np.maximum(*(np.abs(values - each) for values in sides))
        if _is_entropy(manifest):
            slack += _saturated(manifest, x, x_hat)
    axes = tuple(range(1, each.ndim))
    if manifest.score.kind != "elbo":
        return each.mean(axis=axes), slack.mean(axis=axes)
    variance = manifest.score.decoder_variance
    constant = 0.0 if variance is None else 0.5 * math.log(2 * math.pi * variance) * math.prod(manifest.input.shape)
    return each.sum(axis=axes) + constant, slack.sum(axis=axes)


def _is_entropy(manifest: Manifest) -> bool:
    score = manifest.score
    return score.kind == "bce" or (score.kind == "elbo" and score.decoder_variance is None)


def _saturated(manifest: Manifest, x: Array, x_hat: Array) -> Array:
    """Return infinity where a sigmoid has rounded to 0 or 1 on the wrong side: the score knew the logit, we do not."""
    shift, scale = manifest.normalisation.arrays(manifest.input.shape, manifest.input.layout)
    u, v = (x - shift) / scale, (x_hat - shift) / scale
    edge = 16 * NEAREST + 4 * np.finfo(np.float32).eps * np.abs(shift) / scale
    lost = ((v < edge) & (u > edge)) | ((v > 1 - edge) & (u < 1 - edge))
    return np.where(lost, np.inf, 0.0)


def _set_aside(model: Autoencoder, x: Array, z: Array, wrong: Array) -> Array:
    """Return which of the wrong rows are near-ties: a k-sparse unit that rounding can switch on or off.

    An encoder and a scorer round differently, and so do batch sizes; export/FORMAT.md allows such rows to differ.
    """
    tied: Array = np.zeros(len(x), bool)
    if not wrong.any() or wrong.sum() > max(1, MAX_NEAR_TIES * len(x)):
        return tied
    if x.dtype == np.uint8:  # whole numbers cannot be moved by as little as a rounding error
        return np.asarray(wrong & (z == 0).any(axis=1))
    for factor in (1 + _NUDGE[model.precision], 1 - _NUDGE[model.precision]):
        moved = model.encode((x * np.float32(factor)).astype(np.float32))
        tied = tied | ((moved == 0) != (z == 0)).any(axis=1)
    return np.asarray(wrong & tied)


def _said(tied: Array) -> str:
    count = int(tied.sum())
    return f"; {count} set aside, where a k-sparse unit is within rounding of its neighbour" if count else ""
