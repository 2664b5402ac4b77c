"""Files under attack: writers killed at every point, disks that are full, folders that are read-only, hostile arrays.

`kill_everywhere`, `fail_everywhere` and `watch_writes` run in a process of their own, started by the tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import edgeae.bundle.atomic as atomic
from edgeae.bundle.atomic import check_new, open_atomic, recovered, write_directory, write_file
from edgeae.errors import InputError

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "export" / "golden" / "dense"
SIBLING = re.compile(r"\..+\.[0-9a-f]{8}\.(tmp|old)")

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX: fork, signals and resource limits")

# ---------------------------------------------------------------- everything that edgeae writes, as old (0) and new (1)


def _scores(path: Path, kind: int) -> None:
    from edgeae.data.writers import write_scores

    scores = np.arange(20_000, dtype=np.float32) * (kind + 1)
    write_scores(path, scores, scores > 7)


def _array(path: Path, kind: int) -> None:
    from edgeae.data.writers import create_array

    with create_array(path, (3000, 3), ["a", "b", "c"]) as array:
        array[:1500] = kind
        array[1500:] = kind + 2


def _figure(path: Path, kind: int) -> None:
    from edgeae.report import draw_scores

    draw_scores(path, {"normal": np.arange(50.0) + kind, "other": np.arange(9.0)}, 3.0, kind="mse")


def _bundle(path: Path, kind: int) -> None:
    from edgeae.bundle import Bundle

    found = Bundle.read(GOLDEN)
    files = {file.path: found.file(file) for file in found.files()}
    Bundle.write(path, dataclasses.replace(found.manifest, name=f"version {kind}"), files, force=True)


def _run(path: Path, kind: int) -> None:
    import torch

    from edgeae.training.progress import Epoch
    from edgeae.training.run import Reference, write_run

    record: Any = {"format": "edgeae-run", "kind": kind}  # a run record, as far as writing goes
    rows = np.full((20, 3), kind, np.float32)
    write_run(
        path,
        record,
        weights={"w": torch.full((4, 4), float(kind))},
        history=[Epoch(1, 0.5, 0.5, 0.5, 0.5, 1e-3, float(kind))],
        resume=b"state %d" % kind,
        reference=Reference(rows, rows, None),
        force=True,
    )


def _directory(path: Path, kind: int) -> None:
    write_directory(path, {"a": b"%d" % kind, "b/c": b"%d" % kind * 9000}, force=True)


def _file(path: Path, kind: int) -> None:
    write_file(path, b"%d" % kind * 100_000)  # run.resume.pt, bench.json, downloads


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "file": _file,
    "directory": _directory,
    "run": _run,
    "bundle": _bundle,
    "bundle.zip": _bundle,
    "scores.csv": _scores,
    "scores.npy": _scores,
    "scores.parquet": _scores,
    "z.npy": _array,
    "z.csv": _array,
    "figure.png": _figure,
}


def content(path: Path) -> Any:
    """Everything at `path`: None, bytes, or a dictionary of them."""
    if path.is_dir():
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return path.read_bytes() if path.exists() else None


def restore(path: Path, old: Any) -> None:
    """Put `old` at `path`, plainly."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if isinstance(old, dict):
        for name, data in old.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif old is not None:
        path.write_bytes(old)


def leftovers(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if SIBLING.fullmatch(entry.name))


# ------------------------------------------------------------------------------------------------- points of attack

SYSTEM_CALLS = {
    *("open", "close", "write", "writelines", "flush", "truncate", "tofile", "fsync", "posix_fallocate", "mmap"),
    *("rename", "replace", "mkdir", "rmdir", "unlink", "remove", "flock", "scandir", "stat", "fstat", "lstat"),
}


def profiled(attack: Callable[[int, str], None]) -> Callable[[FrameType, str, Any], None]:
    """Return a profile function that calls attack(number, name) at each step of a writer: a step is the begin and the
    end of a call to the system, and of each function in atomic.py (renameat2 is one that no profiler sees)."""
    number = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal number
        if event.startswith("c_"):
            name = getattr(argument, "__name__", "")
            if name not in SYSTEM_CALLS or isinstance(getattr(argument, "__self__", None), io.StringIO | io.BytesIO):
                return
        elif frame.f_code.co_filename == atomic.__file__:
            name = frame.f_code.co_name
        else:
            return
        number += 1
        attack(number, f"{event} {name}")

    return profile


def callers() -> list[str]:
    frame, names = sys._getframe(2), []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return names


def without(missing: str) -> None:
    """Take away what other systems do not have."""
    if "exchange" in missing:
        vars(atomic)["_exchange"] = lambda *_: False
    if "locks" in missing:
        vars(atomic)["fcntl"] = None


def attacked(name: str, write: Callable[[Path, int], None], path: Path, most: int) -> list[int]:
    """Return the numbers of the steps to attack: all of them, or `most` of them, the last ones among them."""
    steps = 0

    def count(number: int, _: str) -> None:
        nonlocal steps
        steps = number

    sys.setprofile(profiled(count))
    write(path, 1)
    sys.setprofile(None)
    if steps <= most:
        return list(range(1, steps + 1))
    # the renames are among the last, and figures have hundreds of writes before
    return sorted({*np.linspace(1, steps, most // 2, dtype=int).tolist(), *range(steps - most // 2, steps + 1)})


def kill_everywhere(name: str, folder: Path, missing: str, most: int) -> None:
    """Write `name` over an old one in forked processes that are killed at one step each."""
    without(missing)
    path, write = folder / name, WRITERS[name]
    write(path, 1)
    new = content(path)
    restore(path, None)
    write(path, 0)
    old = content(path)
    assert old != new and not leftovers(path)
    outcomes = []
    for start in (old, None):
        restore(path, start)
        for stale in path.parent.glob(".*.old"):
            shutil.rmtree(stale)
        for step in attacked(name, write, path, most if start else most // 4):
            restore(path, start)
            child = os.fork()
            if not child:

                def attack(number: int, _: str, step: int = step) -> None:
                    if number == step:
                        os.kill(os.getpid(), signal.SIGKILL)

                sys.setprofile(profiled(attack))
                write(path, 1)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            found = content(recovered(path))
            assert found in (start, new), f"after step {step} the target is neither old nor new"
            outcomes.append(found == new)
            assert os.WIFSIGNALED(status) or found == new
            if not missing.endswith("locks"):  # a write removes what the one before it left
                assert len(leftovers(path)) <= 2, leftovers(path)
    write(path, 1)
    if not missing.endswith("locks"):
        assert not leftovers(path), leftovers(path)
    sys.stdout.write(json.dumps({"steps": len(outcomes), "new": sum(outcomes)}))


def fail_everywhere(name: str, folder: Path, missing: str, most: int) -> None:
    """Write `name` over an old one with an error at one step each, and then with a Ctrl-C."""
    without(missing)
    path, write = folder / name, WRITERS[name]
    write(path, 1)
    new = content(path)
    write(path, 0)
    old = content(path)
    steps, told = 0, 0
    failing = {f"c_call {call}" for call in ("write", "fsync", "mkdir", "posix_fallocate", "rename")}
    for problem in (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), KeyboardInterrupt()):
        for step in attacked(name, write, path, most):
            restore(path, old)
            hit = ""

            def attack(number: int, what: str, step: int = step, problem: BaseException = problem) -> None:
                nonlocal hit
                # Python acts on a Ctrl-C after a call, and a call to the system fails instead of being made
                fits = what in failing if isinstance(problem, OSError) else what.startswith("c_return")
                if number >= step and not hit and fits:
                    hit = f"{what}, step {number}, in {', '.join(callers())}"
                    raise problem

            raised: BaseException | None = None
            sys.setprofile(profiled(attack))
            try:
                write(path, 1)
            except (OSError, InputError, KeyboardInterrupt) as caught:
                raised = caught
            finally:
                sys.setprofile(None)
            if not hit:
                continue
            steps += 1
            assert content(recovered(path)) in (old, new), hit
            if raised is None:  # mkdir(exist_ok=True) does not care why, if there is one
                assert "mkdir" in hit and content(path) == new, hit
            elif isinstance(problem, OSError):
                assert isinstance(raised, InputError), f"{hit}: {raised!r}"
                assert re.fullmatch(r".*: cannot be written: .*quota.*; your quota is used up: .*", str(raised)), raised
                assert str(path) in str(raised)
                assert not leftovers(path), hit
                told += 1
            elif leftovers(path):  # a Ctrl-C within the very removal of the sibling: it goes with the next write
                assert "rmtree" in hit or "unlink" in hit, hit
                write(path, 1)
                assert not leftovers(path), hit
    sys.stdout.write(json.dumps({"steps": steps, "told": told}))


def in_a_process(function: Callable[..., None], *arguments: object) -> str:
    source = f"import sys; from pathlib import Path; from tests.test_files import {function.__name__} as attack; " + (
        f"attack({', '.join(map(repr, arguments))})".replace("PosixPath(", "Path(")
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one, since flushing a disk a thousand times takes long."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


MOST = {"file": 1000, "directory": 1000, "figure.png": 2}
VARIANTS = [*((name, "") for name in WRITERS), ("directory", "exchange"), ("run", "exchange")]


@posix
@pytest.mark.parametrize(("name", "missing"), [*VARIANTS, ("directory", "exchange and locks")])
def test_a_writer_killed_at_any_step_leaves_the_old_or_the_new(name: str, missing: str, fast: Path) -> None:
    done = json.loads(in_a_process(kill_everywhere, name, fast, missing, MOST.get(name, 16)))
    assert done["steps"] > 3 and 0 < done["new"] < done["steps"]


@posix
@pytest.mark.parametrize(("name", "missing"), [each for each in VARIANTS if each[0] != "figure.png"])
def test_an_error_at_any_step_leaves_no_leftovers_and_one_line(name: str, missing: str, fast: Path) -> None:
    done = json.loads(in_a_process(fail_everywhere, name, fast, missing, MOST.get(name, 16)))
    assert done["told"] >= 2 and done["steps"] > 5


# ------------------------------------------------------------------------------------------------- the real commands


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a run and its bundle."""
    folder = tmp_path_factory.mktemp("made")
    rows = np.random.default_rng(0).normal(size=(400, 5))
    np.savetxt(folder / "t.csv", rows, delimiter=",", header="a,b,c,d,e", comments="")
    edgeae_command("train", folder / "t.csv", "-o", folder / "run", "--epochs", 1, "--latent-dim", 2)
    edgeae_command("export", folder / "run", "-o", folder / "bundle")
    return folder


def edgeae_command(*arguments: object, code: int = 0) -> str:
    """Run a command in this process and return what it said on standard error."""
    from click.testing import CliRunner

    from edgeae.cli import main

    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.stderr
    return done.stderr


def commands(made: Path, out: Path) -> dict[str, tuple[object, ...]]:
    """Every command that writes, by the name of what it writes."""
    bundle, table = made / "bundle", made / "t.csv"
    return {
        "run": ("train", table, "-o", out / "run", "--epochs", 1, "--latent-dim", 2),
        "bundle": ("export", made / "run", "-o", out / "bundle"),
        "bundle.zip": ("export", made / "run", "-o", out / "bundle.zip"),
        "scores.csv": ("score", bundle, table, "-o", out / "scores.csv"),
        "scores.npy": ("score", bundle, table, "-o", out / "scores.npy"),
        "scores.parquet": ("score", bundle, table, "-o", out / "scores.parquet"),
        "z.npy": ("encode", bundle, table, "-o", out / "z.npy"),
        "z.csv": ("encode", bundle, table, "-o", out / "z.csv"),
        "x_hat.npy": ("reconstruct", bundle, table, "-o", out / "x_hat.npy"),
        "figure.png": ("reconstruct", bundle, table, "--figure", out / "figure.png"),
        "bench.json": ("bench", bundle, "--seconds", 0.01, "--cold-starts", 0, "--json", out / "bench.json"),
    }


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as with ulimit -f; Python ignores the signal that comes with it."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory at `folder`, where this user may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def one_line(said: str, path: Path) -> str:
    line = said.splitlines()[-1]
    assert line.startswith(f"edgeae: {path}: ") and "; " in line and "Traceback" not in said, said
    return line


@posix
@pytest.mark.parametrize("name", list(commands(Path(), Path())))
def test_a_command_without_room_says_so_and_leaves_what_was_there(name: str, made: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    folders: dict[str, Any] = {"run": {"model.json": b"old"}, "bundle": {"manifest.json": b"old"}}
    restore(path, folders.get(name, b"old"))
    old = content(path)
    with largest_file(64):
        said = edgeae_command(*commands(made, tmp_path)[name], "--force", code=1)
    assert "File too large" in one_line(said, path)
    assert content(path) == old and [entry.name for entry in tmp_path.iterdir()] == [name]


@posix
@pytest.mark.parametrize("name", ["run", "bundle.zip", "scores.csv", "scores.npy"])
def test_a_full_disk_is_named_and_nothing_is_left(name: str, made: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=32k") as disk:
        with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        line = one_line(edgeae_command(*commands(made, disk)[name], code=1), disk / name)
        assert "No space left on device" in line and "free some space" in line
        assert [entry.name for entry in disk.iterdir()] == ["filler"]


@posix
def test_a_read_only_disk_is_named_before_any_work(made: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro,size=32k") as disk:
        for name, arguments in commands(made, disk).items():
            assert "no permission to write" in one_line(edgeae_command(*arguments, code=1), disk / name)
        with pytest.raises(InputError, match=r"cannot be written: Read-only file system; choose a folder"):
            write_file(disk / "x", b"")


def watch_writes(made: Path, out: Path) -> None:
    """Run every command and name each file that is opened for writing, made, renamed or removed below `out`."""
    touched: list[tuple[str, str]] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
            touched.append((event, str(arguments[0])))

    sys.addaudithook(hook)
    for name, arguments in commands(made, out).items():
        if name not in ("run", "bundle", "figure.png"):  # the demonstration makes one of each
            edgeae_command(*arguments)
    from edgeae.demo import run_demo

    run_demo(out / "demo", epochs=1)
    sys.stdout.write(json.dumps([(event, path) for event, path in touched if path.startswith(str(out))]))


def test_no_command_touches_anything_but_siblings(made: Path, tmp_path: Path) -> None:
    touched = json.loads(in_a_process(watch_writes, made, tmp_path).splitlines()[-1])
    assert len(touched) > 30
    for event, path in touched:
        parts = Path(path).relative_to(tmp_path).parts
        folder_of_the_demo = parts == ("demo",) and event == "os.mkdir"
        state = event == "os.remove" and path.endswith(".resume.pt")
        assert folder_of_the_demo or state or any(map(SIBLING.fullmatch, parts)), (event, path)
    assert not [path for path in tmp_path.rglob("*") if SIBLING.fullmatch(path.name)]


# ------------------------------------------------------------------------------------------------- single properties


@posix
def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    (tmp_path / ".x.csv.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / ".x.csv.89abcdef.tmp").mkdir()
    (tmp_path / ".y.csv.0123abcd.tmp").write_bytes(b"another's")
    (tmp_path / ".x.csv.notes.tmp").write_bytes(b"the user's")
    with open_atomic(target) as living:
        living.write(b"1")
        write_file(target, b"2")
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"x.csv", ".y.csv.0123abcd.tmp", ".x.csv.notes.tmp", Path(living.name).name}
    assert target.read_bytes() == b"1"


def test_a_directory_that_was_moved_aside_comes_back_to_readers(made: Path, tmp_path: Path) -> None:
    from edgeae.bundle import Bundle
    from edgeae.training.run import Run

    readers: dict[str, Callable[[Path], object]] = {"bundle": Bundle.read, "run": Run.load}
    for name, load in readers.items():
        shutil.copytree(made / name, tmp_path / f".{name}.0123abcd.old")
        load(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        shutil.rmtree(tmp_path / name)
    assert recovered(tmp_path / "nothing") == tmp_path / "nothing"
    (tmp_path / ".out.0123abcd.old").mkdir()
    with pytest.raises(InputError, match="exists already"):
        check_new(tmp_path / "out", force=False)


def test_a_folder_of_other_things_is_never_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for arguments in (("train", made / "t.csv"), ("export", made / "run")):
        said = edgeae_command(*arguments, "-o", tmp_path / "thesis", "--force", code=1)
        assert "a folder with other things in it" in one_line(said, tmp_path / "thesis")
    assert content(tmp_path / "thesis") == {"chapter.tex": b"years of work"}


@posix
def test_links_are_followed_and_devices_are_refused(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "link.csv").symlink_to(there / "x.csv")
    write_file(tmp_path / "link.csv", b"1")
    assert (tmp_path / "link.csv").is_symlink() and (there / "x.csv").read_bytes() == b"1"
    (tmp_path / "link").symlink_to(there / "out")
    for kind in (0, 1):
        _directory(tmp_path / "link", kind)
    assert (tmp_path / "link").is_symlink() and sorted(path.name for path in there.iterdir()) == ["out", "x.csv"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        write_file(tmp_path / "pipe", b"")


def test_names_as_long_as_a_file_system_allows_can_be_written(tmp_path: Path) -> None:
    write_file(tmp_path / ("x" * 255), b"1")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_an_error_while_filling_an_array_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    from edgeae.data.writers import create_array

    with pytest.raises(OSError, match="the model's") as caught, create_array(tmp_path / "z.npy", (2, 2)):
        raise OSError("the model's")
    assert not isinstance(caught.value, InputError) and not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- hostile files


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def npy(shape: str, descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(64)


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


ABSURD = {
    "terabytes": npy("(1000000000, 1000000)"),
    "too many to count": npy(f"({2**62}, {2**62})"),
    "negative": npy("(-4, -4)"),
    "deep": npy("(" * 9000 + ")" * 9000),
    "code": npy("__import__('os').system('true')"),
    "objects": npy("(4,)", descr="'|O'"),
    "wide text": npy("(1,)", descr="'<U500000000'"),
    "header without end": b"\x93NUMPY\2\0\xff\xff\xff\xff",
}


@posix
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_array_headers_are_refused_before_memory_is_taken(name: str, made: Path, tmp_path: Path) -> None:
    import resource

    from edgeae.data import load_data
    from edgeae.training.run import Run

    (tmp_path / "x.npy").write_bytes(ABSURD[name])
    (tmp_path / "x.npz").write_bytes(npz(X=ABSURD[name]))
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run" / "reference.npz").write_bytes(npz(x_train=ABSURD[name], x_validation=ABSURD[name]))
    run = Run.load(tmp_path / "run")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"x\.npy: "):
        load_data(tmp_path / "x.npy")
    with pytest.raises(InputError, match=r"x\.npz: (?!does not fit)"):
        load_data(tmp_path / "x.npz")
    with pytest.raises(InputError, match=r"reference\.npz: "):
        _ = run.reference
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_an_archive_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    from edgeae.data import load_data

    data = bytearray(npz(X=npy("(1000000000,)")))
    place = data.index(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<I", 2**32 - 2)  # the unpacked size in its directory
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InputError, match="more than can be in this file"):
        load_data(tmp_path / "x.npz")


def test_nothing_is_ever_unpickled(made: Path, tmp_path: Path) -> None:
    import torch

    from edgeae.training.resume import read_state
    from edgeae.training.run import Run

    mark, path = tmp_path / "executed", tmp_path / "run" / "resume.pt"
    shutil.copytree(made / "run", tmp_path / "run")
    torch.save({"format_version": 1, "options": Evil(mark)}, path)
    states = [path.read_bytes(), pickle.dumps(Evil(mark)), npz(X=pickle.dumps(Evil(mark)))]
    torch.save({"format_version": Evil(mark)}, path, _use_new_zipfile_serialization=False)
    for state in (*states, path.read_bytes()):
        path.write_bytes(state)
        with pytest.raises(InputError, match=r"resume\.pt: not a readable resume state"):
            read_state(tmp_path / "run")
    np.savez(tmp_path / "run" / "reference.npz", x_train=np.array([Evil(mark)], object))
    with pytest.raises(InputError, match=r"reference\.npz: not a readable \.npz"):
        _ = Run.load(tmp_path / "run").reference
    (tmp_path / "run" / "model.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(InputError, match=r"model\.safetensors: does not hold"):
        Run.load(tmp_path / "run")
    assert not mark.exists()


def test_resume_states_that_claim_too_much_or_the_wrong_kind_are_refused(made: Path, tmp_path: Path) -> None:
    import torch

    from edgeae.training.resume import read_state

    shutil.copytree(made / "run", tmp_path / "run")
    path = tmp_path / "run" / "resume.pt"
    whole = torch.load(path, weights_only=True)
    changes: list[dict[str, Any]] = [
        {"weights": {"encoder": 3}},
        {"best_epoch": 7},
        {"history": [{"epoch": "first"}]},
        {"optimizer": []},
        {"unknown": 1},
    ]
    for change in changes:
        torch.save(whole | change, path)
        with pytest.raises(InputError, match=r"resume\.pt"):
            read_state(tmp_path / "run")
    torch.save(whole | {"weights": {"other": torch.zeros(3)}}, path)
    said = edgeae_command("train", made / "t.csv", "-o", tmp_path / "run", "--resume", "--epochs", 2, code=1)
    assert "the state to resume does not fit this model" in said.splitlines()[-1]
    torch.save(whole, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    shutil.move(tmp_path / "new", path)
    with pytest.raises(InputError, match="it is compressed"):
        read_state(tmp_path / "run")


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b'{"w": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4000000000000]}}',
        b'{"w": {"dtype": "F32", "shape": [18446744073709551615, 4], "data_offsets": [0, 16]}}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        b"[" * 50_000,
        None,
    ],
)
def test_weights_with_absurd_headers_are_refused(header: bytes | None, made: Path, tmp_path: Path) -> None:
    from edgeae.training.run import Run

    shutil.copytree(made / "run", tmp_path / "run")
    data = struct.pack("<Q", 2**63) if header is None else struct.pack("<Q", len(header)) + header + bytes(16)
    (tmp_path / "run" / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors: does not hold this model's weights"):
        Run.load(tmp_path / "run")


def test_a_network_larger_than_its_weights_is_refused_before_it_is_built(made: Path, tmp_path: Path) -> None:
    from edgeae.training.run import Run

    shutil.copytree(made / "run", tmp_path / "run")
    plain = json.loads((tmp_path / "run" / "model.json").read_text())
    plain["config"]["hidden"] = [2**20, 2**20, 2**20]
    (tmp_path / "run" / "model.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match="does not hold this model's weights"):
        Run.load(tmp_path / "run")


# ------------------------------------------------------------------------------------------------- unfinished runs


def test_an_unfinished_run_is_neither_lost_nor_mixed_up(made: Path, tmp_path: Path) -> None:
    train = ("train", made / "t.csv", "-o", tmp_path / "run", "--epochs", 2, "--latent-dim", 2)
    state = tmp_path / "run.resume.pt"
    state.write_bytes(b"of a killed run")
    assert "--resume" in one_line(edgeae_command(*train, code=1), state)
    edgeae_command("train", tmp_path / "no.csv", "-o", tmp_path / "run", "--force", code=1)
    assert state.exists()
    edgeae_command(*train, "--force")
    assert not state.exists()
    # killed between the rename and the removal of the state: the older one beside the run is not gone on with
    state.write_bytes(b"older")
    os.utime(state, ns=(0, 0))
    edgeae_command("train", made / "t.csv", "-o", tmp_path / "run", "--resume", "--epochs", 4)
    assert not state.exists()


def test_resuming_says_at_which_rate_and_warns_where_little_is_left(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    edgeae_command("train", made / "t.csv", "-o", out, "--epochs", 8, "--latent-dim", 2, "--schedule", "onecycle")
    said = edgeae_command("train", made / "t.csv", "-o", out, "--resume", "--epochs", 9)
    assert "goes on after epoch 8 of 9 at a learning rate of" in said
    assert "little will change" in said and "--epochs 16" in said
    said = edgeae_command("train", made / "t.csv", "-o", out, "--resume", "--epochs", 30)
    assert "goes on after epoch 9 of 30" in said and "little will change" not in said
