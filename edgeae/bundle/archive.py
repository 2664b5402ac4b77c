"""A strict reader of .zip files, for bundles and for the arrays in them.

Python's zipfile accepts what two readers may understand differently (comments that hide another directory, entries that
share bytes, names given twice, data in front), and takes memory for whatever the directory claims. Here the archive is
refused unless its directory, its local headers and its bytes agree and its members together stay within a budget; a
member is unpacked in memory, never to the disk. Layout: APPNOTE.TXT,
https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Mapping
from typing import BinaryIO, Final

from edgeae.bundle.names import check_name, is_litter
from edgeae.bundle.record import record
from edgeae.errors import BundleError

__all__ = ["MAX_RATIO", "Member", "pack_archive", "read_index", "read_member"]

MAX_ENTRIES: Final = 128
MAX_DIRECTORY: Final = 2**18

MAX_RATIO: Final = 100  # weights hardly shrink; a deflated bomb is 1,032 times smaller than what comes out of it

_END: Final = struct.Struct("<4s4H2IH")
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED: Final = 0x2041  # encrypted, strongly encrypted, directory encrypted
_SIZES_FOLLOW: Final = 0x0008
_UNIX: Final = 3
_ELSEWHERE: Final = 2**32 - 1  # a writer that left room for large sizes, as numpy.savez does
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)


@record(frozen=True)
class Member:
    """One file of an archive.

    Attributes:
        name: Its plain relative path.
        size: Bytes, as the directory declares; `read_member` holds them against what is there.
        packed: Bytes it takes in the archive, from `start`.
    """

    name: str
    size: int
    packed: int
    start: int
    method: int
    crc: int


@record(frozen=True)
class _Entry:
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int

    @property
    def name(self) -> str:
        return self.raw_name.decode("utf-8", "replace")


def read_index(file: BinaryIO, where: str, *, budget: int, ratio: int | None = None) -> dict[str, Member]:
    """Read and check what an archive holds.

    Args:
        file: Open for reading, seekable.
        where: What to call it in messages.
        budget: How many bytes all members may have together, unpacked.
        ratio: How many times larger than the archive they may be, the first MiB apart.

    Returns:
        The members by name, without folders and litter.

    Raises:
        BundleError: naming `where`, the member and what is wrong.
    """
    total = file.seek(0, io.SEEK_END)
    entries, directory_start = _read_directory(file, total, where)
    members: dict[str, Member] = {}
    seen: set[str] = set()
    end = 0
    for entry in sorted(entries, key=lambda each: each.offset):
        member = _member(file, entry, where)
        if entry.offset < end:
            raise _unreadable(where, f"{entry.name!r} shares bytes with another entry")
        end = member.start + member.packed
        if end > directory_start:
            raise _unreadable(where, f"{entry.name!r} reaches beyond the archive")
        if is_litter(entry.name.rstrip("/")):
            continue
        check_name(entry.name.removesuffix("/"), where)
        if entry.name.casefold() in seen:
            raise BundleError(f"{where}: holds {entry.name!r} twice; zip the files of one bundle again")
        seen.add(entry.name.casefold())
        if entry.name.endswith("/"):
            if entry.size:
                raise _unreadable(where, f"the folder {entry.name!r} has content")
            continue
        members[entry.name] = member
    unpacked = sum(member.size for member in members.values())
    allowed = budget if ratio is None else min(budget, ratio * total + 2**20)
    if unpacked > allowed:
        raise BundleError(
            f"{where}: would unpack to {unpacked:,} bytes, more than the {allowed:,} that a file of its size may; "
            "it is damaged or made to fill the memory"
        )
    return members


def read_member(file: BinaryIO, member: Member, where: str) -> bytes:
    """Unpack one member in memory.

    Raises:
        BundleError: if its bytes are not the ones that the directory declares.
    """
    file.seek(member.start)
    data = file.read(member.packed)
    complete = True
    if member.method == _DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(data, member.size + 1)
        except zlib.error:
            data = b""
        complete = unpacker.eof and not unpacker.unused_data
    if not complete or len(data) != member.size:
        raise _unreadable(where, f"{member.name!r} does not unpack to the {member.size} bytes that it declares")
    if zlib.crc32(data) != member.crc:
        raise _unreadable(where, f"{member.name!r} has another checksum than it declares")
    return data


def pack_archive(files: Mapping[str, bytes]) -> bytes:
    """Return a .zip file of `files`; the same files give the same bytes.

    Files that deflate shrinks so much that a reader would take them for a bomb, such as weights that are nearly all
    zero, are stored as they are.
    """
    deflated = _pack(files, compress=True)
    unpacked = sum(map(len, files.values()))
    return _pack(files, compress=False) if unpacked > MAX_RATIO * len(deflated) else deflated


def _pack(files: Mapping[str, bytes], *, compress: bool) -> bytes:
    import zipfile  # here, since a process that only reads bundles starts faster without it

    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=_EARLIEST), data, method)
    return buffer.getvalue()


def _unreadable(where: str, reason: str) -> BundleError:
    return BundleError(f"{where}: not a readable .zip file: {reason}; copy it again, or zip its files again")


def _read_directory(file: BinaryIO, total: int, where: str) -> tuple[list[_Entry], int]:
    """Return the entries of the central directory, and where it starts."""
    file.seek(0)
    if file.read(2) != b"PK":
        raise _unreadable(where, "it does not start like one")
    file.seek(max(0, total - _END.size))
    tail = file.read(_END.size)
    if len(tail) < _END.size or not tail.startswith(b"PK\5\6") or tail[-2:] != b"\0\0":
        raise _unreadable(where, "it is cut off, or has a comment or other data behind its end")
    _, disk, start_disk, here, count, size, start, _ = _END.unpack(tail)
    if disk or start_disk or here != count or start + size != total - _END.size:
        raise _unreadable(where, "its directory is not where it says (several parts, zip64, or data in front?)")
    if count > MAX_ENTRIES or size > MAX_DIRECTORY:
        raise _unreadable(where, f"{count} entries in {size} bytes, allowed are {MAX_ENTRIES} in {MAX_DIRECTORY}")
    file.seek(start)
    directory, place, entries = file.read(size), 0, []
    for _ in range(count):
        if len(directory) - place < _ENTRY.size:
            raise _unreadable(where, "its directory is cut off")
        (mark, made_by, _, flags, method, _, _, crc, packed, full, name, extra, comment, disk, _, mode, offset) = (
            _ENTRY.unpack_from(directory, place)
        )
        place += _ENTRY.size
        raw_name = directory[place : place + name]
        place += name + extra + comment
        if mark != b"PK\1\2" or place > size or disk:
            raise _unreadable(where, "its directory is damaged")
        unix_mode = mode >> 16 if made_by >> 8 == _UNIX else 0
        entries.append(_Entry(raw_name, flags, method, crc, packed, full, unix_mode, offset))
    if place != size:
        raise _unreadable(where, "its directory holds more than its entries")
    return entries, start


def _member(file: BinaryIO, entry: _Entry, where: str) -> Member:
    """Hold an entry against its local header."""
    file.seek(entry.offset)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size:
        raise _unreadable(where, f"{entry.name!r} reaches beyond the archive")
    mark, _, flags, method, _, _, crc, packed, size, name, extra = _LOCAL.unpack(head)
    if (entry.flags | flags) & _ENCRYPTED:
        raise _unreadable(where, f"{entry.name!r} is encrypted")
    if entry.method not in (_STORED, _DEFLATED):
        raise _unreadable(where, f"{entry.name!r} is packed by a method other than deflate")
    if stat.S_IFMT(entry.mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _unreadable(where, f"{entry.name!r} is a link or a device, not a regular file")
    same = mark == b"PK\3\4" and method == entry.method and file.read(name) == entry.raw_name
    if not flags & _SIZES_FOLLOW:
        sizes = {(entry.packed, entry.size), (_ELSEWHERE, _ELSEWHERE)}
        same = same and crc == entry.crc and (packed, size) in sizes
    if not same or (entry.method == _STORED and entry.packed != entry.size):
        raise _unreadable(where, f"{entry.name!r} is another in its place than in the directory")
    start = entry.offset + _LOCAL.size + name + extra
    return Member(entry.name, entry.size, entry.packed, start, entry.method, entry.crc)
