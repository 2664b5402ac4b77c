"""The C++ and C runtime: built once, its own tests run, its numbers and its words compared with Python's."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

import edgeae
from edgeae.bundle import Bundle
from edgeae.errors import EdgeaeError

ROOT = Path(__file__).parents[1]
CPP, GOLDEN = ROOT / "runtime" / "cpp", ROOT / "export" / "golden"
TABLE = GOLDEN / "table"
NO_RUNTIME = (
    "needs ONNX Runtime's headers and library: set ONNXRUNTIME_ROOT to an unpacked release "
    "(with npm installed, .ci/onnxruntime DIR makes one)"
)


def run(*command: str | Path, text: str | None = None, file: IO[str] | None = None) -> str:
    """Run a program and return what it printed; a failure shows all of it."""
    words, pipe = [str(each) for each in command], subprocess.PIPE
    done = subprocess.run(words, input=text, stdin=file, stdout=pipe, stderr=pipe, text=True, timeout=400, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def configure(source: Path, build: Path, *settings: str) -> None:
    run("cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0", *settings)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that runtime/cpp was built in."""
    missing = [tool for tool in ("cmake", "c++", "cc") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs a C++ compiler and CMake; not installed: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("cpp")
    try:
        configure(CPP, folder, "-DEDGEAE_EXAMPLES=OFF", f"-DEDGEAE_GOLDEN={GOLDEN}")
    except pytest.fail.Exception as problem:
        if "ONNX Runtime was not found" in str(problem):
            pytest.skip(NO_RUNTIME)
        raise
    run("cmake", "--build", folder, "--parallel", "2")
    return folder


@pytest.fixture(scope="module")
def library(build: Path) -> Path:
    """The C interface's library."""
    (found,) = (path for path in build.glob("libedgeae_c.*") if path.suffix in (".so", ".dylib"))
    return found


def test_its_own_tests_pass(build: Path) -> None:
    run("ctest", "--test-dir", build, "--output-on-failure", "--exclude-regex", "golden")


def test_every_golden_bundle_at_every_precision_gives_pythons_numbers(build: Path) -> None:
    lines = run(build / "tests" / "test_golden", GOLDEN).splitlines()
    found = {tuple(line.split()[:3]) for line in lines if "% of the tolerance" in line}
    bundles = [Bundle.read(path.parent) for path in GOLDEN.glob("*/manifest.json")]
    assert found == {
        (bundle.path.name, precision, tensor)
        for bundle in bundles
        for precision in bundle.manifest.precisions
        for tensor in ("z", "x_hat", "score")
    }


def test_the_installed_package_builds_the_examples_and_they_score_as_python_does(build: Path, tmp_path: Path) -> None:
    run("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    configure(CPP / "examples", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    run("cmake", "--build", tmp_path / "build", "--parallel", "2")
    x = rows()
    with edgeae.load(TABLE, device="cpu", on_invalid="flag") as model:
        scores, bad = model.score(x), model.predict(x)

    table = io.StringIO()
    np.savetxt(table, x, delimiter=",", header=",".join(model.feature_names or ()), comments="", fmt="%.9g")
    header, *lines = run(tmp_path / "build" / "score", TABLE, text=table.getvalue()).splitlines()
    assert header == "row,score,anomaly"
    cells = [line.split(",") for line in lines]
    np.testing.assert_allclose([float(score) for _, score, _ in cells], scores, rtol=1e-4)
    assert [anomaly == "true" for *_, anomaly in cells] == bad.tolist()

    raw = tmp_path / "rows.f32"
    raw.write_bytes(x.tobytes())
    with raw.open() as stream:
        *alarms, last = run(tmp_path / "build" / "stream", TABLE / "scorer.onnx", file=stream).splitlines()
    assert last == f"{len(x)} rows, {bad.sum()} anomalies"
    assert [int(alarm.split()[1].rstrip(":")) for alarm in alarms] == np.flatnonzero(bad).tolist()


def test_the_readmes_program_builds_and_runs(build: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", (CPP / "README.md").read_text("utf-8"), re.M | re.S)
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    run("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    configure(tmp_path, tmp_path / "out", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    run("cmake", "--build", tmp_path / "out")
    *judged, alone = run(tmp_path / "out" / "detector", TABLE).splitlines()
    with edgeae.load(TABLE, device="cpu") as model:
        (score,) = model.score(np.full((1, 10), 0.5, np.float32)).tolist()
    assert [line.split()[1] for line in judged] == ["anomaly" if score > model.threshold else "normal"] * 2
    np.testing.assert_allclose([float(line.split()[0]) for line in [*judged, alone]], score, rtol=1e-4)


def test_the_c_interface_from_another_language(library: Path) -> None:
    x = rows()
    table = io.StringIO()
    np.savetxt(table, x, delimiter=",", fmt="%.9g")
    with edgeae.load(TABLE, device="cpu", on_invalid="flag") as model:
        scores, bad = model.score(x), model.predict(x)
    printed = run(sys.executable, CPP / "examples" / "score.py", library, TABLE, text=table.getvalue())
    cells = [line.split(",") for line in printed.splitlines()]
    np.testing.assert_allclose([float(score) for _, score, _ in cells], scores, rtol=1e-5)
    assert [anomaly == "True" for *_, anomaly in cells] == bad.tolist()


def rows() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows near the golden ones, most of them normal, one with NaN."""
    golden = Bundle.read(TABLE).golden()
    rng = np.random.default_rng(5)
    with edgeae.load(TABLE, device="cpu") as model:
        x = np.tile(model.reconstruct(golden.x), (3, 1)) * rng.normal(1, 0.01, (3 * len(golden.x), 1))
    x[3, 4] = np.nan
    return np.ascontiguousarray(x, np.float32)


Spoil = Callable[[Path], object]


def _manifest(old: str, new: str) -> Spoil:
    def change(bundle: Path) -> None:
        path = bundle / "manifest.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def _nothing(bundle: Path) -> None: ...


def _no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def _without_fp16(bundle: Path) -> None:
    plain = json.loads((bundle / "manifest.json").read_text())
    del plain["precisions"]["fp16"]
    (bundle / "manifest.json").write_text(json.dumps(plain))
    shutil.rmtree(bundle / "fp16")


def _scorer(key: str, value: object) -> Spoil:
    def change(bundle: Path) -> None:
        plain = json.loads((bundle / "manifest.json").read_text())
        plain["precisions"]["fp32"]["scorer"][key] = value
        (bundle / "manifest.json").write_text(json.dumps(plain))

    return change


def _more(bundle: Path) -> None:
    (bundle / "notes.txt").touch()


def _a_run(bundle: Path) -> None:
    _no_manifest(bundle)
    (bundle / "model.json").write_text("{}")


def _flip(bundle: Path) -> None:
    data = bytearray((bundle / "scorer.onnx").read_bytes())
    data[100] ^= 1
    (bundle / "scorer.onnx").write_bytes(data)


def _link(bundle: Path) -> None:
    (bundle / "scorer.onnx").rename(bundle / "other.onnx")
    (bundle / "scorer.onnx").symlink_to("other.onnx")


NAN, INFINITY = float("nan"), float("inf")
ROW = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
# what is done to the bundle, options, rows
MISTAKES: dict[str, tuple[Spoil, dict[str, str], list[float]]] = {
    "nan": (_nothing, {}, [*ROW, *ROW[:4], NAN, *ROW[5:]]),
    "infinity": (_nothing, {}, [-INFINITY, *ROW[1:]]),
    "no bundle": (shutil.rmtree, {}, ROW),
    "no manifest": (_no_manifest, {}, ROW),
    "a run": (_a_run, {}, ROW),
    "no such precision": (_nothing, {"precision": "int4"}, ROW),
    "precision not there": (_without_fp16, {"precision": "fp16"}, ROW),
    "digest": (_flip, {}, ROW),
    "size": (_scorer("size", 7), {}, ROW),
    "impossible size": (_scorer("size", 2**40), {}, ROW),
    "no digest": (_scorer("sha256", "ab"), {}, ROW),
    "listed twice": (_scorer("path", "encoder.onnx"), {}, ROW),
    "another file": (_more, {}, ROW),
    "missing file": (lambda bundle: (bundle / "scorer.onnx").unlink(), {}, ROW),
    "link": (_link, {}, ROW),
    "unknown key": (_manifest('"layout"', '"lay": 1, "layout"'), {}, ROW),
    "missing key": (_manifest('"variant": "dense",', ""), {}, ROW),
    "key twice": (_manifest('"opset": ', '"opset": 18, "opset": '), {}, ROW),
    "wrong type": (_manifest('"latent_dim": 3', '"latent_dim": "three"'), {}, ROW),
    "wrong choice": (_manifest('"dtype": "float32"', '"dtype": "float64"'), {}, ROW),
    "not finite": (_manifest('"latent_dim": 3', '"latent_dim": NaN'), {}, ROW),
    "escaping path": (_manifest('"encoder.onnx"', '"../encoder.onnx"'), {}, ROW),
    "other score": (_manifest('"kind": "zscore"', '"kind": "mse"'), {}, ROW),
}

# Takes [library, [[path, options, values], ...]] and prints the error text of each, or "". In a process of its own,
# so that no two copies of ONNX Runtime meet.
CALLER = """
import ctypes, json, runpy, sys
library, cases = json.loads(sys.argv[2])
example = runpy.run_path(sys.argv[1])
edgeae, error, size = ctypes.CDLL(library), ctypes.create_string_buffer(512), ctypes.c_size_t(512)
texts = []
for path, options, values in cases:
    made = example["Options"](struct_size=ctypes.sizeof(example["Options"]), device=b"cpu")
    made.precision = options.get("precision", "fp32").encode()
    model, x, out = ctypes.c_void_p(), (ctypes.c_float * len(values))(*values), (ctypes.c_float * 2)()
    status = edgeae.edgeae_load(path.encode(), ctypes.byref(made), ctypes.byref(model), error, size)
    status = status or edgeae.edgeae_score(model, x, ctypes.c_size_t(len(values) // 10), out, error, size)
    texts.append(error.value.decode() if status else "")
    edgeae.edgeae_free(model)
print(json.dumps(texts))
"""


def test_errors_have_pythons_words(library: Path, tmp_path: Path) -> None:
    wanted, cases = [], []
    for name, (spoil, options, values) in MISTAKES.items():
        bundle = tmp_path / name.replace(" ", "-")
        shutil.copytree(TABLE, bundle)
        spoil(bundle)
        x = np.array(values, np.float32).reshape(-1, 10)
        with pytest.raises(EdgeaeError) as caught, edgeae.load(bundle, device="cpu", **options) as model:  # type: ignore[arg-type]
            model.score(x)
        wanted.append(str(caught.value))
        cases.append((str(bundle), options, values))
    arguments = json.dumps([str(library), cases])
    found = json.loads(run(sys.executable, "-c", CALLER, CPP / "examples" / "score.py", arguments))
    assert dict(zip(MISTAKES, found, strict=True)) == dict(zip(MISTAKES, wanted, strict=True))
