"""Rows that are images, as pictures in the page."""

from __future__ import annotations

import base64
import io
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from edgeae.report.markup import element

__all__ = ["Pictures"]

LARGEST_SIDE = 128  # of a picture, in pixels; larger ones are scaled down
SHARP_SIDE = 64  # up to here pixels are shown as squares

Array = np.ndarray[Any, Any]


class Pictures:
    """Turns rows into images that stand in the page, all over the same range of values."""

    def __init__(self, x: Array, layout: str, errors: Array | None = None) -> None:
        """Take the range from rows [n, *shape], and that of their errors, which `heat` needs, from these."""
        self._layout = layout
        self._low, self._high = float(x.min()), float(x.max())
        self._most = 1.0 if errors is None else float(np.quantile(self._grey(errors), 0.999)) or 1.0

    def image(self, row: Array, text: str) -> Element:
        """Return a row as a picture."""
        image = np.moveaxis(row, 0, -1) if self._layout == "CHW" else row
        image = np.clip((image - self._low) / ((self._high - self._low) or 1.0), 0, 1)
        if image.ndim == 3 and image.shape[2] != 3:
            image = image.mean(axis=2)
        return self._encode(np.rint(255 * image).astype(np.uint8), text, "")

    def heat(self, errors: Array, text: str) -> Element:
        """Return the errors of a row as a picture that is transparent where there are none."""
        share = np.sqrt(np.clip(self._grey(errors) / self._most, 0, 1))  # small errors would not be seen
        pixels = np.empty((*share.shape, 4), np.uint8)
        pixels[..., :3] = (225, 90, 30)
        pixels[..., 3] = np.rint(255 * share)
        return self._encode(pixels, text, "heat")

    def _grey(self, errors: Array) -> Array:
        """Return the errors without channels: [..., H, W]."""
        if self._layout == "HW":
            return errors
        mean: Array = errors.mean(axis=-3 if self._layout == "CHW" else -1)
        return mean

    @staticmethod
    def _encode(pixels: Array, text: str, kind: str) -> Element:
        from PIL import Image

        picture = Image.fromarray(pixels)
        sharp = max(picture.size) <= SHARP_SIDE
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        buffer = io.BytesIO()
        if sharp or kind == "heat":  # JPEG has no transparency, and blurs what is small
            picture.save(buffer, "PNG", optimize=True)
        else:
            picture.save(buffer, "JPEG", quality=88)
        data = base64.b64encode(buffer.getvalue()).decode()
        return element(
            "img",
            src=f"data:image/{'png' if sharp or kind == 'heat' else 'jpeg'};base64,{data}",
            alt=text,
            width=picture.width,
            height=picture.height,
            class_=f"{kind} sharp".strip() if sharp else kind or None,
        )
