"""A child process that loads and runs graphs, so that a crash, a hang or a hunger for memory is seen as such."""

from __future__ import annotations

import json
import resource
import select
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

ROOT = Path(__file__).parents[2]
MEMORY = 2**30  # beyond what the process has once ONNX Runtime is loaded
ROWS = 3


class Worker:
    """Runs graphs, or opens bundles, in a child with a limit on memory and time.

    Example:
        with Worker() as worker:
            verdict = worker.run(sample.data, sample)   # "ran ...", "refused ...", or what went wrong
    """

    def __init__(self, seconds: float = 10.0, module: str = "tests.fuzz.worker") -> None:
        self.seconds = seconds
        self.module = module
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the child."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def run(self, data: bytes, dtype: str, row: tuple[int, ...], target: tuple[int, ...], batch: int | None) -> str:
        """Load and run a graph. The answer starts with "ran", "refused" (by ONNX Runtime, with an exception), or with
        what must not happen: "crashed", "hung", "memory", "shape" (another result than declared), "rows" (one row
        changed another).
        """
        order = {"dtype": dtype, "row": row, "target": target, "batch": batch}
        return self.ask(order, data)

    def ask(self, order: dict[str, Any], data: bytes = b"") -> str:
        """Give the child an order and return the line with which it answers, or what became of it."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", self.module],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._answer(60.0)
        assert self.process.stdin is not None
        try:
            for part in (json.dumps(order).encode(), data):
                self.process.stdin.write(struct.pack("<I", len(part)) + part)
            self.process.stdin.flush()
            return self._answer(self.seconds)
        except BrokenPipeError:
            return self._died()

    def _answer(self, seconds: float) -> str:
        assert self.process is not None and self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            self.stop()
            return f"hung for {seconds} s"
        line = self.process.stdout.readline()
        return line.decode().strip() if line else self._died()

    def _died(self) -> str:
        assert self.process is not None
        code = self.process.wait()
        self.stop()
        return f"crashed with {code}"


def main() -> None:
    """Answer orders on standard input until it ends."""
    from edgeae.runtime.options import Options
    from edgeae.runtime.ort import ort

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    options = Options()
    sink.write(b"ready\n")
    sink.flush()
    while (order := read_part(source)) is not None:
        data = read_part(source)
        try:
            made = options.session_options(forbid_cpu=False)
            session = ort.InferenceSession(data, made, providers=["CPUExecutionProvider"])
            answer = _try(session, json.loads(order))
        except MemoryError as problem:
            answer = f"memory: {problem}"
        except Exception as problem:  # ONNX Runtime's share no base class; all of them are refusals
            text = " ".join(str(problem).split())
            hungry = "bad_alloc" in text or "Failed to allocate" in text
            answer = f"{'memory' if hungry else 'refused'}: {text[:300]}"
        sink.write(answer.encode("ascii", "replace") + b"\n")
        sink.flush()


def read_part(source: BinaryIO) -> bytes | None:
    head = source.read(4)
    return source.read(struct.unpack("<I", head)[0]) if len(head) == 4 else None


def _try(session: Any, order: dict[str, Any]) -> str:
    rows = order["batch"] or ROWS
    rng = np.random.default_rng(0)
    shape = (rows, *order["row"])
    x = rng.integers(0, 255, shape, np.uint8) if order["dtype"] == "uint8" else rng.normal(size=shape)
    x = x.astype(order["dtype"])
    (first,) = session.run(["y"], {"x": x})
    if first.shape != (rows, *order["target"]):
        return f"shape: {first.shape} instead of {(rows, *order['target'])}"
    x[-1] = 0 if order["dtype"] == "uint8" else np.nan
    (second,) = session.run(["y"], {"x": x})
    same = np.array_equal(first[:-1], second[:-1], equal_nan=True)
    return "ran" if same else "rows: the last one changes the others"


if __name__ == "__main__":
    main()
