"""Building the operator library with the machine's own compiler."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from edgeae.errors import EdgeaeError
from edgeae.runtime.native.library import library_path

__all__ = ["build_library"]

HEADER = "onnxruntime_c_api.h"
PLACES = ("", "include", "include/onnxruntime", "include/onnxruntime/core/session")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden")
BUILD_SECONDS = 600


def build_library(include: str | os.PathLike[str] | None = None, *, compiler: str | None = None) -> Path:
    """Compile the operator library, about 20 seconds, into `library_path()`.

    Args:
        include: A folder with ONNX Runtime's headers (itself, or its include folder); None: ONNXRUNTIME_ROOT.
        compiler: GCC or clang for C++17, with its own options if need be; None: CXX, else c++.

    Returns:
        Where the library is.

    Raises:
        EdgeaeError: if there are no headers, no compiler or no sources, or the compiler fails.
    """
    headers = _headers(include)
    command = shlex.split(compiler or os.environ.get("CXX", "") or "c++")
    if shutil.which(command[0]) is None:
        raise EdgeaeError(f"native: no C++ compiler {command[0]!r}; install GCC or clang, or name one in CXX")
    sources = [str(file) for file in sorted(_sources().glob("*.cpp")) if not file.name.startswith("test_")]
    target = library_path()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch, target.name)
        whole = [*command, *FLAGS, "-isystem", str(headers), *sources, "-o", str(made)]
        try:
            done = subprocess.run(whole, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise EdgeaeError(f"native: {command[0]} did not run: {problem}") from problem
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            reason = errors[0] if errors else f"exit status {done.returncode}"
            raise EdgeaeError(f"native: the compiler failed: {reason}; the command was: {shlex.join(whole)}")
        made.chmod(0o755)
        made.replace(target)  # a process that has the old one loaded keeps it
    return target


def _headers(include: str | os.PathLike[str] | None) -> Path:
    named = include or os.environ.get("ONNXRUNTIME_ROOT")
    roots: Iterable[Path] = [Path(named)] if named else [Path(sys.prefix), Path("/usr/local"), Path("/usr")]
    for root in roots:
        for place in PLACES:
            if (root / place / HEADER).is_file():
                return root / place
    raise EdgeaeError(
        f"native: {f'no {HEADER} in {named}' if named else f'{HEADER} was not found'}; unpack an ONNX Runtime release "
        "(https://github.com/microsoft/onnxruntime/releases) and pass its folder with --onnxruntime-include DIR or "
        "in ONNXRUNTIME_ROOT"
    )


def _sources() -> Path:
    """Return the folder of the C++ files: in a checkout, or in the installed package."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package.parent / "runtime" / "cpp" / "ops", package / "runtime" / "cpp" / "ops"):
        if (folder / "operator.cpp").is_file():
            return folder
    raise EdgeaeError(
        "native: the C++ sources (runtime/cpp/ops) are neither in a checkout nor in the installed package"
    )
