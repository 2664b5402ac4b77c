"""How alike pictures are: structural similarity, and the peak signal-to-noise ratio that any rows have."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from edgeae.bundle.manifest import Layout

__all__ = ["psnr", "ssim"]

BLOCK_VALUES: Final = 2**20
WINDOW: Final = 11
DEVIATION: Final = 1.5

Array = np.ndarray[Any, Any]


def psnr(x: Array, y: Array) -> float | None:
    """Return the peak signal-to-noise ratio of rows whose values span 1, in dB; None where they are equal.

    Args:
        x: [n, ...].
        y: The same shape.

    Example:
        >>> psnr(np.zeros((1, 4)), np.full((1, 4), 0.1))
        20.0
    """
    error = float(np.mean(np.square(np.subtract(x, y, dtype=np.float64))))
    return -10 * math.log10(error) if error else None


def ssim(x: Array, y: Array, layout: Layout = "HW") -> float:
    """Return the mean structural similarity of the images in x to those in y, whose values span 1; 1 if they are equal.

    A Gaussian window of 11 pixels and standard deviation 1.5, K1 = 0.01 and K2 = 0.03 as in the paper, positions where
    the window fits only, channels averaged. Images smaller than the window get the largest odd window that fits.

    Args:
        x: float [n, *shape].
        y: The same shape.
        layout: HW, CHW or HWC.

    Source: Wang, Bovik, Sheikh and Simoncelli, Image quality assessment, 2004, https://doi.org/10.1109/TIP.2003.819861

    Example:
        >>> image = np.random.default_rng(0).random((1, 16, 16))
        >>> ssim(image, image)
        1.0
    """
    step = max(1, BLOCK_VALUES // math.prod(x.shape[1:]))
    parts = [_similarities(*(_planes(each[i : i + step], layout) for each in (x, y))) for i in range(0, len(x), step)]
    return float(np.concatenate(parts).mean())


def _planes(images: Array, layout: Layout) -> Array:
    """Return every channel as an image of its own, float64 [n * channels, H, W]."""
    if layout == "HWC":
        images = np.moveaxis(images, -1, 1)
    return images.reshape(-1, *images.shape[-2:]).astype(np.float64)


def _similarities(x: Array, y: Array) -> Array:
    window = min(WINDOW, *(side - 1 + side % 2 for side in x.shape[1:]))
    weights = np.exp(-np.square(np.arange(window) - window // 2) / (2 * DEVIATION**2))
    weights /= weights.sum()

    def blur(images: Array) -> Array:
        for axis in (1, 2):
            images = np.lib.stride_tricks.sliding_window_view(images, window, axis) @ weights
        return images

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarities: Array = (luminance * (2 * covariance + c2) / (variances + c2)).mean(axis=(1, 2))
    return similarities
