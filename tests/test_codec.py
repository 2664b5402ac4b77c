"""Latent files as bytes: damage of every kind is seen, what is whole is recovered, and writing goes on after a kill."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import pytest

pytest.importorskip("zstandard", reason="needs zstandard: pip install 'edgeae[codec]'")

import edgeae
from edgeae.bundle import Bundle
from edgeae.codec import LatentReader, LatentWriter
from edgeae.codec.format import CHUNK_BYTES, END_BYTES, HEADER_BYTES, ChunkHead, End, Header, most_rows, payload_limit
from edgeae.errors import InputError, IntegrityError
from edgeae.evaluation.rethreshold import with_thresholds
from tests.bundles import make_bundle

ROOT = Path(__file__).parents[1]
TABLE, DENSE = ROOT / "export" / "golden" / "table", ROOT / "export" / "golden" / "dense"
Array = np.ndarray[Any, Any]


class Pipe(io.RawIOBase):
    """Bytes that come once, a few at a time, and cannot be sought in."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part, self.rest = self.rest[: min(size, 100)], self.rest[min(size, 100) :]
        return part


@pytest.fixture(scope="module")
def model() -> Iterator[edgeae.Autoencoder]:
    with edgeae.load(TABLE, device="cpu", options={"workers": 1}) as loaded:
        yield loaded


def table_rows(model: edgeae.Autoencoder, n: int, seed: int = 0) -> Array:
    golden = model.bundle.golden().x
    rng = np.random.default_rng(seed)
    mixed = golden[rng.integers(0, len(golden), n)] + rng.normal(0, 0.3, (n, *model.input_shape))
    return mixed.astype(np.float32)


def written(model: edgeae.Autoencoder, parts: list[Array], **settings: Any) -> bytes:
    """Return a file with one chunk for each part."""
    buffer = io.BytesIO()
    with LatentWriter(buffer, model, **settings) as writer:
        for part in parts:
            writer.write(part)
            writer.flush()
    return buffer.getvalue()


def read_all(data: bytes, model: edgeae.Autoencoder | None, **settings: Any) -> Array:
    with LatentReader(io.BytesIO(data), model, **settings) as reader:
        return reader.read() if model is not None else reader.latents()


def piped(data: bytes, model: edgeae.Autoencoder, **settings: Any) -> tuple[Array, str | None]:
    reader = LatentReader(Pipe(data), model, **settings)  # type: ignore[arg-type]
    return reader.read(), reader.lost


SETTINGS: list[dict[str, Any]] = [
    *({"dtype": dtype} for dtype in ("float32", "float16", "int8", "int5", "int2")),
    {"max_error": 0.05},
    {"target_psnr": 30.0, "dtype": "int4"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_written_is_read_from_files_and_pipes_in_whole_and_in_parts(
    settings: dict[str, Any], model: edgeae.Autoencoder, tmp_path: Path
) -> None:
    x = table_rows(model, 1000)
    with LatentWriter(tmp_path / "rows.eae", model, **settings) as writer:
        for start, stop in ((0, 1), (1, 1), (1, 300), (300, 700), (700, 1000)):
            writer.write(x[start:stop])
            if stop % 200 == 100:
                writer.flush()
    report = writer.report()
    assert report.rows == 1000 and report.raw_bytes == x.nbytes
    assert report.coded_bytes + HEADER_BYTES + END_BYTES <= (tmp_path / "rows.eae").stat().st_size + HEADER_BYTES
    with LatentReader(tmp_path / "rows.eae", model) as reader:
        rows = reader.read()
        assert len(reader) == 1000 and rows.shape == x.shape and rows.dtype == np.float32
        blocks = list(reader)
        assert len(blocks) == 3 and np.array_equal(np.concatenate(blocks), rows)
        for start, stop in ((0, 0), (299, 301), (5, 6), (0, 1000), (650, 1000), (999, 1000)):
            assert np.array_equal(reader[start:stop], rows[start:stop])
            assert np.array_equal(reader.latents(start, stop), reader.latents()[start:stop])
        assert np.array_equal(reader[-1], rows[-1])
        with pytest.raises(IndexError):
            reader[1000]
        with pytest.raises(InputError, match="no such rows"):
            reader.read(0, 1001)
    data = (tmp_path / "rows.eae").read_bytes()
    assert np.array_equal(piped(data, model)[0], rows)
    if "dtype" in settings and "target_psnr" not in settings:
        z = model.encode(x)
        span = np.ptp(z, axis=0) / {"float32": 1e9, "float16": 500, "int8": 100, "int5": 10, "int2": 1}[report.dtype]
        assert (np.abs(read_all(data, None) - z) <= span + 1e-6).all()
        assert report.bound == "none" and report.unknown_rows is None
    elif "max_error" in settings:
        assert float(np.abs(rows.astype(np.float64) - x).max()) <= 0.05
        assert report.largest_error == pytest.approx(float(np.abs(rows.astype(np.float64) - x).max()))


def test_an_empty_file_is_a_file(model: edgeae.Autoencoder) -> None:
    data = written(model, [])
    assert len(data) == HEADER_BYTES + 8 + END_BYTES
    assert read_all(data, model).shape == (0, *model.input_shape)
    assert piped(data, model)[0].shape == (0, *model.input_shape)


def test_the_bytes_are_those_of_the_specification(model: edgeae.Autoencoder) -> None:
    """Read a file with nothing but struct, zlib and export/FORMAT.md."""
    x = table_rows(model, 5)
    data = written(model, [x[:3], x[3:]], max_error=0.25)
    assert data[:8] == b"\x89EAE\r\n\x1a\n"
    version, bits, bound, dtype, axes, zero, latent = struct.unpack_from("<HBBBBHI", data, 8)
    assert (version, bits, bound, dtype, axes, zero, latent) == (1, 8, 1, 0, 1, 0, model.latent_dim)
    assert struct.unpack_from("<4II", data, 20) == (*model.input_shape, 0, 0, 0, 0)
    value, precision, file_id, digest, nothing, crc = struct.unpack_from("<d8s16s32sII", data, 40)
    assert (value, precision, nothing) == (0.25, b"fp32\0\0\0\0", 0)
    assert digest == without_metadata((TABLE / "decoder.onnx").read_bytes()) and crc == zlib.crc32(data[:108])
    at, first, offsets = 112, 0, []
    for number, rows in enumerate((3, 2)):
        head = struct.unpack_from("<4sIQIIIIII", data, at)
        assert head[:4] == (b"CHNK", number, first, rows)
        assert head[8] == zlib.crc32(file_id + data[at : at + 36])
        payload = data[at + 40 : at + 40 + head[4]]
        assert head[6] == zlib.crc32(payload)
        assert head[7] == zlib.crc32(read_all(data, model)[first : first + rows].astype("<f4").tobytes())
        offsets.append((at, first))
        at, first = at + 40 + len(payload), first + rows
    index = struct.pack("<4sI", b"INDX", 2) + b"".join(struct.pack("<QQ", *entry) for entry in offsets)
    end = struct.pack("<QQII", 5, at, 2, zlib.crc32(file_id + index))
    assert data[at:] == index + end + struct.pack("<I", zlib.crc32(file_id + end)) + b"\x89EAE.end"


def without_metadata(graph: bytes) -> bytes:
    """Return the SHA-256 of an ONNX file without metadata, by another reader of it than the product's."""
    model = onnx.ModelProto.FromString(graph)
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).digest()


@pytest.fixture(scope="module")
def small(model: edgeae.Autoencoder) -> tuple[bytes, Array, list[int]]:
    """A file of two chunks, its rows, and how many of these there are before each chunk's end."""
    x = table_rows(model, 5)
    data = written(model, [x[:3], x[3:]], max_error=0.25)
    return data, read_all(data, model), [0, 3, 5]


def test_every_flipped_bit_is_seen(model: edgeae.Autoencoder, small: tuple[bytes, Array, list[int]]) -> None:
    data, rows, whole = small
    for bit in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises((InputError, IntegrityError)):
            read_all(bytes(spoilt), None)
        if bit % 11 == 0:
            with pytest.raises((InputError, IntegrityError)):
                piped(bytes(spoilt), model)
            if bit // 8 >= HEADER_BYTES:
                with LatentReader(io.BytesIO(spoilt), model, recover=True) as reader:
                    assert len(reader) in whole and reader.lost
                    assert np.array_equal(reader.read(), rows[: len(reader)])


def test_every_truncation_is_seen_and_recovered(
    model: edgeae.Autoencoder, small: tuple[bytes, Array, list[int]]
) -> None:
    data, rows, whole = small
    ends = [HEADER_BYTES]
    for _ in whole[1:]:
        ends.append(ends[-1] + CHUNK_BYTES + struct.unpack_from("<I", data, ends[-1] + 20)[0])
    for size in range(len(data)):
        torn = data[:size]
        with pytest.raises((InputError, IntegrityError)) as caught:
            read_all(torn, None)
        assert "\n" not in str(caught.value)
        if size < HEADER_BYTES:
            with pytest.raises((InputError, IntegrityError)):
                LatentReader(io.BytesIO(torn), recover=True)
            continue
        expected = whole[max(number for number, end in enumerate(ends) if end <= size)]
        with LatentReader(io.BytesIO(torn), recover=True) as reader:
            assert len(reader) == expected and reader.lost
            assert str(expected) in reader.lost or "its end" in reader.lost
        if size % 7 == 0:
            found, lost = piped(torn, model, recover=True)
            assert np.array_equal(found, rows[:expected]) and lost
            with pytest.raises(IntegrityError):
                piped(torn, model)


@pytest.mark.parametrize("where", ["begin", "middle", "end"])
def test_bytes_too_many_are_seen(where: str, small: tuple[bytes, Array, list[int]], model: edgeae.Autoencoder) -> None:
    data, rows, _ = small
    at = {"begin": HEADER_BYTES, "middle": HEADER_BYTES + 60, "end": len(data)}[where]
    longer = data[:at] + b"\0" + data[at:]
    with pytest.raises((InputError, IntegrityError)):
        read_all(longer, model)
    with pytest.raises((InputError, IntegrityError)):
        piped(longer, model)
    if where == "end":
        assert np.array_equal(read_all(longer, model, recover=True), rows)


def test_chunks_of_other_files_and_in_other_orders_are_seen(model: edgeae.Autoencoder) -> None:
    x = table_rows(model, 4)
    one, other = (written(model, [x[:2], x[2:]], dtype="float32") for _ in range(2))
    cut = HEADER_BYTES + CHUNK_BYTES + struct.unpack_from("<I", one, HEADER_BYTES + 20)[0]
    for spoilt in (one[:cut] + other[cut:], other[:HEADER_BYTES] + one[HEADER_BYTES:]):
        with pytest.raises(IntegrityError):
            read_all(spoilt, None)
        assert len(read_all(spoilt, None, recover=True)) in (0, 2)
    again = one[:cut] + one[HEADER_BYTES:cut] + one[cut:]
    assert len(read_all(again, None, recover=True)) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.replace(b"\r\n", b"\n"), "text|header"),
        (lambda data: data.replace(b"\n", b"\r\n"), "text|header"),
        (lambda data: bytes(byte & 127 for byte in data), "text"),
        (lambda data: b"", "empty"),
        (lambda data: b"PK\x03\x04" + data, "no latent file"),
    ],
)
def test_other_files_are_called_what_they_are(spoil: Any, message: str, small: tuple[bytes, Array, list[int]]) -> None:
    with pytest.raises((InputError, IntegrityError), match=message):
        read_all(spoil(small[0]), None)


def test_an_unknown_version_asks_for_an_upgrade(small: tuple[bytes, Array, list[int]]) -> None:
    data = bytearray(small[0])
    data[8] = 2
    data[108:112] = struct.pack("<I", zlib.crc32(data[:108]))
    with pytest.raises(InputError, match="upgrade"):
        read_all(bytes(data), None)


def test_absurd_lengths_allocate_nothing(small: tuple[bytes, Array, list[int]]) -> None:
    data = small[0]
    header = Header.unpack(data[:HEADER_BYTES], "x")
    most = most_rows(header)

    def with_head(rows: int, size: int, payload: bytes = b"") -> bytes:
        head = ChunkHead(0, 0, rows, size, 0, zlib.crc32(payload), 0)
        return data[:HEADER_BYTES] + head.pack(header.file_id) + payload

    def with_end(**fields: int) -> bytes:
        values = {"rows": 5, "index_offset": HEADER_BYTES, "chunks": 2, "index_crc": 0} | fields
        return data[:-END_BYTES] + End(**values).pack(header.file_id)

    bomb = b"\x20\x00" + b"\x01\x00\x01\x00\x00" * 4
    frame = b"\x28\xb5\x2f\xfd\xa0\xff\xff\xff\x7f\x01\x00\x00"  # zstd: 2 GiB are promised
    spoilt = [
        with_head(1, 2**32 - 1),
        with_head(2**32 - 1, 10),
        with_head(0, 0),
        with_head(most, payload_limit(header, most)),
        with_head(most, len(bomb), bomb),
        with_head(1, 5 + len(frame), struct.pack("<BI", 1, len(frame)) + frame),
        with_end(chunks=2**32 - 1),
        with_end(rows=2**64 - 1),
        with_end(index_offset=2**64 - 1),
    ]
    tracemalloc.start()
    try:
        for each in spoilt:
            for stream in (io.BytesIO(each), Pipe(each)):
                with pytest.raises((InputError, IntegrityError)):
                    list(LatentReader(stream).latent_blocks())  # type: ignore[arg-type]
            list(LatentReader(io.BytesIO(each[:-1]), recover=True).latent_blocks(0, 0))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_payload_that_no_writer_writes_is_refused_and_never_anything_else(
    model: edgeae.Autoencoder, small: tuple[bytes, Array, list[int]]
) -> None:
    """Mutate payloads and put the checksums right, as an attacker would."""
    from tests.fuzz.latents import mutate_file

    rng = random.Random(1)
    refused = 0
    for _ in range(400):
        try:
            read_all(mutate_file(small[0], rng), model, drift="warn")
        except (InputError, IntegrityError) as problem:
            refused += 1
            assert "\n" not in str(problem)
    assert refused > 200


def test_appending_goes_on_after_whole_and_after_torn_files(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "log.eae"
    x = table_rows(model, 60)
    for start in range(0, 30, 10):
        with LatentWriter(path, model, dtype="float32", append=True) as writer:
            writer.write(x[start : start + 10])
    with LatentReader(path, model) as reader:
        assert np.array_equal(reader.latents(), model.encode(x[:30]))
    whole = path.read_bytes()
    path.write_bytes(whole[: -END_BYTES - 60])  # within the third chunk, or its index
    kept = len(read_all(path.read_bytes(), None, recover=True))
    with LatentWriter(path, model, append=True) as writer:
        writer.write(x[kept:])
    with LatentReader(path, model) as reader:
        assert np.allclose(reader.latents(), model.encode(x)) and reader.header.file_id == whole[56:72]
    with LatentWriter(path, model, append=True):
        pass
    assert len(read_all(path.read_bytes(), None)) == 60
    path.write_bytes(b"")  # killed before the header
    with LatentWriter(path, model, append=True) as writer:
        writer.write(x)
    assert len(read_all(path.read_bytes(), None)) == 60


def test_appending_keeps_the_settings_of_the_file_and_refuses_others(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "log.eae"
    with LatentWriter(path, model, dtype="int6", max_error=0.5) as writer:
        writer.write(table_rows(model, 3))
    before = path.read_bytes()
    others: list[dict[str, Any]] = [{"dtype": "int8"}, {"max_error": 0.4}, {"lossless": True}, {"target_psnr": 30.0}]
    for settings in others:
        with pytest.raises(InputError, match="leave out"):
            LatentWriter(path, model, append=True, **settings)
    with edgeae.load(DENSE, device="cpu") as other, pytest.raises(InputError, match="another model"):
        LatentWriter(path, other, append=True)
    assert path.read_bytes() == before
    with LatentWriter(path, model, append=True, max_error=0.5, dtype="int6") as writer:
        writer.write(table_rows(model, 3))
    assert len(read_all(path.read_bytes(), model)) == 6


def test_another_model_is_refused(small: tuple[bytes, Array, list[int]]) -> None:
    with edgeae.load(DENSE, device="cpu") as other, pytest.raises(InputError, match="another model"):
        read_all(small[0], other)


def test_a_new_threshold_changes_nothing_and_another_decoder_is_refused(tmp_path: Path) -> None:
    make_bundle(tmp_path / "one")
    bundle = Bundle.read(tmp_path / "one")
    found = {kind: replace(entry.threshold, value=0.125) for kind, entry in bundle.manifest.precisions.items()}
    moved = with_thresholds(bundle, found, tmp_path / "moved")
    make_bundle(tmp_path / "other", seed=1)
    x = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    with edgeae.load(tmp_path / "one", device="cpu") as one, edgeae.load(tmp_path / "moved", device="cpu") as two:
        assert moved.digest != bundle.digest and two.threshold == 0.125 != one.threshold
        with LatentWriter(tmp_path / "x.eae", one, max_error=0.1) as writer:
            writer.write(x[:4])
        with LatentWriter(tmp_path / "x.eae", two, append=True) as writer:
            writer.write(x[4:])
        with LatentReader(tmp_path / "x.eae", one) as first, LatentReader(tmp_path / "x.eae", two) as second:
            assert np.array_equal(first.read(), second.read()) and len(first) == 9
    with edgeae.load(tmp_path / "other", device="cpu") as other, pytest.raises(InputError, match="another model"):
        LatentReader(tmp_path / "x.eae", other)


def test_an_existing_file_is_refused_or_replaced_at_the_end(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "rows.eae"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already"):
        LatentWriter(path, model)
    with pytest.raises(KeyError), LatentWriter(path, model, force=True) as writer:
        writer.write(table_rows(model, 3))
        writer.flush()
        assert path.read_bytes() == b"precious"
        raise KeyError
    assert path.read_bytes() == b"precious" and [each.name for each in tmp_path.iterdir()] == ["rows.eae"]
    with LatentWriter(path, model, force=True) as writer:
        writer.write(table_rows(model, 3))
    assert len(read_all(path.read_bytes(), model)) == 3
    with pytest.raises(InputError, match="does not exist"):
        LatentWriter(tmp_path / "no" / "x.eae", model)


def test_an_error_ends_a_new_file_properly(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "rows.eae"
    x = table_rows(model, 8)
    x[6, 2] = np.nan
    with pytest.raises(InputError, match="row 6, value 2 is nan"), LatentWriter(path, model, dtype="float32") as writer:
        writer.write(x[:5])
        writer.write(x[5:])
    assert len(read_all(path.read_bytes(), model)) == 5


def test_rows_that_cannot_be_taken_are_refused_by_the_very_call(
    model: edgeae.Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though chunks are encoded side by side, and their owner may change them after the call."""
    monkeypatch.setattr("edgeae.codec.latent_writer.VALUES", 8 * table_rows(model, 1).size)  # 8 rows a chunk
    x = table_rows(model, 400)
    path = tmp_path / "rows.eae"
    with LatentWriter(path, model, dtype="float32") as writer:  # integers lie on a grid of each chunk
        writer.write(x[:200])
        spoilt = x[200:].copy()
        spoilt[150, 2] = np.nan
        with pytest.raises(InputError, match="row 350, value 2 is nan"):
            writer.write(spoilt)
        kept = writer.rows
        assert 200 <= kept <= 350
        given = x[kept:].copy()
        writer.write(given)
        given[:] = np.nan  # theirs again
    np.testing.assert_allclose(read_all(path.read_bytes(), model), model.reconstruct(x), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_two_writers_do_not_meet(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "log.eae"
    with LatentWriter(path, model) as writer:
        writer.write(table_rows(model, 2))
        writer.flush()
        with pytest.raises(InputError, match="another process"):
            LatentWriter(path, model, append=True)


CHILD = """
import sys
import numpy as np
import edgeae
from edgeae.codec import LatentWriter
with edgeae.load(sys.argv[1], device="cpu") as model, LatentWriter(sys.argv[2], model, dtype="float32") as writer:
    x = np.load(sys.argv[3])
    for start in range(0, 10**9, 7):
        writer.write(x[np.arange(start, start + 7) % len(x)])
        writer.flush()
        print(start + 7, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killing_the_writer_loses_the_chunk_in_flight_at_most(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "log.eae"
    x = table_rows(model, 50)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", CHILD, str(TABLE), str(path), str(tmp_path / "x.npy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 70:
                os.kill(child.pid, signal.SIGKILL)
                break
        told = max([int(line), *(int(rest) for rest in child.stdout.read().split())])
    with LatentReader(path, model, recover=True) as reader:
        kept = len(reader)
        assert told <= kept <= told + 7 and kept % 7 == 0 and reader.lost
        assert np.allclose(reader.latents(), model.encode(x[np.arange(kept) % len(x)]), atol=1e-5)
    with LatentWriter(path, model, append=True) as writer:
        writer.write(x)
    with LatentReader(path, model) as reader:
        assert len(reader) == kept + 50 and np.allclose(reader.latents(kept), model.encode(x), atol=1e-5)


def test_a_writer_that_cannot_write_says_so(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError), LatentWriter(full, model) as writer:
        writer.write(table_rows(model, 3))
    (tmp_path / "full.eae").symlink_to("/dev/full")
    with pytest.raises(InputError, match="regular file"):
        LatentWriter(tmp_path / "full.eae", model, force=True)


@pytest.mark.parametrize("settings", [{"dtype": "int8"}, {"max_error": 0.5}], ids=str)
def test_memory_stays_flat(settings: dict[str, Any], model: edgeae.Autoencoder, tmp_path: Path) -> None:
    x = table_rows(model, 2**14)

    def peak(repeat: int) -> int:
        tracemalloc.start()
        try:
            with LatentWriter(tmp_path / "rows.eae", model, force=True, **settings) as writer:
                for _ in range(repeat):
                    writer.write(x)
            with LatentReader(tmp_path / "rows.eae", model) as reader:
                assert sum(len(block) for block in reader) == repeat * len(x)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # How many chunks are under way at once differs with the machine's mood; the least of some runs does not.
    few, many = (min(peak(repeat) for _ in range(3)) for repeat in (20, 80))
    assert many < 1.2 * few + 2**20


def test_without_zstandard_the_error_names_the_command() -> None:
    code = (
        "import sys\nsys.modules['zstandard'] = None\nimport edgeae\n"
        "try:\n    import edgeae.codec\nexcept edgeae.MissingPackageError as problem:\n    print(problem)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "pip install 'edgeae[codec]'" in done.stdout, done.stderr


def test_a_stream_takes_no_append_and_is_read_once(model: edgeae.Autoencoder) -> None:
    stream: BinaryIO = io.BytesIO()
    with pytest.raises(InputError, match="append needs a file"):
        LatentWriter(stream, model, append=True)
    reader = LatentReader(Pipe(written(model, [table_rows(model, 2)])), model)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a pipe does not say"):
        len(reader)
    list(reader)
    with pytest.raises(InputError, match="once"):
        list(reader)
