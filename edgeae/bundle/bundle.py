"""Reading and writing a bundle: a directory, or one .zip of it, with a manifest and the files it lists."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgeae.bundle.atomic import check_new, write_directory, write_file
from edgeae.bundle.manifest import PRECISIONS, File, Manifest, PrecisionEntry
from edgeae.errors import BundleError, InputError, IntegrityError

__all__ = ["GRAPHS", "Bundle", "Golden"]

GRAPHS = ("encoder", "decoder", "scorer")
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2**31  # what one protobuf message can hold

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Golden:
    """A few inputs and what they must give.

    Attributes:
        x: [n, *shape], the bundle's input dtype, in the user's units.
        z: float32 [n, latent_dim].
        x_hat: float32 [n, *shape], in the user's units.
        score: float32 [n], higher is more anomalous.
    """

    x: np.ndarray[Any, Any]
    z: FloatArray
    x_hat: FloatArray
    score: FloatArray


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read and checked; files are read, once each, when asked for.

    Attributes:
        path: The directory or .zip file.
        manifest: What it promises.
        digest: SHA-256 of manifest.json, which lists the digests of all other files, so that it stands for the whole.

    Example:
        >>> bundle = Bundle.read("export/golden/dense")
        >>> bundle.manifest.variant
        'dense'
    """

    path: Path
    manifest: Manifest
    digest: str

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Bundle:
        """Read and check the manifest of the bundle at `path`.

        Raises:
            BundleError: if there is no bundle, or its manifest is not as export/FORMAT.md has it.
        """
        path = Path(path)
        if not path.exists():
            raise BundleError(f"{path}: no such bundle; make one with: edgeae export RUN -o {path}")
        if path.is_dir() and not (path / MANIFEST_NAME).exists():
            hint = ""
            if (path / "model.json").exists():
                hint = f"; it is a run directory: export it first with: edgeae export {path} -o BUNDLE"
            raise BundleError(f"{path}: not a bundle, it has no {MANIFEST_NAME}{hint}")
        data = _read(path, MANIFEST_NAME, MAX_MANIFEST_BYTES)
        manifest = Manifest.from_json(data, where=f"{path}/{MANIFEST_NAME}")
        for file in _files(manifest):
            _check_name(path, file.path)
        return Bundle(path, manifest, hashlib.sha256(data).hexdigest())

    def files(self) -> list[File]:
        """Return the entries of all files that the manifest lists."""
        return _files(self.manifest)

    def entry(self, precision: str) -> PrecisionEntry:
        """Return what the manifest has for `precision` ("fp32", "fp16", "int8").

        Raises:
            InputError: if the bundle does not hold that precision.
        """
        if precision not in self.manifest.precisions:
            held = ", ".join(self.manifest.precisions)
            known = "" if precision in PRECISIONS else f" (known precisions: {', '.join(PRECISIONS)})"
            raise InputError(
                f"{self.path}: holds no graphs at precision {precision!r}{known}; choose {held}, or export it again "
                "with another --precision"
            )
        return self.manifest.precisions[precision]

    def file(self, file: File) -> bytes:
        """Read one file of the bundle, once, and return exactly the bytes that were checked.

        Raises:
            IntegrityError: if its size or SHA-256 is not the manifest's.
            BundleError: if it is missing or not a regular file.
        """
        data = _read(self.path, file.path, MAX_FILE_BYTES)
        if len(data) != file.size:
            raise IntegrityError(
                f"{self.path}/{file.path}: {len(data)} bytes, the manifest says {file.size}; "
                "copy or export the bundle again"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != file.sha256:
            raise IntegrityError(
                f"{self.path}/{file.path}: its SHA-256 is {digest[:12]}..., the manifest says {file.sha256[:12]}...; "
                "the file was changed after export: copy or export the bundle again"
            )
        return data

    def graph(self, precision: str, role: str) -> bytes:
        """Return the bytes of the "encoder", "decoder" or "scorer" graph at `precision`, checked."""
        file: File = getattr(self.entry(precision), role)
        return self.file(file)

    def golden(self, precision: str = "fp32") -> Golden:
        """Return the golden rows of `precision`, checked against the manifest's shapes."""
        file = self.entry(precision).golden
        arrays = _arrays(self.file(file), f"{self.path}/{file.path}", ("x", "z", "x_hat", "score"))
        golden = Golden(**arrays)
        row = self.manifest.input
        rows = len(golden.x)
        wanted = {
            "x": (row.dtype, (rows, *row.shape)),
            "z": ("float32", (rows, self.manifest.latent_dim)),
            "x_hat": ("float32", (rows, *row.shape)),
            "score": ("float32", (rows,)),
        }
        for name, (dtype, shape) in wanted.items():
            array = arrays[name]
            if array.dtype != np.dtype(dtype) or array.shape != shape:
                raise BundleError(
                    f"{self.path}/{file.path}: {name} is {array.dtype} {array.shape}, expected {dtype} {shape}"
                )
        return golden

    def statistics(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays of statistics.npz, or {} where the bundle has none."""
        file = self.manifest.statistics
        return {} if file is None else _arrays(self.file(file), f"{self.path}/{file.path}")

    @staticmethod
    def write(
        path: str | os.PathLike[str], manifest: Manifest, files: Mapping[str, bytes], *, force: bool = False
    ) -> Bundle:
        """Write a bundle atomically: a directory, or a .zip when `path` ends in ".zip".

        Args:
            path: Where it shall appear.
            manifest: Its file entries must list exactly `files`.
            files: Relative name to bytes, without the manifest.
            force: Replace what stands there.

        Raises:
            BundleError: if the manifest and `files` do not agree.
            InputError: if `path` exists and `force` is false, or cannot be written.
        """
        path = Path(path)
        listed = {file.path: file for file in _files(manifest)}
        if set(listed) != set(files):
            raise BundleError(f"{path}: the manifest lists {sorted(listed)}, the files are {sorted(files)}")
        for name, data in files.items():
            if listed[name] != describe_file(name, data):
                raise BundleError(f"{path}/{name}: size or SHA-256 differ from the manifest's")
        everything = {MANIFEST_NAME: manifest.to_json(), **files}
        Manifest.from_json(everything[MANIFEST_NAME], where=f"{path}/{MANIFEST_NAME}")  # what we write, we can read
        if path.suffix == ".zip":
            check_new(path, force=force, what="the output file")
            write_file(path, _zip(everything))
        else:
            write_directory(path, everything, force=force)
        return Bundle.read(path)


def describe_file(name: str, data: bytes) -> File:
    """Return the manifest entry of a file."""
    return File(name, len(data), hashlib.sha256(data).hexdigest())


def pack_arrays(**arrays: np.ndarray[Any, Any]) -> bytes:
    """Serialise arrays as the bytes of an .npz file; the same arrays give the same bytes."""
    files = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return _zip(files)


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _arrays(data: bytes, where: str, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            wanted = names or tuple(archive.files)
            return {name: archive[name] for name in wanted}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as problem:
        raise BundleError(f"{where}: not a readable .npz file: {problem}") from None


def _files(manifest: Manifest) -> list[File]:
    files = [getattr(entry, role) for entry in manifest.precisions.values() for role in (*GRAPHS, "golden")]
    return files if manifest.statistics is None else [*files, manifest.statistics]


def _check_name(bundle: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts or "\0" in name:
        raise BundleError(f"{bundle}/{MANIFEST_NAME}: the file name {name!r} is not a plain relative path")


def _read(bundle: Path, name: str, limit: int) -> bytes:
    """Read one regular file of a directory or .zip bundle, following no links."""
    where = f"{bundle}/{name}"
    if not bundle.is_dir():
        return _read_zipped(bundle, name, limit)
    path = bundle / name
    if any(part.is_symlink() for part in (path, *path.parents) if part != bundle and bundle in part.parents):
        raise BundleError(f"{where}: is a link; a bundle's files must be regular files inside it")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise BundleError(f"{where}: the file is missing; copy or export the bundle again") from None
    except OSError as problem:
        raise BundleError(f"{where}: cannot be read: {problem.strerror or problem}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{where}: is not a regular file")
        if status.st_size > limit:
            raise BundleError(f"{where}: {status.st_size} bytes, more than the limit of {limit}")
        return file.read(limit + 1)


def _read_zipped(bundle: Path, name: str, limit: int) -> bytes:
    try:
        with zipfile.ZipFile(bundle) as archive:
            if archive.namelist().count(name) != 1:
                raise BundleError(f"{bundle}: holds no file {name}, or holds it twice; it is no edgeae bundle")
            with archive.open(name) as file:
                data = file.read(limit + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as problem:
        raise BundleError(f"{bundle}: not a directory and not a readable .zip file: {problem}") from None
    except OSError as problem:
        raise BundleError(f"{bundle}: cannot be read: {problem.strerror or problem}") from None
    if len(data) > limit:
        raise BundleError(f"{bundle}/{name}: more than the limit of {limit} bytes")
    return data
