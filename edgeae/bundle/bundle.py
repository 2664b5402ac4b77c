"""Reading and writing a bundle: a directory, or one .zip of it, with a manifest and the files it lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeae.bundle.archive import pack_archive
from edgeae.bundle.arrays import pack_arrays, read_arrays
from edgeae.bundle.atomic import check_new, write_directory, write_file
from edgeae.bundle.manifest import GRAPHS, MAX_FILE_BYTES, PRECISIONS, File, Manifest, PrecisionEntry
from edgeae.bundle.record import record
from edgeae.bundle.storage import MANIFEST_NAME, find_bundle, list_files, read_file
from edgeae.errors import BundleError, InputError, IntegrityError

__all__ = ["GRAPHS", "Bundle", "Golden", "describe_file", "pack_arrays"]

MAX_MANIFEST_BYTES = 8 * 2**20
MAX_GOLDEN_ROWS = 256

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@record(frozen=True)
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


@record(frozen=True)
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
        """Read and check the manifest of the bundle at `path`, and that no files are there that it does not list.

        Where `path` is missing because a writer died between moving the old folder aside and the new one into its
        place, the old one is brought back first. A listed file that is missing is an error once it is needed, so that
        a device that only scores may go without encoder and decoder.

        Raises:
            BundleError: if there is no bundle, or it is not as export/FORMAT.md has it.
        """
        path = find_bundle(Path(path))
        held = list_files(path)
        if MANIFEST_NAME not in held:
            nested = any(name.endswith(f"/{MANIFEST_NAME}") for name in held)
            hint = "; zip what is in the folder, not the folder" if nested else "; it is no edgeae bundle"
            raise BundleError(f"{path}: holds no {MANIFEST_NAME} at its top{hint}")
        data = read_file(path, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)
        manifest = Manifest.from_json(data, where=f"{path}/{MANIFEST_NAME}")
        unknown = sorted(held - {MANIFEST_NAME, *(file.path for file in manifest.files())})
        if unknown:
            raise BundleError(
                f"{path}: the manifest does not list {_some(unknown)}; a bundle holds nothing else: remove what is not "
                "its own, or export it again"
            )
        return Bundle(path, manifest, hashlib.sha256(data).hexdigest())

    def files(self) -> list[File]:
        """Return the entries of all files that the manifest lists."""
        return self.manifest.files()

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
        data = read_file(self.path, file.path, size=file.size, limit=MAX_FILE_BYTES)
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
        where = f"{self.path}/{file.path}"
        arrays = read_arrays(self.file(file), where)
        row = self.manifest.input
        rows = arrays["score"].size if "score" in arrays else 0
        wanted = {
            "x": (row.dtype, (rows, *row.shape)),
            "z": ("float32", (rows, self.manifest.latent_dim)),
            "x_hat": ("float32", (rows, *row.shape)),
            "score": ("float32", (rows,)),
        }
        if set(arrays) != set(wanted) or not 0 < rows <= MAX_GOLDEN_ROWS:
            raise BundleError(
                f"{where}: holds {_some(sorted(arrays))} of {rows} rows, expected {', '.join(wanted)} of 1 to "
                f"{MAX_GOLDEN_ROWS} rows; export the bundle again"
            )
        for name, (dtype, shape) in wanted.items():
            array = arrays[name]
            if array.dtype != np.dtype(dtype) or array.shape != shape:
                raise BundleError(f"{where}: {name} is {array.dtype} {array.shape}, expected {dtype} {shape}")
        return Golden(**arrays)

    def statistics(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays of statistics.npz, or {} where the bundle has none."""
        file = self.manifest.statistics
        return {} if file is None else read_arrays(self.file(file), f"{self.path}/{file.path}")

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
        listed = {file.path: file for file in manifest.files()}
        if set(listed) != set(files):
            raise BundleError(f"{path}: the manifest lists {sorted(listed)}, the files are {sorted(files)}")
        for name, data in files.items():
            if listed[name] != describe_file(name, data):
                raise BundleError(f"{path}/{name}: size or SHA-256 differ from the manifest's")
        everything = {MANIFEST_NAME: manifest.to_json(), **files}
        Manifest.from_json(everything[MANIFEST_NAME], where=f"{path}/{MANIFEST_NAME}")  # what we write, we can read
        if path.suffix == ".zip":
            check_new(path, force=force, what="the output file")
            write_file(path, pack_archive(everything))
        else:
            write_directory(path, everything, force=force)
        return Bundle.read(path)


def describe_file(name: str, data: bytes) -> File:
    """Return the manifest entry of a file."""
    return File(name, len(data), hashlib.sha256(data).hexdigest())


def _some(names: list[str]) -> str:
    """Name up to five things."""
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing"
