"""The bytes of a latent file (.eae): header, chunk headers, index and end; export/FORMAT.md specifies them.

Nothing here knows what a chunk's payload means. Every integer is little-endian, and every structure ends with a CRC-32
that starts from the file's random id, so that neither a flipped bit nor a piece of another file goes unseen: a CRC-32
finds every error of up to 32 bits in a row.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from edgeae.errors import InputError, IntegrityError

__all__ = [
    "BOUNDS",
    "CHUNK_BYTES",
    "DTYPES",
    "END_BYTES",
    "ENTRY",
    "HEADER_BYTES",
    "INDEX_HEAD",
    "INDEX_TAG",
    "Bound",
    "ChunkHead",
    "End",
    "Header",
    "most_rows",
    "pack_index",
    "payload_limit",
]

# A high bit, both kinds of line end and ^Z, as in PNG: whatever treats the file as text spoils the first eight bytes.
MAGIC: Final = b"\x89EAE\r\n\x1a\n"
END_MAGIC: Final = b"\x89EAE.end"
VERSION: Final = 1
CHUNK_TAG: Final = b"CHNK"
INDEX_TAG: Final = b"INDX"

Bound = Literal["none", "max-error", "max-mse", "lossless"]
BOUNDS: Final[tuple[Bound, ...]] = get_args(Bound)
DTYPES: Final = ("float32", "uint8")
BITS: Final = (2, 3, 4, 5, 6, 7, 8, 16, 32)
PRECISIONS: Final = ("fp32", "fp16", "int8")
MAX_AXES: Final = 4
MAX_VALUES: Final = 2**24  # in a row or a latent, as in a bundle
CHUNK_VALUES: Final = 2**24  # of latents, or of rows, in a chunk of more than one row

_HEADER: Final = struct.Struct("<8sHBBBBHI4IId8s16s32sI")
_CHUNK: Final = struct.Struct("<4sIQIIIII")
_CRC: Final = struct.Struct("<I")
INDEX_HEAD: Final = struct.Struct("<4sI")
ENTRY: Final = struct.Struct("<QQ")
_END: Final = struct.Struct("<QQII")

HEADER_BYTES: Final = _HEADER.size + _CRC.size
CHUNK_BYTES: Final = _CHUNK.size + _CRC.size
END_BYTES: Final = _END.size + _CRC.size + len(END_MAGIC)


@dataclass(frozen=True)
class Header:
    """What a file is.

    Attributes:
        file_id: 16 random bytes.
        digest: SHA-256 of the decoder's graph without its metadata, 32 bytes.
        precision: Which of the bundle's graphs wrote it.
        latent_dim: Values in a latent.
        shape: Of one row.
        dtype: Of the rows: "float32" or "uint8".
        bits: Of a stored latent value: 32 and 16 are floats, 2 to 8 whole numbers.
        bound: What is promised of the rows.
        value: Its number: the largest error of a value, or the largest mean squared error of a chunk; else 0.
    """

    file_id: bytes
    digest: bytes
    precision: str
    latent_dim: int
    shape: tuple[int, ...]
    dtype: str
    bits: int
    bound: Bound = "none"
    value: float = 0.0

    @property
    def row_values(self) -> int:
        """Values in a row."""
        return math.prod(self.shape)

    def check(self, where: str) -> Header:
        """Return the header itself if it makes sense.

        Raises:
            InputError: if a field is out of its range.
        """
        ranges = {
            "file_id": len(self.file_id) == 16,
            "digest": len(self.digest) == 32,
            "precision": self.precision in PRECISIONS,
            "latent_dim": 1 <= self.latent_dim <= MAX_VALUES,
            "shape": 1 <= len(self.shape) <= MAX_AXES
            and all(1 <= size <= MAX_VALUES for size in self.shape)
            and self.row_values <= MAX_VALUES,
            "dtype": self.dtype in DTYPES,
            "bits": self.bits in BITS,
            "bound": self.bound in BOUNDS,
            "value": math.isfinite(self.value) and (self.value > 0) is (self.bound in ("max-error", "max-mse")),
        }
        for name, right in ranges.items():
            if not right:
                raise InputError(f"{where}: {name} {getattr(self, name)!r} is not what a latent file may have")
        return self

    def pack(self) -> bytes:
        """Return its HEADER_BYTES bytes."""
        axes = (*self.shape, *(0,) * (MAX_AXES - len(self.shape)))
        data = _HEADER.pack(
            MAGIC,
            VERSION,
            self.bits,
            BOUNDS.index(self.bound),
            DTYPES.index(self.dtype),
            len(self.shape),
            0,
            self.latent_dim,
            *axes,
            0,
            self.value,
            self.precision.encode().ljust(8, b"\0"),
            self.file_id,
            self.digest,
            0,
        )
        return data + _CRC.pack(zlib.crc32(data))

    @staticmethod
    def unpack(data: bytes, where: str) -> Header:
        """Read it from HEADER_BYTES bytes.

        Raises:
            InputError: if it is another kind of file, or of a version that is not known.
            IntegrityError: if the bytes are damaged, or fewer.
        """
        if not MAGIC.startswith(data[: len(MAGIC)]) or not data:
            mangled = data[:4].replace(b"\t", b"\x89")[1:4] == b"EAE"
            hint = "a latent file that was copied as text; copy it as binary" if mangled else "no latent file (.eae)"
            raise InputError(f"{where}: {hint if data else 'is empty'}")
        if len(data) < HEADER_BYTES:
            raise IntegrityError(f"{where}: cut short after {len(data)} bytes, within its header; no rows are in it")
        version = int.from_bytes(data[8:10], "little")
        if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
            raise IntegrityError(f"{where}: its header is damaged; copy the file again")
        if version != VERSION:
            raise InputError(f"{where}: format version {version}; this edgeae reads {VERSION}: upgrade it")
        _, _, bits, bound, dtype, rank, zero, latent_dim, a, b, c, d, none, value, name, file_id, digest, nothing = (
            _HEADER.unpack_from(data)
        )
        axes = (a, b, c, d)
        if zero or none or nothing or bound >= len(BOUNDS) or dtype >= len(DTYPES) or any(axes[rank:]):
            raise InputError(f"{where}: its header has values that this edgeae does not know; upgrade it")
        try:
            precision = name.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError:
            precision = ""
        return Header(
            file_id, digest, precision, latent_dim, axes[:rank], DTYPES[dtype], bits, BOUNDS[bound], value
        ).check(where)


@dataclass(frozen=True)
class ChunkHead:
    """What stands before a chunk's payload.

    Attributes:
        number: Of the chunk, from 0.
        first: Number of its first row.
        rows: How many there are, at least 1.
        size: Bytes of the payload.
        unknown: How many of the rows are anomalies to the model.
        payload_crc: CRC-32 of the payload.
        decoded_crc: CRC-32 of the rows that must come out, where the file promises something about them; else 0.
    """

    number: int
    first: int
    rows: int
    size: int
    unknown: int
    payload_crc: int
    decoded_crc: int

    def pack(self, file_id: bytes) -> bytes:
        """Return its CHUNK_BYTES bytes."""
        data = _CHUNK.pack(
            CHUNK_TAG,
            self.number,
            self.first,
            self.rows,
            self.size,
            self.unknown,
            self.payload_crc,
            self.decoded_crc,
        )
        return data + _CRC.pack(zlib.crc32(data, zlib.crc32(file_id)))

    @staticmethod
    def unpack(data: bytes, header: Header, number: int, first: int, where: str) -> ChunkHead:
        """Read it from CHUNK_BYTES bytes: that of chunk `number`, with row `first` first.

        Raises:
            IntegrityError: if it is damaged, or that of another chunk or file, or larger than a chunk may be.
        """
        place = f"{where}: chunk {number} (from row {first})"
        checked = zlib.crc32(data[: _CHUNK.size], zlib.crc32(header.file_id))
        if len(data) != CHUNK_BYTES or data[:4] != CHUNK_TAG or _CRC.unpack_from(data, _CHUNK.size)[0] != checked:
            raise IntegrityError(f"{place} is damaged or cut short; read what is before it with recover (--recover)")
        head = ChunkHead(*_CHUNK.unpack_from(data)[1:])
        if (head.number, head.first) != (number, first):
            raise IntegrityError(f"{place} is missing: chunk {head.number} (from row {head.first}) is in its place")
        if not 1 <= head.rows <= most_rows(header) or head.size > payload_limit(header, head.rows):
            raise IntegrityError(f"{place} has {head.rows} rows in {head.size} bytes, more than a chunk may have")
        if head.unknown > head.rows:
            raise IntegrityError(f"{place} has {head.unknown} anomalies among {head.rows} rows")
        return head


@dataclass(frozen=True)
class End:
    """The last END_BYTES bytes of a file: where the index is.

    Attributes:
        rows: In all chunks.
        index_offset: Where the index begins.
        chunks: How many there are.
        index_crc: CRC-32 of the index.
    """

    rows: int
    index_offset: int
    chunks: int
    index_crc: int

    @property
    def index_size(self) -> int:
        """Bytes of the index."""
        return INDEX_HEAD.size + ENTRY.size * self.chunks

    def pack(self, file_id: bytes) -> bytes:
        """Return its END_BYTES bytes."""
        data = _END.pack(self.rows, self.index_offset, self.chunks, self.index_crc)
        return data + _CRC.pack(zlib.crc32(data, zlib.crc32(file_id))) + END_MAGIC

    @staticmethod
    def unpack(data: bytes, file_id: bytes, where: str) -> End:
        """Read it from END_BYTES bytes.

        Raises:
            IntegrityError: if they are something else.
        """
        right = len(data) == END_BYTES and data.endswith(END_MAGIC)
        checked = zlib.crc32(data[: _END.size], zlib.crc32(file_id))
        if not right or _CRC.unpack_from(data, _END.size)[0] != checked:
            raise IntegrityError(
                f"{where}: its end is missing or damaged: it was cut short, or is being written; read what is whole "
                "with recover (--recover), or go on writing it with append (--append)"
            )
        return End(*_END.unpack_from(data))


def pack_index(entries: Iterable[tuple[int, int]], count: int) -> bytes:
    """Return the index of `count` chunks that lie at these offsets, with these first rows."""
    return INDEX_HEAD.pack(INDEX_TAG, count) + b"".join(ENTRY.pack(*entry) for entry in entries)


def most_rows(header: Header) -> int:
    """Return how many rows a chunk may have."""
    return max(1, CHUNK_VALUES // max(header.latent_dim, header.row_values))


def payload_limit(header: Header, rows: int) -> int:
    """Return how many bytes the payload of so many rows may have; coded at its worst it has fewer."""
    return 4096 + 64 * header.latent_dim + 16 * rows * (header.latent_dim + header.row_values)
