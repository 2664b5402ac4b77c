"""Export: graphs, folding, scores, the parity gate, thresholds, golden rows; PyTorch against ONNX Runtime."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.bundle import GRAPHS
from edgeae.bundle.manifest import SCORES, Input, Normalisation, PrecisionEntry
from edgeae.data import load_data
from edgeae.errors import ExportError, InputError
from edgeae.export.assemble import Cores, Plan, assemble
from edgeae.export.cores import Network, export_core
from edgeae.export.graph import GraphBuilder, constants_of
from edgeae.export.parity import check_parity, reference, run_graph, run_graphs
from edgeae.export.scores import ScoreSpec
from edgeae.training import Run
from tests.make_golden import GOLDEN, VARIANTS, make, sensor_table

# what a small interpreter, and later the guard, has to know; new operators are a decision, not an accident
OPERATORS = {
    "Abs", "Add", "Cast", "Clip", "Conv", "ConvTranspose", "Exp", "Flatten", "Gemm", "GreaterOrEqual", "MatMul", "Mul",
    "Pad", "Div", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softplus",
    "Squeeze", "Sub", "Tanh", "TopK", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
INTEGERS = {"DequantizeLinear", "QGemm", "QLinearConv", "QuantizeLinear"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """A dense, a variational and a table run, trained for two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    digits = load_data("digits")
    quick: dict[str, Any] = {"epochs": 2, "device": "cpu", "threads": 1, "progress": False}
    labelled = replace(load_data(sensor_table()), y=(np.arange(600) % 10 == 0).astype(np.int64))
    return {
        "dense": edgeae.train(digits, folder / "dense", latent_dim=8, **quick),
        "variational": edgeae.train(
            digits, folder / "variational", variant="variational", latent_dim=4, loss="mse", **quick
        ),
        "bernoulli": edgeae.train(
            digits, folder / "bernoulli", variant="variational", latent_dim=4, loss="bce", **quick
        ),
        "table": edgeae.train(labelled, folder / "table", latent_dim=3, hidden=[8], **quick),
    }


def _rows(run: Run) -> np.ndarray[Any, Any]:
    return run.reference.x_validation.astype(np.float32)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_exports_and_agrees_with_its_golden_rows(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    bundle = Bundle.read(tmp_path / name)
    manifest = bundle.manifest
    assert manifest.training is not None and manifest.variant == VARIANTS[name].train.get("variant", "dense")
    for precision, entry in manifest.precisions.items():
        for role in GRAPHS:
            model = onnx.load_from_string(bundle.graph(precision, role))
            kinds = {node.op_type for node in model.graph.node}
            assert kinds <= (OPERATORS | INTEGERS if precision == "int8" else OPERATORS)
            _check_tidy(model, manifest.batch)
            metadata = {item.key: item.value for item in model.metadata_props}
            assert float(metadata["edgeae.threshold"]) == entry.threshold.value
            assert metadata["edgeae.role"] == role
        golden = bundle.golden(precision)
        assert len(golden.x) == 8
        graphs = {role: bundle.graph(precision, role) for role in GRAPHS}
        np.testing.assert_array_equal(run_graphs(graphs, golden.x, batch=manifest.batch).score, golden.score)
        # a second batch size rounds differently; the manifest's tolerance must allow for that
        if manifest.batch is None:
            single = run_graphs(graphs, golden.x, batch=None, chunk=1)
            for tensor, tolerance in entry.tolerance.items():
                np.testing.assert_allclose(
                    getattr(single, tensor), getattr(golden, tensor), rtol=tolerance.rtol, atol=tolerance.atol
                )


def _check_tidy(model: onnx.ModelProto, batch: int | None) -> None:
    (source,), (result,) = model.graph.input, model.graph.output
    assert (source.name, result.name) in {("x", "z"), ("z", "x_hat"), ("x", "score")}
    for value in (source, result):
        first = value.type.tensor_type.shape.dim[0]
        assert first.dim_param == "batch" if batch is None else first.dim_value == batch
    assert not model.functions and not model.graph.sparse_initializer and not model.graph.doc_string
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)
    assert all(node.domain == ("com.microsoft" if node.op_type == "QGemm" else "") for node in model.graph.node)
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    assert b"site-packages" not in model.SerializeToString() and b".py" not in model.SerializeToString()
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


@pytest.mark.parametrize("name", VARIANTS)
def test_the_golden_bundles_in_the_repository_come_out(name: str) -> None:
    bundle = Bundle.read(GOLDEN / name)
    for precision, entry in bundle.manifest.precisions.items():
        golden = bundle.golden(precision)
        graphs = {role: bundle.graph(precision, role) for role in GRAPHS}
        results = run_graphs(graphs, golden.x, batch=bundle.manifest.batch)
        results = replace(results, x_hat=run_graph(graphs["decoder"], golden.z, batch=bundle.manifest.batch))
        for tensor, tolerance in entry.tolerance.items():
            np.testing.assert_allclose(
                getattr(results, tensor), getattr(golden, tensor), rtol=tolerance.rtol, atol=tolerance.atol
            )


def test_the_same_run_gives_the_same_bytes(runs: Mapping[str, Run], tmp_path: Path) -> None:
    one, other = (edgeae.export_bundle(runs["dense"], tmp_path / name) for name in ("one", "other"))
    assert one.manifest.precisions == other.manifest.precisions


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("run", ["dense", "variational", "bernoulli", "table"])
def test_every_score_is_exported_or_refused_with_a_reason(
    runs: Mapping[str, Run], tmp_path: Path, run: str, kind: Any
) -> None:
    possible = {"dense": {"bce"}, "variational": {"bce", "elbo"}, "bernoulli": {"bce", "elbo"}, "table": set[str]()}
    if kind not in possible[run] | {"mse", "mae", "zscore", "mahalanobis", "prototype"}:
        with pytest.raises(InputError, match=f"score: {kind} needs"):
            edgeae.export_bundle(runs[run], tmp_path / "bundle", score=kind)
        assert not list(tmp_path.iterdir())
        return
    bundle = edgeae.export_bundle(runs[run], tmp_path / "bundle", score=kind)
    assert bundle.manifest.score.kind == kind
    scores = run_graph(bundle.graph("fp32", "scorer"), _rows(runs[run]), batch=None)
    share = float(np.mean(~(scores <= bundle.manifest.precisions["fp32"].threshold.value)))
    assert share <= 0.01


def test_scores_are_what_their_definitions_say(runs: Mapping[str, Run], tmp_path: Path) -> None:
    run = runs["table"]
    rows = run.reference.x_validation
    for kind in ("mse", "mae", "zscore"):
        bundle = edgeae.export_bundle(run, tmp_path / kind, score=kind)
        graphs = {role: bundle.graph("fp32", role) for role in GRAPHS}
        results = run_graphs(graphs, rows, batch=None)
        _, scale = run.normalisation.arrays(rows.shape[1:], "vector")
        error = (rows.astype(np.float64) - results.x_hat) / scale
        if kind == "zscore":
            error = error / bundle.statistics()["spread"]
        expected = np.abs(error).mean(axis=1) if kind == "mae" else np.square(error).mean(axis=1)
        np.testing.assert_allclose(results.score, expected, rtol=2e-3)


def test_bce_rises_outside_its_range(runs: Mapping[str, Run], tmp_path: Path) -> None:
    bundle = edgeae.export_bundle(runs["bernoulli"], tmp_path / "bundle", score="bce")
    row = runs["bernoulli"].reference.x_validation[:1].astype(np.float32)
    far = [run_graph(bundle.graph("fp32", "scorer"), row + step, batch=None)[0] for step in (0, 100, 1_000, 10_000)]
    assert far == sorted(far)


def test_a_threshold_is_a_quantile_or_what_was_asked_for(runs: Mapping[str, Run], tmp_path: Path) -> None:
    tenth = edgeae.export_bundle(runs["dense"], tmp_path / "tenth", fpr=0.1)
    threshold = tenth.manifest.precisions["fp32"].threshold
    assert (threshold.method, threshold.fpr) == ("quantile", 0.1)
    scores = run_graph(tenth.graph("fp32", "scorer"), _rows(runs["dense"]), batch=None)
    assert 0.09 <= float(np.mean(scores > threshold.value)) <= 0.1
    fixed = edgeae.export_bundle(runs["dense"], tmp_path / "fixed", threshold=0.1).manifest.precisions["fp32"]
    assert (fixed.threshold.method, fixed.threshold.value) == ("fixed", float(np.float32(0.1)))


def test_labelled_anomalies_give_an_auroc(runs: Mapping[str, Run], tmp_path: Path) -> None:
    quality = edgeae.export_bundle(runs["table"], tmp_path / "bundle").manifest.precisions["fp32"].quality
    assert quality.auroc is not None and 0 <= quality.auroc <= 1
    assert quality.reconstruction_mse is not None and quality.mean_mse is not None


def test_calibration_rows_are_matched_by_name_and_their_labels_kept_apart(tmp_path: Path) -> None:
    import pandas

    names = [f"sensor_{index}" for index in range(10)]
    frame = pandas.DataFrame(sensor_table(), columns=names)
    frame.assign(fault=(np.arange(600) % 10 == 0).astype(int)).to_csv(tmp_path / "labelled.csv", index=False)
    frame[names[::-1]].to_csv(tmp_path / "reversed.csv", index=False)
    frame.to_csv(tmp_path / "plain.csv", index=False)
    quick: dict[str, Any] = {"epochs": 2, "device": "cpu", "threads": 1, "progress": False, "label_column": "fault"}
    run = edgeae.train(tmp_path / "labelled.csv", tmp_path / "run", latent_dim=3, hidden=[8], **quick)

    def exported(name: str) -> PrecisionEntry:
        rows = tmp_path / f"{name}.csv"
        bundle = edgeae.export_bundle(run, tmp_path / "bundle", calibrate=rows, score="mse", force=True)
        return bundle.manifest.precisions["fp32"]

    assert exported("reversed").threshold == exported("plain").threshold
    labelled = exported("labelled")
    assert (exported("plain").threshold.rows, labelled.threshold.rows) == (600, 540)
    assert labelled.quality.auroc is not None
    with pytest.raises(InputError, match="calibrate: "):
        edgeae.export_bundle(run, tmp_path / "other", calibrate=tmp_path / "plain.csv", label_column="nothing")


def test_a_model_that_diverged_is_refused(tmp_path: Path) -> None:
    for weight in (1e25, np.inf):
        encoder, decoder = nn.Linear(6, 2), nn.Linear(2, 6)
        nn.init.constant_(decoder.weight, weight)
        with pytest.raises(ExportError, match="diverge"):
            edgeae.export_bundle((encoder, decoder), tmp_path / "bundle", calibrate=sensor_table()[:, :6])
    assert not list(tmp_path.iterdir())


def test_operators_outside_the_format_are_refused(tmp_path: Path) -> None:
    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x)

    with pytest.raises(ExportError, match=r"Sin.*FORMAT\.md"):
        edgeae.export_bundle((Sine(), nn.Identity()), tmp_path / "bundle", calibrate=sensor_table()[:, :6])
    assert not list(tmp_path.iterdir())


def test_fp16_has_a_threshold_and_golden_rows_of_its_own(runs: Mapping[str, Run], tmp_path: Path) -> None:
    bundle = edgeae.export_bundle(runs["table"], tmp_path / "bundle", precision=("fp32", "fp16"))
    fp32, fp16 = bundle.manifest.precisions["fp32"], bundle.manifest.precisions["fp16"]
    assert fp16.encoder.path == "fp16/encoder.onnx"
    assert fp16.threshold.value != fp32.threshold.value
    assert fp16.quality.rank_correlation is not None and fp16.quality.rank_correlation > 0.995
    model = onnx.load_from_string(bundle.graph("fp16", "encoder"))
    assert any(array.dtype == np.float16 for array in constants_of(model.graph).values())


def test_a_fixed_batch_and_another_opset(runs: Mapping[str, Run], tmp_path: Path) -> None:
    bundle = edgeae.export_bundle(runs["dense"], tmp_path / "bundle", batch=4, opset=20)
    model = onnx.load_from_string(bundle.graph("fp32", "scorer"))
    assert (model.opset_import[0].version, model.ir_version) == (20, 9)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": ("int4",)}, "precision"),
        ({"opset": 3}, "opset 3"),
        ({"batch": 0}, "batch"),
        ({"score": "best"}, "score"),
        ({"fpr": 1.5}, "fpr"),
        ({"threshold": math.nan}, "threshold"),
        ({"calibrate": np.zeros((4, 3), np.float32)}, "calibrate"),
        ({"golden_from": np.zeros((4, 3), np.float32)}, "golden_from"),
    ],
)
def test_wrong_options_are_named_and_leave_nothing(
    runs: Mapping[str, Run], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises((InputError, ExportError), match=words):
        edgeae.export_bundle(runs["dense"], tmp_path / "bundle", **options)
    assert not list(tmp_path.iterdir())


def test_uint8_is_for_images(runs: Mapping[str, Run], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="uint8"):
        edgeae.export_bundle(runs["table"], tmp_path / "bundle", input_dtype="uint8")


def test_golden_rows_hold_no_row_of_the_user(runs: Mapping[str, Run], tmp_path: Path) -> None:
    run = runs["table"]
    kept = edgeae.export_bundle(run, tmp_path / "made").golden().x
    everything = np.concatenate([run.reference.x_train, run.reference.x_validation])
    assert not any((everything == row).all(axis=1).any() for row in kept)
    own = everything[:9]
    real = edgeae.export_bundle(run, tmp_path / "real", golden_from=own).golden().x
    assert all((own == row).all(axis=1).any() for row in real)


# --- pairs of modules ---------------------------------------------------------------------------------------------


def _pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)), nn.Sequential(nn.Linear(2, 6))


def test_a_pair_of_modules_becomes_a_bundle(tmp_path: Path) -> None:
    rows = sensor_table()[:, :6] / 1000
    encoder, decoder = _pair()
    names = list("abcdef")
    bundle = edgeae.export_bundle(
        (encoder, decoder), tmp_path / "bundle", calibrate=rows, feature_names=names, score="mse", fpr=0.05
    )
    with torch.no_grad():
        expected = (torch.from_numpy(rows) - decoder(encoder(torch.from_numpy(rows)))).square().mean(1)
    np.testing.assert_allclose(run_graph(bundle.graph("fp32", "scorer"), rows, batch=None), expected, rtol=1e-4)
    assert bundle.manifest.variant == "module" and bundle.manifest.input.feature_names == tuple("abcdef")


def test_a_pair_without_normal_rows_needs_a_threshold(tmp_path: Path) -> None:
    rows = sensor_table()[:5, :6]
    with pytest.raises(InputError, match="calibrate"):
        edgeae.export_bundle(_pair(), tmp_path / "bundle", example=rows)
    bundle = edgeae.export_bundle(_pair(), tmp_path / "bundle", example=rows, threshold=2.0)
    assert bundle.manifest.precisions["fp32"].threshold.value == 2.0


def test_a_pair_with_normalisation_takes_raw_rows(tmp_path: Path) -> None:
    rows = sensor_table()[:, :6]
    bundle = edgeae.export_bundle(_pair(), tmp_path / "bundle", calibrate=rows, normalisation="standard")
    quality = bundle.manifest.precisions["fp32"].quality
    assert quality.mean_mse == pytest.approx(1, rel=0.05)


class _Spatial(nn.Module):
    """An encoder whose latent is not flat."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x.unsqueeze(1), 2)


class _Grow(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate(z, scale_factor=2.0).squeeze(1)


def test_a_latent_that_is_not_flat_is_flattened(tmp_path: Path) -> None:
    rows = load_data("digits").x
    bundle = edgeae.export_bundle((_Spatial(), _Grow()), tmp_path / "bundle", calibrate=rows)
    assert bundle.manifest.latent_dim == 16


class _Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3) * 1.0


class _Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        (nn.Linear(6, 2), nn.Linear(3, 6)),
        (nn.Linear(6, 2), nn.Linear(2, 5)),
        (nn.Linear(5, 2), nn.Linear(2, 6)),
        (_Random(), nn.Identity()),
    ],
    ids=["latent", "output", "input", "random"],
)
def test_modules_that_do_not_fit_are_refused(tmp_path: Path, encoder: nn.Module, decoder: nn.Module) -> None:
    with pytest.raises(ExportError):
        edgeae.export_bundle((encoder, decoder), tmp_path / "bundle", calibrate=sensor_table()[:, :6])
    assert not list(tmp_path.iterdir())


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected a run directory"):
        edgeae.export_bundle(3, tmp_path / "bundle")
    with pytest.raises(InputError, match="example"):
        edgeae.export_bundle(_pair(), tmp_path / "bundle")


# --- the pieces ---------------------------------------------------------------------------------------------------


def _network(sigmoid: bool = False) -> Network:
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    return Network.of(encoder, nn.Sequential(nn.Linear(2, 5)), torch.zeros(1, 5), sigmoid=sigmoid)


def _plan(shift: float, scale: float, **changes: Any) -> Plan:
    plan = Plan(
        input=Input((5,), "float32", "vector"),
        normalisation=Normalisation("standard", (shift,) * 5, (scale,) * 5),
        latent_dim=2,
        sigmoid=False,
        score=ScoreSpec("mse"),
        batch=None,
        opset=18,
    )
    return replace(plan, **changes)


@cache
def _cores() -> Cores:
    network = _network()
    return Cores(export_core(network, "encoder", opset=18), export_core(network, "decoder", opset=18))


def _graphs(plan: Plan) -> tuple[dict[str, bytes], dict[str, list[str]]]:
    models = {role: assemble(role, _cores(), plan, {}) for role in GRAPHS}
    operators = {role: [node.op_type for node in model.graph.node] for role, model in models.items()}
    return {role: model.SerializeToString() for role, model in models.items()}, operators


def test_normalisation_folds_only_where_it_is_exact_enough() -> None:
    _, near = _graphs(_plan(shift=3.0, scale=2.0))
    assert near["encoder"] == ["Gemm", "Relu", "Gemm"]
    assert near["decoder"] == ["Gemm"]
    assert near["scorer"] == ["Mul", "Gemm", "Relu", "Gemm", "Gemm", "Sub", "Mul", "ReduceMean"]
    _, far = _graphs(_plan(shift=3e5, scale=2.0))
    assert far["encoder"] == ["Sub", "Mul", "Gemm", "Relu", "Gemm"]
    assert far["scorer"][:2] == ["Sub", "Mul"]
    _, none = _graphs(_plan(shift=0.0, scale=1.0))
    assert none["scorer"][0] == "Gemm"


@pytest.mark.parametrize("ratio", [0.0, 1.0, 9.0, 1e3, 1e5])
def test_scores_stay_exact_at_any_distance_from_zero(ratio: float) -> None:
    network, plan = _network(), _plan(shift=ratio, scale=1.0)
    graphs, _ = _graphs(plan)
    rows = np.random.default_rng(0).standard_normal((256, 5)) + ratio
    rows = rows.astype(np.float32)
    expected = reference(network, plan, rows).score
    np.testing.assert_allclose(run_graph(graphs["scorer"], rows, batch=None), expected, rtol=2e-5)


def test_the_gate_catches_a_wrong_graph() -> None:
    network, plan = _network(), _plan(shift=0.0, scale=1.0)
    graphs, _ = _graphs(plan)
    rows = np.random.default_rng(0).standard_normal((256, 5)).astype(np.float32)
    check_parity(network, plan, graphs, rows, rows, strict=True, tolerance=1e-4)
    for role in GRAPHS:
        model = onnx.load_from_string(graphs[role])
        weight = next(tensor for tensor in model.graph.initializer if "weight" in tensor.name)
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[0] += 0.01
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        with pytest.raises(ExportError, match=role):
            broken = {**graphs, role: model.SerializeToString()}
            check_parity(network, plan, broken, rows, rows, strict=True, tolerance=1e-4)


def test_a_near_tie_of_k_sparse_units_is_told_from_a_fault() -> None:
    from edgeae.export.parity import _near_ties

    wanted = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [0.0, 0.0, 2.0]], np.float32)
    actual = np.array([[1.0, 0.0, 2.0], [0.5, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 0.0, 2.5]], np.float32)
    assert _near_ties(actual, wanted, 1e-4).tolist() == [True, False, False, False]


def test_subnormal_weights_become_zero() -> None:
    graph = GraphBuilder(opset=18)
    weights = np.array([1e-42, -1e-40, 1e-30, 2.0], np.float32)
    scaled = graph.add("Mul", ["x", graph.constant(weights)])
    model = graph.finish({"x": ("float32", ("batch", 4))}, {"y": (scaled, "float32", ("batch", 4))}, {})
    (kept,) = constants_of(model.graph).values()
    np.testing.assert_array_equal(kept, np.array([0, 0, 1e-30, 2.0], np.float32))


def test_a_builder_refuses_what_is_no_onnx() -> None:
    graph = GraphBuilder(opset=18)
    nonsense = graph.add("NoSuchOperator", ["x"])
    with pytest.raises(ExportError, match="not valid ONNX"):
        graph.finish({"x": ("float32", ("batch", 3))}, {"y": (nonsense, "float32", ("batch", 3))}, {})


def test_metadata_is_enough_without_a_manifest(runs: Mapping[str, Run], tmp_path: Path) -> None:
    names = [f"sensor {index}" for index in range(10)]
    run = replace(runs["table"], feature_names=tuple(names))
    bundle = edgeae.export_bundle(run, tmp_path / "bundle")
    model = onnx.load_from_string(bundle.graph("fp32", "scorer"))
    metadata = {item.key: item.value for item in model.metadata_props}
    assert metadata["edgeae.input_shape"] == "10" and metadata["edgeae.latent_dim"] == "3"
    assert json.loads(metadata["edgeae.feature_names"]) == names
