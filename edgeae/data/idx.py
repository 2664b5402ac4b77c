"""IDX files, the format of MNIST: https://yann.lecun.com/exdb/mnist/ (plain or gzipped)."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgeae.data.dataset import Array
from edgeae.errors import InputError

__all__ = ["is_idx_name", "labels_beside", "parse_idx", "read_idx"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIECE = 2**20
_DEFLATE_RATIO = 1100  # deflate cannot shrink data more than about 1032 times


def is_idx_name(name: str) -> bool:
    """Tell whether a file is called like an IDX file: train-images-idx3-ubyte.gz, t10k-labels.idx1-ubyte, x.idx."""
    return re.search(r"[.-]idx\d?(-[a-z]+)?(\.gz)?$", name, re.IGNORECASE) is not None


def labels_beside(path: Path) -> Path | None:
    """Return the file with the labels of an images file that follows MNIST's names, if it is there."""
    base = path.name.removesuffix(".gz")
    renamed = re.sub(r"images([.-])idx\d", r"labels\1idx1", base)
    if renamed == base:
        return None
    candidates = (path.with_name(name) for name in (renamed + path.name[len(base) :], renamed, renamed + ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_idx(path: Path) -> Array:
    """Read an IDX file, gzipped or not, whole.

    Returns:
        An array of the file's dtype (big-endian where it has more than one byte) and shape.

    Raises:
        InputError: if the header is wrong, or the file has fewer or more bytes than the header says.
    """
    with open(path, "rb") as file:
        return parse_idx(file, str(path), path.stat().st_size)[0]


def parse_idx(file: BinaryIO, where: str, size: int) -> tuple[Array, str]:
    """Read an IDX file from an open file of `size` bytes; return the array and the SHA-256 of the unzipped bytes."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    try:
        if not zipped:
            return _parse(file, where, size)
        with gzip.GzipFile(fileobj=file) as unzipped:
            return _parse(unzipped, where, size * _DEFLATE_RATIO)
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise InputError(f"{where}: damaged or cut short ({problem}); copy it again") from None


def _parse(file: BinaryIO | gzip.GzipFile, where: str, limit: int) -> tuple[Array, str]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or not 1 <= head[3] <= 4:
        raise InputError(f"{where}: not an IDX file, it starts with {head.hex(' ') or 'nothing'}")
    sides = file.read(4 * head[3])
    if len(sides) < 4 * head[3]:
        raise InputError(f"{where}: cut short inside its header; copy it again")
    shape = struct.unpack(f">{head[3]}I", sides)
    dtype = np.dtype(_DTYPES[head[2]])
    expected = math.prod(shape) * dtype.itemsize
    body = bytearray()
    if expected <= limit:  # else not even worth reading
        while len(body) <= expected and (piece := file.read(min(_PIECE, expected + 1 - len(body)))):
            body += piece
    if len(body) < expected:
        raise InputError(f"{where}: cut short: its header promises {expected} bytes of data; copy it again")
    if len(body) > expected:
        raise InputError(f"{where}: has more data than the {expected} bytes its header promises; copy it again")
    digest = hashlib.sha256(head + sides)
    digest.update(body)
    return np.frombuffer(body, dtype).reshape(shape), digest.hexdigest()
