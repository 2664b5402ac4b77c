"""Files and directories that appear whole or not at all.

Everything edgeae writes goes to a temporary sibling first, is flushed to the disk, and is renamed into place. A crash
leaves the old content or the new, never half of one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from edgeae.errors import InputError

__all__ = ["check_new", "open_atomic", "write_directory", "write_file"]


def check_new(path: Path, *, force: bool, what: str = "output") -> None:
    """Refuse early, before any work is done, to write where something stands or where nothing can be written.

    Raises:
        InputError: if `path` exists and `force` is false, or if its parent folder is missing or not writable.
    """
    if path.exists() and not force:
        raise InputError(f"{path}: {what} exists already; use --force (force=True) to replace it, or another name")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"{path}: the folder {parent} does not exist; create it first (mkdir -p {parent})")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in the folder {parent}")


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the block ends without an error.

    Raises:
        InputError: if the folder cannot be written, naming the path and the reason.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with open_atomic(target) as file:
        ...     _ = file.write(b"whole")
        >>> target.read_bytes()
        b'whole'
    """
    path = Path(path)
    temporary = _sibling(path)
    try:
        with _explained(path):
            file = open(temporary, "xb")  # noqa: SIM115 - closed below, before the rename
        try:
            yield file
            with _explained(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):
                file.close()
        with _explained(path):
            temporary.replace(path)
            _sync_directory(path.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically; see `open_atomic`."""
    with open_atomic(path) as file, _explained(Path(path)):
        file.write(data)


def write_directory(path: str | os.PathLike[str], files: Mapping[str, bytes], *, force: bool = False) -> None:
    """Write `files` (relative name to bytes) as the directory `path`, atomically.

    An existing directory is replaced as a whole when `force` is true: on Linux the two are exchanged in one step,
    elsewhere the old one is moved aside first.

    Raises:
        InputError: if `path` exists and `force` is false, is not a directory, or cannot be written.
    """
    path = Path(path)
    check_new(path, force=force, what="the output folder")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: exists and is not a folder; choose another name")
    temporary = _sibling(path)
    try:
        with _explained(path):
            for name, data in files.items():
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.mkdir(exist_ok=True)
            for folder in {temporary, *(temporary / name for name in files)}:
                _sync_directory(folder if folder.is_dir() else folder.parent)
            if not path.exists():
                temporary.rename(path)
            elif not _exchange(temporary, path):
                aside = _sibling(path)
                path.rename(aside)
                temporary.rename(path)
                aside.rename(temporary)
            _sync_directory(path.absolute().parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise InputError(f"{path}: cannot be written: {problem.strerror or problem}") from problem


def _sync_directory(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directory entries in one step; False where the system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    result: int = renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange)
    return result == 0
