"""Every score and bottleneck on the native operators, against the graphs they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import edgeae
from edgeae.bundle.protobuf import parse_model
from edgeae.runtime import native
from tests.bundles import assert_close
from tests.native_graphs import ACTIVATIONS, SCORES, Array, Graph, any_scorer, both, rows_of, run, session_of

ROOT = Path(__file__).parents[1]
GOLDEN = [path.parent for path in sorted((ROOT / "export" / "golden").glob("*/manifest.json"))]
VARIANTS = ("dense", "denoising", "sparse", "variational", "mlperf-tiny-ad")
DENSE = [path for path in GOLDEN if json.loads((path / "manifest.json").read_bytes())["variant"] in VARIANTS]
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WIDTHS, KINDS = [21, 40, 6, 40, 21], ["relu", "linear", "tanh", "linear"]

Change = Callable[[onnx.NodeProto, onnx.ModelProto], None]


def _scorer(score: str, *, wide: int = 21, **how: Any) -> bytes:
    latents = 1 if score.startswith("elbo") else None
    return any_scorer([wide, 40, 6, 40, wide], KINDS, score=score, latents=latents, **how)


def _apart(found: Array, wanted: Array) -> Array:
    """How far scores are apart, as a share of the larger of the score and what is usual."""
    return np.asarray(np.abs(found - wanted) / np.maximum(np.abs(wanted), np.median(np.abs(wanted))))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("wide", [1, 13, 21, 64])
def test_scores(isa: str, score: str, wide: int) -> None:
    data = _scorer(score, wide=wide)
    plain, one_node = session_of(data), session_of(native.rewrite(data), operators=True)
    for n in (1, 2, 7, 256):
        x = rows_of(n, wide, seed=n)
        assert _apart(run(one_node, x), run(plain, x)).max() < 2e-5


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("evened", [False, True])
def test_int8_scores(isa: str, score: str, evened: bool) -> None:
    """The same integers: what differs is a value that lies halfway between two levels, by one of 256."""
    keeps = () if score.startswith("elbo") else (0, 3)
    data = _scorer(score, int8=True, evened=evened, keeps=keeps)
    plain, one_node = session_of(data), session_of(native.rewrite(data), operators=True)
    for n in (1, 2, 7, 256):
        x = rows_of(n, 21, seed=n)
        apart = _apart(run(one_node, x), run(plain, x))
        assert np.mean(apart > 2e-5) < 0.1
        assert apart.max() < 0.05


@pytest.mark.parametrize("evened", [False, True])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", ["relu", "linear"])
def test_few_active_units(isa: str, kind: str, int8: bool, evened: bool) -> None:
    """A few rows fetch the weights of active units only, many rows all; some rows of this layer have ties."""
    data = any_scorer([21, 403, 21], [kind, "linear"], score="mse", keeps=[7], int8=int8, evened=evened)
    plain, one_node = session_of(data), session_of(native.rewrite(data), operators=True)
    for n in (1, 2, 7, 256):
        x = rows_of(n, 21, seed=n)
        x[n // 2 :] /= 20  # with int8 inputs many units of such rows are equal
        apart = _apart(run(one_node, x), run(plain, x))
        assert np.mean(apart > 2e-5) < (0.1 if int8 else 1e-9)
        assert apart.max() < 0.05


@pytest.mark.parametrize("score", ["prototype", "elbo"])
def test_int8_from_float_weights(isa: str, score: str) -> None:
    data = _scorer(score, keeps=(20,))
    found, wanted = both(data, rows_of(300, 21), int8=True)
    assert np.corrcoef(found.argsort().argsort(), wanted.argsort().argsort())[0, 1] > 0.99
    assert np.any(found != wanted)


@QUICK
@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=4),
    kinds=st.lists(st.sampled_from(ACTIVATIONS), min_size=4, max_size=4),
    share=st.floats(0, 1),
    score=st.sampled_from(SCORES),
    bound=st.sampled_from([None, 4.0, 10.0]),
    latents=st.integers(0, 2),
    n=st.sampled_from([1, 2, 3, 9, 40]),
    seed=st.integers(0, 1000),
)
def test_any_chain(
    ops: None,
    widths: list[int],
    kinds: list[str],
    share: float,
    score: str,
    bound: float | None,
    latents: int,
    n: int,
    seed: int,
) -> None:
    widths = [*widths, widths[0]]
    head = min(latents, len(widths) - 3) if score.startswith("elbo") else None
    kept = max(1, round(share * widths[1])) if share < 1 and head != 0 else 0
    data = any_scorer(widths, kinds, score=score, keeps=[kept], latents=head, bound=bound, seed=seed)
    found, wanted = both(data, rows_of(n, widths[0], seed))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize("k", [1, 2, 5, 16, 17, 33])
def test_the_largest_are_kept_as_the_graph_keeps_them(isa: str, k: int) -> None:
    """With ties, zeros, and numbers of every size; the layer before gives them through unchanged."""
    graph = Graph()
    value = graph.add("Gemm", "x", np.eye(33), np.zeros(33), transB=1)
    data = graph.finish(graph.largest(value, k), [33], [33])
    rng = np.random.default_rng(k)
    x = np.concatenate(
        [
            rng.normal(size=(200, 33)),
            rng.integers(-2, 3, (200, 33)),
            np.maximum(rng.normal(-1, 1, (200, 33)), 0),
            rng.normal(size=(200, 33)) * 10.0 ** rng.integers(-30, 30, (200, 33)),
            np.full((2, 33), -3.25),
            -rng.uniform(1, 2, (50, 33)),
        ]
    ).astype(np.float32)
    found, wanted = both(data, x)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n", [9, 40])
def test_invalid_rows(ops: None, score: str, int8: bool, n: int) -> None:
    """A value that is not finite shows in its own row's score and in no other row's."""
    session = session_of(native.rewrite(_scorer(score, int8=int8)), operators=True)
    x = rows_of(n, 21)
    before = run(session, x)
    for bad in (np.nan, np.inf, -np.inf):
        for column in (0, 20):
            spoilt = x.copy()
            spoilt[4, column] = bad
            after = run(session, spoilt)
            assert not np.isfinite(after[4])
            np.testing.assert_array_equal(np.delete(after, 4), np.delete(before, 4))


@pytest.mark.parametrize("path", DENSE, ids=lambda path: path.name)
def test_golden_bundles(ops: None, path: Path) -> None:
    """Every dense golden bundle runs on the operators, at every precision."""
    for precision in edgeae.load(path, device="cpu").manifest.precisions:
        if precision not in ("fp32", "int8"):
            continue
        with (
            edgeae.load(path, device="cpu", precision=precision, options={"native": True}) as one,
            edgeae.load(path, device="cpu", precision=precision) as other,
        ):
            for batch in (1, 3):
                if one.manifest.batch is not None and batch > one.manifest.batch:
                    continue
                x = one.bundle.golden(precision).x[:batch]
                assert_close(one.bind(batch).score(x), other.bind(batch).score(x))
            assert one._graph("scorer").native


def _attribute(name: str, value: Any) -> Change:
    def change(node: onnx.NodeProto, _: onnx.ModelProto) -> None:
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _renamed(kind: str) -> Change:
    def change(node: onnx.NodeProto, _: onnx.ModelProto) -> None:
        node.op_type = kind

    return change


def _number(index: int, value: Any) -> Change:
    def change(node: onnx.NodeProto, model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == node.input[index]:
                dtype = numpy_helper.to_array(tensor).dtype
                tensor.CopyFrom(numpy_helper.from_array(np.array(value, dtype), tensor.name))

    return change


def _reads(index: int, name: str) -> Change:
    def change(node: onnx.NodeProto, _: onnx.ModelProto) -> None:
        node.input[index] = name

    return change


@pytest.mark.parametrize(
    ("score", "kind", "change"),
    [
        ("mse", "TopK", _attribute("largest", 0)),
        ("mse", "TopK", _attribute("axis", 0)),
        ("mse", "Slice", _number(1, [-2])),
        ("mse", "GreaterOrEqual", _renamed("LessOrEqual")),
        ("mse", "Where", _number(2, 0.5)),
        ("prototype", "ReduceMin", _renamed("ReduceMax")),
        ("mahalanobis", "Sub", _reads(0, "x")),
        ("elbo", "Exp", _renamed("Softplus")),
        ("elbo", "Tanh", _renamed("Sigmoid")),
        ("elbo", "Div", _number(1, 9.0)),
        ("elbo", "ReduceSum", _renamed("ReduceMean")),
        ("elbo", "ReduceSum", _renamed("ReduceL2")),
    ],
)
def test_near_misses_are_no_chain(score: str, kind: str, change: Change) -> None:
    data = _scorer(score, keeps=() if score == "elbo" else (0, 3))
    assert native.rewrite(data) is not None
    model = onnx.load_from_string(data)
    found = [node for node in model.graph.node if node.op_type == kind]
    change(found[-1], model)
    assert native.rewrite(model.SerializeToString()) is None


def test_one_node(ops: None) -> None:
    for score in SCORES:
        rewritten = native.rewrite(_scorer(score))
        assert rewritten is not None
        assert [node["op"] for node in parse_model(rewritten)["graph"]["nodes"]] == ["DenseChain"]
