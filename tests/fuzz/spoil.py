"""Bundles that are not what they seem: parts of a bundle, put together again after something in them was changed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import mutate_bytes, mutate_structure
from tests.fuzz.worker import ROOT

GOLDEN = ROOT / "export" / "golden"
WORDS = (
    "", "fp32", "fp16", "int8", "edgeae-bundle", "vector", "CHW", "HW", "TC", "uint8", "float32", "mse", "elbo",
    "zscore", "../x", "/etc/passwd", "encoder.onnx", "manifest.json", "golden.npz", "a" * 300, "\x1b[31m", "\ud800",
    "0" * 64, "[/red]", "None", "line\nbreak",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 8, 255, 256, 2**20, 2**24, 2**24 + 1, 2**31, 2**53, 2**63, 2**64, 10**400, -0.0, 0.5, 1e-45, 1e-300,
    1e30, 3.5e38, 1e300, float("nan"), float("inf"), float("-inf"), True, False, None,
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """A bundle as plain values: its manifest and the bytes of its other files."""

    manifest: dict[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @staticmethod
    def of(path: Path) -> Parts:
        """Read the parts of a bundle in a folder."""
        files = {str(each.relative_to(path)): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}
        return Parts(json.loads(files.pop("manifest.json")), files)

    def with_file(self, name: str, data: bytes) -> Parts:
        """Return the bundle with another file under `name`, and its size and digest in the manifest."""
        manifest = json.loads(json.dumps(self.manifest))
        entries = [each for precision in manifest["precisions"].values() for each in precision.values()]
        for entry in [*entries, manifest.get("statistics")]:
            if isinstance(entry, dict) and entry.get("path") == name:
                entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return Parts(manifest, {**self.files, name: data})

    def everything(self) -> dict[str, bytes]:
        """Return all files with the manifest, NaN and infinity spelt as JavaScript does."""
        return {"manifest.json": json.dumps(self.manifest).encode(), **self.files}

    def write(self, path: Path) -> Path:
        """Write the bundle as a folder, or as a .zip file when `path` ends so."""
        if path.suffix == ".zip":
            path.write_bytes(pack(self.everything()))
            return path
        for name, data in self.everything().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path


def pack(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a .zip file."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


@cache
def originals() -> tuple[Parts, ...]:
    """Return the bundles to mutate."""
    return tuple(Parts.of(GOLDEN / name) for name in ("table", "table-far", "dense-uint8-batch1"))


def mutate_plain(value: Any, rng: random.Random) -> Any:
    """Change one thing in a JSON value: replace, remove, add, double, nest."""
    plain = json.loads(json.dumps(value))
    holder, key = _place(plain, rng)
    match rng.randrange(8):
        case 0 | 1 | 2:
            holder[key] = rng.choice(NUMBERS)
        case 3 | 4:
            holder[key] = rng.choice(WORDS)
        case 5:
            del holder[key]
        case 6:
            holder[key] = rng.choice(([], {}, [holder[key]], [holder[key]] * 3, {"a": holder[key]}))
        case _:
            other, place = _place(plain, rng)
            holder[key] = json.loads(json.dumps(other[place]))
    return plain


def _place(plain: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a container somewhere in a JSON value and a key or an index in it."""
    places: list[tuple[Any, Any]] = []
    waiting = [plain]
    while waiting:
        each = waiting.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        places += [(each, key) for key in keys]
        waiting += [each[key] for key in keys]
    return rng.choice(places)


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """Change a field of a record of a .zip file, or some of its bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    marks = [at for mark in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for at in _find(data, mark)]
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(marks) + rng.randrange(4, 46)
        width = rng.choice((2, 4))
        number = rng.choice(
            (0, 1, 2, 8, 20, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, len(data), rng.randrange(len(data)))
        )
        spoilt[at : at + width] = struct.pack("<I", number)[:width]
    return bytes(spoilt)


def _find(data: bytes, mark: bytes) -> list[int]:
    places, at = [], data.find(mark)
    while at >= 0:
        places.append(at)
        at = data.find(mark, at + 1)
    return places


def mutate_bundle(rng: random.Random, path: Path) -> tuple[str, Path]:
    """Write a mutated bundle to `path` (a folder that is not there), or to a .zip file beside it.

    Returns:
        What was changed, and where it is.
    """
    parts = rng.choice(originals())
    what = rng.choice(("manifest", "manifest", "manifest bytes", "file", "graph", "arrays", "zip", "zip", "stray"))
    zipped = path.with_suffix(".zip")
    shutil.rmtree(path, ignore_errors=True)
    target = zipped if rng.random() < 0.3 else path
    if what == "manifest":
        manifest = parts.manifest
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            manifest = mutate_plain(manifest, rng)
        return what, Parts(manifest, parts.files).write(target)
    if what == "manifest bytes":
        written = parts.write(path)
        place = written / "manifest.json"
        place.write_bytes(mutate_bytes(place.read_bytes(), rng))
        return what, written
    if what == "zip":
        zipped.write_bytes(mutate_archive(pack(parts.everything()), rng))
        return what, zipped
    if what == "stray":
        name = rng.choice(("notes.txt", ".DS_Store", "fp16/x", "encoder.onnx.data", "._a", "é", "a" * 200))
        return what, Parts(parts.manifest, {**parts.files, name: b"x"}).write(target)
    kind = ".npz" if what == "arrays" else ".onnx" if what == "graph" else ""
    name = rng.choice([each for each in parts.files if each.endswith(kind)])
    data = parts.files[name]
    if what == "graph" and rng.random() < 0.7:
        spoilt = mutate_structure(data, rng)
    else:
        spoilt = mutate_archive(data, rng) if name.endswith(".npz") else mutate_bytes(data, rng)
    made = Parts(parts.manifest, {**parts.files, name: spoilt}) if what == "file" else parts.with_file(name, spoilt)
    return f"{what} {name}", made.write(target)
