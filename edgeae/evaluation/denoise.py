"""`edgeae evaluate --task denoise`: how much of added noise a bundle takes away again, beside filters and PCA."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from edgeae.bundle import Bundle
from edgeae.bundle.manifest import Input, Manifest
from edgeae.data import Dataset, load_rows
from edgeae.errors import InputError, MissingPackageError
from edgeae.evaluation.pictures import psnr, ssim

__all__ = ["NOISES", "Denoising", "Fidelity", "Noise", "Restored", "Span", "add_noise", "evaluate_denoising"]

Noise = Literal["gaussian", "salt_and_pepper", "masking"]
NOISES: Final[tuple[Noise, ...]] = get_args(Noise)
LEVELS: Final = (0.1, 0.25, 0.5)
LEAST_ROWS: Final = 4
MOST_VALUES: Final = 2**26  # of all rows together
IMAGES: Final = ("HW", "CHW", "HWC")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fidelity:
    """How near rows are to the clean ones.

    Attributes:
        psnr: Peak signal-to-noise ratio over all values, which span 1, in dB; None where they are equal.
        ssim: Mean structural similarity of images, 1 where they are equal; None for other rows.
    """

    psnr: float | None
    ssim: float | None


@dataclass(frozen=True)
class Restored:
    """What came of one noise at one level.

    Attributes:
        noise: Which, or "none": the rows as they are, which shows what is lost where there is nothing to gain.
        level: See `add_noise`.
        noisy: The rows with the noise.
        baselines: The same rows restored by something simpler, by its name.
        precisions: Restored by the bundle, by precision, "fp32" first.
    """

    noise: Noise | Literal["none"]
    level: float
    noisy: Fidelity
    baselines: dict[str, Fidelity]
    precisions: dict[str, Fidelity]


@dataclass(frozen=True)
class Denoising:
    """A bundle, clean rows, and what it makes of them when they are noisy.

    Attributes:
        bundle: Its name.
        digest: SHA-256 of its manifest.
        data: What the data calls itself.
        rows: How many rows were restored.
        fitted: How many other rows PCA was fitted to.
        components: How many principal components it has: as many as a latent has values, or as there are.
        seed: The same seed gives the same noise.
        levels: One for each noise and level, the rows without noise first.
    """

    bundle: str
    digest: str
    data: str
    rows: int
    fitted: int
    components: int
    seed: int
    levels: tuple[Restored, ...]


def evaluate_denoising(
    path: str | os.PathLike[str],
    data: Any,
    *,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    trust: bool = False,
    noise: Sequence[Noise] = NOISES,
    levels: Sequence[float] = LEVELS,
    rows: int = 2_000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Denoising:
    """Add noise to clean rows and say how near to them a bundle brings them back, at every precision.

    Half of the rows are restored. PCA is fitted to the other half; images and windows are also filtered, by the median
    of 3 neighbours along each axis and by a Gaussian of standard deviation 1. All values count in units of the data's
    range, of each feature of a vector or channel of a window for itself.

    Args:
        path: The bundle.
        data: Clean rows, best such that the model was not trained on. See `load_rows`.
        label_column: Left out of the rows. See `load_rows`.
        columns: See `load_rows`.
        data_dir: See `load_rows`.
        device: Where to restore.
        trust: See `edgeae.load`.
        noise: Which noises: "gaussian", "salt_and_pepper", "masking".
        levels: How strong, see `add_noise`.
        rows: Use no more rows than this, drawn at random, at least 4; of large rows, no more than 67 million values.
        seed: Of drawing rows and noise.
        progress: Called with what is being done.

    Raises:
        InputError: if there are too few rows, or a noise or level is not one.
        MissingPackageError: without scikit-learn, which brings SciPy.
        BundleError: if the bundle cannot be used.

    Example:
        >>> found = evaluate_denoising("export/golden/denoising", "digits", device="cpu", noise=["masking"], rows=100)
        >>> [(each.noise, each.level) for each in found.levels]
        [('none', 0.0), ('masking', 0.1), ('masking', 0.25), ('masking', 0.5)]
    """
    import edgeae

    if importlib.util.find_spec("sklearn") is None:
        raise MissingPackageError("evaluate: needs scikit-learn; install it with: pip install scikit-learn")
    tell = progress or (lambda step: None)
    bundle = Bundle.read(path)
    manifest = bundle.manifest
    dataset = load_rows(data, manifest.input, label_column=label_column, columns=columns, data_dir=data_dir)
    generator = np.random.default_rng(seed)
    fitted, clean = _halves(dataset, rows, generator)
    span = Span.of(np.concatenate([fitted, clean]), manifest)
    tell("PCA: fitting")
    pca = _Pca.fit(span.units(fitted), manifest.latent_dim)

    def compare(restored: Array) -> Fidelity:
        one, other = span.units(restored), span.units(clean)
        return Fidelity(psnr(one, other), ssim(one, other, manifest.input.layout) if dataset.is_image else None)

    made: list[Restored] = []
    with contextlib.ExitStack() as stack:
        models = {
            precision: stack.enter_context(edgeae.load(path, device=device, precision=precision, trust=trust))
            for precision in manifest.precisions
        }
        for kind, level, x in _noisy(clean, span, noise, levels, generator):
            tell(f"{kind} {level:g}")
            made.append(
                Restored(
                    noise=kind,
                    level=level,
                    noisy=compare(x),
                    baselines={name: compare(each) for name, each in _baselines(x, span, pca, manifest.input)},
                    precisions={precision: compare(model.reconstruct(x)) for precision, model in models.items()},
                )
            )
    return Denoising(
        bundle=manifest.name,
        digest=bundle.digest,
        data=dataset.source,
        rows=len(clean),
        fitted=len(fitted),
        components=len(pca.directions),
        seed=seed,
        levels=tuple(made),
    )


def add_noise(
    x: Array, kind: Noise, level: float, *, low: Array, high: Array, zero: Array, clip: bool, seed: int = 0
) -> Array:
    """Return a noisy copy of rows, the kinds of noise being those that `edgeae train --noise` corrupts with.

    `gaussian` adds noise whose standard deviation is `level` times the range from `low` to `high`, `salt_and_pepper`
    sets a share `level` of the values to either of them, `masking` sets a share `level` to `zero`.

    Args:
        x: float32 or uint8 [n, *shape]; uint8 is rounded.
        kind: Which noise.
        level: How strong.
        low: Broadcasts against the rows, like `high` and `zero`.
        high: See `low`.
        zero: What normalisation makes 0.
        clip: Whether noisy values stay between `low` and `high`.
        seed: The same seed gives the same noise.

    Raises:
        InputError: if there is no such noise, or the level is not positive, or is more than all of the values.

    Example:
        >>> row = np.ones((1, 4), np.float32)
        >>> add_noise(row, "masking", 1.0, low=row * 0, high=row, zero=row * 0, clip=True)
        array([[0., 0., 0., 0.]], dtype=float32)
    """
    if kind not in NOISES:
        raise InputError(f"noise: {kind!r} is not one of {', '.join(NOISES)}")
    if not 0 < level <= (np.inf if kind == "gaussian" else 1) or level == np.inf:
        raise InputError(f"levels: {level:g} of {kind} is no level; give a number above 0, of a share up to 1")
    generator = np.random.default_rng(seed)
    if kind == "gaussian":
        noisy = x + level * (high - low) * generator.standard_normal(x.shape, np.float32)
    else:
        draw = generator.random(x.shape, np.float32)
        chosen = draw < level
        there = zero if kind == "masking" else np.where(draw < level / 2, low, high)
        noisy = np.where(chosen, there, x)
    if clip or x.dtype == np.uint8:
        noisy = np.clip(noisy, low, high)
    made: Array = (np.rint(noisy) if x.dtype == np.uint8 else noisy).astype(x.dtype)
    return made


@dataclass(frozen=True)
class Span:
    """The range of the data: of each feature or channel, or of all values of images.

    Attributes:
        low: Its least value; broadcasts against rows, like the next two.
        high: Its largest value.
        zero: What normalisation makes 0.
        clip: Whether noisy values stay inside, as those of images do.
    """

    low: Array
    high: Array
    zero: Array
    clip: bool

    @staticmethod
    def of(x: Array, manifest: Manifest) -> Span:
        """Return the range of rows [n, *shape], at least one."""
        row = manifest.input
        is_image = row.layout in IMAGES
        axes = tuple(range(x.ndim if is_image else x.ndim - 1))
        low, high = (extreme(axis=axes, keepdims=True)[0].astype(np.float32) for extreme in (x.min, x.max))
        return Span(low, high, manifest.normalisation.arrays(row.shape, row.layout)[0], is_image)

    def noisy(self, x: Array, kind: Noise, level: float, seed: int) -> Array:
        """Return a noisy copy of rows, see `add_noise`."""
        return add_noise(x, kind, level, low=self.low, high=self.high, zero=self.zero, clip=self.clip, seed=seed)

    def units(self, x: Array) -> Array:
        """Return rows in units of the range, float64; what is constant counts as it is."""
        width = (self.high - self.low).astype(np.float64)
        units: Array = (x.astype(np.float64) - self.low) / np.where(width > 0, width, 1)
        return units

    def rows(self, units: Array) -> Array:
        """Return rows from what `units` made of them."""
        width = (self.high - self.low).astype(np.float64)
        rows: Array = units * np.where(width > 0, width, 1) + self.low
        return rows


@dataclass(frozen=True)
class _Pca:
    """The mean [values] of rows and their first principal components [components, values]."""

    mean: Array
    directions: Array

    @staticmethod
    def fit(rows: Array, size: int) -> _Pca:
        flat = rows.reshape(len(rows), -1)
        mean = flat.mean(axis=0)
        return _Pca(mean, np.linalg.svd(flat - mean, full_matrices=False)[2][:size])

    def restore(self, rows: Array) -> Array:
        flat = rows.reshape(len(rows), -1) - self.mean
        restored: Array = (flat @ self.directions.T @ self.directions + self.mean).reshape(rows.shape)
        return restored


def _halves(dataset: Dataset, rows: int, generator: np.random.Generator) -> tuple[Array, Array]:
    total = min(rows, len(dataset), max(LEAST_ROWS, MOST_VALUES // math.prod(dataset.row_shape)))
    if total < LEAST_ROWS:
        raise InputError(f"{dataset.source}: {total} rows are too few; give at least {LEAST_ROWS}")
    chosen = generator.choice(len(dataset), total, replace=False)
    first, second = (np.asarray(dataset.x[np.sort(half)]) for half in (chosen[: total // 2], chosen[total // 2 :]))
    return first, second


def _noisy(
    clean: Array, span: Span, kinds: Sequence[Noise], levels: Sequence[float], generator: np.random.Generator
) -> Iterator[tuple[Noise | Literal["none"], float, Array]]:
    """Yield the clean rows, and what each noise at each level makes of them."""
    yield "none", 0.0, clean
    for kind in dict.fromkeys(kinds):
        for level in dict.fromkeys(levels):
            yield kind, level, span.noisy(clean, kind, level, int(generator.integers(2**63)))


def _baselines(x: Array, span: Span, pca: _Pca, row: Input) -> Iterator[tuple[str, Array]]:
    from scipy import ndimage

    yield "PCA", span.rows(pca.restore(span.units(x)))
    if row.layout == "vector":  # whose values have no neighbours
        return
    smooth = {"HW": (0, 1, 1), "CHW": (0, 0, 1, 1), "HWC": (0, 1, 1, 0), "TC": (0, 1, 0)}[row.layout]
    rows = x.astype(np.float32)
    yield "median filter", ndimage.median_filter(rows, [1 + 2 * each for each in smooth], mode="nearest")
    yield "Gaussian filter", ndimage.gaussian_filter(rows, smooth, mode="nearest")
