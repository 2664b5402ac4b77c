"""The C++ and C runtime: built once, its own tests run, its numbers and its words compared with Python's."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.manifest import Normalisation
from tests.bundles import Recipe, make_bundle
from tests.mistakes import every_value
from tests.wrong import comparable, plain_parts, python_says, write_calls, write_manifests, write_mistakes

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
    *judged, alone, _, _, _ = lines = run(tmp_path / "out" / "detector", TABLE).splitlines()
    with edgeae.load(TABLE, device="cpu") as model:
        row = np.full((1, 10), 0.5, np.float32)
        (score,) = model.score(row).tolist()
        (reasons,) = model.explain(row).top(3)
    for line, (name, value) in zip(lines[-3:], reasons, strict=True):
        assert line.split()[:2] == [name, "adds"] and float(line.split()[2]) == pytest.approx(value, rel=1e-3)
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


# Takes [library, [[path, precision, rows.npy, out.npy], ...]], writes what each value of the rows contributes to their
# scores and prints what the values are called; of rows without axes, which are scores, it writes the calibrated ones.
EXPLAINER = """
import ctypes, json, runpy, sys
import numpy as np
library, cases = json.load(sys.stdin)
example = runpy.run_path(sys.argv[1])
edgeae, error, size = ctypes.CDLL(library), ctypes.create_string_buffer(65536), ctypes.c_size_t(65536)
def called(function, *arguments):
    status = getattr(edgeae, function)(*arguments, error, size)
    assert not status, error.value
names = []
for path, precision, rows, out in cases:
    x = np.load(rows)
    options = example["Options"](struct_size=ctypes.sizeof(example["Options"]), device=b"cpu")
    options.precision = precision.encode()
    model, found, name = ctypes.c_void_p(), np.empty(x.shape, np.float32), ctypes.create_string_buffer(80)
    called("edgeae_load", path.encode(), ctypes.byref(options), ctypes.byref(model))
    function = "edgeae_explain_u8" if x.dtype == np.uint8 else "edgeae_explain" if x.ndim > 1 else "edgeae_calibrate"
    called(function, model, ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(len(x)), ctypes.c_void_p(found.ctypes.data))
    np.save(out, found)
    names.append([])
    for index in range(min(200, x[0].size if x.ndim > 1 else 0)):
        called("edgeae_value_name", model, ctypes.c_size_t(index), name, ctypes.c_size_t(80))
        names[-1].append(name.value.decode())
    edgeae.edgeae_free(model)
print(json.dumps(names))
"""


def test_explanations_are_pythons(library: Path, tmp_path: Path) -> None:
    per_channel = Normalisation("standard", (0.1, 0.2, 0.3), (1.0, 2.0, 0.5))
    recipes = {
        "elbo": Recipe(score="elbo", generative=True),
        "chw": Recipe((3, 4, 5), "CHW", manifest={"normalisation": per_channel}),
        "hwc": Recipe((4, 5, 3), "HWC", score="zscore", manifest={"normalisation": per_channel}),
        "bytes": Recipe((3, 3), "HW", dtype="uint8", shift=0.0, scale=255.0, score="bce"),
    }
    paths = [path.parent for path in sorted(GOLDEN.glob("*/manifest.json"))]
    for name, recipe in recipes.items():
        make_bundle(tmp_path / name, recipe)
        paths.append(tmp_path / name)
    cases: list[tuple[str, ...]] = []
    wanted = []
    for path in paths:
        for precision in Bundle.read(path).manifest.precisions:
            with edgeae.load(path, device="cpu", precision=precision) as model:
                x = Bundle.read(path).golden(precision).x
                wanted.append(model.explain(x))
            files = [tmp_path / f"{len(cases)}-{which}.npy" for which in ("x", "out")]
            np.save(files[0], x)
            cases.append((str(path), precision, *map(str, files)))
    order = json.dumps([str(library), cases])
    names = json.loads(run(sys.executable, "-c", EXPLAINER, CPP / "examples" / "score.py", text=order))
    for (path_, precision, _, out), explained, called in zip(cases, wanted, names, strict=True):
        found, scale = np.load(out), float(np.abs(explained.values).mean())
        np.testing.assert_allclose(found, explained.values, 1e-3, 1e-3 * scale, err_msg=f"{path_} {precision}")
        assert called == [explained.name(index) for index in range(len(called))]


def test_calibrated_scores_are_pythons(library: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, ...]] = []
    wanted = []
    for precision in ("fp32", "int8"):
        with edgeae.load(GOLDEN / "windows", device="cpu", precision=precision) as model:
            (steps, _) = model.bundle.statistics()[f"scores_{precision}"]
            ends = [0, -np.inf, np.inf, np.nan, np.float32(1e30)]
            scores = np.concatenate([steps, np.nextafter(steps, np.inf), np.nextafter(steps, -np.inf), ends])
            scores = scores.astype(np.float32)
            wanted.append(model.calibrate(scores))
        files = [tmp_path / f"{precision}-{which}.npy" for which in ("scores", "out")]
        np.save(files[0], scores)
        cases.append((str(GOLDEN / "windows"), precision, *map(str, files)))
    order = json.dumps([str(library), cases])
    run(sys.executable, "-c", EXPLAINER, CPP / "examples" / "score.py", text=order)
    for (*_, out), calibrated in zip(cases, wanted, strict=True):
        assert len(np.unique(calibrated)) > 50
        np.testing.assert_array_equal(np.load(out), calibrated)


# Takes [library, [[path, options, rows or null], ...]] and prints the class and the text of the error of each, or twice
# nothing; without rows the bundle is loaded and nothing more. In a process of its own, so that no two copies of ONNX
# Runtime meet.
CALLER = """
import ctypes, json, runpy, sys
library, cases = json.load(sys.stdin)
example = runpy.run_path(sys.argv[1])
edgeae, error, size = ctypes.CDLL(library), ctypes.create_string_buffer(65536), ctypes.c_size_t(65536)
classes = ["", "Error", "InputError", "BundleError", "IntegrityError", "DeviceError"]
found = []
for path, options, rows in cases:
    made = example["Options"](struct_size=ctypes.sizeof(example["Options"]), device=b"cpu")
    made.precision = options.get("precision", "fp32").encode()
    model, out = ctypes.c_void_p(), (ctypes.c_float * 2)()
    status = edgeae.edgeae_load(path.encode(), ctypes.byref(made), ctypes.byref(model), error, size)
    if rows is not None and not status:
        values = [value for row in rows for value in row]
        x = (ctypes.c_float * len(values))(*values)
        status = edgeae.edgeae_score(model, x, ctypes.c_size_t(len(rows)), out, error, size)
    found.append([classes[status], error.value.decode() if status else ""])
    edgeae.edgeae_free(model)
print(json.dumps(found))
"""

Case = tuple[Path, dict[str, str], np.ndarray[Any, Any] | None]


def cpp_says(library: Path, cases: Mapping[str, Case]) -> dict[str, tuple[str, str]]:
    """Return the class and the words of C++'s error, or twice nothing, for each bundle, options and rows."""
    plain = [(str(path), options, None if x is None else x.tolist()) for path, options, x in cases.values()]
    order = json.dumps([str(library), plain])
    found = json.loads(run(sys.executable, "-c", CALLER, CPP / "examples" / "score.py", text=order))
    return {name: (kind, comparable(text)) for name, (kind, text) in zip(cases, found, strict=True)}


def test_errors_have_pythons_words(library: Path, tmp_path: Path) -> None:
    calls = write_calls(tmp_path)
    wanted = {name: python_says(bundle, rows, **options) for name, (bundle, options, rows) in calls.items()}
    assert all(kind for kind, _ in wanted.values())
    assert cpp_says(library, calls) == wanted


def test_wrong_bundles_are_refused_in_pythons_words(library: Path, tmp_path: Path) -> None:
    wrong = write_mistakes(plain_parts(tmp_path / "plain"), tmp_path)
    wanted = {name: python_says(path, np.zeros((1, 4), np.float32)) for name, path in wrong.items()}
    assert sum(bool(kind) for kind, _ in wanted.values()) > 180
    assert cpp_says(library, {name: (path, {}, np.zeros((1, 4))) for name, path in wrong.items()}) == wanted


def test_every_value_of_a_manifest_is_judged_as_in_python(library: Path, tmp_path: Path) -> None:
    changed = write_manifests(every_value(plain_parts(tmp_path / "plain").manifest), tmp_path)
    wanted = {name: python_says(path) for name, path in changed.items()}
    assert 1000 < sum(bool(kind) for kind, _ in wanted.values()) < len(wanted)
    assert cpp_says(library, {name: (path, {}, None) for name, path in changed.items()}) == wanted
