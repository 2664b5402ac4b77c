"""The native operators against the graphs they stand for, run by ONNX Runtime itself."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgeae
from edgeae.bundle.protobuf import parse_model, write_model
from edgeae.errors import BundleError, EdgeaeError, InputError
from edgeae.runtime import native
from edgeae.runtime.native import build, library
from tests.bundles import assert_close, make_bundle

Array = np.ndarray[Any, Any]

ROOT = Path(__file__).parents[1]
GOLDEN = sorted(path.parent for path in (ROOT / "export" / "golden").glob("*/manifest.json"))
ACTIVATIONS = ("linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid")
SETS = ("vnni", "avxvnni", "avx512", "avx2", "dotprod", "portable")
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library as a user does."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"no C++ compiler: {compiler}")
    try:
        build._headers(None)
    except EdgeaeError:
        pytest.skip("ONNX Runtime's headers were not found: .ci/headers DIR, then ONNXRUNTIME_ROOT=DIR")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    command = [sys.executable, "-m", "edgeae.runtime.native", "build"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def ops(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this library the one that is found, on whatever the processor does best."""
    monkeypatch.setenv("EDGEAE_OPS", str(built))
    monkeypatch.delenv("EDGEAE_OPS_ISA", raising=False)


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest, ops: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that runs here."""
    name: str = request.param
    if name not in _available(monkeypatch):
        pytest.skip(f"{name} does not run on this processor")
    monkeypatch.setenv("EDGEAE_OPS_ISA", name)
    return name


def _available(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("EDGEAE_OPS_ISA", "abacus")
    with pytest.raises(Exception, match="'abacus' does not run on this processor") as problem:
        _session(native.rewrite(_scorer([3, 3], ["relu"])), operators=True)
    found = re.search(r"these do: ([\w, ]+)", str(problem.value))
    assert found is not None
    return found[1].strip().split(", ")


def _session(data: bytes | None, *, operators: bool = False) -> ort.InferenceSession:
    assert data is not None, "not recognised"
    made = ort.SessionOptions()
    made.intra_op_num_threads = 1
    made.log_severity_level = 4
    if operators:
        native.register(made)
    return ort.InferenceSession(data, made, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, x: Array) -> Array:
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def _both(data: bytes, x: Array, **how: Any) -> tuple[Array, Array]:
    """What the native operator gives, and what the graph does."""
    return _run(_session(native.rewrite(data, **how), operators=True), x), _run(_session(data), x)


class _Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str | Array | float, domain: str = "", **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self.constant(np.asarray(each)) for each in inputs]
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], domain=domain, **attributes))
        return output

    def constant(self, value: Array) -> str:
        value = value.astype(np.float32) if value.dtype == np.float64 else value
        self.constants.append(numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def finish(self, output: str, row: Sequence[int], out_row: Sequence[int], *, opset: int = 18) -> bytes:
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *out_row])
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph(self.nodes, "graph", [x], [y], self.constants)
        data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        return data

    def activation(self, kind: str, value: str, opset: int = 18) -> str:
        if kind == "linear":
            return value
        if kind == "silu":
            return self.add("Mul", value, self.add("Sigmoid", value))
        if kind == "gelu" and opset < 20:
            erf = self.add("Erf", self.add("Div", value, np.sqrt(2.0)))
            return self.add("Mul", value, self.add("Mul", 0.5, self.add("Add", erf, 1.0)))
        names = {"relu": "Relu", "leaky_relu": "LeakyRelu", "elu": "Elu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
        alpha: dict[str, Any] = {"leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 0.7}}.get(kind, {})
        return self.add(names.get(kind, "Gelu"), value, **alpha)


def _layers(
    graph: _Graph, value: str, widths: Sequence[int], kinds: Sequence[str], rng: np.random.Generator, opset: int = 18
) -> str:
    for i, (wide, out) in enumerate(pairwise(widths)):
        weight, bias = rng.normal(0, wide**-0.5, (out, wide)), rng.normal(0, 0.3, out)
        if i % 3 == 2:
            value = graph.add("Add", graph.add("MatMul", value, weight.T), bias)
        else:
            value = graph.add("Gemm", value, weight if i % 3 == 0 else weight.T, bias, transB=int(i % 3 == 0))
        value = graph.activation(kinds[i], value, opset)
    return value


def _scorer(
    widths: Sequence[int],
    kinds: Sequence[str],
    *,
    score: str = "mse",
    sums: bool = False,
    seed: int = 0,
    opset: int = 18,
) -> bytes:
    """A scorer as export makes it, the mean of errors, or with the reductions that ONNX has for some sums."""
    rng, graph, wide = np.random.default_rng(seed), _Graph(), widths[0]
    x = graph.add("Mul", graph.add("Sub", "x", rng.normal(size=wide)), rng.uniform(0.5, 2, wide))
    out = _layers(graph, x, widths, kinds, rng, opset)
    if score == "bce":
        inside = graph.add("Clip", x, 0.0, 1.0)
        errors = graph.add("Sub", graph.add("Softplus", out), graph.add("Mul", inside, out))
        excess = graph.add("Sub", x, inside)
        if sums:
            squares = graph.add("ReduceSumSquare", excess, np.array([1]), keepdims=0)
            total = graph.add("Add", graph.add("ReduceSum", errors, np.array([1]), keepdims=0), squares)
        else:
            errors = graph.add("Add", errors, graph.add("Mul", excess, excess))
    else:
        difference = graph.add("Sub", x, out)
        if score == "zscore":
            difference = graph.add("Mul", difference, rng.uniform(0.5, 2, wide))
        if sums:
            total = graph.add(
                "ReduceL1" if score == "mae" else "ReduceSumSquare", difference, np.array([1]), keepdims=0
            )
        else:
            errors = graph.add("Abs", difference) if score == "mae" else graph.add("Mul", difference, difference)
    if sums:
        return graph.finish(graph.add("Mul", total, 1 / wide), [wide], [], opset=opset)
    return graph.finish(graph.add("ReduceMean", errors, np.array([1]), keepdims=0), [wide], [], opset=opset)


def _quantised_scorer(widths: Sequence[int], kinds: Sequence[str], *, per_channel: bool, seed: int = 0) -> bytes:
    """The form that export gives int8 graphs: integers from layer to layer where a rectifier is the clipping."""
    rng, graph, wide = np.random.default_rng(seed), _Graph(), widths[0]
    x = graph.add("Mul", "x", rng.uniform(0.5, 2, wide))
    levels: list[Any] = [np.float32(0.04), np.uint8(100)]
    value, integers = x, graph.add("QuantizeLinear", x, *levels)
    for i, (before, out) in enumerate(pairwise(widths)):
        weight = rng.normal(0, before**-0.5, (out, before))
        scale = np.abs(weight).max(axis=1) / 64 if per_channel else np.float64(np.abs(weight).max() / 64)
        whole = np.rint(weight / np.reshape(scale, (-1, 1))).astype(np.int8)
        bias = np.rint(rng.normal(0, 0.3, out) / (levels[0] * scale)).astype(np.int32)
        zero = np.zeros(np.shape(scale), np.int8)
        after: list[Any] = [np.float32(0.03), np.uint8(0 if kinds[i] == "relu" else 128)]
        inputs = [integers, *levels, whole, np.asarray(scale, np.float32), zero, bias]
        last = i == len(widths) - 2
        if kinds[i] in ("relu", "linear") and not last:
            integers = graph.add("QGemm", *inputs, *after, domain="com.microsoft", transB=1)
        else:
            value = graph.add("QGemm", *inputs, domain="com.microsoft", transB=1)
            value = graph.activation(kinds[i], value)
            integers = value if last else graph.add("QuantizeLinear", value, *after)
        levels = after
    total = graph.add("ReduceSumSquare", graph.add("Sub", x, value), np.array([1]), keepdims=0)
    return graph.finish(graph.add("Mul", total, 1 / wide), [wide], [])


def _rows(n: int, wide: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(0, 1.5, (n, wide)).astype(np.float32)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(isa: str, kind: str) -> None:
    """Far out as well, where an exponential overflows."""
    graph = _Graph()
    value = graph.add("Gemm", "x", np.eye(13), np.zeros(13), transB=1)
    data = graph.finish(graph.activation(kind, value), [13], [13])
    x = np.concatenate([np.linspace(-6, 6, 2600), np.linspace(-200, 200, 130), [0, -0.0, 1e-30] * 13])
    found, wanted = _both(data, x.reshape(-1, 13).astype(np.float32))
    # ONNX Runtime's sigmoid is off by up to 5e-8, which x * sigmoid(x) multiplies
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("score", ["mse", "mae", "bce", "zscore"])
@pytest.mark.parametrize("wide", [1, 7, 13, 31, 640])
def test_scores(isa: str, score: str, wide: int) -> None:
    data = _scorer([wide, 31, 5, 31, wide], ["relu", "tanh", "silu", "linear"], score=score, sums=wide % 2 == 1)
    plain, one_node = _session(data), _session(native.rewrite(data), operators=True)
    for n in range(1, 10):
        x = _rows(n, wide)
        np.testing.assert_allclose(_run(one_node, x), _run(plain, x), rtol=2e-5)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kinds", [("relu",) * 3, ("tanh", "relu", "leaky_relu"), ("linear", "sigmoid", "relu")])
def test_int8_graph(isa: str, kinds: tuple[str, ...], per_channel: bool) -> None:
    """The same integers: what differs is a value that lies halfway between two levels, by one of 256."""
    data = _quantised_scorer([70, 33, 6, 33, 70], [*kinds, "linear"], per_channel=per_channel)
    found, wanted = _both(data, _rows(300, 70))
    off = np.abs(found / wanted - 1)
    assert np.mean(off > 1e-5) < 0.1
    assert off.max() < 0.01
    threshold = np.quantile(wanted, 0.9)
    assert np.mean((found > threshold) != (wanted > threshold)) <= 1 / 300


def test_int8_from_float_weights(isa: str) -> None:
    data = _scorer([64, 32, 6, 32, 64], ["relu", "relu", "leaky_relu", "linear"])
    found, wanted = _both(data, _rows(300, 64), int8=True)
    np.testing.assert_allclose(found, wanted, rtol=0.03)
    assert np.corrcoef(found.argsort().argsort(), wanted.argsort().argsort())[0, 1] > 0.999
    assert np.any(found != wanted)


@pytest.mark.parametrize("int8", [False, True])
def test_invalid_rows(isa: str, int8: bool) -> None:
    """A value that is not finite shows in its own row's score and in no other row's."""
    data = _scorer([33, 9, 33], ["relu", "linear"])
    session = _session(native.rewrite(data, int8=int8), operators=True)
    x = _rows(9, 33)
    before = _run(session, x)
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        spoilt = x.copy()
        spoilt[4, 32] = bad
        after = _run(session, spoilt)
        assert not np.isfinite(after[4])
        np.testing.assert_array_equal(np.delete(after, 4), np.delete(before, 4))


@pytest.mark.parametrize("int8", [False, True])
def test_tiny_and_zero_rows(isa: str, int8: bool) -> None:
    graph = _Graph()
    out = _layers(graph, "x", [33, 9, 33], ["relu", "linear"], np.random.default_rng(0))
    total = graph.add("ReduceL1", graph.add("Sub", "x", out), np.array([1]), keepdims=0)
    data = graph.finish(total, [33], [])
    x = np.stack([np.full(33, value, np.float32) for value in (0, 1e-40, -1e-38, 1e-36, 1e-30)])
    found, wanted = _both(data, x, int8=int8)
    np.testing.assert_allclose(found, wanted, rtol=0.02 if int8 else 1e-5)


def test_threads(ops: None) -> None:
    data = _scorer([640, 64, 640], ["relu", "linear"])
    session = _session(native.rewrite(data), operators=True)
    x = _rows(8, 640)
    wanted = [_run(session, x[i : i + 1]) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: _run(session, x[i % 8 : i % 8 + 1]), range(400)))
    assert all(np.array_equal(score, wanted[i % 8]) for i, score in enumerate(found))


@QUICK
@given(
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(ACTIVATIONS), min_size=4, max_size=4),
    score=st.sampled_from(["mse", "mae", "bce", "zscore"]),
    n=st.integers(1, 9),
    seed=st.integers(0, 1000),
    opset=st.sampled_from([18, 20]),
    sums=st.booleans(),
)
def test_any_chain(
    ops: None, widths: list[int], kinds: list[str], score: str, n: int, seed: int, opset: int, sums: bool
) -> None:
    data = _scorer([*widths, widths[0]], kinds, score=score, sums=sums, seed=seed, opset=opset)
    found, wanted = _both(data, _rows(n, widths[0], seed))
    np.testing.assert_allclose(found, wanted, rtol=5e-5, atol=1e-6)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_bundles(ops: None, path: Path) -> None:
    with (
        edgeae.load(path, device="cpu", options={"native": True}) as one,
        edgeae.load(path, device="cpu") as other,
    ):
        for batch in (1, 3):
            if one.manifest.batch is not None and batch > one.manifest.batch:
                continue
            x = one.bundle.golden("fp32").x[:batch]
            found, wanted = one.bind(batch), other.bind(batch)
            assert_close(found.score(x), wanted.score(x))
            z = wanted.encode(x)
            assert_close(found.encode(x), z)
            assert_close(found.decode(z), wanted.decode(z))
            np.testing.assert_array_equal(found.predict(x), wanted.predict(x))


RECIPES: list[dict[str, Any]] = [{"score": score} for score in ("mse", "mae", "zscore", "bce")] + [
    {"shape": (4, 5), "layout": "HW"},
    {"shape": (2, 3, 4), "layout": "CHW", "dtype": "uint8", "scale": 255.0},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_bound_model(ops: None, tmp_path: Path, recipe: dict[str, Any]) -> None:
    network = make_bundle(tmp_path / "bundle", **recipe)
    with edgeae.load(tmp_path / "bundle", device="cpu", options={"native": True}) as model:
        for batch in (1, 2, native.MAX_ROWS):
            x = network.rows(batch)
            bound = model.bind(batch)
            assert_close(bound.score(x), network.score(x))
            assert_close(bound.reconstruct(x), network.reconstruct(x), scale=network.recipe.scale)
        assert model._graph("scorer", native=True).native
        large = network.rows(native.MAX_ROWS + 1)
        assert_close(model.bind(len(large)).score(large), network.score(large))
        assert not model._graph("scorer").native


def test_bound_model_flags_invalid_rows(ops: None, tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "bundle")
    with edgeae.load(tmp_path / "bundle", device="cpu", options={"native": True}, on_invalid="flag") as model:
        x = network.rows(3)
        x[1, 2] = np.nan
        scores = np.asarray(model.bind(3).score(x))
        assert np.isnan(scores[1])
        assert_close(np.delete(scores, 1), np.delete(network.score(x), 1))
    with (
        edgeae.load(tmp_path / "bundle", device="cpu", options={"native": True}) as model,
        pytest.raises(InputError, match="row 1, value 2 is nan"),
    ):
        model.bind(3).score(x)


@pytest.mark.parametrize("name", ["convolutional", "sparse", "variational"])
def test_no_chain_runs_as_it_is(ops: None, name: str) -> None:
    path = ROOT / "export" / "golden" / name
    with edgeae.load(path, device="cpu", options={"native": True}) as model:
        x = model.bundle.golden("fp32").x[:1]
        assert_close(model.bind(1).score(x), model.score(x))
        assert model._graph("scorer", native=True) is model._graph("scorer")


def test_golden_rows_guard_it(ops: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewritten graph that computes something else does not answer."""
    make_bundle(tmp_path / "bundle")

    def wrong(data: bytes) -> bytes:
        rewritten = native.rewrite(data)
        assert rewritten is not None
        model = parse_model(rewritten)
        constants = model["graph"]["initializers"][0]
        constants["raw"] = (np.frombuffer(constants["raw"], "<f4") * 1.01).astype("<f4").tobytes()
        return write_model(model)

    monkeypatch.setattr("edgeae.runtime.session.rewrite", wrong)
    with (
        edgeae.load(tmp_path / "bundle", device="cpu", options={"native": True}) as model,
        pytest.raises(BundleError, match="self-test failed"),
    ):
        model.bind(1).score(np.zeros(12, np.float32))


def _changed(data: bytes, kind: str, change: Any) -> bytes:
    model = onnx.load_from_string(data)
    change(next(node for node in model.graph.node if node.op_type == kind), model)
    changed: bytes = model.SerializeToString()
    return changed


def _set(name: str, value: Any) -> Any:
    def change(node: onnx.NodeProto, _: onnx.ModelProto) -> None:
        kept = [each for each in node.attribute if each.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _rename(kind: str) -> Any:
    def change(node: onnx.NodeProto, _: onnx.ModelProto) -> None:
        node.op_type = kind

    return change


def _swap(node: onnx.NodeProto, _: onnx.ModelProto) -> None:
    node.input[:] = list(reversed(node.input))


def _number(index: int, value: float) -> Any:
    def change(node: onnx.NodeProto, model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == node.input[index]:
                tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), tensor.name))

    return change


@pytest.mark.parametrize(
    ("score", "hidden", "kind", "change"),
    [
        ("mse", "relu", "Gemm", _set("alpha", 2.0)),
        ("mse", "relu", "Gemm", _set("beta", 0.5)),
        ("mse", "relu", "Relu", _rename("Softplus")),
        ("mse", "relu", "ReduceMean", _rename("ReduceMax")),
        ("mse", "relu", "ReduceMean", _rename("ReduceL2")),
        ("mse", "gelu", "Div", _number(1, 1.5)),
        ("bce", "relu", "Clip", _number(2, 0.9)),
        ("bce", "relu", "Softplus", _rename("Softsign")),
        ("mse", "relu", "Sub", _swap),
    ],
)
def test_near_misses_are_no_chain(score: str, hidden: str, kind: str, change: Any) -> None:
    data = _scorer([9, 5, 9], [hidden, "linear"], score=score)
    assert native.rewrite(data) is not None
    assert native.rewrite(_changed(data, kind, change)) is None


def test_wrong_shape_is_an_error(ops: None) -> None:
    """The operator does not read beyond rows that are not what it was made for, whatever a graph declares."""
    data = native.rewrite(_scorer([9, 5, 9], ["relu", "linear"]))
    assert data is not None
    model = parse_model(data)
    model["graph"]["inputs"][0]["type"]["tensor"]["shape"]["dimensions"][1] = {"value": 5}
    session = _session(write_model(model), operators=True)
    with pytest.raises(Exception, match="x is not of the shape that its attributes promise"):
        _run(session, np.zeros((1, 5), np.float32))


def test_constants_that_do_not_fit_are_an_error(ops: None) -> None:
    data = native.rewrite(_scorer([9, 5, 9], ["relu", "linear"]))
    assert data is not None
    model = parse_model(data)
    constants = model["graph"]["initializers"][0]
    constants["dimensions"], constants["raw"] = [10], bytes(40)
    with pytest.raises(Exception, match="fewer constants than its attributes promise"):
        _session(write_model(model), operators=True)


def test_library_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEAE_OPS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.find_library() is None
    with pytest.raises(
        EdgeaeError, match=r"has not been built; build it with: python -m edgeae\.runtime\.native build"
    ):
        edgeae.load(GOLDEN[0], device="cpu", options={"native": True})
    place = library.library_path()
    place.parent.mkdir(parents=True, mode=0o700)
    place.touch(mode=0o755)
    assert native.find_library() == place
    monkeypatch.setenv("EDGEAE_OPS", str(tmp_path / "absent.so"))
    with pytest.raises(EdgeaeError, match=r"EDGEAE_OPS: .*absent\.so: No such file"):
        native.find_library()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions as POSIX has them")
@pytest.mark.parametrize("spoil", ["file", "folder", "link", "directory"])
def test_unsafe_libraries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    folder = tmp_path / "ops"
    folder.mkdir(mode=0o755)
    place = folder / "edgeae_ops.so"
    monkeypatch.setenv("EDGEAE_OPS", str(place))
    if spoil == "directory":
        place.mkdir()
    elif spoil == "link":
        place.symlink_to(__file__)
    else:
        place.touch(mode=0o755)
        assert native.find_library() == place
        (place if spoil == "file" else folder).chmod(0o777)
    wanted = "not a regular file" if spoil in ("link", "directory") else "others may write to it"
    with pytest.raises(EdgeaeError, match=wanted):
        native.find_library()


def test_what_is_no_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "edgeae_ops.so"
    place.write_bytes(b"not a library")
    place.chmod(0o755)
    monkeypatch.setenv("EDGEAE_OPS", str(place))
    with edgeae.load(ROOT / "export" / "golden" / "dense", device="cpu", options={"native": True}) as model:
        bound = model.bind()
        with pytest.raises(EdgeaeError, match="does not load: "):
            bound.score(np.zeros(model.input_shape, np.float32))


def test_build_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        EdgeaeError, match=r"no onnxruntime_c_api\.h in .*--onnxruntime-include DIR or in ONNXRUNTIME_ROOT"
    ):
        build.build_library(tmp_path)
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "onnxruntime_c_api.h").touch()
    with pytest.raises(EdgeaeError, match="no C\\+\\+ compiler 'no-such-compiler'"):
        build.build_library(tmp_path, compiler="no-such-compiler -O1")
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'file.cpp:1: error: no' >&2\nexit 1\n")
    failing.chmod(failing.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(EdgeaeError, match=r"the compiler failed: file\.cpp:1: error: no; the command was: "):
        build.build_library(tmp_path, compiler=str(failing))
    assert native.find_library() is None


@pytest.mark.parametrize("value", [1, "on", 0.5])
def test_option_is_checked(value: Any) -> None:
    with pytest.raises(InputError, match="options: native must be true or false"):
        edgeae.load(GOLDEN[0], device="cpu", options={"native": value})


def test_written_models_read_back() -> None:
    for path in GOLDEN:
        model = parse_model((path / "scorer.onnx").read_bytes())
        assert parse_model(write_model(model)) == model
    tensor = {"dimensions": [3], "dtype": 1, "floats": [1.5, -2.0, 0.0], "int32s": [-1], "int64s": [-(2**40)]}
    model = parse_model(write_model({"graph": {"initializers": [tensor]}}))
    assert {name: model["graph"]["initializers"][0][name] for name in tensor} == tensor


def test_plain_program_with_sanitizers(tmp_path: Path) -> None:
    """The C++ side alone: every instruction set against plain loops, under the address and undefined sanitizers."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    sources = [str(path) for path in (ROOT / "runtime" / "cpp" / "ops").glob("*.cpp") if path.name != "operator.cpp"]
    program = tmp_path / "test_ops"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    flags = ["-std=c++17", "-O0", *checks, "-pthread", "-o", str(program)]
    if subprocess.run([compiler, *flags, str(empty)], capture_output=True, check=False).returncode != 0:
        pytest.skip("this compiler has no sanitizers")
    subprocess.run([compiler, *flags, *sources], check=True, capture_output=True, timeout=300)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable: done" in done.stdout
