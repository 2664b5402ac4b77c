"""The documents: every block of the README and of docs/ runs, every command and every link is right."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

import edgeae
from edgeae.cli.group import SECTIONS
from tests.make_golden import sensor_table
from tests.warm import run_warm

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# blocks and lines that mostly import PyTorch: all but the README's run in processes that need not
PLAIN = re.compile(r"(?:edgeae [\w ./=,:-]+\n)+")  # no shell needed
WARM_LINE = re.compile(r"edgeae (?:train|export) ")
WARM_PROGRAM = re.compile(r"^(?:run = edgeae\.train|torch\.onnx\.export)\(|^    torch\.onnx\.export\(", re.MULTILINE)

# modules whose import is the program
SKIPPED = {"edgeae.__main__"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_blocks_of_a_document_run_in_order(document: Path, tmp_path: Path) -> None:
    """bash and python blocks run in one folder; a block with file=NAME is written there; sensors.csv lies there."""
    table = sensor_table(2000)
    header = ",".join(f"sensor_{index}" for index in range(table.shape[1]))
    np.savetxt(tmp_path / "sensors.csv", table, delimiter=",", header=header, comments="", fmt="%.7g")
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "error",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),  # where edgeae tune writes
    }
    ran = 0
    for language, options, text in BLOCK.findall(document.read_text("utf-8")):
        if "norun" in options:
            continue
        if options.startswith("file="):
            (tmp_path / options.removeprefix("file=")).write_text(text)
            continue
        if language not in ("bash", "python"):
            continue
        for command in _commands(language, text, warm=document.name != "README.md"):
            done = command(tmp_path, environment)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran, f"{document} has no block that runs"


def _commands(language: str, text: str, *, warm: bool) -> list[Callable[[Path, dict[str, str]], CompletedProcess[str]]]:
    """Return what runs a block, in a folder and an environment: each in a process of its own."""
    if warm and language == "bash" and PLAIN.fullmatch(text):
        lines = text.splitlines()
        return [partial(run_warm if WARM_LINE.match(line) else _run, shlex.split(line)) for line in lines]
    if language == "bash":
        return [partial(_run, ["bash", "-euo", "pipefail", "-c", text])]
    return [partial(run_warm if warm and WARM_PROGRAM.search(text) else _run, [sys.executable, "-c", text])]


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> CompletedProcess[str]:
    program = shutil.which(command[0], path=environment["PATH"]) or command[0]
    return subprocess.run([program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["edgeae", "train", "nowhere.csv", "-o", "run"], 1, "nowhere.csv"),
        (["edgeae", "train", "--nonsense"], 2, "--nonsense"),
        ([sys.executable, "-c", "import warnings; warnings.warn('a warning')"], 1, "UserWarning: a warning"),
        ([sys.executable, "-c", "import os; print('in', os.getcwd())"], 0, "in {folder}"),
    ],
)
def test_a_warm_process_ends_as_any_other(command: list[str], status: int, said: str, tmp_path: Path) -> None:
    done = run_warm(command, tmp_path, os.environ)
    assert done.returncode == status and said.format(folder=tmp_path) in done.stdout


@pytest.mark.parametrize("name", [name for commands in SECTIONS.values() for name in commands])
def test_every_command_is_documented(name: str) -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert f"### edgeae {name}\n" in text
    assert re.search(rf"^edgeae {name} ", text, re.MULTILINE)


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "export" / "README.md", ROOT / "export" / "FORMAT.md"], ids=lambda path: path.name
)
def test_every_local_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def _modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(edgeae.__path__, "edgeae.") if module.name not in SKIPPED]


@pytest.mark.parametrize("name", ["edgeae", *_modules()])
def test_the_examples_in_docstrings_are_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.failed == 0


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    """.ci/run installs and tests exactly as the README tells people to."""
    first, second = re.findall(r"^(pip install .*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)[:2]
    install = "pip install -c constraints.txt -e '.[dev,cpu]'"
    assert first == f"{install} && edgeae demo" and second == f"{install} && pytest"
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "-c constraints.txt -e '.[dev,cpu]' && edgeae demo" in script
    assert re.search(r"^pytest$", script, re.MULTILINE)
