"""Processes of their own that need not import PyTorch, most of a short one's time: forked from one that has."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

# what training and exporting import; what is missing here is imported as always
IMPORTS = (
    "edgeae.cli.make",
    "edgeae.training.trainer",
    "edgeae.export.bundle",
    "onnxscript.function_libs.torch_lib.ops",
    "sklearn.decomposition",
    "torch._dynamo",
    "torch.export",
    "torch.onnx._internal.exporter._core",
)


def run_warm(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command as `subprocess.run` would; its warnings are errors.

    Args:
        command: ["edgeae", *words] or [python, "-c", text].
        folder: To run in.
        environment: Its whole environment.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        log.touch()
        process = context.Process(target=_run, args=(command, folder, dict(environment), log))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, log.read_text("utf-8"), "")


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    warnings.simplefilter("error")
    if command[0] == "edgeae":
        from edgeae.cli import main

        sys.argv = list(command)
        main()
    else:
        text = command[2]
        sys.argv = ["-c"]
        sys.path.insert(0, "")
        exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})
