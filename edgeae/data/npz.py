"""Arrays in .npz files: read without unpickling, and without taking memory on a header's word."""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from typing import IO, Any

import numpy as np

__all__ = ["DAMAGED", "array_names", "promised_size", "read_array"]

_DEFLATE_RATIO = 1100  # deflate cannot shrink data more than about 1032 times

# what zipfile and NumPy raise for damaged files, as found by flipping bits and cutting files short
DAMAGED = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def array_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays in an open .npz file."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """Read one array of an open .npz file; its header must promise what is there before memory is taken for it.

    Raises:
        ValueError: for Python objects (pickles), which are never loaded, and a header that does not fit.
        Exception: any other of `DAMAGED`, for a damaged file.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > _DEFLATE_RATIO * (_size(archive) + 1):
        raise ValueError(f"{name} claims {info.file_size} bytes, more than can be in this file")
    with archive.open(info) as member:
        promised = promised_size(member)
        there = info.file_size - member.tell()
    if promised != there:
        raise ValueError(f"the header of {name} promises {promised} bytes, there are {there}")
    with archive.open(info) as member:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(member, allow_pickle=False)
    return array


def promised_size(file: IO[bytes]) -> int:
    """Read the header of an .npy file, up to where its numbers begin, and return how many bytes these must be.

    Raises:
        ValueError: for Python objects (pickles), and a header that is not one.
        Exception: any other of `DAMAGED`.
    """
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call,unused-ignore]
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"array format {version[0]}.{version[1]}, which is for records")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)  # type: ignore[no-untyped-call,unused-ignore]
    if any(side < 0 for side in shape):
        raise ValueError(f"its header has the shape {shape}")
    if dtype.hasobject:
        raise ValueError("holds Python objects")
    return math.prod(shape) * dtype.itemsize  # of Python's whole numbers, which NumPy's would overflow


def _size(archive: zipfile.ZipFile) -> int:
    file = archive.fp
    if file is None:
        raise ValueError("the archive is closed")
    before = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(before)
    return size
