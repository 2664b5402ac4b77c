"""JavaScript: the module on Node with both of its ONNX Runtimes and in a browser, and the page of `--target web`."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.archive import pack_archive
from edgeae.bundle.bundle import describe_file
from edgeae.bundle.manifest import SCORES, ThresholdMethod
from edgeae.cli import main
from edgeae.errors import EdgeaeError, InputError
from edgeae.export.target import beside, prepare
from edgeae.export.web import write_page
from tests.browser import Browser, Look, find_chromium
from tests.bundles import make_bundle, parts
from tests.mistakes import every_value
from tests.wrong import (
    comparable,
    plain_parts,
    python_says,
    write_archives,
    write_calls,
    write_manifests,
    write_mistakes,
)

ROOT = Path(__file__).parents[1]
WEB, GOLDEN = ROOT / "runtime" / "web", ROOT / "export" / "golden"
BUNDLES = {path.parent.name: Bundle.read(path.parent) for path in sorted(GOLDEN.glob("*/manifest.json"))}
CASES = [(name, precision) for name, bundle in BUNDLES.items() for precision in bundle.manifest.precisions]
TABLE, IMAGE = GOLDEN / "table", GOLDEN / "dense-uint8-batch1"
TENSORS = {"z", "x_hat", "score"}


@pytest.fixture(scope="session")
def npm() -> Path:
    """The folder with node_modules in it."""
    folder = os.environ.get("EDGEAE_NPM")
    if not folder:
        pytest.skip("needs ONNX Runtime for JavaScript: .ci/npm DIR installs it, EDGEAE_NPM=DIR says where it is")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def runtime_web(npm: Path) -> Path:
    """The folder of the npm package onnxruntime-web."""
    return npm / "node_modules" / "onnxruntime-web"


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs Node.js (node)")
    return found


class Driver:
    """A Node process that answers questions; see runtime/web/tests/driver.mjs."""

    def __init__(self, node: str, npm: Path, runtime: str) -> None:
        command = [node, str(WEB / "tests" / "driver.mjs"), runtime, str(npm)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, source: object, call: str | None = None, x: object = None, **options: object) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        question = {"load": source, "options": options, "call": call, "x": x}
        self._process.stdin.write(json.dumps(question, default=str) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def value(self, source: object, call: str | None = None, x: object = None, **options: object) -> Any:
        answer = self.ask(source, call, x, **options)
        assert "value" in answer, answer
        return answer["value"]

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module", params=["onnxruntime-node", "onnxruntime-web"])
def either(request: pytest.FixtureRequest, node: str, npm: Path) -> Iterator[Driver]:
    """The module on Node with one and then with the other ONNX Runtime."""
    driver = Driver(node, npm, request.param)
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def driver(node: str, npm: Path) -> Iterator[Driver]:
    driver = Driver(node, npm, "onnxruntime-node")
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium or Chrome is installed")
    with Browser(chromium) as started:
        yield started


@pytest.fixture(scope="module")
def site(npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder on a web server of this machine, with the module, the golden bundles and ONNX Runtime Web in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "web").symlink_to(WEB)
    (folder / "golden").symlink_to(GOLDEN)
    (folder / "onnxruntime-web").symlink_to(npm / "node_modules" / "onnxruntime-web" / "dist")
    (folder / "blank.html").write_text(
        "<!DOCTYPE html><html lang=en><title>blank</title><body><p>blank</p></body></html>"
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


# --------------------------------------------------------------------------------------------------------------------
# Golden numbers


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_golden_rows_on_node(either: Driver, name: str, precision: str) -> None:
    shares = either.value(GOLDEN / name, "golden", precision=precision)
    assert shares.keys() == TENSORS and all(0 <= share <= 1 for share in shares.values()), shares


def test_golden_rows_in_a_browser(browser: Browser, site: tuple[Path, str]) -> None:
    script = f"""(async () => {{
        const ort = await import("/onnxruntime-web/ort.wasm.bundle.min.mjs");
        ort.env.wasm.numThreads = 1;
        const {{ load }} = await import("/web/src/edgeae.js");
        const {{ goldenDifferences }} = await import("/web/tests/golden.js");
        const found = [];
        for (const [name, precision] of {json.dumps(CASES)}) {{
            found.push([name, precision, await goldenDifferences(load, ort, `/golden/${{name}}`, precision)]);
        }}
        return found;
    }})()"""
    found = browser.look(f"{site[1]}/blank.html", width=600, script=script).value
    assert [(name, precision) for name, precision, _ in found] == CASES
    for name, precision, shares in found:
        assert shares.keys() == TENSORS, name
        assert all(0 <= share <= 1 for share in shares.values()), (name, precision, shares)


# --------------------------------------------------------------------------------------------------------------------
# What the module does beyond the golden rows


@pytest.mark.parametrize(
    "name", ["table", "variational", "convolutional", "denoising", "dense-uint8-batch1", "windows"]
)
def test_fresh_rows_give_what_python_gives(either: Driver, name: str) -> None:
    rng = np.random.default_rng(3)
    with edgeae.load(GOLDEN / name, device="cpu") as model:
        golden = model.bundle.golden().x
        x = rng.permuted(np.concatenate([golden] * 5), axis=0)  # 40 rows, more than one chunk of a fixed batch
        sent = {"typed": x.dtype.name, "data": x.ravel().tolist(), "dims": x.shape}
        latents, scores, anomalies = model.encode(x), model.score(x), model.predict(x)
        explained = model.explain(x)
        reconstructed = model.reconstruct(x)
    found = either.value(GOLDEN / name, "encode", sent)
    assert found["dims"] == list(latents.shape)
    np.testing.assert_allclose(np.reshape(found["data"], latents.shape), latents, rtol=1e-3, atol=1e-3)
    found = either.value(GOLDEN / name, "reconstruct", sent)
    np.testing.assert_allclose(np.reshape(found["data"], x.shape), reconstructed, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(either.value(GOLDEN / name, "score", sent), scores, rtol=1e-3, atol=1e-5)
    assert either.value(GOLDEN / name, "predict", sent) == anomalies.tolist()
    found = either.value(GOLDEN / name, "explain", sent)
    np.testing.assert_allclose(found["data"], explained.values.ravel(), rtol=1e-2, atol=1e-4)
    assert [[name for name, _ in row] for row in found["top"]] == [
        [name for name, _ in row] for row in explained.top(3)
    ]


def test_every_way_to_load(driver: Driver, tmp_path: Path, site: tuple[Path, str]) -> None:
    bundle = BUNDLES["table"]
    golden = bundle.golden()
    names = ["manifest.json", *(file.path for file in bundle.files())]
    archive = tmp_path / "table.zip"
    archive.write_bytes(pack_archive({name: (TABLE / name).read_bytes() for name in names}))
    sources: list[object] = [
        TABLE,
        TABLE.as_uri(),
        f"{TABLE}/",
        f"{site[1]}/golden/table",
        archive,
        {"bytes": archive},
        {"files": {name: TABLE / name for name in names}},
        {"files": {name: TABLE / name for name in names if "coder" not in name}},  # only what scores is there
        TABLE / "scorer.onnx",
        {"bytes": TABLE / "scorer.onnx"},
        f"{site[1]}/golden/table/scorer.onnx",
    ]
    for source in sources:
        facts = driver.value(source)
        assert facts["threshold"] == bundle.manifest.precisions["fp32"].threshold.value, source
        assert (facts["shape"], facts["kind"]) == ([10], "zscore")
        assert facts["names"] == list(bundle.manifest.input.feature_names or ())
        scores = driver.value(source, "score", golden.x.tolist())
        np.testing.assert_allclose(scores, golden.score, rtol=1e-3, atol=1e-5)


def test_rows_in_every_form_give_the_same(driver: Driver) -> None:
    x = BUNDLES["dense"].golden().x.astype(np.float64)
    flat = x.ravel().tolist()
    forms = [
        x.tolist(),
        {"typed": "float32", "data": flat},
        {"typed": "float64", "data": flat, "dims": x.shape},
        [{"typed": "float32", "data": row.ravel().tolist()} for row in x],
    ]
    wanted = driver.value(GOLDEN / "dense", "score", forms[0])
    assert all(driver.value(GOLDEN / "dense", "score", form) == wanted for form in forms[1:])
    assert driver.value(GOLDEN / "dense", "score", []) == []
    assert driver.value(GOLDEN / "dense", "encode", [])["dims"] == [0, 8]


def spoilt(rows: np.ndarray[Any, Any], place: tuple[int, ...], value: float) -> np.ndarray[Any, Any]:
    changed = rows.astype(np.float64)
    changed[place] = value
    return changed


def plain(value: Any) -> Any:
    """Return nested lists with the words for numbers that JSON does not have."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


TABLE_ROWS, DENSE_ROWS, BYTE_ROWS = (
    BUNDLES[name].golden().x.astype(np.float64) for name in ("table", "dense", "dense-uint8-batch1")
)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("table", spoilt(TABLE_ROWS, (1, 3), np.nan)),
        ("table", spoilt(TABLE_ROWS, (2, 9), np.inf)),
        ("table", spoilt(TABLE_ROWS, (0, 0), -np.inf)),
        ("table", spoilt(TABLE_ROWS, (0, 0), 1e300)),
        ("dense", spoilt(DENSE_ROWS, (7, 2, 5), np.nan)),
        ("dense-uint8-batch1", spoilt(BYTE_ROWS, (3, 7, 7), 0.5)),
        ("dense-uint8-batch1", spoilt(BYTE_ROWS, (3, 0, 1), 256.25)),
        ("dense-uint8-batch1", spoilt(BYTE_ROWS, (3, 0, 1), np.nan)),
        ("table", TABLE_ROWS[:, :9]),
        ("table", TABLE_ROWS[:, None]),
        ("dense", DENSE_ROWS[..., :7]),
    ],
)
def test_wrong_rows_are_refused_in_pythons_words(driver: Driver, name: str, rows: np.ndarray[Any, Any]) -> None:
    with edgeae.load(GOLDEN / name, device="cpu") as model, pytest.raises(InputError) as raised:
        model.score(rows)
    wanted = str(raised.value).replace("on_invalid='flag'", "onInvalid: 'flag'")
    if "reshape" not in wanted:
        assert driver.ask(GOLDEN / name, "score", plain(rows)) == {"error": "InputError", "message": wanted}
    else:
        assert driver.ask(GOLDEN / name, "score", plain(rows))["message"].startswith(wanted.split(";")[0])


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("table", None, "x: expected float32 [n, 10], got null"),
        ("table", "abc", "x: expected float32 [n, 10], got text ('abc')"),
        ("table", 3, "x: expected float32 [n, 10], got number"),
        ("table", {"rows": 1}, "x: expected float32 [n, 10], got Object"),
        ("table", [["a"] * 10], "x: row 0: got text ('a'); expected numbers, float32 [n, 10]"),
        ("table", [[1.0] * 10, [1.0] * 9], "x: row 1 is of another shape than the first one; expected float32 [n, 10]"),
        ("table", [1.0] * 10, "x: expected float32 [n, 10], got float64 [10]; for a single row pass [x]"),
        ("table", {"typed": "float32", "data": [1.0] * 11}, "a flat array holds whole rows, of 10 values each"),
        ("table", {"typed": "int64", "data": []}, "x: got values (bigint64); expected numbers, float32 [n, 10]"),
        ("table", {"typed": "float32", "data": [1.0] * 10, "dims": [2, 10]}, "x: 10 values with the dims [2, 10]"),
        ("dense", np.zeros((3, 64)).tolist(), "got float64 [3, 64]; give their values the dims [3, 8, 8]"),
    ],
)
def test_what_is_not_rows_is_refused(driver: Driver, name: str, x: object, message: str) -> None:
    answer = driver.ask(GOLDEN / name, "score", x)
    assert answer["error"] == "InputError" and message in answer["message"], answer


def test_axes_in_another_order_are_named(driver: Driver, tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b", shape=(2, 4, 3), layout="CHW")
    answer = driver.ask(tmp_path / "b", "score", network.rows(2).transpose(0, 2, 3, 1).tolist())
    assert "the rows' axes are in another order than the bundle's CHW [2, 4, 3]" in answer["message"]


@pytest.mark.parametrize("name", ["table", "dense-uint8-batch1"])
def test_flagged_rows_are_anomalies_and_change_no_other(either: Driver, name: str) -> None:
    x = BUNDLES[name].golden().x.astype(np.float64)
    clean = either.value(GOLDEN / name, "score", x.tolist())
    x[(2, *(0 for _ in x.shape[1:]))] = np.nan
    x[(5, *(1 for _ in x.shape[1:]))] = -np.inf
    scores = either.value(GOLDEN / name, "score", plain(x), onInvalid="flag")
    assert [scores[2], scores[5]] == ["NaN", "NaN"]
    kept = [0, 1, 3, 4, 6, 7]
    assert [scores[row] for row in kept] == [clean[row] for row in kept]
    anomalies = either.value(GOLDEN / name, "predict", plain(x), onInvalid="flag")
    assert anomalies[2] and anomalies[5]


def js_says(driver: Driver, source: Path, rows: np.ndarray[Any, Any] | None, **options: Any) -> tuple[str, str]:
    """Return the class and the words of JavaScript's error, or twice nothing; without rows only load the bundle."""
    call = (None, None) if rows is None else ("score", plain(rows))
    answer = driver.ask(source, *call, **options)
    return (answer["error"], comparable(answer["message"])) if "error" in answer else ("", "")


def test_errors_have_pythons_words(driver: Driver, tmp_path: Path) -> None:
    for name, (bundle, options, rows) in write_calls(tmp_path).items():
        wanted = python_says(bundle, rows, **options)
        assert wanted[0], name
        assert js_says(driver, bundle, rows, **options) == wanted, name


def test_wrong_bundles_are_refused_in_pythons_words(driver: Driver, tmp_path: Path) -> None:
    wrong = write_mistakes(plain_parts(tmp_path / "plain"), tmp_path)
    rows = np.zeros((1, 4), np.float32)
    wanted = {name: python_says(path, rows) for name, path in wrong.items()}
    assert {name: js_says(driver, path, rows) for name, path in wrong.items()} == wanted


def test_wrong_archives_are_refused_in_pythons_words(driver: Driver, tmp_path: Path) -> None:
    wrong = write_archives(plain_parts(tmp_path / "plain"), tmp_path)
    rows = np.zeros((1, 4), np.float32)
    wanted = {name: python_says(path, rows) for name, path in wrong.items()}
    assert [name for name, (kind, _) in wanted.items() if not kind] == ["right"]
    assert {name: js_says(driver, path, rows) for name, path in wrong.items()} == wanted


def test_every_value_of_a_manifest_is_judged_as_in_python(driver: Driver, tmp_path: Path) -> None:
    changed = write_manifests(every_value(plain_parts(tmp_path / "plain").manifest), tmp_path)
    wanted = {name: python_says(path) for name, path in changed.items()}
    assert {name: js_says(driver, path, None) for name, path in changed.items()} == wanted


def test_a_graph_that_computes_something_else_is_refused(driver: Driver, tmp_path: Path) -> None:
    network, other = make_bundle(tmp_path / "b"), make_bundle(tmp_path / "c", seed=1)
    manifest, files = parts(network)
    _, foreign = parts(other)
    entry = manifest.precisions["fp32"]
    golden = next(iter(Bundle.write(tmp_path / "d", *parts(other)).manifest.precisions.values())).golden
    swapped = replace(manifest, precisions={"fp32": replace(entry, golden=golden)})
    Bundle.write(tmp_path / "e", swapped, files | {"golden.npz": foreign["golden.npz"]})
    answer = driver.ask(tmp_path / "e", "score", np.full((1, 12), 0.5).tolist())
    assert (
        answer["error"] == "BundleError"
        and "self-test failed on cpu: golden row 0 must give score" in answer["message"]
    )


def test_golden_rows_in_fortran_order(driver: Driver, tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b", shape=(5, 3), layout="TC")
    manifest, files = parts(network)
    golden = Bundle.read(tmp_path / "b").golden()
    arrays = {name: np.asfortranarray(getattr(golden, name)) for name in ("x", "z", "x_hat", "score")}
    file = io.BytesIO()
    np.savez(file, x=arrays["x"], z=arrays["z"], x_hat=arrays["x_hat"], score=arrays["score"])
    data = file.getvalue()
    assert b"'fortran_order': True" in data
    entry = replace(manifest.precisions["fp32"], golden=describe_file("golden.npz", data))
    Bundle.write(tmp_path / "f", replace(manifest, precisions={"fp32": entry}), files | {"golden.npz": data})
    shares = driver.value(tmp_path / "f", "golden", precision="fp32")
    assert all(share <= 1 for share in shares.values()), shares


@pytest.mark.parametrize(
    ("source", "call", "options", "message"),
    [
        (TABLE, None, {"precision": "fp64"}, "at precision 'fp64' (known precisions: fp32, fp16, int8); choose fp32"),
        (TABLE, None, {"onInvalid": "ignore"}, "onInvalid: 'ignore' is not one of raise, flag"),
        (GOLDEN / "nothing", None, {}, "no such bundle; make one with: edgeae export RUN"),
        (TABLE / "scorer.onnx", "encode", {}, "is only the scorer of a bundle; load encoder.onnx, or the bundle's"),
        (TABLE / "scorer.onnx", "explain", {}, "is only one graph of a bundle; load the bundle for this"),
        (TABLE / "manifest.json", None, {}, "not a bundle, a .zip or an .onnx file"),
        ({"bytes": TABLE / "manifest.json"}, None, {}, "not an ONNX file, or a damaged one"),
    ],
)
def test_what_cannot_be_loaded_or_done_is_said(
    driver: Driver, source: object, call: str | None, options: dict[str, object], message: str
) -> None:
    answer = driver.ask(source, call, np.zeros((1, 10)).tolist(), **options)
    assert answer["error"].endswith("Error") and message in answer["message"], answer


def test_all_that_a_manifest_may_say_is_understood(driver: Driver, tmp_path: Path) -> None:
    manifest, files = parts(make_bundle(tmp_path / "b"))
    entry = manifest.precisions["fp32"]
    for method in get_args(ThresholdMethod):
        chosen = replace(entry.threshold, method=method, fpr=0.1, rows=9, interval=(0.05, 0.2), recall=0.9)
        changed = replace(manifest, precisions={"fp32": replace(entry, threshold=chosen)})
        Bundle.write(tmp_path / method, changed, files)
        assert len(driver.value(tmp_path / method, "score", np.full((2, 12), 0.5).tolist())) == 2
    for kind in SCORES:  # a kind that the module does not know is refused before the graphs are looked at
        Bundle.write(tmp_path / kind, replace(manifest, score=replace(manifest.score, kind=kind)), files)
        answer = driver.ask(tmp_path / kind, "score", np.full((2, 12), 0.5).tolist())
        assert "value" in answer if kind == manifest.score.kind else "edgeae.score = " in answer["message"], answer


def test_mahalanobis_is_explained_as_python_does(driver: Driver, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(400, 6))).astype(np.float32)
    pair = (torch.nn.Linear(6, 2), torch.nn.Linear(2, 6))
    edgeae.export_bundle(pair, tmp_path / "m", calibrate=x, normalisation="standard", score="mahalanobis")
    with edgeae.load(tmp_path / "m", device="cpu") as model:
        scores, explained = model.score(x[:5]), model.explain(x[:5])
    np.testing.assert_allclose(driver.value(tmp_path / "m", "score", x[:5].tolist()), scores, rtol=1e-3)
    found = driver.value(tmp_path / "m", "explain", x[:5].tolist())
    np.testing.assert_allclose(found["data"], explained.values.ravel(), rtol=1e-2, atol=1e-4)


def test_types_are_strict_and_the_declarations_up_to_date(npm: Path, node: str, tmp_path: Path) -> None:
    shutil.copytree(WEB, tmp_path / "web")
    shutil.rmtree(tmp_path / "web" / "types")
    (tmp_path / "web" / "node_modules").symlink_to(npm / "node_modules")
    compiler = [node, str(npm / "node_modules" / "typescript" / "bin" / "tsc"), "-p"]
    for project in ("web", "web/page"):
        done = subprocess.run([*compiler, str(tmp_path / project)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    made = {path.name: path.read_text() for path in (tmp_path / "web" / "types").iterdir()}
    assert made == {path.name: path.read_text() for path in (WEB / "types").iterdir()}


# --------------------------------------------------------------------------------------------------------------------
# The page

READY = """(async () => {
    const wait = (ms) => new Promise((done) => setTimeout(done, ms));
    const until = async (met) => { for (let turn = 0; turn < 800 && !met(); turn++) await wait(25); };
    const byId = (id) => document.getElementById(id);
    const score = () => Number(byId("score").dataset.value);
    const image = (id) => {
        const canvas = byId(id);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return Array.from(data).filter((_, index) => index % 4 === 0);
    };
    await until(() => document.documentElement.dataset.state);
    const more = await (async () => { MORE })();
    await wait(50);
    const state = document.documentElement.dataset.state;
    const problem = byId("problem").hidden ? "" : byId("problem").textContent;
    const [verdict, latency] = [byId("verdict").innerText, byId("latency").textContent];
    return { state, problem, score: score(), verdict, latency, more };
})()"""
# what onnxruntime-web does when it looks whether threads would be possible
HARMLESS = ("SharedArrayBuffer",)


def ready(script: str = "") -> str:
    """Wait for the page, run more of a script, and say what is on the page."""
    return READY.replace("MORE", script)


def complaints(look: Look) -> list[str]:
    return [each for each in look.messages if not any(word in each for word in HARMLESS)]


@pytest.fixture(scope="module")
def pages(runtime_web: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages with ONNX Runtime Web in them."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("table", "dense-uint8-batch1")
    made = {name: write_page(GOLDEN / name, folder / f"{name}.html", onnxruntime_web=runtime_web) for name in names}
    network = make_bundle(folder / "b", shape=(16, 3), layout="TC")
    np.save(folder / "windows.npy", network.rows(2))
    return made | {"own windows": write_page(folder / "b", folder / "w.html", onnxruntime_web=runtime_web)}


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("table", 1100, True), ("table", 360, False), ("dense-uint8-batch1", 360, False), ("own windows", 360, True)],
)
def test_the_page_shows_golden_scores_from_the_disk(
    browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    bundle = BUNDLES.get(name) or Bundle.read(pages[name].parent / "b")
    golden = bundle.golden()
    look = browser.look(f"{pages[name].as_uri()}#golden=3", width=width, dark=dark, script=ready())
    assert look.value["state"] == "ready" and look.value["problem"] == "", look.value
    assert look.value["score"] == pytest.approx(float(golden.score[2]), rel=1e-3)
    bad = not golden.score[2] <= np.float32(bundle.manifest.precisions["fp32"].threshold.value)
    assert look.value["verdict"].startswith("Anomaly" if bad else "Normal")
    assert re.fullmatch(r"[0-9.]+ (µs|ms)", look.value["latency"])
    assert all(url.startswith("blob:") for url in look.requests) and complaints(look) == []
    assert look.width <= width and look.smallest_text >= 12
    assert look.picture.startswith(b"\x89PNG") and len(look.picture) > 10_000


def test_a_drawing_is_scored_as_python_scores_it(browser: Browser, pages: dict[str, Path]) -> None:
    script = """
        const canvas = byId("draw");
        const box = canvas.getBoundingClientRect();
        const at = (type, x, y, on) => on.dispatchEvent(new PointerEvent(type, {
            clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true, button: 0 }));
        const before = score();
        at("pointerdown", 0.3, 0.2, canvas);
        for (let step = 0; step <= 10; step++) at("pointermove", 0.3 + 0.04 * step, 0.2 + 0.06 * step, window);
        at("pointerup", 0.7, 0.8, window);
        await until(() => score() !== before);
        await wait(200);
        const drawn = [image("draw"), score(), image("reconstruction")];
        byId("clear").click();
        await until(() => score() === before);
        const cleared = score() === before;
        canvas.focus();
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key: " ", bubbles: true }));
        await until(() => score() !== before);
        return { drawn, cleared, typed: score() !== before };
    """
    more = browser.look(pages["dense-uint8-batch1"], width=900, script=ready(script)).value["more"]
    pixels, score, reconstruction = more["drawn"]
    x = np.array(pixels, np.uint8).reshape(1, 8, 8)
    assert np.count_nonzero(x) > 5
    with edgeae.load(IMAGE, device="cpu") as model:
        assert score == pytest.approx(float(model.score(x)[0]), rel=1e-3)
        np.testing.assert_allclose(reconstruction, np.clip(model.reconstruct(x), 0, 255).ravel(), atol=1)
    assert more["cleared"] and more["typed"]


def test_an_opened_image_is_scored(browser: Browser, pages: dict[str, Path]) -> None:
    script = """
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [80, 120];
        const context = canvas.getContext("2d");
        context.fillStyle = "#fff"; context.fillRect(0, 60, 80, 60);
        const blob = await new Promise((done) => canvas.toBlob(done));
        const transfer = new DataTransfer();
        transfer.items.add(new File([blob], "half.png", { type: "image/png" }));
        const before = score();
        byId("picture").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        await until(() => score() !== before);
        const opened = image("draw");
        const wrong = new DataTransfer();
        wrong.items.add(new File(["text"], "a.txt", { type: "text/plain" }));
        byId("picture").dispatchEvent(new DragEvent("drop", { dataTransfer: wrong, bubbles: true }));
        await until(() => !byId("problem").hidden);
        return opened;
    """
    found = browser.look(pages["dense-uint8-batch1"], width=900, script=ready(script)).value
    opened = np.reshape(found["more"], (8, 8))
    assert opened[:3].max() < 30 and opened[5:].min() > 225
    assert found["problem"] == "a.txt: not an image that this browser reads"


def test_pasted_rows_are_scored_and_typed_values_too(browser: Browser, pages: dict[str, Path]) -> None:
    names = list(BUNDLES["table"].manifest.input.feature_names or ())
    golden = BUNDLES["table"].golden()
    rows = golden.x[:5].astype(np.float64)
    order = [*range(1, 10), 0]
    lines = [",".join([*(names[at] for at in order), "extra"])]
    lines += [",".join([*(f"{row[at]:.9g}" for at in order), "word"]) for row in rows]
    lines.append("," + lines[1].split(",", 1)[1])  # a missing value
    script = f"""
        byId("paste").value = {json.dumps(chr(10).join(lines))};
        byId("paste-form").requestSubmit();
        await until(() => !byId("rows-block").hidden);
        const listed = [...document.querySelectorAll("#rows tbody tr")];
        const cells = listed.map((row) => [...row.cells].map((cell) => cell.textContent));
        document.querySelectorAll("#rows button")[1].click();
        await until(() => Math.abs(score() / {float(golden.score[1])} - 1) < 1e-3);
        const chosen = score();
        const field = document.querySelector("#fields input");
        field.value = "x";
        field.dispatchEvent(new Event("input"));
        await until(() => Number.isNaN(score()));
        const verdict = byId("verdict").innerText;
        byId("precision").value = "fp16";
        byId("precision").dispatchEvent(new Event("change"));
        byId("golden").value = "0";
        byId("golden").dispatchEvent(new Event("change"));
        await until(() => byId("threshold").textContent !== "2.516" || !Number.isNaN(score()));
        await wait(300);
        const half = score();
        byId("paste").value = "1,2,3";
        byId("paste-form").requestSubmit();
        await until(() => !byId("problem").hidden);
        return {{ cells, chosen, verdict, half, title: byId("rows-title").textContent }};
    """
    found = browser.look(pages["table"], width=900, script=ready(script)).value
    more = found["more"]
    with edgeae.load(TABLE, device="cpu", on_invalid="flag") as model:
        wanted = model.score(rows)
        bad = [*model.predict(rows).tolist(), True]
    assert [cell[0] for cell in more["cells"]] == list("012345")
    np.testing.assert_allclose([float(cell[1]) for cell in more["cells"][:5]], wanted, rtol=1e-3)
    assert more["cells"][5][1] == "NaN"
    assert [cell[2] == "anomaly" for cell in more["cells"]] == bad
    assert more["title"].startswith(f"6 pasted rows, {sum(bad)} of them")
    assert more["chosen"] == pytest.approx(float(golden.score[1]), rel=1e-3)
    assert more["verdict"].startswith("Anomaly") and "a value is missing or no number" in more["verdict"]
    assert more["half"] == pytest.approx(float(BUNDLES["table"].golden("fp16").score[0]), rel=2e-2)
    assert found["problem"] == "paste: 3 values on a line; a row has 10"


def test_pasted_windows_are_scored(browser: Browser, pages: dict[str, Path]) -> None:
    windows = np.load(pages["own windows"].parent / "windows.npy")
    text = "\n".join("\t".join(f"{value:.9g}" for value in step) for step in windows.reshape(-1, 3))
    script = f"""
        byId("paste").value = {json.dumps(text)};
        byId("paste-form").requestSubmit();
        await until(() => !byId("rows-block").hidden);
        return [...document.querySelectorAll("#rows tbody tr")].map((row) => Number(row.cells[1].textContent));
    """
    scores = browser.look(pages["own windows"], width=900, script=ready(script)).value["more"]
    with edgeae.load(pages["own windows"].parent / "b", device="cpu") as model:
        np.testing.assert_allclose(scores, model.score(windows), rtol=1e-3)


def test_a_page_without_the_runtime_finds_it_beside_itself_on_a_server(
    browser: Browser, site: tuple[Path, str]
) -> None:
    page = write_page(TABLE, site[0] / "small.html")
    assert page.stat().st_size < 2**18
    look = browser.look(f"{site[1]}/small.html#golden=2", width=900, script=ready())
    assert look.value["state"] == "ready", look.value
    assert look.value["score"] == pytest.approx(float(BUNDLES["table"].golden().score[1]), rel=1e-3)
    assert all(url.startswith(f"{site[1]}/onnxruntime-web/") for url in look.requests), look.requests
    look = browser.look(page, width=900, script=ready())
    assert look.value["state"] == "failed" and "--onnxruntime-web" in look.value["problem"]


def test_names_stay_text_on_the_page(browser: Browser, runtime_web: Path, tmp_path: Path) -> None:
    hostile = (
        "</script><script>document.body.innerHTML='broken'</script>",
        "<img src=x onerror=alert(1)>",
        "a & b",
        "é",
    )
    make_bundle(tmp_path / "b", shape=(4,), names=hostile, manifest={"name": hostile[0], "description": hostile[1]})
    page = write_page(tmp_path / "b", tmp_path / "p.html", onnxruntime_web=runtime_web)
    script = "return [...document.querySelectorAll('#fields tr td:first-child')].map((cell) => cell.textContent)"
    look = browser.look(page, width=900, script=ready(script))
    assert look.value["state"] == "ready" and look.value["more"] == list(hostile)
    assert all(url.startswith("blob:") for url in look.requests) and complaints(look) == []


def test_the_page_is_one_file_of_the_same_bytes_every_time(tmp_path: Path) -> None:
    first, second = (write_page(TABLE, tmp_path / f"{name}.html").read_bytes() for name in "ab")
    assert first == second
    assert re.search(rb"script-src 'sha256-[^']+' 'wasm-unsafe-eval' 'self'; .* connect-src 'self';", first)
    assert not re.search(rb'^(import|export) .* from "\.', first, re.MULTILINE)
    archive = Bundle.write(tmp_path / "b.zip", *parts(make_bundle(tmp_path / "b")))
    assert (
        write_page(archive.path, tmp_path / "c.html").read_bytes()
        == write_page(tmp_path / "b", tmp_path / "d.html").read_bytes()
    )


def test_what_a_page_cannot_be_written_from_or_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.html"):
        write_page(TABLE, tmp_path / "page.txt")
    with pytest.raises(InputError, match="npm pack onnxruntime-web"):
        write_page(TABLE, tmp_path / "page.html", onnxruntime_web=tmp_path)
    with pytest.raises(EdgeaeError, match="no such bundle"):
        write_page(tmp_path / "none", tmp_path / "page.html")
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(InputError, match="--force"):
        write_page(TABLE, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "mine"
    write_page(TABLE, tmp_path / "page.html", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_target_names_the_page_and_refuses_before_any_work(tmp_path: Path) -> None:
    assert beside(Path("models/pump"), "web") == Path("models/pump.html")
    assert beside(Path("models/pump.zip"), "web") == Path("models/pump.html")
    some = {"opset": 18, "batch": None, "force": False}
    assert prepare("web", tmp_path / "b", onnxruntime_web=None, **some) is None  # type: ignore[arg-type]
    with pytest.raises(InputError, match="onnxruntime_web: is for the page"):
        prepare("server", tmp_path / "b", onnxruntime_web=tmp_path, **some)  # type: ignore[arg-type]
    (tmp_path / "b.html").touch()
    with pytest.raises(InputError, match="the page exists already"):
        prepare("web", tmp_path / "b", onnxruntime_web=None, **some)  # type: ignore[arg-type]


def test_export_writes_the_page_beside_the_bundle(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    edgeae.train(rows, tmp_path / "run", epochs=1, latent_dim=2)
    arguments = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "pump"), "--target", "web"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert f"<title>{Bundle.read(tmp_path / 'pump').manifest.name}</title>" in (tmp_path / "pump.html").read_text()
    again = CliRunner().invoke(main, [*arguments, "--onnxruntime-web", str(tmp_path)])
    assert again.exit_code == 1
