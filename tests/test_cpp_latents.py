"""Latent files between C++ and Python: each reads what the other writes, in whole, torn or damaged, in the same words.

What needs only C++ (every flipped bit, sanitizers, Python's golden files) is in runtime/cpp/tests/test_latents.cpp.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zstandard", reason="needs zstandard: pip install 'edgeae[codec]'")

import edgeae
from edgeae.codec import LatentReader, LatentWriter
from edgeae.codec.format import CHUNK_BYTES, HEADER_BYTES
from edgeae.errors import EdgeaeError
from tests.test_cpp import CPP, GOLDEN, NO_RUNTIME, configure, run

Array = np.ndarray[Any, Any]
NO_ZSTD = "needs zstd's header and library: apt install libzstd-dev, or set ZSTD_ROOT"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that takes edgeae as a part: its example `compress` and the README's program `log`."""
    missing = [tool for tool in ("cmake", "c++", "cc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs a C++ compiler and CMake; not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("cpp-latents")
    (text,) = re.findall(r"^```cpp file=log.cpp\n(.*?)^```$", (CPP / "README.md").read_text("utf-8"), re.M | re.S)
    (folder / "log.cpp").write_text(text)
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject(log C CXX)\nadd_subdirectory({CPP} edgeae)\n"
        "add_executable(log log.cpp)\ntarget_link_libraries(log PRIVATE edgeae::latents)\n"
    )
    try:
        configure(folder, folder, "-DEDGEAE_LATENTS=ON", "-DEDGEAE_EXAMPLES=ON")
    except pytest.fail.Exception as problem:
        for words, reason in (("ONNX Runtime was not found", NO_RUNTIME), ("zstd was not found", NO_ZSTD)):
            if words in str(problem):
                pytest.skip(reason)
        raise
    run("cmake", "--build", folder, "--parallel", "2", "--target", "compress", "log")
    return folder


@pytest.fixture(scope="module")
def program(programs: Path) -> Path:
    """The example that compresses standard input and decompresses to standard output."""
    return programs / "edgeae" / "examples" / "compress"


@pytest.fixture(scope="module", params=["table", "dense", "sparse"])
def model(request: pytest.FixtureRequest) -> Iterator[edgeae.Autoencoder]:
    with edgeae.load(GOLDEN / request.param, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def table() -> Iterator[edgeae.Autoencoder]:
    with edgeae.load(GOLDEN / "table", device="cpu") as loaded:
        yield loaded


def called(program: Path, *words: object, data: bytes = b"") -> tuple[int, bytes, str]:
    """Run the example; return its exit status, what it wrote, and its last words."""
    done = subprocess.run([program, *map(str, words)], input=data, capture_output=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr.decode().strip()


def compress(program: Path, model: edgeae.Autoencoder, path: Path, rows: Array, *settings: str) -> None:
    words = [model.bundle.path, path, *settings, *(["--bytes"] if rows.dtype == np.uint8 else [])]
    status, _, said = called(program, *words, data=rows.tobytes())
    assert status == 0, said


def decompress(program: Path, model: edgeae.Autoencoder, path: Path, dtype: str, *settings: str) -> tuple[Array, str]:
    status, rows, said = called(program, "--back", model.bundle.path, path, *settings)
    assert status == 0, said
    return np.frombuffer(rows, dtype).reshape(-1, *model.input_shape), said


def rows_near(model: edgeae.Autoencoder, count: int, dtype: str = "float32", seed: int = 0) -> Array:
    """Return rows, most of which the model knows well; whole numbers for uint8."""
    golden = model.bundle.golden().x.astype(np.float64)
    rng = np.random.default_rng(seed)
    mixed = golden[rng.integers(0, len(golden), count)] * rng.uniform(0.5, 1, (count, *[1] * (golden.ndim - 1)))
    rows = mixed + rng.normal(0, 0.01, mixed.shape) * golden.std(axis=0)
    return np.asarray(np.clip(np.rint(rows), 0, 255) if dtype == "uint8" else rows, dtype)


def python_file(path: Path, model: edgeae.Autoencoder, rows: Array, **settings: Any) -> None:
    with LatentWriter(path, model, force=True, **settings) as writer:
        writer.write(rows)


def options(settings: dict[str, Any]) -> list[str]:
    """Return Python's settings as the example's options."""
    words = []
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return words


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("float32", {"dtype": "float32"}),
    ("float32", {"dtype": "float16"}),
    ("float32", {}),
    ("float32", {"dtype": "int3"}),
    ("uint8", {"dtype": "int5"}),
    ("float32", {"max_error": 0.05}),
    ("uint8", {"max_error": 2.0, "dtype": "int6"}),
    ("float32", {"target_psnr": 45.0}),
    ("uint8", {"target_psnr": 35.0, "dtype": "float16"}),
    ("uint8", {"lossless": True}),
]


@pytest.mark.parametrize(("dtype", "settings"), KINDS, ids=str)
def test_the_same_rows_in_the_same_settings_are_the_same_file_to_both(
    dtype: str, settings: dict[str, Any], program: Path, model: edgeae.Autoencoder, tmp_path: Path
) -> None:
    rows = rows_near(model, 700, dtype)
    theirs, ours = tmp_path / "cpp.eae", tmp_path / "python.eae"
    compress(program, model, theirs, rows, *options(settings))
    python_file(ours, model, rows, **settings)
    with LatentReader(theirs, model) as one, LatentReader(ours, model) as two:
        plain = [{**vars(reader.header), "file_id": b""} for reader in (one, two)]
        assert plain[0] == plain[1]
        assert one.dtype == two.dtype
        assert one.unknown_rows() == two.unknown_rows()
        z, also_z, x, also_x = one.latents(), two.latents(), one.read(), two.read()
        if one.header.bits > 8:
            assert np.array_equal(z, also_z)
        else:  # sums in another order move grids by their last bits, and so a latent by a step now and then
            exact = model.encode(rows)
            error, also_error = (np.sqrt(np.square(each - exact).mean()) for each in (z, also_z))
            assert abs(error / also_error - 1) < 0.1
    assert abs(theirs.stat().st_size / ours.stat().st_size - 1) < 0.05
    if settings.get("lossless"):
        assert np.array_equal(x, rows)
    elif "max_error" in settings:
        assert np.abs(x.astype(np.float64) - rows).max() <= settings["max_error"]
    elif "target_psnr" in settings:
        assert np.square(x.astype(np.float64) - rows).mean() <= one.header.value
    # and back, with the other's program
    for path, wanted in ((theirs, x), (ours, also_x)):
        found, _ = decompress(program, model, path, one.dtype)
        if one.header.bound != "none":
            assert np.array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_files_of_many_chunks_are_gone_on_with_by_both(
    program: Path, table: edgeae.Autoencoder, tmp_path: Path
) -> None:
    path, parts = tmp_path / "log.eae", [rows_near(table, count, seed=count) for count in (70_000, 300, 40, 5)]
    for number, part in enumerate(parts):
        if number % 2 == 0:
            compress(program, table, path, part, "--append", *(["--max-error", "0.5"] if number == 0 else []))
        else:
            with LatentWriter(path, table, append=True) as writer:
                writer.write(part)
    rows = np.concatenate(parts)
    with LatentReader(path, table) as reader:
        assert [len(block) for block in reader.latent_blocks()] == [65536, 70_000 - 65536, 300, 40, 5]
        found = reader.read()
    assert np.abs(found - rows).max() <= 0.5
    assert np.array_equal(decompress(program, table, path, "float32")[0], found)


def test_killing_the_writer_loses_the_chunk_in_flight_at_most(
    program: Path, table: edgeae.Autoencoder, tmp_path: Path
) -> None:
    path, rows = tmp_path / "killed.eae", rows_near(table, 3 * 65536 + 1000)
    words = [str(each) for each in (program, table.bundle.path, path, "--max-error", "0.5")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(rows.tobytes())  # returns when all but what fits into the pipe was taken
        process.kill()
    with LatentReader(path, recover=True) as reader:
        kept, lost = reader.rows, reader.lost
    assert kept in (65536, 2 * 65536, 3 * 65536)
    assert lost is not None
    found, said = decompress(program, table, path, "float32", "--recover")
    assert said == f"compress: lost {lost}"
    assert np.abs(found - rows[:kept]).max() <= 0.5
    compress(program, table, path, rows[kept:], "--append")
    with LatentReader(path, table) as reader:
        assert np.abs(reader.read() - rows).max() <= 0.5


def test_damage_and_mistakes_have_the_same_words(program: Path, table: edgeae.Autoencoder, tmp_path: Path) -> None:
    whole = tmp_path / "whole.eae"
    with LatentWriter(whole, table, max_error=0.5) as writer:
        for count in (30, 20, 10):
            writer.write(rows_near(table, count))
            writer.flush()
    data = whole.read_bytes()
    second = HEADER_BYTES + CHUNK_BYTES + int.from_bytes(data[HEADER_BYTES + 20 : HEADER_BYTES + 24], "little")
    places = {
        "magic": 1, "header": 60, "first head": HEADER_BYTES + 9, "first payload": HEADER_BYTES + CHUNK_BYTES + 5,
        "second head": second + 17, "second payload": second + CHUNK_BYTES + 60, "index": len(data) - 50,
        "end": len(data) - 20,
    }  # fmt: skip
    spoilt = {name: bytes([*data[:at], data[at] ^ 4, *data[at + 1 :]]) for name, at in places.items()}
    spoilt |= {f"cut at {size}": data[:size] for size in (0, 5, 60, HEADER_BYTES, second, second + 9, len(data) - 1)}
    spoilt |= {"more": data + b"\0", "text": data.replace(b"\r\n", b"\n"), "another": b"PK\3\4" + data}
    spoilt["missing chunk"] = data[:HEADER_BYTES] + data[second:]
    for name, content in spoilt.items():
        path = tmp_path / f"{name.replace(' ', '-')}.eae"
        path.write_bytes(content)
        with pytest.raises(EdgeaeError) as caught, LatentReader(path, table) as reader:
            reader.read()
        assert called(program, "--back", table.bundle.path, path)[2] == f"compress: {caught.value}", name
        if len(content) < HEADER_BYTES or name in ("magic", "header", "text", "another"):
            continue
        with LatentReader(path, table, recover=True) as reader:
            kept, lost = reader.read(), reader.lost
        found, said = decompress(program, table, path, "float32", "--recover")
        assert np.array_equal(found, kept), name
        assert said == (f"compress: lost {lost}" if lost else ""), name
    others: list[tuple[list[object], bytes]] = [
        (["--back", table.bundle.path, tmp_path / "none.eae"], b""),
        (["--back", GOLDEN / "dense", whole], b""),
        ([table.bundle.path, whole], b""),
        ([table.bundle.path, whole, "--append", "--dtype", "int4"], b""),
        ([table.bundle.path, tmp_path / "no" / "folder.eae"], b""),
        ([table.bundle.path, tmp_path / "a.eae", "--dtype", "int9"], b""),
        ([table.bundle.path, tmp_path / "b.eae", "--max-error", "1e-9"], rows_near(table, 9).tobytes()),
        ([table.bundle.path, tmp_path / "c.eae"], np.full((2, 10), np.nan, np.float32).tobytes()),
        ([table.bundle.path, tmp_path / "d.eae", "--lossless"], np.full((2, 10), 0.5, np.float32).tobytes()),
    ]
    for words, given in others:
        status, _, said = called(program, *words, data=given)
        for path in tmp_path.glob("[abcd].eae"):
            path.unlink()
        assert (status, said) == (1, f"compress: {in_python(words, given)}")


def in_python(words: list[object], given: bytes) -> str:
    """Return the error that Python raises for the same."""
    settings: dict[str, Any] = {name: True for name in ("append", "lossless") if f"--{name}" in words}
    for option in {"--dtype", "--max-error"}.intersection(map(str, words)):
        value = str(words[words.index(option) + 1])
        settings[option[2:].replace("-", "_")] = value if option == "--dtype" else float(value)
    bundle, path = (each for each in words if isinstance(each, os.PathLike))
    with pytest.raises(EdgeaeError) as caught, edgeae.load(bundle, device="cpu") as model:
        if words[0] == "--back":
            LatentReader(path, model).close()
        else:
            with LatentWriter(path, model, **settings) as writer:
                writer.write(np.frombuffer(given, np.float32).reshape(-1, *model.input_shape))
    return str(caught.value)


def test_the_readmes_program_runs(programs: Path, table: edgeae.Autoencoder, tmp_path: Path) -> None:
    for chunks in (1, 2):
        done = subprocess.run(
            [programs / "log", table.bundle.path], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == ["1000 rows"] * chunks + ["30 latent values"]
    with LatentReader(tmp_path / "log.eae", table) as reader:
        assert np.abs(reader.read() - 0.5).max() <= 0.25
