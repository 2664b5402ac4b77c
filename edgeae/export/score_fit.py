"""Which score a bundle gets, and what that score takes from normal rows."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from edgeae.bundle.manifest import SCORES, ScoreKind
from edgeae.data import normalise
from edgeae.errors import ExportError, InputError
from edgeae.export.assemble import Plan
from edgeae.export.parity import reference
from edgeae.export.scores import SPREAD_FLOOR, ScoreSpec
from edgeae.export.source import Source

__all__ = [
    "MAX_WHITENED",
    "ROWS_PER_VALUE",
    "ScoreChoice",
    "choose_score",
    "fit_score",
    "own_rows",
    "typical_errors",
    "typical_rows",
    "whiten",
]

_log = logging.getLogger("edgeae")

ScoreChoice = ScoreKind | Literal["auto"]

# The product with a matrix of this size costs half of what the default network for such rows does.
MAX_WHITENED = 512
# On twelve ADBench sets the shrunk covariance of three random rows per value beat the plain error by 0.009 in mean
# AUROC, that of two by 0.002, that of all rows by 0.015.
ROWS_PER_VALUE = 3
FEWEST_ROWS = 100
MAX_ERROR = 1e15  # its square is the largest score that the parity gate lets pass
# 64 prototypes cost 0.001 in mean AUROC, 1024 brought 0.0009. A prototype is the mean of several rows, so that none of
# the user's leaves with a bundle and a few anomalies among the training rows make no prototype of their own.
MAX_PROTOTYPES = 256
ROWS_PER_PROTOTYPE = 8
FEWEST_PER_PROTOTYPE = 3
CONCENTRATIONS = 2

WHITENED: tuple[ScoreKind, ...] = ("mahalanobis", "prototype")

Array = np.ndarray[Any, Any]


def choose_score(score: ScoreChoice, source: Source) -> ScoreKind:
    """Settle "auto": "prototype" for vectors where there are rows enough, else "mse".

    Raises:
        InputError: if there is no such score, or the model or its rows cannot have it.
    """
    values = math.prod(source.row_shape)
    rows = len(source.normal) // 2 if source.training is None else len(source.training)
    if score == "auto":
        enough = max(FEWEST_ROWS, ROWS_PER_VALUE * values)
        settled: ScoreKind = "mse"
        if source.layout == "vector" and values <= MAX_WHITENED and rows >= enough:
            settled = "prototype"
        _log.info("score: auto is %s", settled)
        return settled
    if score not in SCORES:
        raise InputError(f"score: {score!r} is not one of auto, {', '.join(SCORES)}")
    if score == "bce" and not source.network.sigmoid:
        raise InputError("score: bce needs a model with a sigmoid output; use mse, mae, zscore or mahalanobis")
    if score == "elbo" and not source.network.variational:
        raise InputError("score: elbo needs a variational model; use mse, mae, bce or zscore")
    if score in WHITENED and values > MAX_WHITENED:
        raise InputError(
            f"score: {score} multiplies the error with a matrix of {values:,} x {values:,} numbers; it is for rows "
            f"of at most {MAX_WHITENED} values: use zscore, which takes each value's spread on its own"
        )
    if score in WHITENED and rows < 2:
        raise InputError(
            f"calibrate: the score {score} needs normal rows to take a covariance from (at least 4; "
            f"{2 * ROWS_PER_VALUE * values} are good); give them with --calibrate DATA"
        )
    return score


def own_rows(kind: ScoreKind, source: Source) -> Source:
    """Keep the rows that a covariance is taken from apart from those that the threshold is taken from.

    A row that shaped the covariance lies nearer to its middle than a fresh one, the more so the fewer rows there are. A
    run has training rows for it; of rows that were given, every other one is used.
    """
    if kind not in WHITENED or source.training is not None:
        return source
    return replace(source, training=source.normal[::2], normal=source.normal[1::2])


def fit_score(kind: ScoreKind, source: Source, plan: Plan) -> ScoreSpec:
    """Take from normal rows what the score needs.

    Raises:
        InputError: if there are no rows.
        ExportError: if the network's results on normal rows are not finite.
    """
    if kind in WHITENED and source.training is not None:
        residual = _residual(source, plan, source.training)
        if not np.abs(residual).max() <= MAX_ERROR:
            raise ExportError("score: the model's errors on normal rows overflow float32; did it diverge?")
        kept = np.arange(len(residual))
        if source.trim:
            kept = typical_errors(residual.reshape(len(residual), -1), source.trim)
        centre, whitening = whiten(residual[kept].reshape(len(kept), -1))
        spec = ScoreSpec(kind, centre=centre.reshape(residual.shape[1:]), whitening=whitening)
        if kind == "mahalanobis":
            return spec
        rows = normalise(source.training[kept], source.normalisation, source.layout)
        prototypes, spread = typical_rows(rows.reshape(len(rows), -1), source.trim)
        return replace(spec, prototypes=prototypes, spread=np.full(rows.shape[1:], spread, np.float32))
    needs_rows = kind == "zscore" or (kind == "elbo" and not source.bernoulli)
    if not needs_rows:
        return ScoreSpec(kind)
    if not len(source.normal):
        raise InputError(f"calibrate: the score {kind} needs normal rows to take its spread from")
    residual = _residual(source, plan, source.normal)
    if source.trim:
        errors = np.square(residual).reshape(len(residual), -1).mean(axis=1)
        residual = residual[np.argsort(errors, kind="stable")[: max(1, round((1 - source.trim) * len(errors)))]]
    spread = np.sqrt(np.mean(np.square(residual), axis=0))
    overall = math.sqrt(float(np.mean(np.square(spread)))) or 1.0
    if kind == "zscore":
        return ScoreSpec(kind, spread=np.maximum(spread, SPREAD_FLOOR * overall).astype(np.float32))
    return ScoreSpec(kind, decoder_variance=overall**2)


def whiten(residual: Array) -> tuple[Array, Array]:
    """Return the mean of errors and the symmetric square root of their inverse covariance.

    The covariance is that of Ledoit and Wolf (2004, https://doi.org/10.1016/S0047-259X(03)00096-4), shrunk towards a
    multiple of the identity by what the number of rows asks for. Of all matrices that whiten, the symmetric one keeps
    each whitened value closest to the value it comes from (Kessy, Lewin and Strimmer 2018,
    https://doi.org/10.1080/00031305.2016.1277159), so that its square says what that value adds to the distance.

    Args:
        residual: [n, values], n >= 2.

    Returns:
        (centre float32 [values], whitening float32 [values, values]).

    Example:
        >>> errors = np.random.default_rng(0).normal(3.0, 2.0, (4000, 2))
        >>> centre, whitening = whiten(errors)
        >>> np.cov((errors - centre) @ whitening, rowvar=False).round(1) + 0.0
        array([[1., 0.],
               [0., 1.]])
    """
    from sklearn.covariance import ledoit_wolf

    centre = residual.mean(axis=0)
    covariance, _ = ledoit_wolf(residual - centre, assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    floor = SPREAD_FLOOR**2 * float(variances.mean()) or 1.0
    scaled = directions / np.sqrt(np.maximum(variances, floor))
    return centre.astype(np.float32), (scaled @ directions.T).astype(np.float32)


def typical_errors(residual: Array, trim: float) -> Array:
    """Return the places of errors without the share `trim` that lies farthest out.

    A few anomalies among the rows, of which a trimmed network has large errors, would otherwise be what the covariance
    describes. The distance is the whitened one of all rows first and of those kept then, as in the concentration steps
    of Rousseeuw and Van Driessen's fast MCD (1999, https://doi.org/10.1080/00401706.1999.10485670).

    Args:
        residual: [n, values], n >= 2.
        trim: From 0 to less than 0.5.

    Example:
        >>> errors = np.random.default_rng(0).normal(size=(100, 3))
        >>> errors[:5] += 50
        >>> bool((typical_errors(errors, 0.05) >= 5).all())
        True
    """
    kept = np.arange(len(residual))
    for _ in range(CONCENTRATIONS):
        centre, whitening = whiten(residual[kept])
        distance = np.square((residual - centre) @ whitening).mean(axis=1)
        kept = np.sort(np.argsort(distance, kind="stable")[: max(2, round((1 - trim) * len(distance)))])
    return kept


def typical_rows(rows: Array, trim: float = 0.0) -> tuple[Array, float]:
    """Return prototypes of rows by k-means, and the root mean squared distance of a value from the nearest one's.

    Where some rows may be anomalies, those that form a cluster would get prototypes of their own. As in CBLOF (He, Xu
    and Deng 2003, https://doi.org/10.1016/S0167-8655(03)00003-5) the smallest clusters are left out then, until these
    hold the share `trim` together; and there are no more than 1 / trim, so that such a group, smaller than a usual
    cluster, is one of the smallest and not cut in several.

    Args:
        rows: [n, values] in normalised space, n >= 1.
        trim: Share of the rows that may be anomalies, from 0 to less than 0.5.

    Returns:
        (float32 [k, values] with k at most 256 and an eighth of the rows, spread above 0).

    Example:
        >>> prototypes, spread = typical_rows(np.repeat([[0.0, 1.0], [4.0, 5.0]], 40, axis=0))
        >>> sorted(map(tuple, prototypes.tolist()))
        [(0.0, 1.0), (4.0, 5.0)]
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    rows = rows.astype(np.float64)
    distinct = len(np.unique(rows, axis=0))
    most = math.ceil(min(1 / trim, MAX_PROTOTYPES)) if trim else MAX_PROTOTYPES
    count = max(1, min(most, len(rows) // ROWS_PER_PROTOTYPE, distinct))
    with threadpool_limits(1):  # sums in another order would give other bytes
        found = KMeans(count, n_init=1, max_iter=100, random_state=0).fit(rows)
    members = np.bincount(found.labels_, minlength=count)
    large = members >= min(FEWEST_PER_PROTOTYPE, members.max())
    if trim:
        smallest = np.argsort(members, kind="stable")
        before = np.cumsum(members[smallest]) - members[smallest]
        large[smallest[:-1][before[:-1] < trim * len(rows)]] = False
        rows = rows[large[found.labels_]]
    prototypes = found.cluster_centers_[large].astype(np.float32)
    nearest = np.min([np.square(rows - prototype).mean(axis=1) for prototype in prototypes], axis=0)
    overall = math.sqrt(float(rows.var(axis=0).mean())) or 1.0
    return prototypes, max(math.sqrt(float(nearest.mean())), SPREAD_FLOOR * overall)


def _residual(source: Source, plan: Plan, rows: Array) -> Array:
    """Error of rows in the user's units, in normalised space, float64 [n, *row]."""
    x_hat = reference(source.network, plan, rows).x_hat
    x = normalise(rows, source.normalisation, source.layout).astype(np.float64)
    with np.errstate(all="ignore"):  # of a network that diverged
        residual: Array = x - normalise(x_hat, source.normalisation, source.layout)
    return residual
