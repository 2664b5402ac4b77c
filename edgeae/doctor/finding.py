"""What the doctor says: one finding, and how a list of them is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status"]

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: "machine", "onnxruntime", "cuda", "places" or "packages".
        name: What was looked at.
        status: "ok"; "warn", something works less well than it could; "fail", something does not work.
        detail: What was found.
        remedy: What to do about it, a command where there is one; empty if nothing needs to be done.
    """

    topic: str
    name: str
    status: Status
    detail: str
    remedy: str = ""
