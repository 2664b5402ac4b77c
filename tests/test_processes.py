"""Threads, forks, Ctrl-C, short memory, long runs: what a process that lives for months meets."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeae
from edgeae.errors import EdgeaeError, OutOfMemoryError
from edgeae.runtime import Autoencoder
from tests.bundles import Array, Network, Recipe, make_bundle

RECIPES = {
    "vector": Recipe(),
    "colour": Recipe(shape=(3, 4, 2), layout="CHW", score="elbo", generative=True),
    "fixed batch": Recipe(shape=(5, 4), layout="HW", dtype="uint8", shift=0.0, scale=255.0, batch=4),
    "wide": Recipe(shape=(300,), latent_dim=100),
}
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux (/proc, RLIMIT_AS)")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
signals = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent another way there")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Network]]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: (folder / name, make_bundle(folder / name, recipe)) for name, recipe in RECIPES.items()}


def start(code: str, *arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start Python on `code`, after what most of it needs."""
    prelude = """
        import os, signal, sys, threading, time
        import numpy as np
        import edgeae
        def status(name):
            with open("/proc/self/status") as lines:
                return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
    """
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            textwrap.dedent(prelude) + textwrap.dedent(code),
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(edgeae.__file__).parents[1]), **environment},
    )


def run(
    code: str, *arguments: object, status: int = 0, errors: str = "", cwd: Path | None = None, **environment: str
) -> str:
    """Run `code` to its end, which must come by itself, and return what it printed."""
    with start(code, *arguments, cwd=cwd, **environment) as process:
        try:
            printed, complaints = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, complaints) == (status, errors)
    return printed


# Threads


def together(count: int, work: Callable[[int], None]) -> None:
    """Let `count` threads work at once and raise what the first of them raised."""
    problems: list[BaseException] = []
    gate = threading.Barrier(count)

    def body(index: int) -> None:
        try:
            gate.wait()
            work(index)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


@pytest.mark.parametrize("name", RECIPES)
def test_sixteen_threads_get_the_numbers_that_one_gets(bundles: dict[str, tuple[Path, Network]], name: str) -> None:
    """`python -m benchmarks.endurance` does the same for a minute."""
    path, network = bundles[name]
    model = edgeae.load(path, device="cpu", options={"chunk": 9, "workers": 2})
    rows: Array = network.rows(40)
    wanted = {
        (operation, n): getattr(model, operation)(rows[:n])
        for operation in ("encode", "reconstruct", "score", "predict")
        for n in (1, 8, 9, 25, 40)
    }
    alone = model.bind()
    single = [alone.score(row) for row in rows]

    def work(index: int) -> None:
        rng = np.random.default_rng(index)
        bound = model.bind()
        for _ in range(15):
            operation, n = list(wanted)[rng.integers(len(wanted))]
            found = getattr(model, operation)(rows[:n])
            assert found.tobytes() == wanted[operation, n].tobytes()
            row = int(rng.integers(len(rows)))
            assert bound.score(rows[row]) == single[row]

    together(16, work)


def test_sixteen_threads_that_load_together_load_once(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    rows = network.rows(3)
    model = edgeae.load(path, device="cpu")
    found: list[Array] = []
    together(16, lambda index: found.append(model.score(rows)))
    assert len({each.tobytes() for each in found}) == 1
    assert len(model._graphs or ()) == 1


def test_a_bound_model_in_many_threads_answers_rightly_or_complains(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["wide"]
    model = edgeae.load(path, device="cpu")
    bound = model.bind()
    rows = network.rows(8)
    wanted = [model.bind().score(row) for row in rows]
    refused: list[str] = []

    def work(index: int) -> None:
        for _ in range(300):
            try:
                assert bound.score(rows[index]) == wanted[index]
            except EdgeaeError as problem:
                refused.append(str(problem))

    together(8, work)
    assert set(refused) <= {"a bound model was called while another thread is in a call; make one per thread"}
    assert bound.score(rows[0]) == wanted[0]


def test_where_no_thread_can_be_started_the_caller_does_the_work(
    bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = bundles["vector"]
    rows = network.rows(50)
    model = edgeae.load(path, device="cpu", options={"chunk": 3, "workers": 4})
    wanted = model.score(rows)

    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "Thread", Refused)
    np.testing.assert_array_equal(model.score(rows), wanted)


# Forks

FORK = """
    path, threads, busy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = {"workers": 2, "chunk": 10, "session": {"intra_op_num_threads": threads}}
    rows = np.zeros((3000, 12), np.float32)
    model = edgeae.load(path, device="cpu", options=options)
    one = model.bind()
    one.score(rows[0])
    wanted = model.score(rows)
    stop = threading.Event()
    def work():
        while not stop.is_set():
            model.score(rows)
    workers = [threading.Thread(target=work) for _ in range(busy)]
    for worker in workers:
        worker.start()
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        for call in (lambda: model.score(rows), lambda: model.prepare("encoder"), lambda: one.score(rows[0])):
            try:
                call()
            except edgeae.EdgeaeError as problem:
                os.write(1, f"{problem}\\n".encode())
        own = edgeae.load(path, device="cpu", options=options).score(rows)
        os.write(1, b"own\\n" if np.allclose(own, wanted) else b"different\\n")
        model.close()
        del model, one  # destroys the parent's sessions, whose threads are not here
        sys.exit(7)
    _, ended = os.waitpid(child, 0)
    stop.set()
    for worker in workers:
        worker.join()
    assert np.array_equal(model.score(rows), wanted)
    os.write(1, f"ended with {os.waitstatus_to_exitcode(ended)}\\n".encode())
"""


@forks
@pytest.mark.parametrize(("threads", "busy"), [(1, 0), (3, 0), (1, 2), (3, 2)])
def test_a_forked_child_gets_clear_errors_and_ends_cleanly(
    bundles: dict[str, tuple[Path, Network]], threads: int, busy: int
) -> None:
    *refused, own, ended = run(FORK, bundles["vector"][0], threads, busy).splitlines()
    assert len(refused) == 3
    assert all("forked" in line and "edgeae.load in the child" in line for line in refused)
    assert (own, ended) == ("own", "ended with 7")


@forks
def test_a_child_may_leave_the_block_of_a_model_that_another_thread_is_loading(
    bundles: dict[str, tuple[Path, Network]],
) -> None:
    code = """
        with edgeae.load(sys.argv[1], device="cpu") as model:
            model._lock.acquire()  # as another thread that loads a graph does
            child = os.fork()
            if child:
                model._lock.release()
        if child == 0:
            os._exit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(code, bundles["vector"][0]) == "3\n"


@forks
def test_a_pool_of_forked_processes_passes_the_error_on(bundles: dict[str, tuple[Path, Network]]) -> None:
    code = """
        import multiprocessing
        model = edgeae.load(sys.argv[1], device="cpu")
        rows = np.zeros((3, 12), np.float32)
        model.score(rows)
        def score():
            return model.score(rows)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            try:
                pool.apply(score)
            except edgeae.EdgeaeError as problem:
                print(problem)
    """
    assert "forked" in run(code, bundles["vector"][0])


# Ctrl-C

INTERRUPTED = """
    from edgeae.cli import main
    from edgeae.runtime import model as module
    from edgeae.runtime.session import Binding
    run, run_rows = Binding.run, module.run_rows
    def slowly(binding):
        time.sleep(0.1)
        run(binding)
    def told(graphs, reader, *rest, **more):
        if len(reader.rows) > 1000:  # not the self-test
            Binding.run = slowly
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        run_rows(graphs, reader, *rest, **more)
    module.run_rows = told
    main(sys.argv[1:])
"""


@signals
@pytest.mark.parametrize(
    ("command", "ending", "old"),
    [
        ("score", "csv", None),
        ("score", "npy", b"what was there"),
        ("encode", "npy", None),
        ("encode", "npy", b"what was there"),
        ("reconstruct", "csv", b"what was there"),
    ],
)
def test_ctrl_c_ends_a_command_and_leaves_no_half_file(
    bundles: dict[str, tuple[Path, Network]], tmp_path: Path, command: str, ending: str, old: bytes | None
) -> None:
    """The job would take minutes."""
    np.save(tmp_path / "x.npy", np.zeros((400_000, 12), np.float32))
    out = tmp_path / f"out.{ending}"
    if old is not None:
        out.write_bytes(old)
    arguments = [command, bundles["vector"][0], tmp_path / "x.npy", "-o", out, "--device", "cpu"]
    arguments += [] if old is None else ["--force"]
    assert run(INTERRUPTED, *arguments, status=130, errors="edgeae: interrupted\n") == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [*([out.name] if old else []), "x.npy"]
    assert old is None or out.read_bytes() == old


@signals
@pytest.mark.parametrize("workers", [1, 4])
def test_ctrl_c_ends_a_call_and_the_next_one_works(bundles: dict[str, tuple[Path, Network]], workers: int) -> None:
    code = """
        model = edgeae.load(sys.argv[1], device="cpu", options={"workers": int(sys.argv[2]), "chunk": 2})
        few = np.zeros((5, 12), np.float32)
        endless = np.broadcast_to(few[0], (200_000_000, 12))
        out = np.zeros(len(endless), np.float32)
        for operation in ("score", "encode"):
            wanted = getattr(model, operation)(few)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                getattr(model, operation)(endless, **({"out": out} if operation == "score" else {}))
            except KeyboardInterrupt:
                again = getattr(model, operation)(few)
                denormals = (np.full(4, 1e-40, np.float32) * np.float32(1)).all()
                print([thread.name for thread in threading.enumerate()], np.array_equal(again, wanted), denormals)
    """
    assert run(code, bundles["vector"][0], workers) == "['MainThread'] True True\n" * 2


# Memory


@linux_only
def test_what_does_not_fit_in_memory_is_an_error_and_less_works(bundles: dict[str, tuple[Path, Network]]) -> None:
    code = """
        import resource
        path = sys.argv[1]
        options = {"workers": 2, "chunk": 2_000_000}
        model, greedy = edgeae.load(path, device="cpu"), edgeae.load(path, device="cpu", options=options)
        few = np.ones((5, 300), np.float32)
        wanted = [getattr(model, name)(few) for name in ("score", "encode", "reconstruct")]
        one = model.bind()
        one.score(few[0])
        greedy.score(few), greedy.reconstruct(few)
        resource.setrlimit(resource.RLIMIT_AS, (1024 * status("VmSize") + 200_000_000,) * 2)
        def huge(n):
            return np.broadcast_to(few[:1], (n, 300))
        attempts = {
            "score": lambda: model.score(huge(10**9)),
            "encode": lambda: model.encode(huge(10**7)),
            "reconstruct": lambda: model.reconstruct(huge(10**7)),
            "list": lambda: model.score([few[0]] * 400_000),
            "bind": lambda: model.bind(10**7).score(few),
            "buffer": lambda: greedy.score(huge(2_000_000)),
            "run": lambda: greedy.score(room),
        }
        room = np.ones((100_000, 300), np.float32)
        for name, attempt in attempts.items():
            try:
                attempt()
                print(name, "works")
            except edgeae.EdgeaeError as problem:
                print(name, type(problem).__name__, isinstance(problem, MemoryError), problem)
            for operation, result in zip(("score", "encode", "reconstruct"), wanted):
                assert np.array_equal(getattr(model, operation)(few), result)
                getattr(greedy, operation)(few)
            one.score(few[0])
    """
    lines = dict(line.split(" ", 1) for line in run(code, bundles["wide"][0]).splitlines())
    for name in ("score", "encode", "reconstruct", "list", "buffer"):
        assert lines[name].startswith("OutOfMemoryError True "), lines[name]
        assert "fewer rows at a time" in lines[name]
    assert lines["bind"] == "OutOfMemoryError True bind: no memory for the buffers of 10000000 rows; bind fewer"
    # in ONNX Runtime
    assert lines["run"].startswith(("DeviceError False ", "OutOfMemoryError True ")), lines["run"]


def test_the_error_is_a_memory_error_for_those_who_catch_that(
    bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise MemoryError

    model = edgeae.load(bundles["vector"][0], device="cpu")
    monkeypatch.setattr("edgeae.runtime.model.run_rows", none_left)
    model._self_test = lambda graph: None  # type: ignore[method-assign]
    model._shows_invalid = lambda graph: True  # type: ignore[method-assign]
    with pytest.raises(MemoryError, match=r"^score: no memory left; pass fewer rows") as caught:
        model.score(np.zeros((200, 12)))
    assert isinstance(caught.value, OutOfMemoryError)


@linux_only
@pytest.mark.parametrize("name", ["vector", "colour"])
def test_memory_returns_to_what_it_was_after_a_huge_input(bundles: dict[str, tuple[Path, Network]], name: str) -> None:
    code = """
        model = edgeae.load(sys.argv[1], device="cpu", options={"workers": 2})
        def use(n):
            rows = np.ones((n, *model.input_shape), np.float64)
            found = model.encode(rows), model.reconstruct(rows), model.score(rows), model.predict(rows)
            held = status("VmRSS")
            return held
        use(20_000)
        before = status("VmRSS")
        print((use(1_000_000) - before) // 1024, (status("VmRSS") - before) // 1024)
    """
    held, after = map(int, run(code, bundles[name][0]).split())
    assert held > 100
    assert after < 16


@linux_only
def test_many_scores_and_loads_keep_memory_threads_and_files(bundles: dict[str, tuple[Path, Network]]) -> None:
    """`python -m benchmarks.endurance` does the same for a million scores and a thousand loads."""
    code = """
        import gc
        path = sys.argv[1]
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(64, 12)).astype(np.float32)
        model = edgeae.load(path, device="cpu", options={"workers": 2, "chunk": 16})
        one = model.bind()
        def work(scores, calls, loads):
            for _ in range(scores):
                one.score(rows[0])
            for _ in range(calls):
                n = int(rng.integers(1, 65))
                model.score(rows[:n]), model.reconstruct(rows[:n])
            for _ in range(loads):
                with edgeae.load(path, device="cpu") as other:
                    other.score(rows), other.encode(rows), other.bind(2).reconstruct(rows[:2])
                try:
                    edgeae.load(path + "/none", device="cpu")
                except edgeae.BundleError:
                    pass
            gc.collect()
            return status("VmRSS"), status("Threads"), len(os.listdir("/proc/self/fd"))
        first = work(20_000, 500, 30)
        last = work(40_000, 1000, 60)
        print((last[0] - first[0]) // 1024, last[1] - first[1], last[2] - first[2])
    """
    megabytes, threads, files = map(int, run(code, bundles["vector"][0]).split())
    assert (threads, files) == (0, 0)
    assert megabytes < 4


# What a library must not do


@linux_only
def test_no_network_no_file_and_no_output(bundles: dict[str, tuple[Path, Network]], tmp_path: Path) -> None:
    code = """
        seen = []
        def watch(event, arguments):
            if event.startswith("socket.") or event in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen"):
                seen.append((event, arguments))
            elif event == "open":
                path, mode, flags = arguments
                if (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    seen.append((event, path))
        sys.addaudithook(watch)
        for path in sys.argv[1:]:
            for device in ("auto", "cuda:7", "nothing"):
                try:
                    with edgeae.load(path, device=device, on_invalid="flag") as model:
                        rows = np.zeros((100, *model.input_shape), model.manifest.input.dtype)
                        model.score(rows), model.reconstruct(rows), model.explain(rows), model.predict(rows)
                        model.bind().encode(rows[0])
                        model.score(rows * np.float32(np.nan) if rows.dtype == np.float32 else rows)
                except edgeae.EdgeaeError:
                    pass
        sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd not in "012"
                   and os.path.exists(f"/proc/self/fd/{fd}")]
        seen += [link for link in sockets if link.startswith("socket:")]
        sys.stderr.write("".join(f"{each}\\n" for each in seen))
    """
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    folders: dict[str, Any] = dict.fromkeys(
        ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR"), str(home)
    )
    paths = [path for path, _ in bundles.values()]
    assert run(code, *paths, cwd=home, PYTHONDONTWRITEBYTECODE="1", **folders) == ""
    assert not list(home.iterdir())


def test_a_thread_computes_as_before_once_it_has_made_the_first_session(
    bundles: dict[str, tuple[Path, Network]],
) -> None:
    """ONNX Runtime would leave the thread that makes a process's first session with denormals as zeros."""
    code = """
        model = edgeae.load(sys.argv[1], device="cpu", options={"config": {"session.set_denormal_as_zero": "1"}})
        model.score(np.zeros((50, 12), np.float32)), model.bind().score(np.zeros(12, np.float32))
        print((np.full(4, 1e-40, np.float32) * np.float32(1)).all())
    """
    assert run(code, bundles["vector"][0]) == "True\n"


def test_nothing_is_started_by_importing_or_loading(bundles: dict[str, tuple[Path, Network]]) -> None:
    code = """
        model = edgeae.load(sys.argv[1], device="cpu")
        print([thread.name for thread in threading.enumerate()], status("Threads") if sys.platform == "linux" else 1)
        import edgeae.runtime
    """
    threads = run(code, bundles["vector"][0], OPENBLAS_NUM_THREADS="1")
    assert threads == "['MainThread'] 1\n"


def test_a_model_is_freed_when_nobody_uses_it(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    model: Autoencoder | None = edgeae.load(path, device="cpu")
    assert model is not None
    model.reconstruct(network.rows(3))
    sessions = [weakref.ref(model._graph(role).session) for role in ("encoder", "decoder")]
    bound = model.bind()
    kept = bound.score(network.rows(1)[0])
    model = None
    gc.collect()
    assert bound.score(network.rows(1)[0]) == kept
    del bound
    gc.collect()
    assert [session() for session in sessions] == [None, None]
