"""Known ways into a program by a bundle: each ends in a named error, in a child with 200 MiB to spare."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeae.bundle import Bundle
from edgeae.bundle.archive import MAX_RATIO, pack_archive, read_index, read_member
from edgeae.bundle.arrays import read_arrays
from edgeae.bundle.manifest import Manifest
from edgeae.errors import BundleError
from tests.fuzz.opener import Opener
from tests.fuzz.run import fuzz_bundles
from tests.fuzz.spoil import GOLDEN, Parts, mutate_plain, pack
from tests.mistakes import ARRAYS, FILES, MANIFESTS, PATHS, ZIPS, npy
from tests.test_guard import KNOWN
from tests.wrong import plain_parts

SMALL = GOLDEN / "table-far"


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    with Opener() as opener:
        yield opener


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Return the parts of a bundle of rows of 4 and latents of 4, the shapes of the guard's known ways in."""
    return plain_parts(tmp_path_factory.mktemp("plain") / "bundle")


def refused(opener: Opener, path: Path, reason: str) -> None:
    """Check that opening `path` ends in one line that names it and says why."""
    outcome = opener.open(path)
    assert outcome.verdict.startswith(("refused BundleError", "refused IntegrityError")), outcome
    assert reason in outcome.verdict, outcome


# --- graphs -------------------------------------------------------------------------------------------------------


def as_encoder(data: bytes) -> bytes:
    """Call the output of a graph z, as an encoder's is, unless it is no graph that onnx can read."""
    try:
        model = onnx.load_from_string(data)
    except Exception:  # protobuf's errors share no base class
        return data
    for node in model.graph.node:
        node.input[:] = ["z" if name == "y" else name for name in node.input]
        node.output[:] = ["z" if name == "y" else name for name in node.output]
    for output in model.graph.output:
        output.name = "z"
    renamed: bytes = model.SerializeToString()
    return renamed


@pytest.mark.parametrize("name", KNOWN)
def test_graphs(name: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    make, reason = KNOWN[name]
    made = make()
    data = made if len(made) > 10**6 else as_encoder(made)
    refused(opener, plain.with_file("encoder.onnx", data).write(tmp_path / "bundle"), reason)


def test_external_data_beside_the_graph(plain: Parts, opener: Opener, tmp_path: Path) -> None:
    model = onnx.load_from_string(plain.files["encoder.onnx"])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    parts = plain.with_file("encoder.onnx", model.SerializeToString())
    parts.write(tmp_path / "bundle")
    refused(opener, tmp_path / "bundle", "external data")
    (tmp_path / "bundle" / "weights.bin").symlink_to("/dev/zero")
    refused(opener, tmp_path / "bundle", "weights.bin: is a link")


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["encoder.onnx", "golden.npz", "manifest.json"])
@pytest.mark.parametrize("what", FILES)
def test_what_is_no_regular_file(what: str, name: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    make, reason = FILES[what]
    path = plain.write(tmp_path / "bundle") / name
    path.unlink()
    make(path)
    if name == "manifest.json" and what == "nothing":
        reason = "not a bundle"
    if name == "manifest.json" and what == "a folder":
        reason = "holds no manifest.json"
    refused(opener, tmp_path / "bundle", reason)


def test_bundles_that_are_no_regular_file(opener: Opener, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    refused(opener, tmp_path / "pipe.zip", "is not a regular file")
    refused(opener, Path("/dev/zero"), "is not a regular file")
    (tmp_path / "loop").symlink_to("loop")
    refused(opener, tmp_path / "loop", "cannot be read")
    for name in ("a" * 5000, "nul\0"):
        with pytest.raises(BundleError, match="cannot be read"):
            Bundle.read(tmp_path / name)


def test_a_folder_behind_a_link(opener: Opener, tmp_path: Path) -> None:
    Parts.of(GOLDEN / "table").write(tmp_path / "bundle")
    (tmp_path / "bundle" / "fp16").rename(tmp_path / "elsewhere")
    (tmp_path / "bundle" / "fp16").symlink_to(tmp_path / "elsewhere")
    refused(opener, tmp_path / "bundle", "is a link")


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_files_that_the_manifest_does_not_list(suffix: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / f"bundle{suffix}"
    extra = {"weights.bin": b"x", "int8/libcustom.so": b"y"}
    refused(opener, Parts(plain.manifest, {**plain.files, **extra}).write(path), "int8/libcustom.so, weights.bin")


def test_too_many_files(plain: Parts, opener: Opener, tmp_path: Path) -> None:
    extra = {f"f{number}": b"" for number in range(200)}
    refused(opener, Parts(plain.manifest, {**plain.files, **extra}).write(tmp_path / "b"), "more than 128 files")
    refused(opener, Parts(plain.manifest, {**plain.files, **extra}).write(tmp_path / "b.zip"), "allowed are 128")


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_what_desktops_leave_is_passed_over(suffix: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    litter = {".DS_Store": b"x", "._encoder.onnx": b"x", "Thumbs.db": b"x", "__MACOSX/._golden.npz": b"x"}
    path = Parts(plain.manifest, {**plain.files, **litter}).write(tmp_path / f"bundle{suffix}")
    assert opener.open(path).verdict == "ran"


# --- manifests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(name: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    change, reason = MANIFESTS[name]
    place = plain.write(tmp_path / "bundle") / "manifest.json"
    changed = change(place.read_bytes())
    assert changed != place.read_bytes()
    place.write_bytes(changed)
    refused(opener, tmp_path / "bundle", reason)


@pytest.mark.parametrize("path", PATHS)
def test_names_in_manifests(path: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    place = plain.write(tmp_path / "bundle") / "manifest.json"
    place.write_bytes(place.read_bytes().replace(b'"encoder.onnx"', json.dumps(path).encode()))
    refused(opener, tmp_path / "bundle", "not a plain relative path")


# --- arrays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARRAYS)
def test_golden_rows(name: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    make, reason = ARRAYS[name]
    refused(opener, plain.with_file("golden.npz", make()).write(tmp_path / "bundle"), reason)


# --- archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZIPS)
def test_archives(name: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    change, reason = ZIPS[name]
    path = plain.write(tmp_path / "bundle.zip")
    path.write_bytes(change(path.read_bytes()))
    outcome = opener.open(path)
    assert outcome.verdict.startswith("refused BundleError"), outcome
    assert any(each in outcome.verdict for each in reason.split("|")), outcome


@pytest.mark.parametrize("name", ["../encoder.onnx", "/tmp/evil", "a/../../evil", "c:/evil", "a\\b", "./a"])
def test_traversal(name: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    path = Parts(plain.manifest, {**plain.files, name: b"evil"}).write(tmp_path / "bundle.zip")
    refused(opener, path, "not a plain relative path")
    assert [each.name for each in tmp_path.iterdir()] == ["bundle.zip"]


def test_a_name_that_differs_in_case_only(plain: Parts, opener: Opener, tmp_path: Path) -> None:
    path = Parts(plain.manifest, {**plain.files, "Encoder.ONNX": b"x"}).write(tmp_path / "bundle.zip")
    refused(opener, path, "twice")


@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json"])
def test_bombs(name: str, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    zeros = bytes(2**28)
    parts = plain if name == "manifest.json" else plain.with_file(name, zeros)
    path = tmp_path / "bundle.zip"
    path.write_bytes(pack({**parts.everything(), name: zeros}))
    assert path.stat().st_size < 2**20
    refused(opener, path, "would unpack to")


def test_a_bomb_within_a_bomb(plain: Parts, opener: Opener, tmp_path: Path) -> None:
    """Golden rows that unpack to much lie in an archive that hardly unpacks at all."""
    rows = io.BytesIO()
    with zipfile.ZipFile(rows, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy("'<f4'", "(67108864,)", bytes(2**28)))
    refused(opener, plain.with_file("golden.npz", rows.getvalue()).write(tmp_path / "bundle.zip"), "would unpack to")


def test_a_folder_in_a_zip_gets_a_hint(plain: Parts, opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(pack({f"bundle/{name}": data for name, data in plain.everything().items()}))
    refused(opener, path, "zip what is in the folder")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_of_other_writers_are_read(method: int, plain: Parts, opener: Opener, tmp_path: Path) -> None:
    """Folders, times, access rights, and sizes that follow the data, as streaming writers have them."""
    path = tmp_path / "bundle.zip"

    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("not seekable")

    stream = Stream()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("fp16/", b"")
        for name, data in plain.everything().items():
            archive.writestr(name, data)
    assert stream.getvalue()[6] == 8  # sizes follow the data
    path.write_bytes(stream.getvalue())
    assert opener.open(path).verdict == "ran"


# --- truncation and single bits -----------------------------------------------------------------------------------


def test_truncation_at_every_length(tmp_path: Path) -> None:
    parts = Parts.of(SMALL)
    path = parts.write(tmp_path / "bundle")
    bundle = Bundle.read(path)
    for file in bundle.files():
        place = path / file.path
        for length in range(file.size - 1, -1, -1):
            os.truncate(place, length)
            with pytest.raises(BundleError):
                bundle.file(file)
    data = (SMALL / "manifest.json").read_bytes().rstrip()
    for length in range(len(data)):
        with pytest.raises(BundleError):
            Manifest.from_json(data[:length])


def test_truncation_of_an_archive_at_every_length() -> None:
    data = pack(Parts.of(SMALL).everything())
    for length in range(len(data)):
        with pytest.raises(BundleError):
            read_index(io.BytesIO(data[:length]), "bundle.zip", budget=2**20)


def test_single_bits_of_files(tmp_path: Path) -> None:
    path = Parts.of(SMALL).write(tmp_path / "bundle")
    bundle = Bundle.read(path)
    for file in bundle.files():
        data = (path / file.path).read_bytes()
        for bit in range(0, 8 * len(data), max(1, len(data) // 40)):
            spoilt = bytearray(data)
            spoilt[bit // 8] ^= 1 << bit % 8
            (path / file.path).write_bytes(spoilt)
            with pytest.raises(BundleError, match="SHA-256"):
                bundle.file(file)
        (path / file.path).write_bytes(data)


def test_single_bits_of_the_manifest_are_refused_or_a_manifest() -> None:
    data = (SMALL / "manifest.json").read_bytes()
    refusals = 0
    for byte in range(len(data)):
        spoilt = bytearray(data)
        spoilt[byte] ^= 1 << byte % 8
        try:
            read = Manifest.from_json(bytes(spoilt))
        except BundleError as problem:
            refusals += 1
            assert str(problem).isprintable()
        else:
            assert Manifest.from_json(read.to_json()) == read
    assert refusals > len(data) // 2


def test_single_bits_of_an_archive_never_give_other_bytes() -> None:
    everything = Parts.of(SMALL).everything()
    data = pack(everything)
    for bit in range(0, 8 * len(data), 61):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        file = io.BytesIO(bytes(spoilt))
        try:
            index = read_index(file, "bundle.zip", budget=2**20)
            found = {name: read_member(file, member, "bundle.zip") for name, member in index.items()}
        except BundleError as problem:
            assert str(problem).startswith("bundle.zip: ")
        else:
            assert all(everything[name] == content for name, content in found.items())


def test_single_bits_of_golden_rows_whose_digest_agrees() -> None:
    data = (SMALL / "golden.npz").read_bytes()
    for bit in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        try:
            read_arrays(bytes(spoilt), "golden.npz")
        except BundleError as problem:
            assert str(problem).startswith("golden.npz")


# --- reading what we write ----------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(/[a-z0-9]{1,5}\.[a-z]{1,4})?", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=200), max_size=6))
def test_what_is_packed_is_read(files: dict[str, bytes]) -> None:
    packed = io.BytesIO(pack_archive(files))
    index = read_index(packed, "a.zip", budget=2**16)
    assert {name: read_member(packed, member, "a.zip") for name, member in index.items()} == files


def test_a_model_that_is_nearly_all_zeros_can_be_zipped() -> None:
    zeros = {"zeros.bin": bytes(2**24)}
    packed = io.BytesIO(pack_archive(zeros))
    index = read_index(packed, "a.zip", budget=2**30, ratio=MAX_RATIO)
    assert read_member(packed, index["zeros.bin"], "a.zip") == zeros["zeros.bin"]
    with pytest.raises(BundleError, match="would unpack to"):
        read_index(io.BytesIO(pack(zeros)), "a.zip", budget=2**30, ratio=MAX_RATIO)


@given(st.sampled_from(["<f4", "|u1", "<i8", "|b1", "<f2"]), st.lists(st.integers(0, 4), max_size=4), st.booleans())
def test_what_numpy_saves_is_read(dtype: str, shape: list[int], fortran: bool) -> None:
    values = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape, order="F" if fortran else "C")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, values=values)
    found = read_arrays(buffer.getvalue(), "a.npz")["values"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


# --- fuzz ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_manifests_of_any_structure_are_refused_or_manifests(rng: random.Random, changes: int) -> None:
    plain = json.loads((SMALL / "manifest.json").read_bytes())
    for _ in range(changes):
        plain = mutate_plain(plain, rng)
    try:
        read = Manifest.from_json(json.dumps(plain).encode())
    except BundleError as problem:
        assert str(problem).isprintable() and len(str(problem)) < 1000
    else:
        assert Manifest.from_json(read.to_json()) == read
        assert dataclasses.replace(read) == read


@given(st.binary(max_size=300))
def test_any_bytes_are_no_archive_or_a_named_error(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"a\.zip"):
        read_index(io.BytesIO(data), "a.zip", budget=2**20)


def test_fuzz_bundles_with_fixed_seeds() -> None:
    findings = fuzz_bundles(rounds=250, seed=0)
    assert not findings.bad, findings.bad
    assert findings.verdicts["ran"] > 10 and findings.verdicts["refused"] > 150


def test_the_opener_sees_what_must_not_happen(tmp_path: Path) -> None:
    with Opener(seconds=30) as opener:
        assert opener.open(SMALL).good
        assert opener.worker.process is not None
        opener.worker.process.kill()
        assert not opener.open(SMALL).good
        assert opener.open(SMALL).verdict == "ran"


def test_a_checksum_does_not_stand_for_a_digest(plain: Parts, opener: Opener, tmp_path: Path) -> None:
    """Four bytes can be chosen so that a file keeps its CRC-32; its SHA-256 does not stay."""
    data = bytearray(plain.files["encoder.onnx"])
    data[-1] ^= 1
    assert zlib.crc32(data) != zlib.crc32(plain.files["encoder.onnx"])
    path = Parts(plain.manifest, {**plain.files, "encoder.onnx": bytes(data)}).write(tmp_path / "bundle.zip")
    refused(opener, path, "SHA-256")
