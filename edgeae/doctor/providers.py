"""ONNX Runtime: which wheels are installed, and which of its providers can run a model here.

Each provider gets a process of its own: one that crashes, hangs or cannot be imported is a finding, not the end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeae.doctor.finding import Finding
from edgeae.doctor.packages import is_older, onnxruntime_wheels, requirements

__all__ = ["Attempt", "Runtime", "examine_onnxruntime", "judge_runtime", "try_runtime"]

SECONDS = 120.0
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CPU_COMMAND, GPU_COMMAND = "pip install 'edgeae[cpu]'", "pip install 'edgeae[gpu]'"
MARK = "edgeae-doctor:"

# Imports no more than it must, so that what fails is what is said to fail.
LOOK = """
import json, onnxruntime as ort
found = {"version": ort.__version__, "file": ort.__file__, "providers": ort.get_available_providers()}
found["cuda"] = getattr(ort, "cuda_version", None) or ""
print("\\nedgeae-doctor:" + json.dumps(found))
"""
TRY = """
import sys, onnxruntime as ort
from edgeae.runtime.device import PROBE
if sys.argv[1] == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
session = ort.InferenceSession(PROBE, providers=[sys.argv[1]])
import numpy as np
session.run(None, {"x": np.ones(1, np.float32)})
print("\\nedgeae-doctor:" + ('"ran"' if session.get_providers()[0] == sys.argv[1] else '"fell back"'))
"""


@dataclass(frozen=True)
class Attempt:
    """What a process said: the value it reported, or the reason why there is none."""

    value: object = None
    reason: str = ""


@dataclass(frozen=True)
class Runtime:
    """ONNX Runtime as it is installed here.

    Attributes:
        wheels: Name to version.
        version: Of what is imported; empty if it cannot be.
        folder: Where that stands.
        cuda: The CUDA version it was built with; empty for others.
        reason: Why it cannot be imported.
        providers: Name to the reason why it cannot run a model; empty if it can.
    """

    wheels: dict[str, str]
    version: str = ""
    folder: str = ""
    cuda: str = ""
    reason: str = ""
    providers: dict[str, str] | None = None


def examine_onnxruntime() -> tuple[Runtime, list[Finding]]:
    """Look at ONNX Runtime's wheels, import it elsewhere, and run a tiny model with every provider it has."""
    runtime = try_runtime(onnxruntime_wheels())
    return runtime, judge_runtime(runtime)


def try_runtime(wheels: dict[str, str]) -> Runtime:
    """Import ONNX Runtime in another process, and try its providers in one process each."""
    if not wheels:
        return Runtime(wheels)
    look = _attempt(LOOK)
    if not isinstance(look.value, dict):
        return Runtime(wheels, reason=look.reason)
    found = look.value
    tried = {name: _attempt(TRY, name) for name in found["providers"]}
    reasons = {name: "" if attempt.value == "ran" else attempt.reason for name, attempt in tried.items()}
    return Runtime(wheels, found["version"], str(Path(found["file"]).parent), found["cuda"], "", reasons)


def judge_runtime(runtime: Runtime) -> list[Finding]:
    """Say what is well and what is not with ONNX Runtime, and which command mends it."""
    wheels = runtime.wheels
    if not wheels:
        remedy = f"{CPU_COMMAND}  or, for NVIDIA GPUs,  {GPU_COMMAND}"
        return [Finding("onnxruntime", "wheel", "fail", "ONNX Runtime is not installed", remedy)]
    listed = " and ".join(f"{name} {version}" for name, version in wheels.items())
    again = GPU_COMMAND if "onnxruntime-gpu" in wheels else CPU_COMMAND
    reinstall = f"pip uninstall -y {' '.join(wheels)} && {again}"
    findings = []
    if len(wheels) > 1:
        detail = f"{listed} are installed side by side and overwrite each other's files"
        other = CPU_COMMAND if again == GPU_COMMAND else GPU_COMMAND
        remedy = f"{reinstall}  (or, to have the other one, {other} at the end)"
        findings.append(Finding("onnxruntime", "wheel", "fail", detail, remedy))
    else:
        findings.append(_judge_version(wheels, listed))
    if not runtime.version:
        return [*findings, Finding("onnxruntime", "import", "fail", runtime.reason, reinstall)]
    findings.append(Finding("onnxruntime", "import", "ok", f"{runtime.version} from {runtime.folder}"))
    findings += [_judge_provider(runtime, name, reason) for name, reason in (runtime.providers or {}).items()]
    if "onnxruntime-gpu" in wheels and CUDA not in (runtime.providers or {}):
        detail = "not in the files that are imported, though onnxruntime-gpu is installed"
        findings.append(Finding("onnxruntime", CUDA, "fail", detail, reinstall))
    return findings


def _judge_version(wheels: dict[str, str], listed: str) -> Finding:
    ((name, version),) = wheels.items()
    extra = {"onnxruntime": "cpu", "onnxruntime-gpu": "gpu"}.get(name, "cpu")
    wanted = next(iter((requirements(extra) or {"": "0"}).values()))
    if is_older(version, wanted):
        detail = f"{listed}, older than the {wanted} that edgeae needs"
        return Finding("onnxruntime", "wheel", "fail", detail, f"pip install -U 'edgeae[{extra}]'")
    return Finding("onnxruntime", "wheel", "ok", listed)


def _judge_provider(runtime: Runtime, name: str, reason: str) -> Finding:
    if not reason:
        return Finding("onnxruntime", name, "ok", "runs a model")
    if name == CPU:
        reinstall = f"pip uninstall -y {' '.join(runtime.wheels)} && {CPU_COMMAND}"
        return Finding("onnxruntime", name, "fail", reason, reinstall)
    if name != CUDA:
        return Finding("onnxruntime", name, "ok", f"does not run here, and edgeae does not use it: {reason}")
    return Finding("onnxruntime", name, "fail", reason, cuda_remedy(reason, runtime.cuda))


def cuda_remedy(reason: str, built_with: str) -> str:
    """Return what to do about the reason why the CUDA provider does not start.

    Example:
        >>> cuda_remedy("libcudnn.so.9: cannot open shared object file", "12.8")
        "pip install 'onnxruntime-gpu[cuda,cudnn]'  (brings cuDNN and the CUDA 12 libraries)"
    """
    major = built_with.split(".")[0] or "12"
    if re.search(r"libcuda\.so|no CUDA-capable device|CUDA failure 100\b|CUDA failure 3\b", reason):
        return (
            "no NVIDIA driver or device is visible here: install the driver until nvidia-smi lists the GPU (in a "
            f"container: docker run --gpus all), or, to run on the CPU, pip uninstall -y onnxruntime-gpu && "
            f"{CPU_COMMAND}"
        )
    if re.search(r"driver version is insufficient|CUDA failure 35\b", reason):
        return f"update the NVIDIA driver to one for CUDA {major}, or install an onnxruntime-gpu for an older CUDA"
    if "cannot open shared object file" in reason or ".dll" in reason:
        return f"pip install 'onnxruntime-gpu[cuda,cudnn]'  (brings cuDNN and the CUDA {major} libraries)"
    return f"check that nvidia-smi lists the GPU, then: {GPU_COMMAND}"


def _attempt(code: str, *arguments: str) -> Attempt:
    """Run Python code in another process and return what it reported, or why it did not."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    environment = {"ORT_DISABLE_TELEMETRY": "1"} | dict(os.environ) | {"PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Attempt(reason=f"did not answer within {SECONDS:.0f} seconds")
    except OSError as problem:
        return Attempt(reason=f"no other process can be started: {problem.strerror or problem}")
    value = None
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            value = json.loads(line.removeprefix(MARK))
    if done.returncode == 0 and value not in (None, "fell back"):
        return Attempt(value)
    return Attempt(value, _reason(done.stderr, done.returncode))


def _reason(text: str, code: int) -> str:
    """Pick what matters from what a process wrote before it failed."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"the process crashed ({name})"
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = "\n".join(line for line in text.splitlines() if not line.startswith(" "))  # no source lines of a traceback
    library = re.search(r"(\S+\.(?:so[.\d]*|dll|dylib))\S*: (cannot open shared object file[^\n;]*)", text)
    if library:
        return f"{Path(library[1]).name}: {library[2].strip()}"
    failure = re.search(r"CUDA failure \d+[^;\n]*", text)
    if failure:
        return failure[0].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "Failed" in line]
    return ((errors or lines)[-1:] or [f"exit status {code}"])[0][:300]
