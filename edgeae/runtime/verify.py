"""`edgeae verify`: is this bundle whole, and does it compute what it promises here? Asked in a child process."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Final

from edgeae.bundle.storage import find_bundle
from edgeae.errors import InputError
from edgeae.runtime.checks import Check, Order, run_checks
from edgeae.runtime.device import choose_device

__all__ = ["Check", "verify_bundle"]

SECONDS: Final = 60.0
MEMORY: Final = 4 * 2**30
START: Final = 60.0  # for Python and ONNX Runtime to be there
# -P: without it Python would import from the current folder first, which may be the bundle's
COMMAND: Final = (sys.executable, "-P", "-m", "edgeae.runtime.checks")
ROOT: Final = Path(__file__).parents[2]


def verify_bundle(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    deep: bool = False,
    seconds: float = SECONDS,
    memory: int | None = None,
    trust: bool = False,
) -> tuple[Check, ...]:
    """Check a bundle's manifest, the size and digest of every file, and every graph at every precision.

    A graph passes if the guard and ONNX Runtime take it, its tensors and metadata are what the manifest says (the
    threshold among them), and the golden rows come out within the manifest's tolerance. All of it happens in a child
    process: whatever becomes of that, its end is a failed check and nothing else.

    Args:
        path: The bundle, a directory or a .zip file.
        device: Where to run the graphs.
        deep: Also run fresh random rows through encoder and decoder, compute the scores from what comes out and hold
            the scorer against them, and compare several batch sizes.
        seconds: How long one check may take.
        memory: How many bytes the child may take beyond Python and ONNX Runtime themselves; by default 4 GiB and six
            times the bundle. It is enforced on Linux and the CPU only (RLIMIT_AS); the first check says whether.
        trust: Also run operators that need it; see `edgeae.load`.

    Returns:
        All checks, also those that failed. A child that dies or hangs fails the check it was at and ends the list.

    Raises:
        BundleError: if there is no bundle at `path`.
        DeviceError: if there is no such device.
        InputError: if a limit is not positive.

    Example:
        >>> all(check.passed for check in verify_bundle("export/golden/dense"))
        True
    """
    if not seconds > 0 or (memory is not None and memory < 1):
        raise InputError(f"verify: the limits must be positive, got {seconds} seconds and {memory} bytes")
    path = find_bundle(Path(path))
    on_gpu = choose_device(device).kind != "cpu"
    limited = sys.platform.startswith("linux") and not on_gpu
    beyond = MEMORY + 6 * _bytes_on_disk(path) if memory is None else memory
    order = Order(str(path), device, deep, trust, beyond if limited else None)
    if not sys.executable:
        return _in_this_process(order)
    return (_limits(order, seconds), *_watch(order, seconds))


def _in_this_process(order: Order) -> tuple[Check, ...]:
    found: list[str | Check] = []
    run_checks(order, found.append)
    why = "none: in this process, since there is no Python interpreter to start another with"
    return (Check("limits", True, why), *(each for each in found if isinstance(each, Check)))


def _limits(order: Order, seconds: float) -> Check:
    if order.memory is not None:
        memory = f"{order.memory / 2**20:,.0f} MiB of memory"
    elif order.device != "cpu":
        memory = "memory not limited: a GPU's driver maps more than any limit"
    else:
        memory = "memory not limited: only Linux enforces RLIMIT_AS"
    return Check("limits", True, f"a child process, {seconds:g} s a check, {memory}")


def _bytes_on_disk(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files)


def _watch(order: Order, seconds: float) -> list[Check]:
    """Run the child and collect its checks, and what became of it."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [*COMMAND, json.dumps(asdict(order))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = threading.Thread(target=_forward, args=(child, lines), daemon=True)
    reader.start()
    checks: list[Check] = []
    current, limit = "start", START
    try:
        while line := lines.get(timeout=limit):
            message = json.loads(line)
            if "end" in message:
                return checks
            if "begin" in message:
                current, limit = message["begin"], seconds
            else:
                checks.append(Check(**message))
        failed = Check(current, False, _end_of(child.wait()))
    except queue.Empty:
        failed = Check(current, False, f"took longer than {limit:g} s and was stopped")
    finally:
        child.kill()
        child.wait()
        reader.join()
        if child.stdout is not None:
            child.stdout.close()
    return [*checks, failed]


def _forward(child: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Pass on the child's lines, and an empty one at its end: on Windows only a thread can wait for a pipe."""
    if child.stdout is not None:
        for line in child.stdout:
            lines.put(line)
    lines.put(b"")


def _end_of(code: int) -> str:
    if code >= 0:
        return f"the process that ran it ended with code {code}, it may have run out of memory; do not load this bundle"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; the system may be short of memory" if name == "SIGKILL" else ""
    return f"the process that ran it was ended by {name}{hint}; do not load this bundle"
