"""What a caller may set: two profiles, and every option of ONNX Runtime for those who need one."""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgeae.bundle.record import record
from edgeae.errors import InputError
from edgeae.runtime.ort import ort

__all__ = ["Options", "Profile", "available_cores", "chunk_rows", "native_chunk_rows", "second_level_cache"]

Profile = Literal["throughput", "latency"]

SESSION_CONFIG = {
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
    "session.set_denormal_as_zero": "1",  # in the session's own threads; for the others see denormals.py
    # A 150-byte graph can otherwise fold a constant of gigabytes while it is loaded.
    "optimization.constant_folding_max_output_size_in_bytes": str(2**26),
}
FATAL_ONLY = 4  # errors arrive as exceptions; nothing is to be printed as well


@record(frozen=True)
class Options:
    """How a model is run, beyond the profile. Every name is checked: ONNX Runtime ignores unknown ones in silence.

    Attributes:
        workers: Threads that share a large input, each with its own bindings; None: the cores this process may use in
            the "throughput" profile, or two on a GPU, where one copies while the other computes; one in the "latency"
            profile.
        chunk: Rows per call of ONNX Runtime; None: chosen from the size of a row, see `chunk_rows`.
        session: Attributes of `onnxruntime.SessionOptions`, such as {"intra_op_num_threads": 4} or
            {"graph_optimization_level": "ORT_DISABLE_ALL"}.
        config: Session configuration entries, such as {"session.intra_op.allow_spinning": "1"}.
        provider: Options of the CUDA execution provider, such as {"gpu_mem_limit": "2147483648"}; with
            {"enable_cuda_graph": "0"} bound batches run without CUDA graphs.
        run: Run configuration entries, such as {"memory.enable_memory_arena_shrinkage": "cpu:0"}.
        native: Whether dense models run as one node of the operator library, which must have been built; on the CPU
            only. None: no.

    Example:
        >>> Options(workers=2, session={"intra_op_num_threads": 1}).workers
        2
    """

    workers: int | None = None
    chunk: int | None = None
    session: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    provider: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)
    native: bool | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "chunk"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"options: {name} must be a whole number from 1, got {value!r}")
        if not isinstance(self.native, bool | None):
            raise InputError(f"options: native must be true or false, got {self.native!r}")
        for name in ("session", "config", "provider", "run"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise InputError(f"options: {name} must be a mapping from names to values, got {value!r}")
        for name in self.session:
            _require_known(name, _session_attributes(), "options: session: onnxruntime.SessionOptions has no attribute")
        if self.session:
            self.session_options(forbid_cpu=False)
        for kind, entries in (("config", self.config), ("run", self.run)):
            for name in entries:
                if not name.isascii() or not _in_library(name):
                    raise InputError(f"options: {kind}: ONNX Runtime {ort.__version__} knows no entry {name!r}")

    @staticmethod
    def of(options: Options | Mapping[str, Any] | None) -> Options:
        """Accept what `load` accepts as options.

        Raises:
            InputError: if there is an unknown name or an impossible value.
        """
        if options is None:
            return Options()
        if isinstance(options, Options):
            return options
        if not isinstance(options, Mapping):
            raise InputError(f"options: expected a mapping or edgeae.runtime.Options, got {type(options).__name__}")
        known = [each.name for each in dataclasses.fields(Options)]
        for name in options:
            _require_known(name, known, "options: no option")
        return Options(**options)

    def session_options(self, *, forbid_cpu: bool) -> Any:
        """Return fresh `onnxruntime.SessionOptions`: one thread, no spinning, silent, then what the caller set."""
        made = ort.SessionOptions()
        made.intra_op_num_threads = 1
        made.inter_op_num_threads = 1
        made.log_severity_level = FATAL_ONLY
        config = SESSION_CONFIG | ({"session.disable_cpu_ep_fallback": "1"} if forbid_cpu else {})
        try:
            for name, value in self.session.items():
                current = getattr(made, name)
                enumerated = isinstance(value, str) and not isinstance(current, str)
                setattr(made, name, getattr(type(current), value) if enumerated else value)
            for name, value in (config | dict(self.config)).items():
                made.add_session_config_entry(name, str(value))
        except (TypeError, AttributeError, ValueError, RuntimeError) as problem:
            raise InputError(f"options: {name}: {value!r} is refused: {str(problem).splitlines()[0]}") from None
        return made

    def run_options(self) -> Any:
        """Return `onnxruntime.RunOptions`; passing them spares ONNX Runtime making some for each call."""
        made = ort.RunOptions()
        made.log_severity_level = FATAL_ONLY
        for name, value in self.run.items():
            made.add_run_config_entry(name, str(value))
        return made

    def sharing_cores(self) -> Options:
        """Return these options with all cores sharing each run, and waiting busily for their part.

        A row reads every weight once. What the second-level cache of one core does not hold comes from further away,
        and all cores together take about half the time (networks of 4 and 10 MB on two cores); with fewer weights
        sharing costs more than it gains.
        """
        session = {"intra_op_num_threads": available_cores()} | dict(self.session)
        return replace(self, session=session, config={"session.intra_op.allow_spinning": "1"} | dict(self.config))

    def worker_count(self, profile: Profile, *, on_gpu: bool) -> int:
        """Return how many threads share a large input."""
        if self.workers is not None:
            return self.workers
        if profile == "latency":
            return 1
        if on_gpu:
            return 2
        threads = self.session.get("intra_op_num_threads", 1)
        return max(1, available_cores() // max(1, threads)) if threads else 1


def check_profile(profile: str) -> Profile:
    """Return `profile` if it is one.

    Raises:
        InputError: if it is not.
    """
    if profile in get_args(Profile):
        return cast(Profile, profile)
    raise InputError(f"profile: {profile!r} is not one of {', '.join(get_args(Profile))}")


def available_cores() -> int:
    """Return how many cores this process may use: its affinity mask, and a container's CPU quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def second_level_cache() -> int:
    """Return the size of a core's second-level cache in bytes; 1 MiB where the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 2**20


def chunk_rows(shape: tuple[int, ...], *, on_gpu: bool) -> int:
    """Return how many rows of `shape` one call of ONNX Runtime shall get.

    On a CPU a chunk's input and its activations are to stay in the second-level cache: the input takes 3/16 of it, or
    1/8 where it is no vector, since convolutions make more of a row than it was. At least 64 rows for vectors, below
    which the weights are read too often, and 16 for the rest. Measured with 2 MiB of cache, on dense networks from 9 to
    4096 inputs and a convolutional one of 28x28, in fp32 and int8: within 6 % of the best chunk of each.
    """
    row_bytes = 4 * math.prod(shape)
    if on_gpu:
        return max(1, min(65536, 2**26 // row_bytes))
    share, least = (3 / 16, 64) if len(shape) == 1 else (1 / 8, 16)
    rows: int = 2 ** max(0, round(math.log2(share * second_level_cache() / row_bytes)))
    rows = min(max(rows, least), 4096)
    return max(1, min(rows, 2**24 // row_bytes))


def native_chunk_rows(usual: int, rows: int, workers: int) -> int:
    """Return how many of `rows` rows one call of the operator library shall get, where ONNX Runtime gets `usual`.

    The library cuts them into blocks itself and needs no cache for a call, whose own cost shows the faster it is:
    sixteen times as many, as long as every worker has two calls to do.
    """
    return max(usual, min(16 * usual, -(-rows // (2 * workers))))


def _require_known(name: str, known: list[str], message: str) -> None:
    if name not in known:
        import difflib  # here, for a fast start

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise InputError(f"{message} {name!r}; {hint}")


def _session_attributes() -> list[str]:
    kind = ort.SessionOptions
    return [name for name in dir(kind) if isinstance(getattr(kind, name), property)]


@cache
def _in_library(key: str) -> bool:
    """Tell whether the installed ONNX Runtime has `key` among its strings: it offers no list of the keys it reads."""
    for library in sorted(Path(ort.__file__).with_name("capi").glob("*onnxruntime*")):
        if library.suffix in (".so", ".pyd", ".dll", ".dylib") or ".so." in library.name:
            with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                if text.find(b"\0" + key.encode() + b"\0") >= 0:
                    return True
    return False
