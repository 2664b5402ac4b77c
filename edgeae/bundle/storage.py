"""Where the files of a bundle are: in a folder or in a .zip file; nothing but regular files is opened."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from edgeae.bundle.archive import MAX_RATIO, read_index, read_member
from edgeae.bundle.atomic import recovered
from edgeae.bundle.names import MAX_FOLDERS, is_litter
from edgeae.errors import BundleError, IntegrityError

__all__ = ["MANIFEST_NAME", "MAX_BUNDLE_BYTES", "find_bundle", "list_files", "read_file"]

MANIFEST_NAME: Final = "manifest.json"
MAX_FILES: Final = 128
MAX_BUNDLE_BYTES: Final = 2**32


def find_bundle(path: Path) -> Path:
    """Return where the bundle `path` is: there, unless a writer died while it replaced it and nothing may be written.

    Raises:
        BundleError: if there is no bundle at all, with what to do instead.
    """
    try:
        path = recovered(path)
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{path}: no such bundle; make one with: edgeae export RUN -o {path}") from None
    except (OSError, ValueError) as problem:
        raise BundleError(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if stat.S_ISDIR(mode) and not os.path.lexists(path / MANIFEST_NAME):
        hint = ""
        if (path / "model.json").exists():
            hint = f"; it is a run directory: export it first with: edgeae export {path} -o BUNDLE"
        raise BundleError(f"{path}: not a bundle, it has no {MANIFEST_NAME}{hint}")
    return path


def list_files(bundle: Path) -> set[str]:
    """Return the names of all files in a bundle, without litter.

    Raises:
        BundleError: if something in it is not a regular file, has no plain name, or there are far too many.
    """
    if not bundle.is_dir():
        with _archive(bundle) as file, _explained(str(bundle)):
            return set(read_index(file, str(bundle), budget=MAX_BUNDLE_BYTES, ratio=MAX_RATIO))
    names = set()
    for name in _walk(bundle, ""):
        names.add(name)
        if len(names) > MAX_FILES:
            raise BundleError(f"{bundle}: holds more than {MAX_FILES} files; it is no edgeae bundle")
    return names


def read_file(bundle: Path, name: str, *, size: int | None = None, limit: int) -> bytes:
    """Read one file of a bundle, once.

    Args:
        bundle: A folder or .zip file.
        name: As `check_name` has it.
        size: How many bytes it must have; a file of another size is not read.
        limit: How many bytes it may have.

    Raises:
        IntegrityError: if it has another size.
        BundleError: if it is missing, too large or not a regular file.
    """
    where = f"{bundle}/{name}"
    if bundle.is_dir():
        return _read_plain(bundle, name, where, size, limit)
    with _archive(bundle) as file, _explained(str(bundle)):
        member = read_index(file, str(bundle), budget=MAX_BUNDLE_BYTES, ratio=MAX_RATIO).get(name)
        if member is None:
            raise _missing(where)
        _check_size(where, member.size, size, limit)
        return read_member(file, member, str(bundle))


def _read_plain(bundle: Path, name: str, where: str, size: int | None, limit: int) -> bytes:
    place = bundle
    for part in name.split("/")[:-1]:
        place = place / part
        if place.is_symlink():
            raise BundleError(f"{where}: is behind a link; a bundle's files must be regular files inside it")
    with _open(bundle / name, where, follow=False) as file, _explained(where):
        _check_size(where, os.fstat(file.fileno()).st_size, size, limit)
        data = file.read(limit + 1 if size is None else size + 1)
    _check_size(where, len(data), size, limit)  # it may have grown since
    return data


def _check_size(where: str, found: int, size: int | None, limit: int) -> None:
    if found > limit:
        raise BundleError(f"{where}: {found:,} bytes, more than the limit of {limit:,}; it is no file of a bundle")
    if size is not None and found != size:
        raise IntegrityError(f"{where}: {found} bytes, the manifest says {size}; copy or export the bundle again")


def _archive(bundle: Path) -> BinaryIO:
    return _open(bundle, str(bundle), follow=True)


def _open(path: Path, where: str, *, follow: bool) -> BinaryIO:
    """Open a regular file, without waiting for the other end of a pipe and without waking a device."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    with _explained(where):
        status = path.stat(follow_symlinks=follow)
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(f"{where}: is a link; a bundle's files must be regular files inside it")
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{where}: is not a regular file")
        descriptor = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
        file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it may have been exchanged since
        file.close()
        raise BundleError(f"{where}: is not a regular file")
    return file


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(where) from None
    except OSError as problem:
        raise BundleError(f"{where}: cannot be read: {problem.strerror or problem}") from None


def _missing(where: str) -> BundleError:
    return BundleError(f"{where}: the file is missing; copy or export the bundle again")


def _walk(bundle: Path, folder: str) -> Iterator[str]:
    with _explained(str(bundle)), os.scandir(bundle / folder) as entries:
        for count, entry in enumerate(entries):
            if count > 8 * MAX_FILES:
                raise BundleError(f"{bundle}: holds far too many files; it is no edgeae bundle")
            if is_litter(entry.name):
                continue
            name = f"{folder}{entry.name}"
            if entry.is_dir(follow_symlinks=False) and name.count("/") < MAX_FOLDERS:
                yield from _walk(bundle, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                kind = "is a link" if entry.is_symlink() else "is not a regular file"
                shown = name if name.isprintable() else repr(name)
                raise BundleError(f"{bundle}/{shown}: {kind}; a bundle's files must be regular files inside it")
