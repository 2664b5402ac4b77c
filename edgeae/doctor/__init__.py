"""The examination behind `edgeae doctor`: what there is on this machine, what does not work, and how to mend it.

It must work where ONNX Runtime is missing, doubled or broken, so it never imports it: the providers are tried in other
processes. The standard library is all it needs.
"""

from __future__ import annotations

from edgeae.doctor.cuda import examine_cuda
from edgeae.doctor.finding import Finding, Status
from edgeae.doctor.machine import examine_machine
from edgeae.doctor.packages import examine_packages
from edgeae.doctor.places import examine_places
from edgeae.doctor.providers import examine_onnxruntime

__all__ = ["Finding", "Status", "examine"]


def examine() -> tuple[Finding, ...]:
    """Examine Python, the processor, ONNX Runtime and its providers, CUDA, folders, and optional packages.

    Nothing is written but temporary files, and nothing is asked of a network.

    Returns:
        Everything that was looked at, also what is well. `any(f.status == "fail" for f in findings)` says whether
        bundles cannot run here as they should.

    Example:
        >>> {finding.status for finding in examine()} <= {"ok", "warn", "fail"}
        True
    """
    runtime, findings = examine_onnxruntime()
    return (*examine_machine(), *findings, *examine_cuda(runtime), *examine_places(), *examine_packages())
