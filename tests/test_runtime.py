"""The runtime against the same arithmetic in NumPy: results, chunks, threads, options, and what it refuses."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.bundle import describe_file
from edgeae.errors import BundleError, DeviceError, EdgeaeError, InputError, IntegrityError
from edgeae.runtime import Autoencoder, Options, device, session
from edgeae.runtime.options import available_cores, chunk_rows
from edgeae.runtime.ort import ort
from tests.bundles import DECODER_VARIANCE, Array, Network, Recipe, assert_close, graph, make_bundle, parts

RECIPES = {
    "vector": Recipe(),
    "mae": Recipe(score="mae", names=tuple(f"sensor {index}" for index in range(12))),
    "zscore": Recipe(score="zscore"),
    "bce": Recipe(score="bce", shift=0.0, scale=1.0),
    "elbo": Recipe(score="elbo", generative=True),
    "grey image": Recipe(shape=(5, 4), layout="HW", shift=0.0, scale=255.0),
    "bytes": Recipe(shape=(5, 4), layout="HW", dtype="uint8", shift=0.0, scale=255.0),
    "colour image": Recipe(shape=(3, 4, 2), layout="CHW"),
    "window": Recipe(shape=(6, 3), layout="TC"),
    "fixed batch": Recipe(shape=(4, 2, 3), layout="HWC", batch=4),
    "fixed batch bytes": Recipe(shape=(3, 3), layout="HW", dtype="uint8", shift=0.0, scale=255.0, batch=3),
}
GOLDEN = {path.name: path for path in sorted((Path(__file__).parents[1] / "export" / "golden").iterdir())}
OPERATIONS = ("encode", "decode", "reconstruct", "score")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Network]]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: (folder / name, make_bundle(folder / name, recipe)) for name, recipe in RECIPES.items()}


@pytest.fixture
def vector(bundles: dict[str, tuple[Path, Network]]) -> tuple[Path, Network]:
    return bundles["vector"]


def load(path: Path, **arguments: Any) -> Autoencoder:
    return edgeae.load(path, device="cpu", **arguments)


def source(network: Network, operation: str, n: int) -> Array:
    rows = network.rows(n)
    return network.encode(rows).astype(np.float32) if operation == "decode" else rows


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    package = str(Path(edgeae.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": package, **environment},
        check=False,
    )


# Results


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", RECIPES)
def test_results_are_those_of_the_network(bundles: dict[str, tuple[Path, Network]], name: str, operation: str) -> None:
    path, network = bundles[name]
    rows = source(network, operation, 23)
    with load(path, options={"chunk": 7, "workers": 3}) as model:
        result = getattr(model, operation)(rows)
    wanted = getattr(network, operation)(rows)
    assert result.dtype == np.float32
    scale = network.recipe.scale if operation in ("decode", "reconstruct") else 1.0
    assert_close(result, wanted, scale)


@pytest.mark.parametrize("name", ["vector", "fixed batch", "bytes"])
def test_no_rows_give_no_results(bundles: dict[str, tuple[Path, Network]], name: str) -> None:
    path, network = bundles[name]
    model, shape, latent = load(path), network.recipe.shape, network.recipe.latent_dim
    nothing = network.rows(0)
    assert model.score(nothing).shape == model.predict(nothing).shape == (0,)
    assert model.encode(nothing).shape == (0, latent)
    assert model.decode(np.zeros((0, latent))).shape == model.reconstruct(nothing).shape == (0, *shape)
    assert model.explain(nothing).values.shape == (0, *shape)
    assert model.score([]).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), chunk=st.integers(1, 50), workers=st.integers(1, 4))
def test_workers_change_no_bit_and_chunks_change_rounding_only(
    bundles: dict[str, tuple[Path, Network]], n: int, chunk: int, workers: int
) -> None:
    path, network = bundles["vector"]
    rows = network.rows(n)
    alone = load(path, options={"chunk": chunk, "workers": 1}).reconstruct(rows)
    shared = load(path, options={"chunk": chunk, "workers": workers}).reconstruct(rows)
    np.testing.assert_array_equal(alone, shared)
    assert_close(alone, network.reconstruct(rows))


def test_an_anomaly_is_whatever_is_not_at_or_below_the_threshold(vector: tuple[Path, Network]) -> None:
    path, network = vector
    model = load(path)
    rows = network.rows(50)
    scores = model.score(rows)
    np.testing.assert_array_equal(model.predict(rows), ~(scores <= np.float32(model.threshold)))
    assert 0 < model.predict(rows).sum() < 50
    edge = np.array([model.threshold, np.nextafter(np.float32(model.threshold), np.float32(9)), np.nan], np.float32)
    np.testing.assert_array_equal(model.is_anomaly(edge), [False, True, True])


def test_what_a_model_says_of_itself(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["mae"]
    model = load(path)
    assert model.manifest == Bundle.read(path).manifest
    assert model.input_shape == (12,)
    assert model.latent_dim == 4
    assert model.feature_names == network.recipe.names
    assert model.device == "cpu"
    assert model.precision == "fp32"
    assert repr(model) == f"Autoencoder('{path}', variant='dense', device='cpu', precision='fp32')"


@pytest.mark.parametrize("name", ["vector", "mae", "zscore", "bce"])
def test_the_mean_of_an_explanation_is_the_score(bundles: dict[str, tuple[Path, Network]], name: str) -> None:
    path, network = bundles[name]
    model, rows = load(path, options={"chunk": 4}), network.rows(11)
    explanation = model.explain(rows.tolist())
    assert_close(explanation.values, network.contributions(rows))
    assert_close(explanation.values.mean(axis=1), model.score(rows))


def test_an_explanation_of_bce_counts_what_lies_outside_0_to_1(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["bce"]
    rows = network.rows(3) + np.float32(5)
    np.testing.assert_allclose(load(path).explain(rows).values.mean(axis=1), network.score(rows), rtol=1e-4)


def test_an_explanation_of_elbo_is_the_distortion_in_nats(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["elbo"]
    rows = network.rows(5)
    values = load(path).explain(rows).values
    np.testing.assert_allclose(values, network.contributions(rows), rtol=1e-3, atol=1e-3)
    assert load(path).manifest.score.decoder_variance == DECODER_VARIANCE


def test_the_largest_contributions_come_with_names(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["mae"]
    rows = network.rows(2)
    rows[0, 3], rows[0, 8] = 50, -90
    (first, second) = load(path).explain(rows).top(2)
    assert [name for name, _ in first] == ["sensor 8", "sensor 3"]
    assert first[0][1] > first[1][1] > second[0][1]
    path, network = bundles["grey image"]
    rows = network.rows(1)
    rows[0, 4, 1] = 9000
    explanation = load(path).explain(rows)
    assert explanation.top(1)[0][0][0] == "4, 1"
    assert len(explanation.top(99)[0]) == 20
    with pytest.raises(InputError, match="explain"):
        explanation.top(0)


def test_values_of_windows_are_called_by_channel_and_step() -> None:
    with load(GOLDEN["windows"]) as model:
        rows = model.bundle.golden().x.copy()
        rows[0, 7, 1] += 9
        assert model.explain(rows).top(1)[0][0][0] == "flow @ 7"
        assert model.reasons(rows[:1], 1)["feature_1"] == ["flow @ 7"]


def test_reasons_are_the_largest_contributions_with_what_was_there_and_what_was_expected(
    bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = bundles["mae"]
    rows, model = network.rows(5), load(path)
    monkeypatch.setattr("edgeae.runtime.explain.BLOCK_VALUES", 2 * rows[0].size)  # three blocks
    reasons, explanation = model.reasons(rows, 2), model.explain(rows)
    assert list(reasons) == [f"{name}_{i}" for i in (1, 2) for name in ("feature", "contribution", "value", "expected")]
    for row, top in enumerate(explanation.top(2)):
        assert [(reasons[f"feature_{i}"][row], reasons[f"contribution_{i}"][row]) for i in (1, 2)] == top
        place = explanation.places(1)[row, 0]
        assert reasons["value_1"][row] == rows[row, place]
        assert reasons["expected_1"][row] == model.reconstruct(rows)[row, place]
    assert len(model.reasons(rows[:0], 99)["feature_1"]) == 0
    assert len(model.reasons(rows, 99)) == 4 * rows[0].size
    with pytest.raises(InputError, match="from 1"):
        model.reasons(rows, 0)


def test_zscore_without_its_statistics_is_not_explained(tmp_path: Path) -> None:
    manifest, files = parts(Network.of(Recipe(score="zscore")))
    files.pop("statistics.npz")
    Bundle.write(tmp_path / "b", replace(manifest, statistics=None), files)
    with pytest.raises(BundleError, match="spread"):
        load(tmp_path / "b").explain(np.zeros((1, 12), np.float32))


def test_only_generative_models_sample(bundles: dict[str, tuple[Path, Network]], vector: tuple[Path, Network]) -> None:
    path, network = bundles["elbo"]
    rows = load(path).sample(6, seed=3)
    latents = np.random.default_rng(3).standard_normal((6, 4), np.float32)
    assert_close(rows, network.decode(latents))
    with pytest.raises(InputError, match="variational"):
        load(vector[0]).sample(1)
    with pytest.raises(InputError, match="sample"):
        load(path).sample(-1)


def test_each_precision_has_its_own_graphs_and_threshold(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b", precisions=("fp32", "fp16"))
    rows = network.rows(4)
    model = load(tmp_path / "b", precision="fp16")
    (tmp_path / "b" / "scorer.onnx").unlink()
    assert_close(model.score(rows), network.score(rows))
    assert (model.precision, load(tmp_path / "b", precision="auto").precision) == ("fp16", "fp32")


# Large inputs


def test_memory_maps_pass_through_in_flat_memory(vector: tuple[Path, Network], tmp_path: Path) -> None:
    path, network = vector
    n = 200_000
    np.save(tmp_path / "x.npy", np.resize(network.rows(1000).astype(np.float64), (n, 12)))
    rows = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "out.npy", mode="w+", dtype=np.float32, shape=(n, 12))
    model = load(path)
    model.reconstruct(rows[:10])
    tracemalloc.start()
    try:
        assert model.reconstruct(rows, out=out) is out
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6 < out.nbytes
    out.flush()
    assert_close(np.load(tmp_path / "out.npy")[-1000:], network.reconstruct(network.rows(1000)))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty(4, np.float32), r"expected float32 \[5\]"),
        (np.empty(5), r"got float64 \[5\]"),
        (np.empty(10, np.float32)[::2], "C-contiguous"),
        (np.broadcast_to(np.float32(0), (5,)), "C-contiguous|writable"),
        ([0.0] * 5, "NumPy array"),
    ],
)
def test_results_go_only_where_they_fit(vector: tuple[Path, Network], out: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(vector[0]).score(vector[1].rows(5), out=out)


def test_batches_stream_lazily(vector: tuple[Path, Network]) -> None:
    path, network = vector
    model, rows, taken = load(path), network.rows(10), []

    def batches() -> Iterator[Array]:
        for start, stop in ((0, 3), (3, 3), (3, 10)):
            taken.append(stop)
            yield rows[start:stop]

    results = model.stream("score", batches())
    assert len(next(results)) == 3
    assert taken == [3]
    assert [len(part) for part in results] == [0, 7]
    for operation in ("encode", "reconstruct", "predict"):
        parts = list(model.stream(operation, batches()))
        assert_close(np.concatenate(parts), getattr(model, operation)(rows))
    with pytest.raises(InputError, match="stream"):
        model.stream("explain", batches())  # type: ignore[arg-type]


def test_a_streamed_row_is_counted_over_all_batches(vector: tuple[Path, Network]) -> None:
    rows = vector[1].rows(10)
    rows[7, 2] = np.nan
    with pytest.raises(InputError, match="row 7, value 2 is nan"):
        list(load(vector[0]).stream("predict", np.split(rows, 2)))


@pytest.mark.parametrize("name", ["vector", "fixed batch"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_bad_row_changes_no_other_row(
    bundles: dict[str, tuple[Path, Network]], name: str, data: st.DataObject
) -> None:
    path, network = bundles[name]
    n = data.draw(st.integers(1, 30))
    bad = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True))
    value = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    good = network.rows(n)
    rows = good.copy()
    for row in bad:
        rows[(row, *(0 for _ in network.recipe.shape))] = value
    others = np.setdiff1d(np.arange(n), bad)
    model = load(path, on_invalid="flag", options={"chunk": 8, "workers": 2})
    before = rows.copy()
    for operation in ("encode", "reconstruct", "score"):
        flagged, clean = getattr(model, operation)(rows), getattr(model, operation)(good)
        assert np.isnan(flagged[bad]).all()
        np.testing.assert_array_equal(flagged[others], clean[others])
    np.testing.assert_array_equal(rows, before)
    assert model.predict(rows)[bad].all()
    assert np.isnan(model.explain(rows).values[bad]).any(axis=tuple(range(1, good.ndim))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [name for name in (*RECIPES, *GOLDEN) if "bytes" not in name and "uint8" not in name])
def test_every_scorer_shows_every_value_that_is_not_finite(
    bundles: dict[str, tuple[Path, Network]], name: str, value: float
) -> None:
    """What scoring relies on when it looks at the scores instead of the rows."""
    path = GOLDEN[name] if name in GOLDEN else bundles[name][0]
    for precision in Bundle.read(path).manifest.precisions:
        model = load(path, precision=precision)
        size = int(np.prod(model.input_shape))
        rows = np.resize(model.bundle.golden(precision).x[0], (size, *model.input_shape))
        rows.reshape(size, size)[np.diag_indices(size)] = value
        graph = model._graph("scorer")
        scores = np.zeros(size, np.float32)
        step = model.manifest.batch or size
        binding = graph.take_binding()
        for start in range(0, size - step + 1, step):
            part = rows[start : start + step]
            binding.bind(step, part.ctypes.data, scores[start:].ctypes.data)
            binding.run()
            assert not np.isfinite(scores[start : start + step]).any()


def test_the_first_of_several_bad_rows_is_named(vector: tuple[Path, Network]) -> None:
    rows = vector[1].rows(400)
    rows[77:, 5] = np.inf
    model = load(vector[0], options={"chunk": 3, "workers": 4})
    for operation in ("score", "encode"):
        for _ in range(50):
            with pytest.raises(InputError, match="row 77, value 5 is inf"):
                getattr(model, operation)(rows)


# Threads and processes


def test_many_threads_may_call_one_model(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["colour image"]
    model = load(path, options={"chunk": 5, "workers": 2})
    inputs = [network.rows(5 * n + 1, seed=n) for n in range(24)]

    def call(n: int) -> tuple[Array, Array]:
        return model.score(inputs[n]), model.reconstruct(inputs[n])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(24)))
    for rows, (score, x_hat) in zip(inputs, results, strict=True):
        assert_close(score, network.score(rows))
        assert_close(x_hat, network.reconstruct(rows))


def test_an_error_in_a_worker_reaches_the_caller(vector: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    path, network = vector
    model = load(path, options={"chunk": 2, "workers": 3})
    model.prepare()
    run, rows = session.Binding.run, network.rows(100)

    def fail_elsewhere(binding: session.Binding) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("in a worker")
        run(binding)

    monkeypatch.setattr(session.Binding, "run", fail_elsewhere)
    # The calling thread may be done before a worker gets a piece, so it takes more than one try.
    with pytest.raises(MemoryError, match="in a worker"):
        for _ in range(1000):
            model.score(rows)
    monkeypatch.undo()
    assert_close(model.score(rows), network.score(rows))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgeae")]


def test_a_failing_run_is_a_device_error(vector: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(vector[0])
    model.prepare("scorer")
    monkeypatch.setattr(model._graph("scorer"), "target_shape", (7,))  # ONNX Runtime refuses such a binding
    with pytest.raises(DeviceError, match=r"scorer\.onnx: failed on cpu"):
        model.score(np.zeros((1, 12)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_gets_a_clear_error_and_may_load_its_own(vector: tuple[Path, Network]) -> None:
    code = """
        import os, sys
        import numpy as np
        import edgeae
        rows = np.zeros((500, 12), np.float32)
        model = edgeae.load(sys.argv[1], device="cpu", options={"workers": 2, "chunk": 10})
        one = model.bind()
        one.score(rows[0])
        wanted = model.score(rows)
        if os.fork() == 0:
            for call in (lambda: model.score(rows), lambda: one.score(rows[0])):
                try:
                    call()
                except edgeae.EdgeaeError as problem:
                    os.write(1, f"{problem}\\n".encode())
            own = edgeae.load(sys.argv[1], device="cpu").score(rows)
            os.write(1, b"own" if np.allclose(own, wanted) else b"different")
            os._exit(0)
        os.wait()
    """
    result = run_python(code, str(vector[0]))
    *refused, own = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert len(refused) == 2
    assert all("forked" in line and "edgeae.load in the child" in line for line in refused)
    assert own == "own"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent another way there")
def test_ctrl_c_stops_a_large_input(vector: tuple[Path, Network]) -> None:
    code = """
        import os, signal, sys, threading
        import numpy as np
        import edgeae
        model = edgeae.load(sys.argv[1], device="cpu", options={"workers": 2, "chunk": 1})
        model.prepare("scorer")
        endless = np.broadcast_to(np.zeros(12, np.float32), (200_000_000, 12))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            model.score(endless)
        except KeyboardInterrupt:
            print(sorted(thread.name for thread in threading.enumerate()), model.score(endless[:3]).shape)
    """
    result = run_python(code, str(vector[0]))
    assert result.stdout == "['MainThread'] (3,)\n", result.stderr


def test_nothing_is_printed(vector: tuple[Path, Network], tmp_path: Path) -> None:
    code = """
        import sys
        import numpy as np
        import edgeae
        model = edgeae.load(sys.argv[1])
        rows = np.full((300, 12), 3e38, np.float32)
        model.score(rows), model.reconstruct(rows), model.explain(rows), model.bind().score(rows[0])
        for path, device in ((sys.argv[2], "cpu"), (sys.argv[3], "cpu"), (sys.argv[1], "cuda")):
            try:
                edgeae.load(path, device=device).score(rows)
            except edgeae.EdgeaeError as problem:
                sys.stdout.write(type(problem).__name__ + " ")
    """
    spoil(tmp_path / "no graph", Recipe(), lambda data: b"")
    spoil(tmp_path / "too large", Recipe(), with_constant(10**15))
    result = run_python(code, str(vector[0]), str(tmp_path / "no graph"), str(tmp_path / "too large"))
    first, second, *rest = result.stdout.split()
    assert (first, second) == ("BundleError", "BundleError")
    assert rest in (["DeviceError"], [])  # where there is a CUDA device, asking for it is no error
    assert result.stderr == ""


def test_without_onnxruntime_both_commands_are_named() -> None:
    code = """
        import sys
        sys.modules["onnxruntime"] = None
        import edgeae
        try:
            edgeae.load("anything")
        except edgeae.MissingPackageError as problem:
            print(problem)
    """
    result = run_python(code)
    assert "pip install 'edgeae[cpu]'" in result.stdout
    assert "pip install 'edgeae[gpu]'" in result.stdout


@pytest.mark.parametrize(("given", "found"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_is_off_unless_the_user_turned_it_on(given: dict[str, str], found: str) -> None:
    code = "import edgeae.runtime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {"ORT_DISABLE_TELEMETRY": "1"} | given
    script = code if given else "import os; del os.environ['ORT_DISABLE_TELEMETRY']; " + code
    assert run_python(script, **environment).stdout.strip() == found


def test_a_closed_model_says_so(vector: tuple[Path, Network]) -> None:
    path, network = vector
    row = network.rows(1)
    with load(path) as model:
        one = model.bind()
        score = one.score(row[0])
    with pytest.raises(EdgeaeError, match="closed"):
        model.score(row)
    assert one.score(row[0]) == score


# What a bundle must be


def spoil(path: Path, recipe: Recipe, change: Callable[[bytes], bytes], role: str = "scorer") -> None:
    """Write a bundle one of whose graphs was changed before its digest was taken."""
    manifest, files = parts(Network.of(recipe))
    files[f"{role}.onnx"] = change(files[f"{role}.onnx"])
    changes: dict[str, Any] = {role: describe_file(f"{role}.onnx", files[f"{role}.onnx"])}
    entry = replace(manifest.precisions["fp32"], **changes)
    Bundle.write(path, replace(manifest, precisions={"fp32": entry}), files)


def renamed(old: str, new: str) -> Callable[[bytes], bytes]:
    """Rename a tensor of a graph."""

    def change(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        for value in (*model.graph.input, *model.graph.output):
            value.name = value.name.replace(old, new)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        changed: bytes = model.SerializeToString()
        return changed

    return change


def of(**changes: Any) -> Callable[[bytes], bytes]:
    """Take the scorer of another recipe, with the threshold of this one."""

    def change(data: bytes) -> bytes:
        threshold = next(
            float(each.value) for each in onnx.load_from_string(data).metadata_props if each.key == "edgeae.threshold"
        )
        return graph(Network.of(Recipe(**changes)), "scorer", threshold)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"no protobuf", "no valid ONNX file"),
        (lambda data: data[: len(data) // 2], "no valid ONNX file.*cut off"),
        (renamed("x", "input"), r"its inputs are \['input'\], expected \['x'\]"),
        (renamed("score", "loss"), r"its outputs are \['loss'\], expected \['score'\]"),
        (of(shape=(13,)), r"input 'x' is .*13.*expected float32 \['batch', 12\]"),
        (of(dtype="uint8"), "uint8"),
        (of(batch=4), r"\[4, 12\]"),
        (of(metadata={"edgeae.threshold": "0.5"}), "edgeae.threshold = 0.5"),
        (of(metadata={"edgeae.threshold": "high"}), "edgeae.threshold = nan"),
        (of(metadata={"edgeae.role": "encoder"}), "edgeae.role = 'encoder', the manifest says 'scorer'"),
        (of(metadata={"edgeae.score": "mae"}), "edgeae.score"),
        (of(metadata={"edgeae.precision": "int8"}), "edgeae.precision"),
        (of(metadata={"edgeae.latent_dim": "5"}), "edgeae.latent_dim"),
        (of(names=tuple("abcdefghijkl")), "edgeae.feature_names"),
        (of(seed=1), "self-test failed on cpu: golden row 0 must give score"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    spoil(tmp_path / "b", Recipe(), change)
    model = load(tmp_path / "b")
    for _ in range(2):
        with pytest.raises(BundleError, match=message) as caught:
            model.score(np.zeros((1, 12)))
        assert str(tmp_path / "b") in str(caught.value)
        assert "\n" not in str(caught.value)
    model.encode(np.zeros((1, 12)))


def test_a_scorer_needs_no_decoder_and_a_changed_file_is_noticed_when_read(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b")
    (tmp_path / "b" / "encoder.onnx").unlink()
    with open(tmp_path / "b" / "decoder.onnx", "r+b") as file:
        file.write(b"\0")
    model = load(tmp_path / "b")
    assert_close(model.score(network.rows(3)), network.score(network.rows(3)))
    with pytest.raises(IntegrityError, match=r"decoder\.onnx"):
        model.decode(np.zeros((1, 4)))
    with pytest.raises(BundleError, match=r"encoder\.onnx"):
        model.prepare("encoder")
    with pytest.raises(InputError, match="prepare"):
        model.prepare("codec")


def with_constant(values: int) -> Callable[[bytes], bytes]:
    """Make a scorer that adds up a constant of so many zeros, in a few bytes."""
    helper = onnx.helper
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "nothing"], ["score"]),
    ]

    def change(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(nodes)
        for name, value in {"size": values, "axes": 1}.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
        changed: bytes = model.SerializeToString()
        return changed

    return change


def test_a_huge_constant_is_not_folded_while_loading(tmp_path: Path) -> None:
    spoil(tmp_path / "b", Recipe(), with_constant(10**8))
    code = """
        import sys
        from edgeae.bundle import Bundle
        from edgeae.runtime.bench import peak_memory
        from edgeae.runtime.device import Device, create_session
        from edgeae.runtime.options import Options
        data = Bundle.read(sys.argv[1]).graph("fp32", "scorer")
        before = peak_memory()
        create_session(data, Device("cpu"), Options())
        print(peak_memory() - before < 100_000_000)
    """
    result = run_python(code, str(tmp_path / "b"))
    assert result.stdout == "True\n", result.stderr


def test_a_run_for_which_memory_is_short_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(tmp_path / "b", Recipe(), with_constant(10**15))

    def no_guard(data: bytes, **_: object) -> SimpleNamespace:
        return SimpleNamespace(
            metadata={each.key: each.value for each in onnx.load_from_string(data).metadata_props}, work=1
        )

    monkeypatch.setattr("edgeae.runtime.session.check_graph", no_guard)
    with pytest.raises(DeviceError, match="failed on cpu"):
        load(tmp_path / "b").score(np.zeros((1, 12)))


# Devices and options


def test_cuda_that_is_absent_is_an_error_with_a_remedy(vector: tuple[Path, Network]) -> None:
    if device.CUDA in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(DeviceError, match=r"cuda:1: the installed onnxruntime .* pip install 'edgeae\[gpu\]'"):
        edgeae.load(vector[0], device="cuda:1")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_listed_but_does_not_start_is_an_error(
    vector: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if device.CUDA in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [device.CUDA, device.CPU])
    device._choose_automatically.cache_clear()
    try:
        with pytest.raises(DeviceError, match=r"cannot use it.*device='cpu'"):
            edgeae.load(vector[0], device="cuda")
        with caplog.at_level(logging.INFO, logger="edgeae"):
            assert edgeae.load(vector[0], device="auto").device == "cpu"
        assert "cannot use it" in caplog.text
        assert caplog.records[0].levelname == "WARNING"
    finally:
        device._choose_automatically.cache_clear()


def test_auto_says_once_what_it_chose(vector: tuple[Path, Network], caplog: pytest.LogCaptureFixture) -> None:
    device._choose_automatically.cache_clear()
    with caplog.at_level(logging.DEBUG, logger="edgeae"):
        names = {edgeae.load(vector[0], device="auto").device for _ in range(3)}
    assert len(names) == 1
    assert len(caplog.records) == 1
    assert f"device auto: {names.pop()}, because" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(device.CUDA not in ort.get_available_providers(), reason="needs onnxruntime-gpu and a CUDA device")
@pytest.mark.parametrize("name", ["vector", "bytes", "colour image", "fixed batch"])
def test_cuda_gives_the_same_results(bundles: dict[str, tuple[Path, Network]], name: str) -> None:
    path, network = bundles[name]
    model = edgeae.load(path, device="cuda")
    rows = network.rows(300)
    assert model.device == "cuda:0"
    assert_close(model.score(rows), network.score(rows))
    assert_close(model.encode(rows), network.encode(rows))
    one = model.bind()
    for row in rows[:3]:
        assert_close(one.score(row), network.score(row[None])[0])
        assert_close(one.encode(row), network.encode(row[None])[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu"}, "device: 'gpu' is not one of auto, cpu, cuda"),
        ({"device": "cuda:x"}, "device"),
        ({"precision": "fp64"}, "known precisions: fp32, fp16, int8"),
        ({"precision": "fp16"}, "choose fp32, or export it again"),
        ({"profile": "fast"}, "profile: 'fast' is not one of throughput, latency"),
        ({"on_invalid": "ignore"}, "on_invalid"),
        ({"options": {"worker": 2}}, "did you mean 'workers'"),
        ({"options": {"workers": 0}}, "workers"),
        ({"options": {"chunk": 2.5}}, "chunk"),
        ({"options": {"workers": True}}, "workers"),
        ({"options": 3}, "options: expected a mapping"),
        ({"options": {"config": "session.x"}}, "config must be a mapping"),
        ({"options": {"session": {"intra_op_threads": 2}}}, "did you mean 'intra_op_num_threads'"),
        ({"options": {"session": {"intra_op_num_threads": "two"}}}, "'two' is refused"),
        ({"options": {"session": {"graph_optimization_level": "ORT_SOME"}}}, "'ORT_SOME' is refused"),
        ({"options": {"config": {"session.intra_op.allow_spining": "1"}}}, "knows no entry"),
        ({"options": {"provider": {"gpu_mem_limit": "1000000"}}}, "gpu_mem_limit: the CPU has none"),
        ({"options": {"run": {"memory.enable_arena_shrinkage": "cpu:0"}}}, "knows no entry"),
    ],
)
def test_wrong_arguments_are_refused_when_loading(
    vector: tuple[Path, Network], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        edgeae.load(vector[0], **{"device": "cpu"} | arguments)


def test_every_option_of_onnxruntime_can_be_reached(vector: tuple[Path, Network]) -> None:
    path, network = vector
    options = Options(
        workers=2,
        chunk=3,
        session={"intra_op_num_threads": 2, "graph_optimization_level": "ORT_DISABLE_ALL", "logid": "mine"},
        config={"session.intra_op.allow_spinning": "1", "session.set_denormal_as_zero": "1"},
        run={"memory.enable_memory_arena_shrinkage": "cpu:0"},
    )
    model = load(path, options=options)
    assert_close(model.score(network.rows(9)), network.score(network.rows(9)))
    made = options.session_options(forbid_cpu=True)
    assert made.intra_op_num_threads == 2
    assert made.inter_op_num_threads == 1
    assert made.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert made.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert made.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert made.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_profiles_decide_how_many_threads_work() -> None:
    cores = available_cores()
    assert cores >= 1
    assert Options().worker_count("throughput", on_gpu=False) == cores
    assert Options().worker_count("latency", on_gpu=False) == 1
    assert Options().worker_count("throughput", on_gpu=True) == 2
    assert Options().worker_count("latency", on_gpu=True) == 1
    assert Options(workers=5).worker_count("latency", on_gpu=True) == 5
    assert Options(session={"intra_op_num_threads": cores}).worker_count("throughput", on_gpu=False) == 1
    assert Options(session={"intra_op_num_threads": 0}).worker_count("throughput", on_gpu=False) == 1


@pytest.mark.parametrize(
    ("shape", "rows"), [((784,), 128), ((640,), 128), ((9,), 4096), ((4096,), 64), ((28, 28), 64), ((3, 64, 64), 16)]
)
def test_a_chunk_fits_the_cache(shape: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeae.runtime.options.second_level_cache", lambda: 2**21)
    assert chunk_rows(shape, on_gpu=False) == rows
    monkeypatch.setattr("edgeae.runtime.options.second_level_cache", lambda: 2**20)
    assert chunk_rows(shape, on_gpu=False) in (rows, rows // 2)


def test_a_huge_row_goes_alone() -> None:
    assert chunk_rows((3, 2048, 2048), on_gpu=False) == 1
    assert chunk_rows((784,), on_gpu=True) == 2**26 // 3136


@pytest.mark.parametrize(("cache", "threads"), [(2**40, 1), (0, 3)])
def test_cores_share_the_run_of_a_row_where_the_weights_exceed_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: int, threads: int
) -> None:
    monkeypatch.setattr("edgeae.runtime.model.second_level_cache", lambda: cache)
    monkeypatch.setattr("edgeae.runtime.options.available_cores", lambda: 3)
    network = make_bundle(tmp_path / "b")
    made: list[int] = []
    create = ort.InferenceSession

    def noted(data: Any, options: Any, **named: Any) -> Any:
        made.append(options.intra_op_num_threads)
        return create(data, options, **named)

    monkeypatch.setattr(ort, "InferenceSession", noted)
    x = network.rows(5)
    for profile in ("latency", "throughput"):
        assert_close(edgeae.load(tmp_path / "b", device="cpu", profile=profile).score(x), network.score(x))
    assert made == [threads, 1]
