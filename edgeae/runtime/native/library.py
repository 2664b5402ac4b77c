"""Where the operator library is, and whether it is safe to load."""

from __future__ import annotations

import os
import platform
import stat
import sys
from pathlib import Path

from edgeae import __version__
from edgeae.cache import cache_path
from edgeae.errors import EdgeaeError

__all__ = ["COMMAND", "find_library", "library_path"]

COMMAND = "python -m edgeae.runtime.native build"
SUFFIXES = {"darwin": ".dylib", "win32": ".dll"}


def library_path() -> Path:
    """Return where `build_library` puts the library for this version of edgeae and this kind of machine."""
    name = f"{__version__}-{sys.platform}-{platform.machine().lower()}"
    return cache_path("ops", name, "edgeae_ops" + SUFFIXES.get(sys.platform, ".so"))


def find_library() -> Path | None:
    """Return the operator library: the one that EDGEAE_OPS names, else the one that was built, else None.

    It is code, so it must be a regular file, in a folder, that belong to this user or to root and that nobody else may
    write to.

    Raises:
        EdgeaeError: if EDGEAE_OPS names no file, or a library is not safe to load.
    """
    named = os.environ.get("EDGEAE_OPS")
    path = Path(named).absolute() if named else library_path()
    try:
        found = os.lstat(path)
    except OSError as problem:
        if not named:
            return None
        raise EdgeaeError(f"EDGEAE_OPS: {path}: {problem.strerror}; build the library with: {COMMAND}") from problem
    if not stat.S_ISREG(found.st_mode):
        raise EdgeaeError(f"{path}: not a regular file; build the operator library again with: {COMMAND}")
    if hasattr(os, "getuid"):
        for place, status in ((path, found), (path.parent, path.parent.stat())):
            if status.st_uid not in (0, os.getuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise EdgeaeError(
                    f"{place}: belongs to someone else, or others may write to it, and a library is code; "
                    f"chmod go-w it, or build the operator library again with: {COMMAND}"
                )
    return path
