"""ONNX Runtime, imported with its telemetry off, or a clear error when it is not installed."""

from __future__ import annotations

import os

from edgeae.errors import MissingPackageError

__all__ = ["ERRORS", "ort"]

REMEDY = "pip install 'edgeae[cpu]'  or, for NVIDIA GPUs,  pip install 'edgeae[gpu]'"

# Read when the library is loaded, so it has to be set before; whoever wants telemetry sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime as ort
    from onnxruntime.capi import _pybind_state as _state
except ImportError as problem:
    if isinstance(problem, ModuleNotFoundError) and problem.name == "onnxruntime":
        raise MissingPackageError(f"ONNX Runtime is not installed; install it with: {REMEDY}") from problem
    reason = str(problem).splitlines()[0]
    raise MissingPackageError(f"onnxruntime cannot be imported ({reason}); reinstall it with: {REMEDY}") from problem

# What ONNX Runtime raises; its own errors share no base class but Exception.
ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)
