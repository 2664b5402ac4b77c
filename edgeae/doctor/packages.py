"""Installed packages: the wheels of ONNX Runtime, and what training and export need."""

from __future__ import annotations

import re
from importlib import metadata

from edgeae.doctor.finding import Finding

__all__ = ["examine_packages", "is_older", "onnxruntime_wheels", "requirements"]

# All of them are the one import package "onnxruntime", and overwrite each other's files.
WHEEL = re.compile(r"onnxruntime(-(gpu|directml|openvino|qnn|rocm|migraphx|vitisai|silicon|training|azure))?|ort-.*")
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)[^>;]*?(?:>=\s*([0-9.]+))?[^;]*(?:;.*extra\s*==\s*['\"]([^'\"]+)['\"])?")


def onnxruntime_wheels() -> dict[str, str]:
    """Return the installed wheels that hold ONNX Runtime, by name, with their versions."""
    found = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if WHEEL.fullmatch(name):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def requirements(extra: str) -> dict[str, str] | None:
    """Return the packages of an extra of edgeae with their smallest versions; None if edgeae was not installed."""
    try:
        lines = metadata.requires("edgeae") or []
    except metadata.PackageNotFoundError:
        return None
    found = {}
    for line in lines:
        match = REQUIREMENT.match(line)
        if match and match[3] == extra:
            found[match[1]] = match[2] or "0"
    return found


def is_older(version: str, wanted: str) -> bool:
    """Tell whether a version is older than another, by their leading numbers.

    Example:
        >>> is_older("1.9.1", "1.18"), is_older("2.13.0+cpu", "2.13"), is_older("3.0rc1", "2.9")
        (True, False, False)
    """

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", re.split(r"[^0-9.]", text)[0])]

    have, need = numbers(version), numbers(wanted)
    length = max(len(have), len(need))
    return have + [0] * (length - len(have)) < need + [0] * (length - len(need))


def examine_packages() -> list[Finding]:
    """Look at the packages of the extra [train]."""
    wanted = requirements("train")
    if wanted is None:
        detail = "edgeae was not installed with pip (it runs from its source folder), so its needs are not known"
        return [Finding("packages", "[train]", "warn", detail, "pip install -e .")]
    have: dict[str, str | None] = {}
    for name in wanted:
        try:
            have[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            have[name] = None
    command = "pip install 'edgeae[train]'"
    if "torch" in have and have["torch"] is None:
        others = [f"{name} {version}" for name, version in have.items() if version]
        detail = "not installed; it is for training and export, running a bundle needs none of it"
        return [Finding("packages", "[train]", "ok", f"{detail} (there: {', '.join(others)})" if others else detail)]
    findings = []
    for name, version in have.items():
        if version is None:
            findings.append(Finding("packages", name, "warn", "not installed; training or export may need it", command))
        elif is_older(version, wanted[name]):
            detail = f"{version}, older than the {wanted[name]} that is needed"
            findings.append(Finding("packages", name, "warn", detail, f"pip install -U '{name}>={wanted[name]}'"))
        else:
            findings.append(Finding("packages", name, "ok", version))
    return findings
