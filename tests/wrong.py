"""The bundles of `tests.mistakes` on the disk, and what Python says of them: what other languages are held against."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import edgeae
from edgeae.bundle import Bundle
from edgeae.errors import EdgeaeError
from tests.bundles import Recipe, make_bundle
from tests.fuzz.spoil import GOLDEN, Parts, pack
from tests.mistakes import ARRAYS, CALLS, FILES, MANIFESTS, PATHS, ZIPS, arrays

OWN_WORDS = {  # each language has its own ways
    "upgrade with: pip install -U edgeae": "upgrade edgeae",
    "onInvalid: 'flag'": "on_invalid='flag'",
}


def python_says(path: Path, rows: np.ndarray[Any, Any] | None = None, **options: Any) -> tuple[str, str]:
    """Return the class and the `comparable` words with which Python refuses a bundle or rows for it; "" and "" if not.

    Without rows, the manifest is read and nothing more.
    """
    try:
        if rows is None:
            Bundle.read(path)
        else:
            with edgeae.load(path, device="cpu", **options) as model:
                model.score(rows)
    except EdgeaeError as problem:
        return type(problem).__name__, comparable(str(problem))
    return "", ""


def plain_parts(path: Path) -> Parts:
    """Return the parts of a good bundle of rows of 4 and latents of 4, made at `path`."""
    make_bundle(path, Recipe(shape=(4,), latent_dim=4))
    return Parts.of(path)


def write_manifests(manifests: Iterable[tuple[str, bytes]], folder: Path) -> dict[str, Path]:
    """Write bundles of a manifest and nothing else, and return where they are."""
    found = {}
    for number, (name, data) in enumerate(manifests):
        found[name] = folder / f"manifest-{number}"
        found[name].mkdir()
        (found[name] / "manifest.json").write_bytes(data)
    return found


def comparable(message: str) -> str:
    """Return what every language must say: all but a JSON parser's own words and computed numbers."""
    for words, plain in OWN_WORDS.items():
        message = message.replace(words, plain)
    message = re.sub(r"(: not valid JSON).*", r"\1", message)
    return re.sub(r", gives [-0-9.e]+;", ", gives ...;", message)  # the last digits are each machine's own


def write_mistakes(plain: Parts, folder: Path) -> dict[str, Path]:
    """Write every bundle that is wrong in one way, as folders.

    Args:
        plain: A good bundle of rows of 4 and latents of 4.
        folder: Where; it must exist.

    Returns:
        Where each of them is, by what is wrong.
    """
    found: dict[str, Path] = {}

    def place(name: str) -> Path:
        found[name] = folder / str(len(found))
        return found[name]

    for what, (make, _) in FILES.items():
        for name in ("scorer.onnx", "golden.npz", "manifest.json"):
            path = plain.write(place(f"{name} is {what}")) / name
            path.unlink()
            make(path)
    for what, (change, _) in MANIFESTS.items():
        path = plain.write(place(f"manifest: {what}")) / "manifest.json"
        path.write_bytes(change(path.read_bytes()))
    for name in PATHS:
        path = plain.write(place(f"name: {name}")) / "manifest.json"
        path.write_bytes(path.read_bytes().replace(b'"encoder.onnx"', json.dumps(name).encode()))
    for what, (make_arrays, _) in ARRAYS.items():
        plain.with_file("golden.npz", make_arrays()).write(place(f"arrays: {what}"))
    for what, (change, _) in ZIPS.items():
        plain.with_file("golden.npz", change(arrays())).write(place(f"archive: {what}"))
    extra = {"files that are not listed": {"weights.bin": b"x", "int8/libcustom.so": b"y", "a b\n": b"z"}}
    extra["too many files"] = {f"f{number}": b"" for number in range(200)}
    extra["a deep folder"] = {"a/b/c/d": b""}
    extra["litter"] = {".ds_store": b"x", "__MACOSX/a": b"x", ".nfs0a": b"x", "._x": b"x"}
    extra["no litter"] = {".nfsx": b"x", "a._x": b"x"}
    for what, files in extra.items():
        Parts(plain.manifest, {**plain.files, **files}).write(place(what))
    Parts(plain.manifest, {**plain.files, "scorer.onnx": plain.files["scorer.onnx"][:-1]}).write(
        place("a graph cut off")
    )
    spoilt = bytearray(plain.files["scorer.onnx"])
    spoilt[-1] ^= 1
    Parts(plain.manifest, {**plain.files, "scorer.onnx": bytes(spoilt)}).write(place("a graph changed"))
    return found


def write_calls(folder: Path) -> dict[str, tuple[Path, dict[str, str], np.ndarray[Any, Any]]]:
    """Write a bundle for each of CALLS, and return where it is, the options and the rows [n, 10]."""
    found: dict[str, tuple[Path, dict[str, str], np.ndarray[Any, Any]]] = {}
    for name, (spoil, options, values) in CALLS.items():
        bundle = folder / name.replace(" ", "-")
        shutil.copytree(GOLDEN / "table", bundle)
        spoil(bundle)
        found[name] = bundle, options, np.array(values, np.float32).reshape(-1, 10)
    return found


def write_archives(plain: Parts, folder: Path) -> dict[str, Path]:
    """Write every .zip that is wrong in one way, and one that is right."""
    everything = plain.everything()
    made = {"right": pack(everything)}
    made |= {what: change(pack(everything)) for what, (change, _) in ZIPS.items()}
    made |= {f"name: {name}": pack({**everything, name: b"x"}) for name in PATHS if name}
    made["another case"] = pack({**everything, "Encoder.ONNX": b"x"})
    made["a bomb"] = pack({**everything, "encoder.onnx": bytes(2**28)})
    made["a folder within"] = pack({f"bundle/{name}": data for name, data in everything.items()})
    made["no manifest"] = pack(plain.files)
    made["other files"] = pack({**everything, **{f"f{number}": b"" for number in range(7)}})
    made["too many files"] = pack({**everything, **{f"f{number}": b"" for number in range(200)}})
    made["a folder with content"] = pack({**everything, "fp16/": b"x"})
    found: dict[str, Path] = {}
    for name, data in made.items():
        found[name] = folder / f"archive-{len(found)}.zip"
        found[name].write_bytes(data)
    return found
