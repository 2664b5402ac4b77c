"""The checks behind `edgeae verify`: is this bundle whole, and does it compute what it promises here?"""

from __future__ import annotations

import os
from dataclasses import dataclass

from edgeae.bundle import Bundle
from edgeae.bundle.bundle import GRAPHS
from edgeae.errors import BundleError, EdgeaeError
from edgeae.runtime.model import load

__all__ = ["Check", "verify_bundle"]


@dataclass(frozen=True)
class Check:
    """One check: what was checked, whether it passed, and the figures or the reason."""

    name: str
    passed: bool
    detail: str


def verify_bundle(path: str | os.PathLike[str], *, device: str = "cpu") -> tuple[Check, ...]:
    """Check a bundle's manifest, the size and digest of every file, and every graph at every precision.

    A graph passes if ONNX Runtime loads it, its tensors and metadata are what the manifest says (the threshold among
    them), and the golden rows come out within the manifest's tolerance.

    Args:
        path: The bundle, a directory or a .zip file.
        device: Where to run the graphs.

    Returns:
        All checks, also those that failed.

    Raises:
        BundleError: if there is no readable manifest at `path`.

    Example:
        >>> all(check.passed for check in verify_bundle("export/golden/dense"))
        True
    """
    bundle = Bundle.read(path)
    manifest = bundle.manifest
    checks = [Check("manifest", True, f"format version {manifest.format_version}, sha256:{bundle.digest[:16]}...")]
    for file in bundle.files():
        try:
            bundle.file(file)
            checks.append(Check(file.path, True, f"{file.size:,} bytes, digest agrees"))
        except BundleError as problem:
            checks.append(Check(file.path, False, str(problem)))
    for precision in manifest.precisions:
        with load(path, device=device, precision=precision) as model:
            for role in GRAPHS:
                try:
                    model.prepare(role)
                    golden = len(bundle.golden(precision).x)
                    checks.append(Check(f"{precision} {role}", True, f"{golden} golden rows come out on {device}"))
                except EdgeaeError as problem:
                    checks.append(Check(f"{precision} {role}", False, str(problem)))
    return tuple(checks)
