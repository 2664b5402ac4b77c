"""Files and directories that appear whole or not at all.

Everything edgeae writes goes to a temporary sibling first (`.NAME.1a2b3c4d.tmp`), is flushed to the disk, and is
renamed into place. A crash leaves the old content or the new, never half of one, and an error leaves no sibling behind.
What a killed process leaves is removed by the next write of the same name: a writer holds a lock on its sibling while
it lives, so one that can be locked is nobody's any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from edgeae.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment,unused-ignore]

__all__ = ["check_new", "explained", "new_file", "open_atomic", "recovered", "write_directory", "write_file"]

_LONGEST_NAME = 200  # bytes; file systems allow 255, and a sibling's name is 14 longer

_REMEDIES = {
    errno.ENOSPC: "free some space there or choose another place",
    errno.EDQUOT: "your quota is used up: remove something or choose another place",
    errno.EFBIG: "it is larger than a file may be there (see ulimit -f): choose another place",
    errno.EROFS: "choose a folder that you may write in",
    errno.EACCES: "choose a folder that you may write in",
    errno.EPERM: "choose a folder that you may write in",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk reports a fault: choose another",
}


def check_new(path: Path, *, force: bool, what: str = "output", holds: str | None = None) -> None:
    """Refuse early, before any work is done, to write where something stands or where nothing can be written.

    Args:
        path: What will be written.
        force: Whether it may replace what stands there.
        what: Name for messages.
        holds: For a directory that will be replaced as a whole, a file that each such directory holds, so that a
            folder of other things is never lost.

    Raises:
        InputError: if `path` exists and `force` is false, if it is a file or a folder of other things where `holds` is
            given, or if its parent folder is missing or not writable.
    """
    path = recovered(path)
    if path.exists() and not force:
        raise InputError(f"{path}: {what} exists already; use --force (force=True) to replace it, or another name")
    if holds is not None and path.exists() and not path.is_dir():
        raise InputError(f"{path}: exists and is not a folder; choose another name")
    if holds is not None and path.is_dir() and not (path / holds).exists() and any(path.iterdir()):
        raise InputError(
            f"{path}: a folder with other things in it (no {holds}), which is not replaced; use another name"
        )
    parent = _followed(path).parent
    if not parent.is_dir():
        raise InputError(f"{path}: the folder {parent} does not exist; create it first (mkdir -p {parent})")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in the folder {parent}; choose another")


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the block ends without an error.

    Raises:
        InputError: if it cannot be written, naming the path and the reason; an OSError of the block counts as one.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with open_atomic(target) as file:
        ...     _ = file.write(b"whole")
        >>> target.read_bytes()
        b'whole'
    """
    with new_file(path) as file, explained(path):
        yield file


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Do what `open_atomic` does, for reading and writing; an OSError of the block stays what it is.

    Raises:
        InputError: if `path` is no regular file, or cannot be written.
    """
    target = _followed(Path(path))
    if target.exists() and not target.is_file():
        raise InputError(f"{path}: exists and is not a regular file; choose another name")
    _sweep(target)
    temporary = target  # until there is one
    try:
        with explained(path):
            while True:
                temporary = _sibling(target, "tmp")
                file = open(temporary, "x+b")  # noqa: SIM115 - closed below, after the rename
                if _lock(file.fileno(), temporary):
                    break
                file.close()
        try:
            yield file
            with explained(path):
                file.flush()
                os.fsync(file.fileno())
                if fcntl is None:
                    file.close()  # Windows renames no open file
                temporary.replace(target)
                _sync_directory(target.parent)
        finally:
            with contextlib.suppress(OSError):
                file.close()
    finally:
        if temporary != target:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(data)


def write_directory(path: str | os.PathLike[str], files: Mapping[str, bytes], *, force: bool = False) -> None:
    """Write `files` (relative name to bytes) as the directory `path`, atomically.

    An existing directory is replaced as a whole when `force` is true: on Linux the two are exchanged in one step,
    elsewhere the old one is moved aside first, from where `recovered` brings it back if this process dies in between.

    Raises:
        InputError: if `path` exists and `force` is false, is not a directory, holds other things than a directory of
            such files (it has not even the first of them), or cannot be written.
    """
    path = Path(path)
    check_new(path, force=force, what="the output folder", holds=next(iter(files), None))
    target = _followed(path)
    _sweep(target)
    temporary, lock = target, None
    try:
        with explained(path):
            while True:
                temporary = _sibling(target, "tmp")
                temporary.mkdir()
                lock = _open_directory(temporary)
                if lock is None or _lock(lock, temporary):
                    break
                os.close(lock)
            _fill(temporary, files)
            if not target.exists():
                temporary.rename(target)
            elif not _exchange(temporary, target):
                _replace_directory(temporary, target)
            _sync_directory(target.parent)
    finally:
        try:
            if temporary != target:
                _remove(temporary)
                _sweep(target)  # should the old one still be aside
        finally:
            if lock is not None:
                os.close(lock)


def recovered(path: Path) -> Path:
    """Return `path`, after bringing back the directory that a writer which died had moved aside from there.

    Where it cannot be brought back, because nothing may be written there, the directory's present path is returned.
    """
    if os.path.lexists(path):
        return path
    for aside in _siblings(_followed(path), "old"):
        lock = _open_directory(aside)
        try:
            if lock is not None:
                _try_lock(lock, seconds=1.0)  # its writer, should it live, is done in no time
            if not os.path.lexists(path):
                aside.rename(_followed(path))
        except OSError:
            return aside if aside.exists() else path
        finally:
            if lock is not None:
                os.close(lock)
    return path


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the block into an InputError that says that `path` cannot be written, why, and what to do."""
    try:
        yield
    except OSError as problem:
        remedy = _REMEDIES.get(problem.errno or 0, "check the disk and the folder")
        reason = problem.strerror or str(problem) or type(problem).__name__
        raise InputError(f"{os.fspath(path)}: cannot be written: {reason.splitlines()[0]}; {remedy}") from problem


def _followed(path: Path) -> Path:
    """Return where `path` leads: a link stays a link, and what it leads to is replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() or path.name in ("", "..") else path.absolute()


def _stem(path: Path) -> str:
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f".{_stem(path)}.{os.urandom(4).hex()}.{suffix}")


def _siblings(path: Path, suffix: str) -> list[Path]:
    """Return what `_sibling` may have named, real files and directories only."""
    pattern = re.compile(rf"\.{re.escape(_stem(path))}\.[0-9a-f]{{8}}\.{suffix}")
    try:
        with os.scandir(path.parent) as entries:
            return [Path(entry) for entry in entries if pattern.fullmatch(entry.name) and not entry.is_symlink()]
    except OSError:
        return []


def _sweep(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; where nothing can be locked, it stays: it may be in use."""
    for stale in _siblings(path, "tmp") if fcntl is not None else ():
        with contextlib.suppress(OSError):
            lock = os.open(stale, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISDIR(os.fstat(lock).st_mode):
                    _remove(stale)
                else:
                    stale.unlink(missing_ok=True)
            finally:
                os.close(lock)
    if path.exists():  # otherwise it is all there is
        for stale in _siblings(path, "old"):
            _remove(stale)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file or directory until it is closed; False if `path` is not it any more: a sweep was faster."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return True  # no locks on this file system: a sweep gets none either
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int, seconds: float = 0.0) -> None:
    """Lock an open directory, or give up after so many seconds: what follows is right without it, if less polite."""
    end = time.monotonic() + seconds
    while fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.01)
                continue
        except OSError:
            pass  # no locks on this file system
        return


def _open_directory(folder: Path) -> int | None:
    return None if fcntl is None else os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for inner in {folder, *((folder / name).parent for name in files)}:
        _sync_directory(inner)


def _replace_directory(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`, which ends up in the place of `new`, in three steps."""
    lock = _open_directory(old)
    aside = _sibling(old, "old")
    try:
        if lock is not None:
            _try_lock(lock)
        old.rename(aside)
        new.rename(old)
    finally:
        with contextlib.suppress(FileNotFoundError):  # not there, if the first step failed or another writer swept it
            aside.rename(new if old.exists() else old)
        if lock is not None:
            os.close(lock)


def _sync_directory(folder: Path) -> None:
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder that may be written in but not listed
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
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


def _remove(folder: Path) -> None:
    import shutil  # here, since a process that only reads bundles starts faster without it

    shutil.rmtree(folder, ignore_errors=True)
