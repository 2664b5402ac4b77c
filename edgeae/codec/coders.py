"""How numbers become few bytes: zstd over symbols of 2, 4 or 8 bits, byte planes, and positions as gaps.

Quantised latents are within 1 to 5 % of their order-0 entropy this way (10 % at 2 bits), so there is no entropy coder
of our own; `python -m benchmarks.compression` prints the figures.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np

from edgeae.errors import IntegrityError, MissingPackageError

try:
    import zstandard
except ImportError as problem:
    raise MissingPackageError(
        "compressed latents need the package zstandard; install it with: pip install 'edgeae[codec]'"
    ) from problem

__all__ = ["Array", "Coder", "Cursor"]

Array = np.ndarray[Any, Any]

STORED: Final = 0
ZSTD: Final = 1
DENSE: Final = 0
SPARSE: Final = 1
WIDTHS: Final = (2, 4, 8)  # bits of a symbol
SPARSE_SHARE: Final = 0.25  # of numbers that are not zero, above which positions never pay
SAMPLE: Final = 2**13  # bytes
HOPELESS: Final = 0.995  # of a sample's size, above which a block is stored as it is
_BLOCK: Final = struct.Struct("<BI")
_COUNT: Final = struct.Struct("<I")


class Coder:
    """Packs numbers; belongs to one thread at a time.

    Example:
        >>> data = Coder().integers(np.array([0, 0, -3, 300]))
        >>> Cursor(data, "example").integers(4)
        array([  0,   0,  -3, 300], dtype=int32)
    """

    def __init__(self, level: int = 1) -> None:
        """Take zstd's level: 1 is the fastest; higher ones gain little on latents, and something on residuals."""
        self._zstd = zstandard.ZstdCompressor(level=level)

    def block(self, data: bytes | memoryview, before: bytes = b"") -> bytes:
        """Pack bytes, whose number the reader knows: method, size, and the bytes as they are or as one zstd frame.

        Args:
            data: The bytes.
            before: What goes in front of it all.
        """
        sample = data[:SAMPLE]
        if len(data) > 4 * SAMPLE and len(self._zstd.compress(sample)) > HOPELESS * SAMPLE:
            return b"".join((before, _BLOCK.pack(STORED, len(data)), data))  # the noise of mantissas: no time for that
        coded = self._zstd.compress(data)
        if len(coded) >= len(data):
            return b"".join((before, _BLOCK.pack(STORED, len(data)), data))
        return b"".join((before, _BLOCK.pack(ZSTD, len(coded)), coded))

    def symbols(self, symbols: Array) -> bytes:
        """Pack uint8 [n] as symbols of 2, 4 or 8 bits, whichever becomes smallest."""
        largest = int(symbols.max(initial=0))
        tried = [self.block(_pack(symbols, width), bytes([width])) for width in WIDTHS if largest < 2**width]
        return min(tried, key=len)

    def planes(self, words: Array) -> bytes:
        """Pack unsigned words [n]: the lowest byte of each, then the next byte of each, and so on."""
        plain = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, words.itemsize)
        return b"".join(self.block(plane.tobytes()) for plane in plain.T)

    def positions(self, positions: Array) -> bytes:
        """Pack ascending positions [n]: how many, and the gaps between them as bytes, 255 for 255 and more."""
        if not len(positions):
            return _COUNT.pack(0) + _COUNT.pack(0) + self.symbols(np.empty(0, np.uint8))
        gaps: Array = np.diff(positions.astype(np.int64), prepend=-1) - 1
        ends = np.cumsum(gaps // 255 + 1) - 1
        data = np.full(ends[-1] + 1, 255, np.uint8)
        data[ends] = np.remainder(gaps, 255)
        return _COUNT.pack(len(positions)) + _COUNT.pack(len(data)) + self.symbols(data)

    def integers(self, values: Array) -> bytes:
        """Pack int32 [n], dense, or as positions and values of those that are not zero if that is smaller."""
        best = bytes([DENSE]) + self._dense(values)
        if np.count_nonzero(values) <= SPARSE_SHARE * len(values):
            places = np.flatnonzero(values)
            best = min(best, bytes([SPARSE]) + self.positions(places) + self._dense(values[places]), key=len)
        return best

    def _dense(self, values: Array) -> bytes:
        signed = values.astype(np.int32)
        folded = ((signed << 1) ^ (signed >> 31)).view(np.uint32)
        largest = int(folded.max(initial=0))
        planes = next(count for count in (0, 1, 2, 3, 4) if largest < 256**count)
        return bytes([planes]) + b"".join(
            self.symbols((folded >> (8 * plane)).astype(np.uint8)) for plane in range(planes)
        )


class Cursor:
    """Unpacks what `Coder` packed, from start to end; allocates nothing that its caller has not asked for.

    Every method raises IntegrityError for bytes that no `Coder` writes.
    """

    def __init__(self, data: bytes, where: str) -> None:
        """Take the bytes and a name for messages."""
        self._data = data
        self._at = 0
        self._where = where
        self._zstd = zstandard.ZstdDecompressor()

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise self.wrong("ends within a block")
        self._at += size
        return part

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def count(self, limit: int) -> int:
        """Return the next number, which may not be above `limit`."""
        number: int = _COUNT.unpack(self.take(_COUNT.size))[0]
        if number > limit:
            raise self.wrong(f"counts {number} where at most {limit} can be")
        return number

    def block(self, size: int) -> bytes:
        """Return the next block, which must hold exactly `size` bytes."""
        method, coded = _BLOCK.unpack(self.take(_BLOCK.size))
        data = self.take(coded)
        if method == ZSTD:
            try:
                if zstandard.frame_content_size(data) != size:
                    raise self.wrong("holds a block of another size")
                data = self._zstd.decompress(data, max_output_size=size, allow_extra_data=False)
            except zstandard.ZstdError as problem:
                raise self.wrong(f"holds a block that zstd refuses ({problem})") from None
        if method not in (STORED, ZSTD) or len(data) != size:
            raise self.wrong("holds a block of another size or method")
        return data

    def symbols(self, count: int) -> Array:
        """Return uint8 [count]."""
        width = self.byte()
        if width not in WIDTHS:
            raise self.wrong(f"has symbols of {width} bits")
        each = 8 // width
        return _unpack(np.frombuffer(self.block(-(-count // each)), np.uint8), width, count)

    def planes(self, count: int, word: np.dtype[Any]) -> Array:
        """Return words [count] of an unsigned type."""
        plain = np.empty((count, word.itemsize), np.uint8)
        for plane in range(word.itemsize):
            plain[:, plane] = np.frombuffer(self.block(count), np.uint8)
        return plain.reshape(-1).view(word.newbyteorder("<")).astype(word, copy=False)

    def positions(self, total: int) -> Array:
        """Return ascending positions below `total`."""
        count = self.count(total)
        data = self.symbols(self.count(count + total // 255))
        ends = np.flatnonzero(data != 255)
        if len(ends) != count or (len(data) and data[-1] == 255):
            raise self.wrong("has gaps that do not fit their count")
        places = np.cumsum(data, dtype=np.int64)[ends] + np.arange(count)
        if count and places[-1] >= total:
            raise self.wrong("has positions beyond the rows")
        return places

    def integers(self, count: int) -> Array:
        """Return int32 [count]."""
        kind = self.byte()
        if kind == DENSE:
            return self._dense(count)
        if kind != SPARSE:
            raise self.wrong(f"has numbers of kind {kind}")
        values = np.zeros(count, np.int32)
        places = self.positions(count)
        values[places] = self._dense(len(places))
        return values

    def end(self) -> None:
        """Refuse bytes that nothing has asked for."""
        if self._at != len(self._data):
            raise self.wrong("has bytes behind its last block")

    def wrong(self, what: str) -> IntegrityError:
        """Return the error that says what is wrong with the bytes."""
        return IntegrityError(f"{self._where} {what}; it was not written by a sound writer: write the file again")

    def _dense(self, count: int) -> Array:
        planes = self.byte()
        if planes > 4:
            raise self.wrong(f"has numbers of {planes} bytes")
        folded = np.zeros(count, np.uint32)
        for plane in range(planes):
            folded |= self.symbols(count).astype(np.uint32) << np.uint32(8 * plane)
        return (folded >> np.uint32(1)).view(np.int32) ^ -(folded & np.uint32(1)).view(np.int32)


def _pack(symbols: Array, width: int) -> bytes | memoryview:
    """Return symbols of `width` bits, the first one in the lowest bits of the first byte."""
    each = 8 // width
    if each == 1:
        return np.ascontiguousarray(symbols).data
    padded = np.zeros(-(-len(symbols) // each) * each, np.uint8)
    padded[: len(symbols)] = symbols
    packed = np.zeros(len(padded) // each, np.uint8)
    for place in range(each):
        packed |= padded[place::each] << (place * width)
    return packed.tobytes()


def _unpack(packed: Array, width: int, count: int) -> Array:
    each = 8 // width
    if each == 1:
        return packed
    symbols = np.empty(len(packed) * each, np.uint8)
    for place in range(each):
        symbols[place::each] = (packed >> (place * width)) & (2**width - 1)
    return symbols[:count]
