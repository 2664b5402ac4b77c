"""Arrays in a bundle: .npz files of plain numbers, read without pickle and without trusting what a header claims."""

from __future__ import annotations

import io
import re
from typing import Any, Final

import numpy as np

from edgeae.bundle.archive import pack_archive, read_index, read_member
from edgeae.errors import BundleError

__all__ = ["MAX_ARRAY_BYTES", "pack_arrays", "read_arrays"]

MAX_ARRAY_BYTES: Final = 160 * 2**20  # of one .npz file, unpacked

_MAGIC: Final = b"\x93NUMPY\x01\x00"
# What numpy.save writes for an array of numbers; NumPy itself evaluates the header as a Python literal.
_HEADER: Final = re.compile(
    rb"\{'descr': '([<|][biuf][1248])', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,10}, ?){0,8}(?:\d{1,10})?)\), \} *\n"
)


def pack_arrays(**arrays: np.ndarray[Any, Any]) -> bytes:
    """Serialise arrays as the bytes of an .npz file; the same arrays give the same bytes."""
    files = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return pack_archive(files)


def read_arrays(data: bytes, where: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of the bytes of an .npz file by name, read-only.

    Raises:
        BundleError: if it is not one, holds anything but plain little-endian numbers, or is larger than allowed.

    Example:
        >>> read_arrays(pack_arrays(spread=np.ones(3, np.float32)), "statistics.npz")
        {'spread': array([1., 1., 1.], dtype=float32)}
    """
    file = io.BytesIO(data)
    index = read_index(file, where, budget=MAX_ARRAY_BYTES)
    arrays = {}
    for name, member in index.items():
        if not name.endswith(".npy") or "/" in name:
            raise BundleError(f"{where}: holds {name!r}, which is no array; copy or export the bundle again")
        arrays[name.removesuffix(".npy")] = _array(read_member(file, member, where), f"{where}: {name}")
    return arrays


def _array(data: bytes, where: str) -> np.ndarray[Any, Any]:
    start = len(_MAGIC) + 2
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(data, start, end) if data.startswith(_MAGIC) and end <= len(data) else None
    if header is None:
        raise BundleError(f"{where} is not a .npy file of plain little-endian numbers; export the bundle again")
    try:
        dtype = np.dtype(header[1].decode())
        values = np.require(np.frombuffer(data, dtype, offset=end), requirements="A")
        shape = tuple(int(part) for part in header[3].replace(b",", b" ").split())
        return values.reshape(shape, order="F" if header[2] == b"True" else "C")
    except (TypeError, ValueError):
        raise BundleError(f"{where} does not hold the numbers that it declares") from None
