"""The native operators against the graphs they stand for, run by ONNX Runtime itself."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import edgeae
from edgeae.bundle.protobuf import parse_model, write_model
from edgeae.errors import BundleError, EdgeaeError, InputError
from edgeae.runtime import native
from edgeae.runtime.native import build, library
from tests.bundles import assert_close, make_bundle
from tests.native_graphs import (
    ACTIVATIONS,
    Graph,
    add_layers,
    both,
    quantised_scorer,
    rows_of,
    run,
    scorer,
    session_of,
)

Array = np.ndarray[Any, Any]

ROOT = Path(__file__).parents[1]
GOLDEN = sorted(path.parent for path in (ROOT / "export" / "golden").glob("*/manifest.json"))
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(isa: str, kind: str) -> None:
    """Far out as well, where an exponential overflows."""
    graph = Graph()
    value = graph.add("Gemm", "x", np.eye(13), np.zeros(13), transB=1)
    data = graph.finish(graph.activation(kind, value), [13], [13])
    x = np.concatenate([np.linspace(-6, 6, 2600), np.linspace(-200, 200, 130), [0, -0.0, 1e-30] * 13])
    found, wanted = both(data, x.reshape(-1, 13).astype(np.float32))
    # ONNX Runtime's sigmoid is off by up to 5e-8, which x * sigmoid(x) multiplies
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("score", ["mse", "mae", "bce", "zscore"])
@pytest.mark.parametrize("wide", [1, 7, 13, 31, 640])
def test_scores(isa: str, score: str, wide: int) -> None:
    data = scorer([wide, 31, 5, 31, wide], ["relu", "tanh", "silu", "linear"], score=score, sums=wide % 2 == 1)
    plain, one_node = session_of(data), session_of(native.rewrite(data), operators=True)
    for n in (
        *range(1, 10),
        16,
        33,
        64,
        97,
        104,
        105,
        257,
    ):  # few rows go another way than many, which go in blocks of 96
        x = rows_of(n, wide)
        # the difference of one value may be next to nothing, and its rounding is that of the value: some 1e-7
        np.testing.assert_allclose(run(one_node, x), run(plain, x), rtol=2e-5, atol=5e-7)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kinds", [("relu",) * 3, ("tanh", "relu", "leaky_relu"), ("linear", "sigmoid", "relu")])
def test_int8_graph(isa: str, kinds: tuple[str, ...], per_channel: bool) -> None:
    """The same integers: what differs is a value that lies halfway between two levels, by one of 256."""
    data = quantised_scorer([70, 33, 6, 33, 70], [*kinds, "linear"], per_channel=per_channel)
    found, wanted = both(data, rows_of(300, 70))
    off = np.abs(found / wanted - 1)
    assert np.mean(off > 1e-5) < 0.1
    assert off.max() < 0.01
    threshold = np.quantile(wanted, 0.9)
    assert np.mean((found > threshold) != (wanted > threshold)) <= 1 / 300


def test_int8_from_float_weights(isa: str) -> None:
    data = scorer([64, 32, 6, 32, 64], ["relu", "relu", "leaky_relu", "linear"])
    found, wanted = both(data, rows_of(300, 64), int8=True)
    np.testing.assert_allclose(found, wanted, rtol=0.03)
    assert np.corrcoef(found.argsort().argsort(), wanted.argsort().argsort())[0, 1] > 0.999
    assert np.any(found != wanted)


@pytest.mark.parametrize("n", [9, 210])
@pytest.mark.parametrize("int8", [False, True])
def test_invalid_rows(isa: str, int8: bool, n: int) -> None:
    """A value that is not finite shows in its own row's score and in no other row's."""
    data = scorer([33, 9, 33], ["relu", "linear"])
    session = session_of(native.rewrite(data, int8=int8), operators=True)
    x = rows_of(n, 33)
    before = run(session, x)
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        spoilt = x.copy()
        spoilt[4, 32] = bad
        after = run(session, spoilt)
        assert not np.isfinite(after[4])
        np.testing.assert_array_equal(np.delete(after, 4), np.delete(before, 4))


@pytest.mark.parametrize("int8", [False, True])
def test_tiny_and_zero_rows(isa: str, int8: bool) -> None:
    graph = Graph()
    out = add_layers(graph, "x", [33, 9, 33], ["relu", "linear"], np.random.default_rng(0))
    total = graph.add("ReduceL1", graph.add("Sub", "x", out), np.array([1]), keepdims=0)
    data = graph.finish(total, [33], [])
    x = np.stack([np.full(33, value, np.float32) for value in (0, 1e-40, -1e-38, 1e-36, 1e-30)])
    for times in (1, 4):
        found, wanted = both(data, np.concatenate([x] * times), int8=int8)
        np.testing.assert_allclose(found, wanted, rtol=0.02 if int8 else 1e-5)


def test_threads(ops: None) -> None:
    data = scorer([640, 64, 640], ["relu", "linear"])
    session = session_of(native.rewrite(data), operators=True)
    for rows in (1, 40):
        x = rows_of(8 * rows, 640).reshape(8, rows, 640)
        wanted = [run(session, x[i]) for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i, x=x: run(session, x[i % 8]), range(400 // rows)))
        assert all(np.array_equal(score, wanted[i % 8]) for i, score in enumerate(found))


@QUICK
@given(
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(ACTIVATIONS), min_size=4, max_size=4),
    score=st.sampled_from(["mse", "mae", "bce", "zscore"]),
    n=st.integers(1, 9) | st.integers(10, 120),
    seed=st.integers(0, 1000),
    opset=st.sampled_from([18, 20]),
    sums=st.booleans(),
)
def test_any_chain(
    ops: None, widths: list[int], kinds: list[str], score: str, n: int, seed: int, opset: int, sums: bool
) -> None:
    data = scorer([*widths, widths[0]], kinds, score=score, sums=sums, seed=seed, opset=opset)
    found, wanted = both(data, rows_of(n, widths[0], seed))
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
        for batch in (1, 2, 8, 9, 40):
            x = network.rows(batch)
            bound = model.bind(batch)
            assert_close(bound.score(x), network.score(x))
            assert_close(bound.reconstruct(x), network.reconstruct(x), scale=network.recipe.scale)
        assert model._graph("scorer").native
        assert model._graph("encoder").native


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_many_rows(ops: None, tmp_path: Path, recipe: dict[str, Any]) -> None:
    network = make_bundle(tmp_path / "bundle", **recipe)
    for options in ({"native": True}, {"native": True, "chunk": 50, "workers": 3}):
        with edgeae.load(tmp_path / "bundle", device="cpu", options=options) as model:
            for n in (1, 300):
                x = network.rows(n)
                assert_close(model.score(x), network.score(x))
                assert_close(model.decode(model.encode(x)), network.reconstruct(x), scale=network.recipe.scale)
                assert_close(model.reconstruct(x), network.reconstruct(x), scale=network.recipe.scale)
            assert all(model._graph(role).native for role in ("encoder", "decoder", "scorer"))


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


@pytest.mark.parametrize("name", ["convolutional", "convolutional-resize"])
def test_no_chain_runs_as_it_is(ops: None, name: str) -> None:
    path = ROOT / "export" / "golden" / name
    with edgeae.load(path, device="cpu", options={"native": True}) as model:
        x = model.bundle.golden("fp32").x[:1]
        assert_close(model.bind(1).score(x), model.score(x))
        assert not model._graph("scorer").native


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
    data = scorer([9, 5, 9], [hidden, "linear"], score=score)
    assert native.rewrite(data) is not None
    assert native.rewrite(_changed(data, kind, change)) is None


def test_wrong_shape_is_an_error(ops: None) -> None:
    """The operator does not read beyond rows that are not what it was made for, whatever a graph declares."""
    data = native.rewrite(scorer([9, 5, 9], ["relu", "linear"]))
    assert data is not None
    model = parse_model(data)
    model["graph"]["inputs"][0]["type"]["tensor"]["shape"]["dimensions"][1] = {"value": 5}
    session = session_of(write_model(model), operators=True)
    with pytest.raises(Exception, match="x is not of the shape that its attributes promise"):
        run(session, np.zeros((1, 5), np.float32))


def test_constants_that_do_not_fit_are_an_error(ops: None) -> None:
    data = native.rewrite(scorer([9, 5, 9], ["relu", "linear"]))
    assert data is not None
    model = parse_model(data)
    constants = model["graph"]["initializers"][0]
    constants["dimensions"], constants["raw"] = [10], bytes(40)
    with pytest.raises(Exception, match="fewer constants than its attributes promise"):
        session_of(write_model(model), operators=True)


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
    sources = {path.stem: str(path) for path in (ROOT / "runtime" / "cpp" / "ops").glob("*.cpp")}
    plain = [sources.pop(name) for name in ("test_ops", "pack", "isa_portable")]
    kernels = [path for name, path in sources.items() if name != "operator"]
    program = tmp_path / "test_ops"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    flags = ["-std=c++17", *checks, "-pthread"]
    if subprocess.run([compiler, *flags, "-o", str(program), str(empty)], capture_output=True).returncode != 0:
        pytest.skip("this compiler has no sanitizers")
    # the plain loops run longest and compile fast, the kernels the other way round
    for level, some in ("-O1", plain), ("-O0", kernels):
        command = [compiler, *flags, level, "-c", *some]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    objects = [str(path) for path in tmp_path.glob("*.o")]
    subprocess.run([compiler, *flags, "-o", str(program), *objects], check=True, capture_output=True, timeout=300)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable: done" in done.stdout
