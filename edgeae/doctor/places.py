"""Folders that edgeae writes to, and ONNX Runtime's telemetry."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from edgeae.cache import cache_path
from edgeae.doctor.finding import Finding

__all__ = ["examine_places"]


def examine_places() -> list[Finding]:
    """Look at the cache, the current and the temporary folder, and at telemetry."""
    return [_cache(cache_path()), _current(), _temporary(), _telemetry()]


def _cache(folder: Path) -> Finding:
    standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    remedy = "export XDG_CACHE_HOME=FOLDER, one that can be written"
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        detail = f"{folder}, cannot be written ({standing} is read-only or no folder): downloads are not kept"
        return Finding("places", "cache", "warn", detail, remedy)
    if standing != folder:
        return Finding("places", "cache", "ok", f"{folder}, not made yet")
    size = 0
    for directory, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                size += (Path(directory) / name).lstat().st_size
    return Finding("places", "cache", "ok", f"{folder}, {size / 2**20:.1f} MiB, can be written")


def _current() -> Finding:
    try:
        folder = Path.cwd()  # raises if it was removed
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as problem:
        detail = f"cannot be written: {problem.strerror or problem}"
        return Finding(
            "places", "current folder", "warn", detail, "give -o a path elsewhere, or change the folder's permissions"
        )
    return Finding("places", "current folder", "ok", f"{folder}, can be written")


def _temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except OSError as problem:
        detail = f"no folder for temporary files: {problem.strerror or problem}"
        return Finding("places", "temporary folder", "fail", detail, "export TMPDIR=FOLDER, one that can be written")
    return Finding("places", "temporary folder", "ok", f"{folder}, can be written")


def _telemetry() -> Finding:
    value = os.environ.get("ORT_DISABLE_TELEMETRY", "1")
    if value == "1":
        return Finding("places", "telemetry", "ok", "ONNX Runtime's is off")
    detail = f"ONNX Runtime's may be on: ORT_DISABLE_TELEMETRY={value!r}"
    return Finding("places", "telemetry", "warn", detail, "unset ORT_DISABLE_TELEMETRY")
