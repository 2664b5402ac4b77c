"""Python, the system, the processor and what of it matters for inference, the cores this process may use."""

from __future__ import annotations

import contextlib
import os
import platform
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import edgeae
from edgeae.doctor.finding import Finding

__all__ = ["Processor", "examine_machine", "read_processor"]

# what the system calls it -> what people call it; ONNX Runtime's kernels choose among these
X86 = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
}
ARM = {
    "asimd": "NEON",
    "asimdhp": "FP16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "BF16",
    "sve": "SVE",
    "sme": "SME",
}
APPLE = {
    "hw.optional.neon": "NEON",
    "hw.optional.arm.FEAT_FP16": "FP16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "BF16",
    "hw.optional.arm.FEAT_SME": "SME",
    "hw.optional.avx2_0": "AVX2",
    "hw.optional.avx512f": "AVX512F",
    "hw.optional.avx512vnni": "AVX512-VNNI",
}
INT8 = {"AVX512-VNNI", "AVX-VNNI", "AMX-INT8", "dotprod", "i8mm"}


@dataclass(frozen=True)
class Processor:
    """Name and features of a processor; None where the system does not tell."""

    name: str | None
    features: tuple[str, ...] | None


def examine_machine() -> list[Finding]:
    """Look at Python, the system and the processor."""
    processor = read_processor()
    bits = 8 * struct.calcsize("P")
    narrow = bits < 64
    return [
        Finding("machine", "edgeae", "ok", f"{edgeae.__version__} in {Path(edgeae.__file__).parent}"),
        Finding(
            "machine",
            "Python",
            "warn" if narrow else "ok",
            f"{platform.python_implementation()} {platform.python_version()}, {bits} bit, {sys.executable}; "
            f"NumPy {np.__version__}",
            "install a 64-bit Python: ONNX Runtime has no wheels for 32 bit" if narrow else "",
        ),
        Finding("machine", "system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        *_judge_processor(processor),
        _judge_cores(),
    ]


def read_processor(cpuinfo: str | None = None) -> Processor:
    """Return name and features of the processor, from /proc/cpuinfo or on macOS from sysctl.

    Example:
        >>> read_processor("model name : A\\nflags : fpu avx2 avx512_vnni").features
        ('AVX2', 'AVX512-VNNI')
    """
    if cpuinfo is None:
        with contextlib.suppress(OSError):
            cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    if cpuinfo is not None:
        fields: dict[str, str] = {}
        for line in cpuinfo.splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        flags, known = (fields.get("flags"), X86) if "flags" in fields else (fields.get("Features"), ARM)
        held = None if flags is None else set(flags.split())
        features = None if held is None else tuple(name for flag, name in known.items() if flag in held)
        return Processor(fields.get("model name") or fields.get("Model") or None, features)
    if sys.platform == "darwin":
        return _read_apple()
    return Processor(platform.processor() or None, None)


def _read_apple() -> Processor:
    try:
        done = subprocess.run(["sysctl", "-a"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return Processor(platform.processor() or None, None)
    fields = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    features = tuple(name for key, name in APPLE.items() if fields.get(key) == "1")
    return Processor(fields.get("machdep.cpu.brand_string"), features)


def _judge_processor(processor: Processor) -> list[Finding]:
    features = processor.features
    name = Finding("machine", "processor", "ok", processor.name or "unknown")
    if features is None:
        return [name, Finding("machine", "processor features", "ok", "unknown: the system does not tell")]
    detail = ", ".join(features) or "none of those that ONNX Runtime's kernels use"
    if platform.machine().lower() in ("x86_64", "amd64") and "AVX2" not in features:
        slow = "no AVX2: several times slower than a processor since 2013; a virtual machine may hide it (choose the "
        return [name, Finding("machine", "processor features", "warn", detail, f"{slow}host's CPU model)")]
    if not INT8.intersection(features):
        detail += "; nothing for int8: quantised graphs are smaller here, and hardly faster"
    return [name, Finding("machine", "processor features", "ok", detail)]


def _judge_cores() -> Finding:
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    detail = f"{usable} usable of {total}"
    quota = read_quota()
    if quota is None:
        return Finding("machine", "cores", "ok", detail)
    detail += f", with a container's quota of {quota:.3g}"
    if quota >= 1:
        return Finding("machine", "cores", "ok", detail)
    return Finding(
        "machine", "cores", "warn", detail, "calls stall when the quota is used up: give the container a whole core"
    )


def read_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many cores' time a container may use, or None where that is not limited."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        limit = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        return limit / int((root / "cpu" / "cpu.cfs_period_us").read_text()) if limit > 0 else None
    return None
