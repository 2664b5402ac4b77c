"""Facts about where the benchmarks ran, without which their figures mean nothing."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata

from benchmarks.results import Machine
from edgeae.runtime.options import available_cores

__all__ = ["describe_machine", "load_average"]

PACKAGES = (
    *("edgeae", "numpy", "onnxruntime", "onnxruntime-gpu", "torch", "openvino", "nncf", "ai-edge-litert"),
    *("ai-edge-quantizer", "pyod", "scikit-learn"),
)
# instructions that decide how fast a matrix multiplication can be
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")


def describe_machine(device: str, load_before: float | None) -> Machine:
    """Return the machine's description; the load average after is the one of now."""
    processor, flags = platform.processor(), set[str]()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                processor = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags.update(value.split())
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return Machine(
        processor or platform.machine(),
        available_cores(),
        tuple(flag for flag in FLAGS if flag in flags),
        f"{platform.system()} {platform.release()}",
        platform.python_version(),
        versions,
        device,
        load_before,
        load_average(),
    )


def load_average() -> float | None:
    """Return how many processes wanted to run over the last minute, or None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
