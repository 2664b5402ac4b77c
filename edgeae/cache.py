"""The user's cache folder: downloads, a built operator library, what `edgeae tune` found."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_path"]


def cache_path(*parts: str) -> Path:
    """Return a place in edgeae's cache folder: ~/.cache/edgeae, or below XDG_CACHE_HOME. Nothing is created.

    Example:
        >>> cache_path("tune").parts[-2:]
        ('edgeae', 'tune')
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edgeae", *parts)
