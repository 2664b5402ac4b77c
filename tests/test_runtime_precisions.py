"""One bad row changes no bit of another, whatever the precision; denormal numbers count as zero, whoever computes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.bundle import describe_file, pack_arrays
from edgeae.bundle.manifest import Tolerance
from edgeae.errors import InputError
from edgeae.runtime import Autoencoder, Options, denormals
from edgeae.runtime.denormals import DenormalsAsZero
from edgeae.runtime.device import Device, create_session
from edgeae.runtime.ort import ort
from edgeae.runtime.session import Binding
from tests.bundles import Array, Network, Recipe, graph, make_bundle, parts

GOLDEN = {path.name: path for path in sorted((Path(__file__).parents[1] / "export" / "golden").iterdir())}
RECIPES = {
    "vector": Recipe(),
    "wide": Recipe(shape=(70,), latent_dim=20, score="mae"),
    "colour": Recipe(shape=(3, 4, 2), layout="CHW", score="elbo", generative=True),
    "fixed batch": Recipe(batch=4),
}
BAD = (np.nan, np.inf, -np.inf, 1e38, -1e38, 3e38)
needs_denormals = pytest.mark.skipif(not denormals.AVAILABLE, reason="needs Linux on x86-64 or aarch64")


def half(model: onnx.ModelProto) -> None:
    """Let the layers of a graph compute in float16."""
    initialisers = {each.name: each for each in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Gemm":
            source, (output,) = node.input[0], node.output
            for name in node.input[1:]:
                array = numpy_helper.to_array(initialisers[name]).astype(np.float16)
                initialisers[name].CopyFrom(numpy_helper.from_array(array, name))
            nodes.append(helper.make_node("Cast", [source], [f"{output}_in"], to=TensorProto.FLOAT16))
            node.input[0], node.output[0] = f"{output}_in", f"{output}_half"
            nodes += [node, helper.make_node("Cast", [f"{output}_half"], [output], to=TensorProto.FLOAT)]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantised(model: onnx.ModelProto, *, blind: bool = False) -> None:
    """Put QuantizeLinear and DequantizeLinear before each layer and behind its weights.

    Args:
        model: The graph.
        blind: Let everything that follows, the score too, see the quantised values only.
    """
    arrays = {"a_scale": np.float32(0.03), "a_zero": np.uint8(64), "w_scale": np.float32(0.02), "w_zero": np.int8(0)}
    initialisers = {each.name: each for each in model.graph.initializer}
    nodes, seen = [], {}
    for node in model.graph.node:
        if node.op_type == "Gemm":
            source, weight = node.input[:2]
            whole = np.clip(np.rint(numpy_helper.to_array(initialisers[weight]) / arrays["w_scale"]), -128, 127)
            initialisers[weight].CopyFrom(numpy_helper.from_array(whole.astype(np.int8), weight))
            nodes += [
                helper.make_node("QuantizeLinear", [source, "a_scale", "a_zero"], [f"{source}_q"]),
                helper.make_node("DequantizeLinear", [f"{source}_q", "a_scale", "a_zero"], [f"{source}_dq"]),
                helper.make_node("DequantizeLinear", [weight, "w_scale", "w_zero"], [f"{weight}_dq"]),
            ]
            node.input[:2] = [f"{source}_dq", f"{weight}_dq"]
            if blind:
                seen[source] = f"{source}_dq"
        else:
            node.input[:] = [seen.get(name, name) for name in node.input]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items())


def run(data: bytes, source: Array) -> Array:
    """Run a graph with ONNX Runtime alone."""
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    step = session.get_inputs()[0].shape[0]
    blocks = np.split(source, len(source) // step) if isinstance(step, int) else [source]
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: block})[0] for block in blocks])


def write_bundle(path: Path, recipe: Recipe, precision: str, *, blind: bool = False) -> Network:
    """Write a bundle with this precision beside fp32; its golden rows are what its graphs give."""
    network = Network.of(replace(recipe, precisions=("fp32", precision)))
    manifest, files = parts(network)
    graphs = {}
    for role in ("encoder", "decoder", "scorer"):
        model = onnx.load_from_string(graph(network, role, manifest.precisions[precision].threshold.value, precision))
        if precision == "fp16":
            half(model)
        elif precision == "int8":
            quantised(model, blind=blind)
        onnx.checker.check_model(model, full_check=True)
        graphs[role] = model.SerializeToString()
    x = network.rows(8, seed=99)
    z = run(graphs["encoder"], x)
    golden = pack_arrays(x=x, z=z, x_hat=run(graphs["decoder"], z), score=run(graphs["scorer"], x))
    made = {f"{precision}/{role}.onnx": data for role, data in graphs.items()} | {f"{precision}/golden.npz": golden}
    entries: dict[str, Any] = {Path(name).stem: describe_file(name, data) for name, data in made.items()}
    tolerance = dict.fromkeys(("z", "x_hat", "score"), Tolerance(rtol=1e-2, atol=1e-2))
    changed = replace(manifest.precisions[precision], tolerance=tolerance, **entries)
    precisions = {**manifest.precisions, precision: changed}
    Bundle.write(path, replace(manifest, precisions=precisions), files | made)
    return network


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Bundles by name and precision, among them the golden ones of the project."""
    folder = tmp_path_factory.mktemp("precisions")
    found = {}
    for name, recipe in RECIPES.items():
        make_bundle(folder / name, recipe)
        found[name, "fp32"] = folder / name
        for precision in ("fp16", "int8"):
            write_bundle(folder / f"{name} {precision}", recipe, precision)
            found[name, precision] = folder / f"{name} {precision}"
    for name, path in GOLDEN.items():
        manifest = Bundle.read(path).manifest
        if manifest.input.dtype == "float32":
            found |= {(name, precision): path for precision in manifest.precisions}
    return found


KINDS = [(name, precision) for name in RECIPES for precision in ("fp32", "fp16", "int8")]
KINDS += [
    (name, precision)
    for name, path in GOLDEN.items()
    for precision in Bundle.read(path).manifest.precisions
    if Bundle.read(path).manifest.input.dtype == "float32"
]


def make_rows(model: Autoencoder, n: int) -> Array:
    """Return n rows, all different, like the golden ones."""
    golden = model.bundle.golden(model.precision).x
    rng = np.random.default_rng(n)
    rows = golden[rng.integers(0, len(golden), n)] * rng.uniform(0.5, 1, (n, *(1 for _ in model.input_shape)))
    return np.asarray(rows, np.float32)


def same_bits(found: Array, wanted: Array) -> None:
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("name", "precision"), KINDS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_one_bad_row_changes_no_bit_of_another(
    paths: dict[tuple[str, str], Path], name: str, precision: str, data: st.DataObject
) -> None:
    path = paths[name, precision]
    n = data.draw(st.integers(2, 20))
    value = data.draw(st.sampled_from(BAD))
    bad = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n - 1, unique=True))
    model = edgeae.load(path, device="cpu", precision=precision, on_invalid="flag", options={"chunk": 6, "workers": 2})
    good = make_rows(model, n)
    rows = good.copy()
    place = data.draw(st.integers(0, good[0].size - 1))
    rows.reshape(n, -1)[bad, place] = value
    others = np.setdiff1d(np.arange(n), bad)
    for operation in ("encode", "reconstruct", "score"):
        flagged, clean = getattr(model, operation)(rows), getattr(model, operation)(good)
        same_bits(flagged[others], clean[others])
        assert np.isfinite(value) or np.isnan(flagged[bad]).all()
    assert model.predict(rows)[bad].all()
    bound = model.bind(min(n, 4))
    first = others[others < bound.batch]
    same_bits(np.asarray(bound.score(rows[: bound.batch]))[first], np.asarray(bound.score(good[: bound.batch]))[first])
    z = model.encode(good)
    spoilt = z.copy()
    spoilt[bad, 0] = value
    same_bits(model.decode(spoilt)[others], model.decode(z)[others])
    if not np.isfinite(value):
        strict = edgeae.load(path, device="cpu", precision=precision)
        with pytest.raises(InputError, match=f"x: row {min(bad)}, "):
            strict.score(rows)
        same_bits(strict.score(good), edgeae.load(path, device="cpu", precision=precision).score(good))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["vector", "fixed batch"])
def test_a_scorer_that_cannot_show_a_bad_value_has_its_rows_examined(tmp_path: Path, name: str, value: float) -> None:
    """Quantising makes NaN a number: such a score looks as good as any."""
    network = write_bundle(tmp_path / "b", RECIPES[name], "int8", blind=True)
    rows = network.rows(9)
    rows[5, 7] = value
    data = Bundle.read(tmp_path / "b").graph("int8", "scorer")
    assert np.isfinite(run(data, rows[4:8])).all()
    with edgeae.load(tmp_path / "b", device="cpu", precision="int8", on_invalid="flag") as model:
        assert np.isnan(model.score(rows)).tolist() == [index == 5 for index in range(9)]
        assert np.isnan(model.bind().score(rows[5]))
        assert not model._graph("scorer").shows_invalid
    with edgeae.load(tmp_path / "b", device="cpu", precision="int8") as model:
        with pytest.raises(InputError, match="row 5, value 7"):
            model.score(rows)
        with pytest.raises(InputError, match="row 0, value 7"):
            model.bind().score(rows[5])


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_the_scorers_of_the_project_show_every_bad_value(
    paths: dict[tuple[str, str], Path], name: str, precision: str
) -> None:
    model = edgeae.load(paths[name, precision], device="cpu", precision=precision)
    model.prepare("scorer")
    assert model._graph("scorer").shows_invalid


# Denormals


def flushed() -> bool:
    """Tell whether this thread takes denormals for zeros."""
    return bool((np.full(4, 1e-40, np.float32) * np.float32(1))[0] == 0)


@needs_denormals
def test_denormals_are_zeros_inside_and_the_same_as_before_outside() -> None:
    assert not flushed()
    with DenormalsAsZero(), DenormalsAsZero():
        assert flushed()
    with pytest.raises(InputError), DenormalsAsZero():
        raise InputError("anything")
    assert not flushed()
    with DenormalsAsZero():
        with DenormalsAsZero():
            pass
        assert flushed()


@needs_denormals
@pytest.mark.parametrize("workers", [1, 3])
def test_every_thread_that_runs_a_graph_takes_denormals_for_zeros(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_bundle(tmp_path / "b", shape=(70,))
    model = edgeae.load(tmp_path / "b", device="cpu", options={"workers": workers, "chunk": 1})
    rows = network.rows(200)
    seen: set[tuple[str, bool]] = set()
    original = Binding.run

    def look(binding: Binding) -> None:
        seen.add((threading.current_thread().name, flushed()))
        original(binding)

    monkeypatch.setattr(Binding, "run", look)
    bound = model.bind()
    bound.score(rows[0])
    bound.reconstruct(rows[0])
    for _ in range(1000):  # the first thread may be done before another gets a piece
        model.score(rows)
        if len(seen) == workers:
            break
    assert len(seen) == workers
    model.reconstruct(rows)
    assert all(found for _, found in seen)
    rows[3] = np.nan
    for call in (model.score, model.encode, lambda each: bound.score(each[3])):
        with pytest.raises(InputError):
            call(rows)
        assert not flushed()


@needs_denormals
def test_loading_leaves_the_thread_as_it_was_and_the_threads_of_a_session_follow() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    nodes = [helper.make_node("Mul", ["x", "c"], ["y"])]
    product = helper.make_graph(nodes, "product", [x], [y], [numpy_helper.from_array(np.array(0.01, np.float32), "c")])
    model = helper.make_model(product, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = Options(session={"intra_op_num_threads": 4}, config={"session.intra_op.allow_spinning": "1"})
    assert options.session_options(forbid_cpu=False).get_session_config_entry("session.set_denormal_as_zero") == "1"
    session = create_session(model.SerializeToString(), Device("cpu"), options)
    assert not flushed()
    rows = np.full(4_000_000, 2e-38, np.float32)
    for _ in range(5):
        with DenormalsAsZero():
            assert not session.run(None, {"x": rows})[0].any()


def test_denormal_rows_score_as_zeros_do(paths: dict[tuple[str, str], Path]) -> None:
    for name, precision in KINDS:
        model = edgeae.load(paths[name, precision], device="cpu", precision=precision)
        tiny = np.full((3, *model.input_shape), 1e-40, np.float32)
        np.testing.assert_allclose(model.score(tiny), model.score(np.zeros_like(tiny)), rtol=1e-6)
        np.testing.assert_allclose(model.bind().score(tiny[0]), model.score(np.zeros_like(tiny))[0], rtol=1e-6)
