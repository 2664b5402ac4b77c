"""NVIDIA's driver, GPUs and libraries, against what the installed ONNX Runtime was built for."""

from __future__ import annotations

import ctypes.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata

from edgeae.doctor.finding import Finding
from edgeae.doctor.providers import CPU_COMMAND, CUDA, GPU_COMMAND, Runtime

__all__ = ["Driver", "examine_cuda", "judge_cuda", "library_wheels", "read_driver"]

LIBRARIES = ("cudart", "cublasLt", "cublas", "cufft", "curand", "cudnn")
# of a wheel's name, without the version of CUDA that is part of most
PARTS = {
    "cudart": "nvidia-cuda-runtime",
    "cublasLt": "nvidia-cublas",
    "cublas": "nvidia-cublas",
    "cufft": "nvidia-cufft",
    "curand": "nvidia-curand",
    "cudnn": "nvidia-cudnn",
}


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says.

    Attributes:
        version: Of the driver.
        cuda: The newest CUDA that it knows; empty if it does not say.
        gpus: Their names.
    """

    version: str
    cuda: str
    gpus: tuple[str, ...]


def examine_cuda(runtime: Runtime) -> list[Finding]:
    """Look for NVIDIA's driver and libraries."""
    return judge_cuda(runtime, read_driver(), library_wheels(), found_libraries(), find_toolkit())


def read_driver() -> Driver | str:
    """Ask nvidia-smi for driver and GPUs; return the reason where it cannot say."""
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi, so no NVIDIA driver"
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        header = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"nvidia-smi does not run: {problem}"
    rows = [line.split(", ") for line in listed.stdout.splitlines() if ", " in line]
    if listed.returncode or not rows:
        said = (listed.stdout + listed.stderr).strip().splitlines()
        return f"nvidia-smi finds no GPU: {said[0] if said else f'exit status {listed.returncode}'}"
    cuda = re.search(r"CUDA Version: ([0-9.]+)", header)
    return Driver(rows[0][-1], cuda[1] if cuda else "", tuple(row[0] for row in rows))


def library_wheels() -> dict[str, str]:
    """Return the installed wheels that hold NVIDIA's libraries, with their versions."""
    found = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name.startswith("nvidia-"):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def found_libraries() -> dict[str, str]:
    """Return those of NVIDIA's libraries that the system's loader finds, with their file names."""
    names = {name: ctypes.util.find_library(name) for name in LIBRARIES}
    return {name: found for name, found in names.items() if found}


def find_toolkit() -> str:
    """Return the version of the CUDA toolkit whose compiler is on the path; empty if there is none."""
    if shutil.which("nvcc") is None:
        return ""
    try:
        said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    release = re.search(r"release ([0-9.]+)", said)
    return release[1] if release else ""


def judge_cuda(
    runtime: Runtime, driver: Driver | str, wheels: dict[str, str], libraries: dict[str, str], toolkit: str = ""
) -> list[Finding]:
    """Compare driver and libraries with what the installed ONNX Runtime was built for."""
    wants_cuda = "onnxruntime-gpu" in runtime.wheels
    major = runtime.cuda.split(".")[0]
    findings = [_judge_driver(runtime, driver, major, wants_cuda=wants_cuda)]
    if toolkit:
        findings.append(Finding("cuda", "toolkit", "ok", f"CUDA {toolkit} (nvcc); edgeae does not need it"))
    works = (runtime.providers or {}).get(CUDA) == ""
    if wants_cuda:
        judged = (_judge_library(name, major, wheels, libraries.get(name, ""), works=works) for name in LIBRARIES)
        findings.extend(judged)
    if not wants_cuda and (wheels or libraries):
        held = ", ".join([*(f"{name} {version}" for name, version in wheels.items()), *libraries.values()])
        findings.append(Finding("cuda", "libraries", "ok", f"{held}; not needed by the installed ONNX Runtime"))
    return findings


def _judge_driver(runtime: Runtime, driver: Driver | str, major: str, *, wants_cuda: bool) -> Finding:
    if isinstance(driver, str):
        if not wants_cuda:
            return Finding("cuda", "driver", "ok", f"{driver}; bundles run on the CPU")
        remedy = (
            "install NVIDIA's driver until nvidia-smi lists the GPU (in a container: docker run --gpus all), or, to "
            f"run on the CPU, pip uninstall -y onnxruntime-gpu && {CPU_COMMAND}"
        )
        return Finding("cuda", "driver", "warn", driver, remedy)
    detail = f"{driver.version}, up to CUDA {driver.cuda or 'unknown'}; {', '.join(driver.gpus)}"
    if not wants_cuda:
        if not runtime.wheels or CUDA in (runtime.providers or {}):
            return Finding("cuda", "driver", "ok", detail)
        remedy = f"to use the GPU: pip uninstall -y {' '.join(runtime.wheels)} && {GPU_COMMAND}"
        return Finding("cuda", "driver", "warn", f"{detail}; the installed ONNX Runtime cannot use it", remedy)
    if driver.cuda and major and int(driver.cuda.split(".")[0]) < int(major):
        detail = f"{detail}; onnxruntime-gpu was built for CUDA {runtime.cuda}"
        remedy = f"update the NVIDIA driver to one for CUDA {major}, or install an onnxruntime-gpu for an older CUDA"
        return Finding("cuda", "driver", "fail", detail, remedy)
    return Finding("cuda", "driver", "ok", detail)


def _judge_library(name: str, major: str, wheels: dict[str, str], found: str, *, works: bool) -> Finding:
    """Judge one library: it may come from a wheel for this CUDA, from one for another, or from the system."""
    part = PARTS[name]
    held = {wheel: version for wheel, version in wheels.items() if re.fullmatch(rf"{part}(-cu\d+)?", wheel)}
    fitting = {
        wheel: version
        for wheel, version in held.items()
        if not major or wheel.endswith(f"-cu{major}") or (wheel == part and _fits(name, version, major))
    }
    if fitting:
        wheel, version = next(iter(fitting.items()))
        return Finding("cuda", name, "ok", f"{wheel} {version}" + (f"; also {found}" if found else ""))
    suffix = re.search(r"\.so\.(\d+)", found)
    if found and (suffix is None or not major or name == "cudnn" or _fits(name, suffix[1], major)):
        return Finding("cuda", name, "ok", f"{found}, on the system")
    if works:
        return Finding("cuda", name, "ok", "found by ONNX Runtime itself")
    command = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    if held or found:
        other = ", ".join([*(f"{wheel} {version}" for wheel, version in held.items()), *([found] if found else [])])
        return Finding("cuda", name, "warn", f"only for another CUDA than {major}: {other}", command)
    return Finding("cuda", name, "warn", "not found, neither as a wheel nor on the system", command)


def _fits(name: str, version: str, major: str) -> bool:
    """Tell whether a wheel without a CUDA version in its name is for CUDA `major`."""
    own = {"cufft": str(int(major) - 1), "curand": "10"}.get(name, major)  # these count otherwise
    return version.split(".")[0] == own
