"""The machine that a measurement was made on."""

from __future__ import annotations

import contextlib
import platform

import numpy as np

from edgeae.bundle.record import record
from edgeae.runtime.options import available_cores
from edgeae.runtime.ort import ort

__all__ = ["Machine", "machine"]


@record(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    architecture: str
    cores: int
    system: str
    python: str
    onnxruntime: str
    numpy: str


def machine() -> Machine:
    """Describe this machine.

    Example:
        >>> machine().cores >= 1
        True
    """
    return Machine(
        processor=_processor() or platform.processor() or "unknown",
        architecture=platform.machine(),
        cores=available_cores(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        onnxruntime=str(ort.__version__),
        numpy=np.__version__,
    )


def _processor() -> str | None:
    """Return the processor's name from Linux's own list: `platform.processor` starts a program for it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return None
