"""What a file is, told by its first bytes: for messages about files whose name promises something else."""

from __future__ import annotations

from pathlib import Path

__all__ = ["first_bytes", "what_it_is"]

# https://en.wikipedia.org/wiki/List_of_file_signatures
_KINDS = (
    (b"\x1f\x8b", "it is gzipped: name it .csv.gz"),
    (b"PK\x03\x04", "it is an Excel workbook or another .zip file: save the sheet as 'CSV UTF-8'"),
    (b"\xd0\xcf\x11\xe0", "it is an old Excel workbook: save the sheet as 'CSV UTF-8'"),
    (b"\xff\xfe", "it is UTF-16 ('Unicode text'): save it as 'CSV UTF-8'"),
    (b"\xfe\xff", "it is UTF-16 ('Unicode text'): save it as 'CSV UTF-8'"),
    (b"\x93NUMPY", "it is a NumPy array: name it .npy"),
    (b"PAR1", "it is a Parquet file: name it .parquet"),
    (b"SQLite format 3", "it is a database: export the table as CSV"),
    (b"\x89HDF", "it is an HDF5 file: save the table as .npy or CSV"),
)


def first_bytes(path: Path) -> bytes:
    """Return the first 512 bytes of a file."""
    with open(path, "rb") as file:
        return file.read(512)


def what_it_is(path: Path | None) -> str:
    """Say what a file that is not UTF-8 text seems to be, and what to do about it.

    Example:
        >>> what_it_is(None)
        "if it is a table, save it as 'CSV UTF-8'"
    """
    head = b"" if path is None else first_bytes(path)
    for start, kind in _KINDS:
        if head.startswith(start):
            return kind
    if head[1::2].count(0) > len(head) // 4 or head[0::2].count(0) > len(head) // 4:
        return "it may be UTF-16: save it as 'CSV UTF-8'"
    if sum(byte < 9 or 13 < byte < 32 for byte in head) > len(head) // 20:
        return "it is a binary file under a text file's name"
    return "if it is a table, save it as 'CSV UTF-8'"
