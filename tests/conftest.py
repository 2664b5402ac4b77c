"""What all tests share."""

from __future__ import annotations

import copy
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# A shell that starts a job in the background lets it ignore Ctrl-C, and children inherit that; the tests that interrupt
# a process need it to listen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

INSTRUCTION_SETS = ("amx", "vnni", "avxvnni", "avx512", "avx2", "dotprod", "portable")


def pytest_runtest_setup() -> None:
    """Let PyTorch's exporter read its operators once a process, not once a graph, which is over half of its time.

    It reads the source of a thousand functions for the same table each time. The first tests to export still see it as
    a user does; a PyTorch that keeps its table elsewhere is left alone.
    """
    registry = getattr(sys.modules.get("torch.onnx._internal.exporter._registration"), "ONNXRegistry", None)
    make = getattr(registry, "from_torchlib", None)
    if make is None or hasattr(make, "cache_info"):
        return
    made = functools.cache(make)

    def copied(**options: Any) -> Any:
        table = copy.copy(made(**options))
        table.functions = {name: list(functions) for name, functions in table.functions.items()}
        return table

    copied.cache_info = made.cache_info  # type: ignore[attr-defined]
    registry.from_torchlib = staticmethod(copied)  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library as a user does, once for all workers."""
    from edgeae.errors import EdgeaeError
    from edgeae.runtime.native import build

    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"no C++ compiler: {compiler}")
    try:
        build._headers(None)
    except EdgeaeError:
        pytest.skip("ONNX Runtime's headers were not found: .ci/headers DIR, then ONNXRUNTIME_ROOT=DIR")
    cache = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        cache = cache.parent  # of the whole run: one worker builds, the others wait for it
    environment = os.environ | {"XDG_CACHE_HOME": str(cache / "built")}
    command = [sys.executable, "-m", "edgeae.runtime.native", "build"]
    path = cache / "built.txt"
    with FileLock(cache / "built.lock"):
        if not path.exists():
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            path.write_text(done.stdout)
    return Path(path.read_text().strip())


@pytest.fixture
def ops(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this library the one that is found, on whatever the processor does best."""
    monkeypatch.setenv("EDGEAE_OPS", str(built))
    monkeypatch.delenv("EDGEAE_OPS_ISA", raising=False)


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request: pytest.FixtureRequest, ops: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that runs here."""
    name: str = request.param
    if name not in _available(monkeypatch):
        pytest.skip(f"{name} does not run on this processor")
    monkeypatch.setenv("EDGEAE_OPS_ISA", name)
    return name


def _available(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from edgeae.runtime import native
    from tests.native_graphs import scorer, session_of

    monkeypatch.setenv("EDGEAE_OPS_ISA", "abacus")
    with pytest.raises(Exception, match="'abacus' does not run on this processor") as problem:
        session_of(native.rewrite(scorer([3, 3], ["relu"])), operators=True)
    found = re.search(r"these do: ([\w, ]+)", str(problem.value))
    assert found is not None
    return found[1].strip().split(", ")
