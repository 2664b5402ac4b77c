"""The CUDA path: on a device where there is one, and everywhere on a CPU that pretends to be one.

What pretends is ONNX Runtime's session and device memory: sessions are CPU sessions that insist on what CUDA insists
on (addresses on the device are device memory, a recorded graph keeps its bindings, nobody else is at work while one is
recorded). That tests edgeae's own logic, not CUDA.
"""

from __future__ import annotations

import gc
import logging
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgeae
from edgeae.bundle import Bundle
from edgeae.errors import DeviceError
from edgeae.runtime import Autoencoder, cuda, device
from edgeae.runtime.gate import Gate
from edgeae.runtime.inputs import address
from edgeae.runtime.ort import ort
from tests.bundles import Array, Network, Recipe, assert_close, make_bundle

GOLDEN = {path.name: path for path in sorted((Path(__file__).parents[1] / "export" / "golden").iterdir())}
KINDS = [(name, precision) for name, path in GOLDEN.items() for precision in Bundle.read(path).manifest.precisions]
OPERATIONS = {"encode": ("x", "z"), "decode": ("z", "x_hat"), "score": ("x", "score")}
REAL_DEVICE, REAL_SESSION, REAL_VALUE = ort.OrtDevice, ort.InferenceSession, ort.OrtValue.ortvalue_from_shape_and_type


class World:
    """What the pretended device knows: its sessions, its memory, and whether a graph is being recorded."""

    def __init__(self) -> None:
        self.sessions: weakref.WeakSet[Pretended] = weakref.WeakSet()
        self.made: list[dict[str, str]] = []
        self.memory: set[int] = set()
        self.recorder: int | None = None
        self.fault = ""

    def use(self) -> None:
        """Refuse, as CUDA does, while another thread records."""
        if self.recorder not in (None, threading.get_ident()):
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")


class Value:
    """Device memory."""

    def __init__(self, world: World, shape: list[int], dtype: Any) -> None:
        world.use()
        self.world, self.value = world, REAL_VALUE(shape, dtype, "cpu")
        world.memory.add(self.data_ptr())
        weakref.finalize(self, world.memory.discard, self.data_ptr())

    def data_ptr(self) -> int:
        return int(self.value.data_ptr())

    def update_inplace(self, array: Array) -> None:
        self.world.use()
        self.value.update_inplace(array)

    def numpy(self) -> Array:
        self.world.use()
        return np.array(self.value.numpy())


class Pretended:
    """A session of the CUDA provider; stands for its compiled half too."""

    def __init__(self, world: World, data: bytes, options: Any, providers: Any, **_: Any) -> None:
        world.use()
        ((name, self.settings),) = providers
        assert name == device.CUDA
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        self.records = self.settings["enable_cuda_graph"] == "1"
        if self.records and world.fault == "session":
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
        self.world, self.real, self._sess = world, REAL_SESSION(data, options, providers=[device.CPU]), self
        self.replays = threading.local()
        world.sessions.add(self)
        world.made.append(self.settings)

    def get_providers(self) -> list[str]:
        return [device.CUDA, device.CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {device.CUDA: {name: value for name, value in self.settings.items() if name != "unknown"}}

    def io_binding(self) -> Any:
        return SimpleNamespace(_iobinding=Bindings(self.world, self.real.io_binding()._iobinding))

    def run_with_iobinding(self, binding: Bindings, options: Any) -> None:
        world = self.world
        world.use()
        if not self.records:
            self.real._sess.run_with_iobinding(binding.raw, options)
            return
        assert all(there for there, *_ in binding.bound.values()), "a recorded graph must not read host memory"
        recorded = getattr(self.replays, "recorded", None)
        if recorded is None:
            if world.fault == "run":
                raise RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")
            world.recorder = threading.get_ident()
            time.sleep(0.005)  # for others to get in the way
            self.real._sess.run_with_iobinding(binding.raw, options)
            world.recorder, self.replays.recorded = None, dict(binding.bound)
            return
        assert recorded == binding.bound, "a recorded graph was bound anew"
        if world.fault != "stale":
            self.real._sess.run_with_iobinding(binding.raw, options)


class Bindings:
    """A binding that knows host memory from the device's."""

    def __init__(self, world: World, raw: Any) -> None:
        self.world, self.raw, self.bound = world, raw, dict[str, tuple[bool, Any, int]]()

    def bind_input(self, name: str, where: Any, dtype: Any, shape: Any, place: int) -> None:
        self.raw.bind_input(name, self._cpu(name, where, shape, place), dtype, shape, place)

    def bind_output(self, name: str, where: Any, dtype: Any, shape: Any, place: int) -> None:
        self.raw.bind_output(name, self._cpu(name, where, shape, place), dtype, shape, place)

    def _cpu(self, name: str, where: Any, shape: Any, place: int) -> Any:
        there = where.device_type() == where.cuda()
        assert there == (place in self.world.memory)
        self.bound[name] = there, shape, place
        return REAL_DEVICE.make("cpu", 0)._get_c_device()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(ort, "get_available_providers", lambda: [device.CUDA, device.CPU])
    monkeypatch.setattr(ort, "InferenceSession", lambda data, options, **named: Pretended(made, data, options, **named))
    memory = staticmethod(lambda shape, dtype, kind, index: Value(made, shape, dtype))
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", memory)
    monkeypatch.setattr(device, "_preload_libraries", lambda: None)
    monkeypatch.setattr(cuda, "_cudart", lambda: None)
    for cached in (device._verify, cuda._tell_once):
        cached.cache_clear()
    yield made
    for cached in (device._verify, cuda._tell_once):
        cached.cache_clear()


needs_device = pytest.mark.skipif(
    device.CUDA not in ort.get_available_providers(), reason="needs onnxruntime-gpu and a CUDA device"
)


@pytest.fixture(params=["pretended", pytest.param("device", marks=[pytest.mark.gpu, needs_device])])
def gpu(request: pytest.FixtureRequest) -> World | None:
    """Give the pretended device, then the real one."""
    return request.getfixturevalue("world") if request.param == "pretended" else None


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Network]]:
    folder = tmp_path_factory.mktemp("bundles")
    recipes = {
        "vector": Recipe(),
        "bytes": Recipe(shape=(5, 4), layout="HW", dtype="uint8", shift=0.0, scale=255.0),
        "fixed batch": Recipe(shape=(4, 2, 3), layout="HWC", batch=4),
    }
    return {name: (folder / name, make_bundle(folder / name, recipe)) for name, recipe in recipes.items()}


def load(path: Path, **arguments: Any) -> Autoencoder:
    return edgeae.load(path, device="cuda", **arguments)


def graphs_of(model: Autoencoder) -> list[str]:
    """Return, for each live graph of a model, what its session makes of use_tf32."""
    graphs = model._graphs or {}
    return [graph.session.get_provider_options()[device.CUDA]["use_tf32"] for graph in graphs.values()]


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_golden_rows_give_golden_results(gpu: World | None, name: str, precision: str) -> None:
    """In bulk, padded and in lanes, and bound: recorded with one batch and replayed with others."""
    model = load(GOLDEN[name], precision=precision, options={"chunk": 5})
    try:
        model.prepare()
    except DeviceError as problem:  # CUDA has no kernels for some of what int8 graphs consist of
        assert gpu is None and precision == "int8" and "lacks some operator" in str(problem)
        return
    assert set(graphs_of(model)) == {"0"}
    golden = model.bundle.golden(precision)
    tolerances = model.bundle.entry(precision).tolerance
    for operation, (source, target) in OPERATIONS.items():
        rows, wanted = getattr(golden, source), getattr(golden, target)
        tolerance = tolerances[target]
        close = partial(np.testing.assert_allclose, atol=tolerance.atol, rtol=tolerance.rtol)
        close(getattr(model, operation)(rows), wanted)
        for batch in {1, min(3, model.manifest.batch or 3)}:
            call = getattr(model.bind(batch), operation)
            for start in [*range(0, len(rows) - batch + 1, batch), 0]:
                part = slice(start, start + batch)
                close(np.reshape(call(rows[part]), wanted[part].shape), wanted[part])


@pytest.mark.parametrize("name", ["vector", "bytes", "fixed batch"])
def test_bound_batches_never_see_an_old_row(
    gpu: World | None, bundles: dict[str, tuple[Path, Network]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are replayed: the ordinary run, which takes over where that fails, would pass as well."""
    path, network = bundles[name]
    one, rows = load(path).bind(), network.rows(40)
    wanted = network.score(rows)
    for index in np.random.default_rng(0).integers(0, len(rows), 100):
        assert_close(one.score(rows[index]), wanted[index])
    latents = network.encode(rows)
    for row, latent, back in zip(rows[:5], latents, network.reconstruct(rows), strict=False):
        assert_close(one.encode(row), latent)
        assert_close(one.reconstruct(row), back, network.recipe.scale)
    assert "without a CUDA graph" not in caplog.text
    if gpu is not None:
        assert sum(made["enable_cuda_graph"] == "1" for made in gpu.made) == 1 + 1 + 2


@pytest.mark.parametrize("name", ["vector", "bytes", "fixed batch"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_lanes_share_many_rows(
    gpu: World | None, bundles: dict[str, tuple[Path, Network]], name: str, workers: int
) -> None:
    path, network = bundles[name]
    model, rows = load(path, options={"chunk": 7, "workers": workers}), network.rows(101)
    assert model.score(rows[:0]).shape == (0,)
    for given in (rows, rows.astype(np.float64), rows.tolist(), rows[:1], np.asfortranarray(rows)):
        given_rows = np.asarray(given, rows.dtype).reshape(-1, *network.recipe.shape)
        assert_close(model.score(given), network.score(given_rows))
        assert_close(model.reconstruct(given), network.reconstruct(given_rows), network.recipe.scale)


def test_a_bad_row_is_flagged_and_changes_no_other(gpu: World | None, bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    model, rows = load(path, on_invalid="flag", options={"chunk": 7}), network.rows(50)
    wanted = network.score(rows)
    rows[[3, 33], 5] = np.nan
    wanted[[3, 33]] = np.nan
    assert_close(model.score(rows), wanted)
    one = model.bind()
    for row, score in zip(rows[:5], wanted, strict=False):
        np.testing.assert_allclose(one.score(row), score, rtol=1e-4)
    first = model.bind()
    assert np.isnan(first.score(rows[3]))
    assert_close(first.score(rows[0]), wanted[0])


def test_threads_with_bound_models_of_their_own(gpu: World | None, bundles: dict[str, tuple[Path, Network]]) -> None:
    """Each records while the others run, and while lanes share many rows."""
    path, network = bundles["vector"]
    model, rows = load(path, options={"chunk": 5}), network.rows(60)
    wanted = network.score(rows)

    def bound(turn: int) -> Array:
        one = model.bind()
        return np.array([one.score(row) for row in np.roll(rows, turn, axis=0)])

    def bulk(_: int) -> Array:
        return model.score(rows)

    with ThreadPoolExecutor(4) as pool:
        singles, many = list(pool.map(bound, range(6))), list(pool.map(bulk, range(6)))
    for turn, scores in enumerate(singles):
        assert_close(scores, np.roll(wanted, turn))
    for scores in many:
        assert_close(scores, wanted)


def test_a_bound_model_may_move_to_another_thread(gpu: World | None, bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    one, rows = load(path).bind(), network.rows(6)
    wanted = network.score(rows)
    assert_close(one.score(rows[0]), wanted[0])
    with ThreadPoolExecutor(1) as pool:
        assert_close(pool.submit(one.score, rows[1]).result(), wanted[1])
        assert_close(pool.submit(one.score, rows[2]).result(), wanted[2])
    assert_close(one.score(rows[3]), wanted[3])


@pytest.mark.parametrize("fault", ["session", "run", "stale"])
def test_a_graph_that_cannot_be_recorded_runs_the_ordinary_way(
    world: World, bundles: dict[str, tuple[Path, Network]], caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    path, network = bundles["vector"]
    world.fault = fault
    model, rows = load(path), network.rows(9)
    with caplog.at_level(logging.INFO, logger="edgeae"):
        for _ in range(2):
            one = model.bind()
            for row, score in zip(rows, network.score(rows), strict=True):
                assert_close(one.score(row), score)
    (said,) = (record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage())
    assert "scorer.onnx" in said and "enable_cuda_graph" in said
    assert {"session": "cannot use", "run": "901", "stale": "something else"}[fault] in said
    gc.collect()
    assert not any(session.records for session in world.sessions)


@pytest.mark.parametrize(("value", "recorded"), [("0", 0), (False, 0), ("1", 1)])
def test_recording_is_for_bound_batches_only_and_can_be_switched_off(
    world: World, bundles: dict[str, tuple[Path, Network]], value: Any, recorded: int
) -> None:
    path, network = bundles["vector"]
    model, rows = load(path, options={"provider": {"enable_cuda_graph": value}}), network.rows(9)
    assert_close(model.score(rows), network.score(rows))
    assert {made["enable_cuda_graph"] for made in world.made} == {"0"}
    assert_close(model.bind(9).score(rows), network.score(rows))
    assert [made["enable_cuda_graph"] for made in world.made].count("1") == recorded


def test_an_error_of_the_device_is_explained(world: World, bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    one = load(path).bind()
    one.score(network.rows(1)[0])
    world.recorder = -1
    with pytest.raises(DeviceError, match="cuda:0: copying failed: CUDA failure 900"):
        one.score(network.rows(1)[0])


def test_a_graph_that_needs_the_cpu_is_refused(
    world: World, bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(bundles["vector"][0])

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(DeviceError, match=r"cuda:0: .*lacks some operator.*precision='fp32'"):
        model.prepare()


def test_nothing_stays_behind(world: World, bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    model, row = load(path), network.rows(1)[0]
    model.score(row[None])
    gc.collect()
    before = len(world.sessions)
    for _ in range(3):
        model.bind().score(row)
        gc.collect()
        assert len(world.sessions) == before
    one = model.bind()
    score = one.score(row)
    model.close()
    assert one.score(row) == score


def used_memory() -> int:
    """Return MiB used on all GPUs."""
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(int, subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()))


@pytest.mark.gpu
@needs_device
def test_memory_on_the_device_stays_flat() -> None:
    model = load(GOLDEN["dense"])
    rows = np.resize(model.bundle.golden("fp32").x, (20_000, *model.input_shape))
    used = []
    for _ in range(4):
        for _ in range(10):
            model.bind().score(rows[0])
            model.score(rows)
        gc.collect()
        used.append(used_memory())
    assert used[-1] <= used[0] + 32, used


class Library:
    """CUDA's runtime library, as far as pinning goes."""

    def __init__(self, refusal: int = 0) -> None:
        self.refusal, self.pinned = refusal, dict[int, int]()

    def cudaSetDevice(self, index: int) -> int:
        return 0

    def cudaHostRegister(self, place: int, size: int, flags: int) -> int:
        if not self.refusal:
            self.pinned[place] = size
        return self.refusal

    def cudaHostUnregister(self, place: int) -> int:
        del self.pinned[place]
        return 0


@pytest.mark.parametrize("shape", [(1,), (3, 5), (70_000,)])
@pytest.mark.parametrize("refusal", [0, 1])
def test_pinned_memory_is_whole_pages_and_given_back(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], refusal: int
) -> None:
    library = Library(refusal)
    monkeypatch.setattr(cuda, "_cudart", lambda: library)
    array = cuda.host_array(shape, np.dtype(np.float32), device.Device("cuda"))
    array[...] = 1
    assert array.shape == shape and array.flags.c_contiguous and array.flags.aligned
    if not refusal:
        ((place, size),) = library.pinned.items()
        assert place == address(array) and place % 4096 == 0 and size % 4096 == 0 and size >= array.nbytes
    part = array[:1]
    del array
    assert bool(library.pinned) == (not refusal)
    del part
    assert not library.pinned


def test_a_gate_lets_many_in_or_one() -> None:
    gate, inside, most = Gate(), set[int](), list[int]()
    meeting = threading.Barrier(2)

    def share(met: bool) -> None:
        with gate.shared():
            if met:
                meeting.wait(10)  # both are inside
            inside.add(threading.get_ident())
            time.sleep(0.001)
            inside.discard(threading.get_ident())

    def alone() -> None:
        for _ in range(20):
            with gate.alone():
                most.append(len(inside))
                time.sleep(0.0005)
                most.append(len(inside))

    with ThreadPoolExecutor(5) as pool:
        waits = [pool.submit(share, met) for met in (True, True)]
        waits += [pool.submit(alone)] + [pool.submit(share, False) for _ in range(60)]
        for wait in waits:
            wait.result(timeout=30)
    assert set(most) == {0} and len(most) == 40


def test_who_waits_to_be_alone_holds_others_back() -> None:
    gate, seen = Gate(), list[str]()

    def enter(name: str, way: Callable[[], AbstractContextManager[None]]) -> None:
        with way():
            seen.append(name)

    alone = threading.Thread(target=enter, args=("alone", gate.alone))
    late = threading.Thread(target=enter, args=("late", gate.shared))
    with gate.shared():
        alone.start()
        deadline = time.monotonic() + 10
        while not gate._turn.locked() and time.monotonic() < deadline:
            time.sleep(0.001)
        late.start()
        time.sleep(0.02)
        assert not seen
    for thread in (alone, late):
        thread.join(10)
    assert seen == ["alone", "late"]
