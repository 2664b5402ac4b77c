"""The bundle on disk: manifest, strict JSON, digests, zip files, atomic writing."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.bundle import Bundle, Manifest
from edgeae.bundle.atomic import open_atomic, write_directory, write_file
from edgeae.bundle.strict import from_plain, parse_json, to_json, to_plain
from edgeae.errors import BundleError, InputError, IntegrityError
from tests.bundles import Recipe, make_bundle

SCHEMA = Path(__file__).parents[1] / "export" / "manifest.schema.json"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "bundle", Recipe())
    return tmp_path / "bundle"


def edit(bundle: Path, **changes: Any) -> None:
    """Change keys of a manifest; a dotted name reaches into it, a callable gets the old value."""
    path = bundle / "manifest.json"
    plain = json.loads(path.read_text())
    for name, value in changes.items():
        target = plain
        *parents, last = name.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(plain))


def test_a_manifest_survives_the_way_to_json_and_back(bundle: Path) -> None:
    manifest = Bundle.read(bundle).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_schema_in_the_repository_is_the_one_the_classes_give() -> None:
    assert json.loads(SCHEMA.read_text()) == Manifest.schema()


def test_a_manifest_fits_its_schema(bundle: Path) -> None:
    validator = jsonschema.Draft202012Validator(Manifest.schema())
    plain = json.loads((bundle / "manifest.json").read_text())
    validator.validate(plain)
    for broken in ({**plain, "surprise": 1}, {**plain, "latent_dim": "4"}, {**plain, "score": {"kind": "none"}}):
        assert not validator.is_valid(broken)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "not an edgeae manifest"),
        ({"format_version": 2}, "upgrade"),
        ({"format_version": True}, "format_version"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"latent_dim": 4.0}, "latent_dim: expected a whole number"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"batch": 0}, "batch"),
        ({"input__shape": []}, "input.shape"),
        ({"input__shape": [3, 4]}, "does not fit the layout"),
        ({"input__shape": [2**24, 2**24]}, "layout"),
        ({"input__dtype": "float64"}, "is not one of float32, uint8"),
        ({"input__feature_names": ["a"]}, "feature_names"),
        ({"normalisation__scale": [0.0]}, "positive"),
        ({"normalisation__shift": [0.0, 1.0]}, "normalisation"),
        ({"score__kind": "best"}, "is not one of mse"),
        ({"precisions": {}}, "fp32 is missing"),
        ({"precisions__fp32__threshold__value": 0.1}, "not a float32 value"),
        ({"precisions__fp32__encoder__path": "../encoder.onnx"}, "plain relative path"),
        ({"precisions__fp32__encoder__path": "/etc/passwd"}, "plain relative path"),
        ({"precisions__fp32__encoder__path": "C:\\x"}, "plain relative path"),
    ],
)
def test_a_manifest_that_is_not_as_the_format_has_it_is_refused(
    bundle: Path, changes: dict[str, Any], words: str
) -> None:
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=r"manifest\.json") as caught:
        Bundle.read(bundle)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"\xff\xfe", "UTF-8"),
        (b"{", "not valid JSON"),
        (b"[" * 200_000, "nested"),
    ],
)
def test_json_that_is_not_strict_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        parse_json(text, where="x.json")


def test_a_number_beyond_floats_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: float

    with pytest.raises(BundleError, match="beyond float64"):
        parse_json(b'{"x": 1e999}', where="p")
    for value in (float("inf"), 10**400):
        with pytest.raises(BundleError, match="finite"):
            from_plain(Point, {"x": value}, where="p")


@dataclasses.dataclass(frozen=True)
class _Inner:
    numbers: tuple[int, ...]
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class _Outer:
    inner: _Inner
    by_name: dict[str, _Inner]
    ratio: float = 0.5
    note: str | None = None
    flag: bool = False


_integers = st.integers(-(2**63), 2**63 - 1)
_text = st.text(st.characters(codec="utf-8", min_codepoint=160) | st.sampled_from(' aZ9"\\/[{\t\n\r'))
_inner = st.builds(_Inner, st.lists(_integers).map(tuple), st.sampled_from(["a", "b"]))


@given(
    st.builds(
        _Outer,
        _inner,
        st.dictionaries(_text, _inner, max_size=3),
        st.floats(allow_nan=False, allow_infinity=False),
        st.none() | _text,
        st.booleans(),
    )
)
def test_any_dataclass_survives_the_way_to_json_and_back(value: _Outer) -> None:
    assert from_plain(_Outer, parse_json(to_json(value), where="x"), where="x") == value


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_value_breaks_the_reader(value: object) -> None:
    plain = {**to_plain(_Outer(_Inner((1,)), {})), "inner": value}
    try:
        read = from_plain(_Outer, plain, where="x")
    except BundleError as problem:
        assert str(problem).startswith("x")
    else:
        assert isinstance(read.inner, _Inner)


def test_what_is_no_text_or_no_whole_number_of_64_bits_is_refused() -> None:
    good = to_plain(_Outer(_Inner((1,)), {}))
    for changes in ({"note": "\x1b[2J"}, {"note": "\ud800"}, {"by_name": {"\x07": good["inner"]}}):
        with pytest.raises(BundleError, match="control characters or half characters"):
            from_plain(_Outer, {**good, **changes}, where="x")
    with pytest.raises(BundleError, match="64 bits"):
        from_plain(_Outer, {**good, "inner": {"numbers": [2**63]}}, where="x")


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "scorer.onnx", "golden.npz"])
def test_a_changed_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = Bundle.read(bundle)
    entry = found.manifest.precisions["fp32"]
    with pytest.raises(IntegrityError, match="SHA-256"):
        found.file(getattr(entry, name.split(".")[0]))
    path.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match="bytes"):
        found.file(getattr(entry, name.split(".")[0]))


def test_a_missing_file_a_link_and_a_pipe_are_refused(bundle: Path) -> None:
    found = Bundle.read(bundle)
    path = bundle / "encoder.onnx"
    elsewhere = bundle.parent / "elsewhere.onnx"
    path.rename(elsewhere)
    with pytest.raises(BundleError, match="missing"):
        found.graph("fp32", "encoder")
    path.symlink_to(elsewhere)
    with pytest.raises(BundleError, match="link"):
        found.graph("fp32", "encoder")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="regular file"):
        found.graph("fp32", "encoder")


def test_what_is_no_bundle_is_named(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.read(tmp_path / "empty")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.json").write_text("{}")
    with pytest.raises(BundleError, match="edgeae export"):
        Bundle.read(tmp_path / "run")
    with pytest.raises(BundleError, match=r"\.zip"):
        Bundle.read(bundle / "encoder.onnx")


def test_a_precision_that_is_not_there_is_named(bundle: Path) -> None:
    with pytest.raises(InputError, match="choose fp32"):
        Bundle.read(bundle).entry("fp16")
    with pytest.raises(InputError, match="known precisions"):
        Bundle.read(bundle).entry("fp8")


def test_a_zip_is_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    folder = Bundle.read(bundle)
    files = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "manifest.json"}
    zipped = Bundle.write(tmp_path / "bundle.zip", folder.manifest, files)
    assert zipped.digest == folder.digest
    assert zipped.graph("fp32", "scorer") == folder.graph("fp32", "scorer")
    np.testing.assert_array_equal(zipped.golden().score, folder.golden().score)


def test_a_zip_with_a_name_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", (bundle / "manifest.json").read_bytes())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("manifest.json", (bundle / "manifest.json").read_bytes())
    with pytest.raises(BundleError, match="twice"):
        Bundle.read(path)


@pytest.mark.parametrize("state", ["old is aside", "both are aside", "new is there"])
def test_a_replacement_that_was_cut_short_is_read(bundle: Path, state: str) -> None:
    """Where a system cannot exchange two folders, a killed writer leaves one of these behind."""
    digest = Bundle.read(bundle).digest
    old = bundle.with_name(f".{bundle.name}.0a1b2c3d.old")
    new = bundle.with_name(f".{bundle.name}.4e5f6a7b.tmp")
    if state == "both are aside":
        new.mkdir()
        (new / "manifest.json").write_text("half of")
    bundle.rename(old)
    if state == "new is there":
        make_bundle(bundle, Recipe(seed=1))
        assert Bundle.read(bundle).digest != digest
        return
    found = Bundle.read(bundle)
    assert found.digest == digest
    assert found.golden().score.shape == (8,)


def test_nothing_is_read_in_the_place_of_a_bundle_that_never_was(bundle: Path) -> None:
    bundle.rename(bundle.with_name(".other.0a1b2c3d.tmp"))
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.read(bundle.with_name("other"))


def test_golden_rows_of_another_shape_are_refused(bundle: Path) -> None:
    found = Bundle.read(bundle)
    wrong = dataclasses.replace(found, manifest=dataclasses.replace(found.manifest, latent_dim=5))
    with pytest.raises(BundleError, match="z is float32"):
        wrong.golden()


def test_writing_refuses_files_that_the_manifest_does_not_list(bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.read(bundle).manifest
    with pytest.raises(BundleError, match="manifest lists"):
        Bundle.write(tmp_path / "new", manifest, {})
    assert not (tmp_path / "new").exists()


def test_an_existing_output_is_refused_and_replaced_with_force(bundle: Path) -> None:
    found = Bundle.read(bundle)
    files = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "manifest.json"}
    with pytest.raises(InputError, match="--force"):
        Bundle.write(bundle, found.manifest, files)
    (bundle / "stray").write_text("from before")
    Bundle.write(bundle, found.manifest, files, force=True)
    assert not (bundle / "stray").exists()
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_file(target, b"old")
    with pytest.raises(RuntimeError, match="halfway"), open_atomic(target) as file:
        file.write(b"new")
        raise RuntimeError("halfway")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_directory(tmp_path / "no" / "where", {"a": b""})
    with pytest.raises(InputError, match="cannot be written"):
        write_file(tmp_path / "no" / "where", b"")


def test_a_killed_writer_leaves_the_old_directory_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_directory(target, {"a": b"old", "b/c": b"old"})
    script = textwrap.dedent("""
        import sys
        from edgeae.bundle.atomic import write_directory
        print("ready", flush=True)
        for number in range(10_000):
            write_directory(sys.argv[1], {"a": b"%d" % number, "b/c": b"%d" % number}, force=True)
    """)
    for wait in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.02 + 0.013 * wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert (target / "a").read_bytes() == (target / "b" / "c").read_bytes()
