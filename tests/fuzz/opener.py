"""A child process that opens bundles, so that a crash, a hang or a hunger for memory is seen as such."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.worker import ROOT, Worker, read_part

MEMORY = 200 * 2**20  # beyond what the process has before it opens the bundle


@dataclass(frozen=True)
class Outcome:
    """What became of a bundle.

    Attributes:
        verdict: "ran", "refused BundleError: ..." (or another EdgeaeError, in one printable line), or what must not
            happen: "raised ...", "crashed ...", "hung ...", "unreadable ..." (a message that is not one line).
        seconds: Processor time it took.
        memory: MiB that were resident at most, beyond those before.
    """

    verdict: str
    seconds: float = 0.0
    memory: float = 0.0

    @property
    def good(self) -> bool:
        """Whether this may happen."""
        return self.verdict == "ran" or self.verdict.startswith("refused")


class Opener:
    """Loads bundles at all their precisions and runs their golden rows, in a child with a limit on memory and time.

    Example:
        with Opener() as opener:
            outcome = opener.open(path)
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self.worker = Worker(seconds, "tests.fuzz.opener")

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()

    def open(self, path: Path) -> Outcome:
        """Open the bundle at `path`."""
        answer = self.worker.ask({"path": str(path)})
        return Outcome(**json.loads(answer)) if answer.startswith("{") else Outcome(answer)


def main() -> None:
    """Answer orders on standard input until it ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _open(ROOT / "export" / "golden" / "table")  # what is imported and allocated once is not the bundle's
    sink.write(b"ready\n")
    sink.flush()
    while (order := read_part(source)) is not None:
        read_part(source)
        outcome = _watched(Path(json.loads(order)["path"]))
        sink.write(json.dumps(asdict(outcome)).encode() + b"\n")
        sink.flush()


def _watched(path: Path) -> Outcome:
    from edgeae.errors import EdgeaeError

    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size
    before = _status("VmHWM")
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MEMORY, resource.RLIM_INFINITY))
    began = time.process_time()
    try:
        _open(path)
        verdict = "ran"
    except EdgeaeError as problem:
        text = str(problem)
        clear = text.isprintable() and len(text) < 1000 and str(path) in text
        verdict = f"{'refused' if clear else 'unreadable'} {type(problem).__name__}: {text}"
    except BaseException as problem:  # whatever else comes out is what we look for
        verdict = f"raised {type(problem).__name__}: {problem}"
    return Outcome(verdict, time.process_time() - began, (_status("VmHWM") - before) / 2**20)


def _open(path: Path) -> None:
    from edgeae.bundle import Bundle
    from edgeae.runtime import load

    bundle = Bundle.read(path)
    bundle.statistics()
    for precision in bundle.manifest.precisions:
        with load(path, device="cpu", precision=precision, options={"workers": 1}) as model:
            model.prepare()
            model.predict(bundle.golden(precision).x)


def _status(name: str) -> int:
    """Return a figure of this process in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


if __name__ == "__main__":
    main()
