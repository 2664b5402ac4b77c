"""What a bundle is for, and the files that go beside it there: `--target server|mobile|web`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from edgeae.bundle import Bundle
from edgeae.bundle.atomic import check_new
from edgeae.errors import InputError
from edgeae.export.mobile import FIRST_FILE, MOBILE_OPSET, write_mobile
from edgeae.export.web import runtime_folder, write_page

__all__ = ["TARGETS", "Target", "beside", "prepare", "write_beside"]

Target = Literal["server", "mobile", "web"]

TARGETS: tuple[Target, ...] = get_args(Target)


def prepare(
    target: Target,
    path: Path,
    *,
    opset: int,
    batch: int | None,
    onnxruntime_web: str | os.PathLike[str] | None,
    force: bool,
) -> int | None:
    """Check before any work is done what a target asks for, and return the batch size it fixes, or None.

    Raises:
        InputError: for an unknown target, an opset that it does not take, something that is in the way, or a folder
            without ONNX Runtime Web.
    """
    if target not in TARGETS:
        raise InputError(f"target: {target!r} is not one of {', '.join(TARGETS)}")
    if onnxruntime_web is not None:
        if target != "web":
            raise InputError("onnxruntime_web: is for the page of target='web' (--target web)")
        runtime_folder(onnxruntime_web)
    if target == "web":
        check_new(beside(path, target), force=force, what="the page")
    if target == "mobile":
        if opset > MOBILE_OPSET:
            raise InputError(f"opset: older mobile builds take {MOBILE_OPSET} at most, got {opset}")
        check_new(beside(path, target), force=force, what="the folder for the phone's files", holds=FIRST_FILE)
        return 1 if batch is None else batch
    return batch


def write_beside(
    target: Target, bundle: Bundle, *, onnxruntime_web: str | os.PathLike[str] | None, force: bool
) -> None:
    """Write what goes beside a bundle for its target."""
    if target == "mobile":
        write_mobile(bundle, beside(bundle.path, target), force=force)
    if target == "web":
        write_page(bundle, beside(bundle.path, target), onnxruntime_web=onnxruntime_web, force=force)


def beside(path: Path, target: Target) -> Path:
    """Return what goes with the bundle at `path`: "models/pump.zip" -> "models/pump-mobile" or "models/pump.html"."""
    name = path.stem if path.suffix == ".zip" else path.name
    return path.with_name(f"{name}.html" if target == "web" else f"{name}-{target}")
