"""A folder of images, or one image file, as rows (Pillow)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeae.bundle.manifest import Layout
from edgeae.data.dataset import Array
from edgeae.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_SUFFIXES", "list_images", "read_images"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")


def list_images(folder: Path) -> list[Path]:
    """Return the image files of `folder` in the order of their names; hidden and other files are left out.

    Raises:
        InputError: if there is none.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if images:
        return images
    hint = f"it needs files ending in {', '.join(IMAGE_SUFFIXES)}"
    within = next((entry for entry in entries if entry.is_dir() and _has_images(entry)), None)
    if (folder / "manifest.json").exists() or (folder / "model.json").exists():
        hint = "it is an edgeae bundle or run directory, not data"
    elif within is not None:
        hint = f"its folders do: give one of them, for instance {within}"
    elif entries:
        hint += "; to read another file in it, give the path of that file"
    raise InputError(f"{folder}: a folder without images; {hint}")


def _has_images(folder: Path) -> bool:
    return any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in folder.iterdir())


def read_images(paths: Sequence[Path]) -> tuple[Array, Layout]:
    """Read image files that all have the same size and kind, one row each.

    Grayscale images give rows [H, W], colour images [H, W, 3] (palettes, CMYK and YCbCr become RGB); 16-bit grayscale
    and floating-point images give float32, all others uint8. The orientation that a camera recorded is applied, a fully
    opaque alpha channel is dropped.

    Returns:
        uint8 or float32 [n, H, W] ("HW") or [n, H, W, 3] ("HWC").

    Raises:
        InputError: naming the file, for a damaged or animated image, transparent pixels, 16 bits per colour channel, or
            an image unlike the first one.
        MissingPackageError: without Pillow.
    """
    first = _read_image(paths[0])
    rows = np.empty((len(paths), *first.shape), first.dtype)
    rows[0] = first
    for number, path in enumerate(paths[1:], start=1):
        image = _read_image(path)
        if image.shape != first.shape or image.dtype != first.dtype:
            raise InputError(
                f"{path}: {_kind(image)}, but {paths[0].name} is {_kind(first)}; "
                "all images must have the same size and kind: resize or convert them first"
            )
        rows[number] = image
    return rows, "HW" if first.ndim == 2 else "HWC"


def _kind(image: Array) -> str:
    height, width = image.shape[:2]
    return f"{width}x{height} {'grayscale' if image.ndim == 2 else 'colour'} {image.dtype}"


def _read_image(path: Path) -> Array:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingPackageError(f"{path}: reading images needs Pillow: pip install Pillow") from None
    try:
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise InputError(f"{path}: animated or of several pages; save one picture a file")
            deep = any("16" in str(tile) for tile in getattr(opened, "tile", ()))
            if deep and opened.mode in ("RGB", "RGBA", "LA"):
                raise InputError(f"{path}: 16 bits per colour channel, which Pillow cuts to 8; save it as .npy instead")
            return _pixels(ImageOps.exif_transpose(opened), path)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path}: has too many pixels; cut it into pieces first") from None
    except (OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, OverflowError, MemoryError) as problem:
        raise InputError(f"{path}: not a readable image: {problem}; copy or save it again, or leave it out") from None


def _pixels(image: Image, path: Path) -> Array:
    if image.mode in ("LA", "RGBA", "PA") or ("transparency" in image.info and image.mode in ("L", "RGB", "P")):
        image = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise InputError(f"{path}: has transparent pixels, whose colour is undefined; flatten it onto a background")
        image = image.convert(image.mode.removesuffix("A"))
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image).astype(np.float32)
    if image.mode in ("P", "CMYK", "YCbCr"):
        image = image.convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB"):
        raise InputError(f"{path}: colours in mode {image.mode}; save it as grayscale or RGB")
    return np.asarray(image)
