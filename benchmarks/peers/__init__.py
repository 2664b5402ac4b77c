"""What people would use instead of edgeae, and edgeae: each module gives ways to score rows, made ready to be timed.

A peer that is not installed is left out and named, with the command that installs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.cases import Case

__all__ = [
    "PEERS",
    "SETTLE_SECONDS",
    "Absent",
    "Bulk",
    "Peer",
    "Setup",
    "Way",
    "available",
    "bulks",
    "mean_square",
    "ways",
]

Array = np.ndarray[Any, Any]

# Threads of OpenBLAS spin for 2^26 cycles after their work, those of OpenMP and ONNX Runtime for some milliseconds:
# whoever came next would have to share the processor with them.
SETTLE_SECONDS = 0.03


@dataclass(frozen=True)
class Setup:
    """How ways are to be made.

    Attributes:
        batch: Rows in a call.
        threads: For peers that take a number; those that are used with their defaults keep those.
        bulk: Rows per second count, not the time of a call.
        device: "cpu" or "cuda:0".
    """

    batch: int
    threads: int
    bulk: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Way:
    """One way to score rows float32 [batch, *shape].

    Attributes:
        name: Says what is special about it; the peer's name comes first.
        score: Rows to scores [batch]: everything that a program would do for each call.
        bare: The network alone on the rows that `score` had last, everything bound beforehand, where there is such a
            thing.
        result: Scores of what `bare` computed, to check it.
        precision: What it computes in: "fp32", "int8", "bf16", ...
        same: It has the case's weights, so that its scores must be the case's.
        takes_row: With a batch of 1 it wants the row [*shape] itself.
    """

    name: str
    score: Callable[[Array], Any]
    bare: Callable[[], object] | None = None
    result: Callable[[], Any] | None = None
    precision: str = "fp32"
    same: bool = True
    takes_row: bool = False


@dataclass(frozen=True)
class Bulk:
    """One way to score any number of rows.

    Attributes:
        name: As in `Way`.
        run: Takes rows float32 [n, *shape] (n a multiple of `chunk`) and an array [n] for the scores.
        chunk: Rows in a call of the peer; None where it decides.
        precision: As in `Way`.
        same: As in `Way`.
    """

    name: str
    run: Callable[[Array, Array], object]
    chunk: int | None = None
    precision: str = "fp32"
    same: bool = True


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        module: In this package; has `ways(case, setup)`.
        packages: What must be importable.
        install: The command that brings them.
        programs: What must be on the path.
        chunks: Sizes of call to try for large inputs, the best one counts; empty where the peer cuts them itself.
        cuda: It runs on a CUDA device too.
    """

    module: str
    packages: tuple[str, ...]
    install: str
    programs: tuple[str, ...] = ()
    chunks: tuple[int, ...] = (64, 256, 1024)
    cuda: bool = False


@dataclass(frozen=True)
class Absent:
    """A peer that was left out, and why."""

    peer: str
    reason: str


EXTRA = "pip install -c constraints.txt -e '.[bench]'"
PEERS = {
    "edgeae": Peer("ours", ("onnxruntime",), "pip install -e '.[cpu]'", chunks=(), cuda=True),
    "onnxruntime": Peer("plain", ("onnxruntime",), "pip install onnxruntime", chunks=(256,), cuda=True),
    "pytorch": Peer("pytorch", ("torch",), "pip install torch", chunks=(256, 1024), cuda=True),
    "torch.compile": Peer("compiled", ("torch",), "apt-get install g++", ("g++",), chunks=(256, 1024), cuda=True),
    "openvino": Peer("vino", ("openvino",), f"{EXTRA} (or: pip install openvino)"),
    "openvino-int8": Peer("vino_int8", ("openvino", "nncf"), f"{EXTRA} (or: pip install openvino nncf)"),
    "litert": Peer("litert", ("ai_edge_litert", "flatbuffers"), f"{EXTRA} (or: pip install ai-edge-litert)"),
    "litert-int8": Peer(
        "litert_int8", ("ai_edge_litert", "ai_edge_quantizer"), f"{EXTRA} (or: pip install ai-edge-quantizer)"
    ),
    "pyod": Peer("outliers", ("pyod",), f"{EXTRA} (or: pip install pyod)", chunks=(1024,)),
    "pca": Peer("pca", ("sklearn",), "pip install scikit-learn", chunks=(1024,)),
}


def available(names: Sequence[str], *, device: str = "cpu") -> tuple[list[str], list[Absent]]:
    """Return which of the named peers are installed here, and what keeps the others away.

    Example:
        >>> available(["pytorch"])[0]
        ['pytorch']
    """
    present, absent = [], []
    for name in names:
        peer = PEERS[name]
        missing = [package for package in peer.packages if find_spec(package) is None]
        missing += [program for program in peer.programs if shutil.which(program) is None]
        if missing:
            absent.append(Absent(name, f"{', '.join(missing)} not installed: {peer.install}"))
        elif device != "cpu" and not peer.cuda:
            absent.append(Absent(name, f"not for {device}"))
        else:
            present.append(name)
    return present, absent


def ways(name: str, case: Case, setup: Setup) -> Iterator[Way]:
    """Yield a peer's ways; what it cannot do for this case raises NotImplementedError with the reason."""
    yield from import_module(f"benchmarks.peers.{PEERS[name].module}").ways(case, setup)


GPU_CHUNKS = (1024, 8192, 65536)  # a GPU needs more rows at a time than a core's cache has room for


def bulks(name: str, case: Case, threads: int, device: str) -> Iterator[Bulk]:
    """Yield what a peer offers for large inputs: its own `bulk(case, setup)`, and else loops over its ways."""
    peer = PEERS[name]
    module = import_module(f"benchmarks.peers.{peer.module}")
    if not peer.chunks:
        yield from module.bulk(case, Setup(1, threads, bulk=True, device=device))
    for chunk in peer.chunks if device == "cpu" or not peer.chunks else GPU_CHUNKS:
        setup = Setup(chunk, threads, bulk=True, device=device)
        for way in module.ways(case, setup):
            yield Bulk(way.name, partial(_loop, way.score, chunk), chunk, way.precision, way.same)
        if hasattr(module, "bulk"):
            yield from module.bulk(case, setup)


def _loop(score: Callable[[Array], Any], chunk: int, rows: Array, out: Array) -> None:
    for start in range(0, len(rows), chunk):
        out[start : start + chunk] = score(rows[start : start + chunk])


def mean_square(x: Array, x_hat: Array) -> Array:
    """Return the mean square error of each row, as most people write it."""
    error: Array = np.mean(np.square(x - x_hat), axis=tuple(range(1, x.ndim)))
    return error
