"""What the files of a bundle may be called, and which files that are not its own are passed over."""

from __future__ import annotations

import re

from edgeae.errors import BundleError

__all__ = ["check_name", "is_litter"]

MAX_NAME = 255
MAX_FOLDERS = 2

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?<!\.)")
# What desktops and network file systems leave in folders and archives that people open.
_LITTER = re.compile(r"\.DS_Store|\._.*|\.nfs[0-9a-f]+|Thumbs\.db|desktop\.ini|__MACOSX", re.IGNORECASE)


def check_name(name: str, where: str) -> None:
    """Refuse a file name unless it is a plain relative path that means the same on every system.

    Raises:
        BundleError: naming `where` and the name.

    Example:
        >>> check_name("fp16/encoder.onnx", "manifest.json")
        >>> check_name("../encoder.onnx", "manifest.json")
        Traceback (most recent call last):
        edgeae.errors.BundleError: manifest.json: the file name '../encoder.onnx' is not a plain relative path
    """
    parts = name[: MAX_NAME + 1].split("/")
    plain = len(name) <= MAX_NAME and len(parts) <= MAX_FOLDERS + 1 and all(map(_PART.fullmatch, parts))
    if not plain:
        shown = repr(name if len(name) <= 60 else f"{name[:57]}...")
        raise BundleError(f"{where}: the file name {shown} is not a plain relative path")


def is_litter(name: str) -> bool:
    """Tell whether a file was put there by the system, such as `.DS_Store`: it is neither read nor refused.

    Example:
        >>> is_litter("__MACOSX/._encoder.onnx"), is_litter("notes.txt")
        (True, False)
    """
    return any(map(_LITTER.fullmatch, name.split("/")))
