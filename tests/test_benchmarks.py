"""The benchmarks run, their figures hang together, and what is compared computes the same; no time is asserted."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import peers as peers_module
from benchmarks.__main__ import main
from benchmarks.cases import TINY, Case, make_case
from benchmarks.latency import check, measure_latency
from benchmarks.limits import measure_limits
from benchmarks.peers import PEERS, Bulk, Setup, Way, available, bulks, mean_square, ways
from benchmarks.plots import draw_plots
from benchmarks.results import Accuracy, Curve, Latency, Machine, Report
from benchmarks.throughput import bulk_rows, measure_curve
from edgeae.bundle.strict import from_plain
from edgeae.errors import EdgeaeError
from edgeae.models import Autoencoder, ModelConfig

LITERT = pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="ai-edge-litert is not installed: .[bench]")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(TINY, tmp_path_factory.mktemp("case") / TINY, epochs=1)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Openvino is not installed, whether it is or not."""
    monkeypatch.setattr(peers_module, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    yield


def test_a_quick_run_on_a_tiny_model(
    tmp_path: Path, without: None, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_before(name: str, folder: Path, **options: Any) -> Case:
        folder.mkdir()
        return case

    monkeypatch.setattr("benchmarks.__main__.make_case", made_before)
    arguments = [TINY, "--quick", "--peers", "edgeae,onnxruntime,openvino", "--json", str(tmp_path / "all.json")]
    sections = "latency,throughput,flatness,cold-start,size,accuracy"
    result = CliRunner().invoke(main, [*arguments, "--only", sections, "--plot", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "absent: openvino: openvino not installed: pip install" in result.stdout
    for title in ("One row", "Many rows", "Rows/s over", "memory-mapped rows", "Fresh processes", "Size", "AUROC"):
        assert title in result.stdout
    report = from_plain(Report, json.loads((tmp_path / "all.json").read_text()), where="json")
    full = {row.way: row for row in report.latency if row.call == "full"}
    assert {"edgeae, fp32", "ONNX Runtime, default session"} <= set(full)
    assert full["ONNX Runtime, default session"].ratio == 1
    assert {row.batch for row in report.curve} == {1, 64, 1024}
    assert {row.way for row in report.bulk} >= {"edgeae, fp32", "ONNX Runtime, default session"}
    assert [row.rows for row in report.flatness] == [1000, 10_000]
    assert [row.ratio for row in report.fresh if row.way.startswith("ONNX")] == [1]
    assert all(row.memory_first for row in report.fresh)
    assert all(0 <= row.auroc <= 1 for row in report.accuracy)
    assert report.models[0].operations_per_row == 2 * 2 * 784 * 4
    assert report.machine.cores >= 1 and report.machine.packages["onnxruntime"]
    for name in ("latency.png", "throughput.png", "accuracy.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_flatness_scores_rows_on_the_disk_and_leaves_none_behind(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def made_before(name: str, folder: Path, **options: Any) -> Case:
        folder.mkdir()
        folders.append(folder)
        return case

    written: list[tuple[int, ...]] = []

    def start(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "benchmarks.flatness" in command:
            written.append(np.load(folders[0] / "rows.npy", mmap_mode="r").shape)
        return real(command, **options)

    real = subprocess.run
    monkeypatch.setattr("benchmarks.__main__.make_case", made_before)
    monkeypatch.setattr("benchmarks.flatness.subprocess.run", start)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    arguments = [TINY, "--only", "flatness", "--rows", "40000", "--json", str(tmp_path / "flat.json")]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report = from_plain(Report, json.loads((tmp_path / "flat.json").read_text()), where="json")
    assert [row.rows for row in report.flatness] == [1000, 10_000, 40_000]
    assert written == [(40_000, 784)]
    assert [path.name for path in tmp_path.iterdir()] == ["flat.json"]


@pytest.mark.parametrize(("option", "value"), [("--only", "speed"), ("--peers", "edgeae,tensorrt")])
def test_what_does_not_exist_is_refused(option: str, value: str) -> None:
    result = CliRunner().invoke(main, [option, value])
    assert result.exit_code == 2
    assert f"{value.split(',')[-1]!r} is not one of" in result.stderr


@pytest.mark.parametrize("name", [name for name in PEERS if name != "torch.compile"])  # compiles for half a minute
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.filterwarnings("ignore")  # of the peers' own
def test_every_way_of_an_installed_peer_gives_the_scores(case: Case, name: str, batch: int) -> None:
    present, absent = available([name])
    if not present:
        pytest.skip(absent[0].reason)
    rows = case.batch(batch)
    wanted = case.expected(rows)
    found = list(ways(name, case, Setup(batch, 1)))
    assert found
    for way in found:
        scores = way.score(rows[0] if way.takes_row else rows)
        assert np.shape(scores) in ((batch,), ()), way.name
        check(way.name, way.precision, way.same, scores, wanted)
        if way.bare is not None and way.result is not None:
            way.bare()
            check(way.name, way.precision, way.same, way.result(), wanted)


@pytest.mark.parametrize("name", ["edgeae", "onnxruntime", "openvino", "openvino-int8", "litert"])
@pytest.mark.filterwarnings("ignore")
def test_every_way_through_a_large_array_gives_the_scores(case: Case, name: str) -> None:
    present, absent = available([name])
    if not present:
        pytest.skip(absent[0].reason)
    rows = case.batch(2048)
    wanted = case.expected(rows)
    out = np.empty(len(rows), np.float32)
    for bulk in bulks(name, case, threads=1, device="cpu"):
        out[:] = np.nan
        bulk.run(rows, out)
        _, median = check(bulk.name, bulk.precision, bulk.same, out, wanted)
        assert median is not None and median < 0.1, bulk.name


def test_what_is_missing_is_named_with_the_command(without: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    present, absent = available(["edgeae", "openvino", "torch.compile", "pca"])
    assert present == ["edgeae", "pca"]
    assert {each.peer: each.reason.split(":")[0] for each in absent} == {
        "openvino": "openvino not installed",
        "torch.compile": "g++ not installed",
    }
    assert all("install" in each.reason.split(":", 1)[1] for each in absent)
    assert available(["pca"], device="cuda:0")[1][0].reason == "not for cuda:0"


def test_scores_are_compared_with_those_of_the_network() -> None:
    wanted = np.array([1.0, 2.0, 4.0])
    largest, median = check("a", "fp32", True, np.float32(wanted * [1, 1.0001, 1.0002]), wanted)
    assert largest == pytest.approx(2e-4, rel=1e-2)
    assert median == pytest.approx(1e-4, rel=1e-2)
    assert check("a", "int8", True, wanted * 1.1, wanted)[0] == pytest.approx(0.1)
    assert check("a", "fp32", False, wanted * 3, wanted) == (None, None)
    for wrong in (wanted * 1.01, wanted * np.nan):
        with pytest.raises(EdgeaeError, match="a gives other scores than PyTorch"):
            check("a", "fp32", True, wrong, wanted)


def test_a_way_that_scores_wrongly_stops_the_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Way("wrong", lambda rows: np.ones(len(rows)))
    monkeypatch.setattr("benchmarks.latency.ways", lambda peer, case, setup: iter([wrong]))
    with pytest.raises(EdgeaeError, match="wrong gives other scores"):
        measure_latency(case, ["edgeae"], seconds=0.01, remarks=[])


def test_what_a_peer_cannot_do_is_noted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(peer: str, case: Case, setup: Setup) -> Iterator[Way]:
        raise NotImplementedError("only dense layers")

    monkeypatch.setattr("benchmarks.latency.ways", refuse)
    remarks: list[str] = []
    with pytest.raises(EdgeaeError, match="no candidate"):
        measure_curve(case, ["pyod"], [1], operations_per_row=1, seconds=0.01, threads=1, remarks=remarks)
    assert remarks == ["tiny: pyod: only dense layers"]


def test_a_loop_over_chunks_scores_every_row(case: Case) -> None:
    rows, out = case.batch(512), np.full(512, np.nan, np.float32)
    found: list[Bulk] = [bulk for bulk in bulks("onnxruntime", case, 1, "cpu") if bulk.chunk == 256]
    found[0].run(rows, out)
    np.testing.assert_allclose(out, case.expected(rows), rtol=1e-4)


@pytest.mark.parametrize(("operations", "rows"), [(10**10, 4096), (10**6, 4096 * 2), (1, 4096 * 16)])
def test_a_large_array_is_not_too_large(operations: int, rows: int) -> None:
    assert bulk_rows(operations, 0.2) == rows


def test_the_error_of_a_row_is_its_mean_square() -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_allclose(mean_square(x, np.zeros_like(x)), [55 / 6, 451 / 6])


def test_limits_are_positive_and_leave_the_threads_alone() -> None:
    before = torch.get_num_threads()
    found = measure_limits(1, 0.02, side=64, block_bytes=2**16)
    assert min(found.gflops_one, found.gflops_all, found.copy_one, found.copy_all, found.triad_one, found.triad_all) > 0
    assert torch.get_num_threads() == before


def test_plots_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    machine = Machine("processor", 2, (), "Linux", "3.11", {}, "cpu", 0.1, 0.2)
    latency = tuple(
        Latency(model, way, "full", "fp32", 9, 1.0, 2.0, 3.0, 9.0, 1.0, 1.0, None)
        for model in ("a", "b", "c")
        for way in ("edgeae, fp32", "something else")
    )
    curve = tuple(Curve("a", "edgeae, fp32", "fp32", batch, 1e5 * batch, 2e5) for batch in (1, 8))
    report = Report("command", "2026-01-01", 1.0, machine, (), (), (), latency=latency, curve=curve)
    assert [path.name for path in draw_plots(report, tmp_path / "new")] == ["latency.png", "throughput.png"]
    alone = Report("", "2026-01-01", 1.0, machine, (), (), (), accuracy=(Accuracy("a", "b", "fp32", 0.9, 1.0, 3.0),))
    assert [path.name for path in draw_plots(alone, tmp_path)] == ["accuracy.png"]


NETWORKS: list[dict[str, Any]] = [
    {"input_shape": (12,), "layout": "vector", "hidden": (8,), "batch_norm": True, "output_activation": "sigmoid"},
    {"input_shape": (12,), "layout": "vector", "hidden": (8,), "activation": "tanh", "bottleneck": "variational"},
    {
        "input_shape": (12,),
        "layout": "vector",
        "bottleneck": "sparse",
        "sparsity": "topk",
        "active_units": 2,
        "latent_activation": "linear",
    },
    {"input_shape": (9, 10), "layout": "HW", "architecture": "convolutional", "hidden": (3, 5), "batch_norm": True},
    {"input_shape": (2, 8, 7), "layout": "CHW", "architecture": "convolutional", "hidden": (4,)},
]


@LITERT
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: f"{config['layout']}-{len(config)}")
def test_a_tflite_file_computes_what_the_network_does(config: dict[str, Any], batch: int) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from benchmarks.tflite import write

    torch.manual_seed(0)
    model = Autoencoder(ModelConfig(latent_dim=4, **config))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean, module.running_var = (
                torch.rand_like(module.weight),
                0.5 + torch.rand_like(module.weight),
            )
    model.eval()
    x = np.random.default_rng(0).random((batch, *config["input_shape"]), np.float32)
    if config["layout"] == "CHW":
        with pytest.raises(NotImplementedError, match="channels-first rows"):
            write(model, batch)
        return
    interpreter = Interpreter(model_content=write(model, batch), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model(torch.from_numpy(x)).detach().numpy(), atol=1e-5)
