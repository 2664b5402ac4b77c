"""The borders of the layout: what may be imported where."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edgeae"
GOLDEN = Path(__file__).parents[1] / "export" / "golden"

TORCH_SIDE = ("models", "training", "export", "evaluation", "report", "sweeping")
THIRD_PARTY_OF_TRAIN = (
    "torch", "onnx", "onnxscript", "lightning_fabric", "safetensors", "sklearn", "scipy", "matplotlib", "mlxtend",
    "PIL", "pandas", "pyarrow",
)  # fmt: skip


def run(code: str, *arguments: str, ok: bool = True) -> str:
    """Run Python code in a fresh process and return what it printed."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True
    )
    assert (process.returncode == 0) is ok, process.stderr
    return process.stdout + process.stderr


BLOCK = """
    import sys
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in BLOCKED:
                raise ModuleNotFoundError(f"{name} is blocked in this test", name=name)
    sys.meta_path.insert(0, Blocked())
"""


def blocked(*names: str) -> str:
    return f"BLOCKED = {names!r}\n" + textwrap.dedent(BLOCK)


def test_the_runtime_works_without_torch_onnx_and_all_of_the_train_extra() -> None:
    code = blocked(*THIRD_PARTY_OF_TRAIN) + textwrap.dedent("""
        import numpy as np
        import edgeae
        from edgeae.data import load_data
        model = edgeae.load(sys.argv[1])
        x = model.bundle.golden().x
        assert model.score(x).shape == (8,)
        assert np.array_equal(model.decode(model.encode(x)), model.reconstruct(x))
        assert load_data(x).row_shape == model.input_shape
        print("works")
    """)
    assert "works" in run(code, str(GOLDEN / "dense"))


def test_scoring_a_csv_from_the_command_line_works_with_the_thin_install(tmp_path: Path) -> None:
    rows = "\n".join(",".join(f"{column * 2.0 + row:.3f}" for column in range(10)) for row in range(5))
    header = ",".join(f"sensor_{column}" for column in range(10))
    (tmp_path / "rows.csv").write_text(f"{header}\n{rows}\n")
    code = blocked(*THIRD_PARTY_OF_TRAIN) + "from edgeae.cli import main; main(sys.argv[1:])"
    output = run(code, "score", str(GOLDEN / "table"), str(tmp_path / "rows.csv"))
    assert output.startswith("row,score,anomaly\n0,")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["score", "--help"], ["bench", "-h"]]
)
def test_help_is_light(arguments: list[str]) -> None:
    code = """
        import sys
        from edgeae.cli import main
        try:
            main(sys.argv[1:])
        except SystemExit as end:
            assert end.code == 0
        heavy = {"torch", "onnx", "onnxruntime", "pandas", "matplotlib", "sklearn", "lightning_fabric"}
        print("heavy:", sorted(heavy.intersection(sys.modules)))
    """
    assert "heavy: []" in run(code, *arguments)


def test_importing_edgeae_is_light() -> None:
    output = run("import sys, edgeae; print([n for n in ('torch', 'onnxruntime', 'onnx', 'rich') if n in sys.modules])")
    assert output.strip() == "[]"


def test_without_onnxruntime_the_error_names_both_commands() -> None:
    output = run(blocked("onnxruntime") + "import edgeae; edgeae.load('bundle')", ok=False)
    assert "edgeae[cpu]" in output and "edgeae[gpu]" in output
    assert "MissingPackageError" in output


@pytest.mark.parametrize(
    "command",
    [["train", "digits", "-o", "run"], ["export", "run", "-o", "bundle"], ["demo"], ["sweep", "digits", "-o", "s"]],
)
def test_without_torch_the_error_names_the_command_that_installs_it(command: list[str], tmp_path: Path) -> None:
    code = blocked("torch") + f"import os; os.chdir({str(tmp_path)!r}); from edgeae.cli import main; main(sys.argv[1:])"
    output = run(code, *command, ok=False)
    assert output.strip().startswith("edgeae: ") and "edgeae[train]" in output
    assert len(output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("bundle", {"numpy", "edgeae.errors", "edgeae.bundle"}),
        (
            "runtime",
            {"numpy", "onnxruntime", "edgeae"}
            | {f"edgeae.{name}" for name in ("errors", "bundle", "cache", "runtime", "timing")},
        ),
        ("doctor", {"numpy", "edgeae", "edgeae.cache", "edgeae.doctor"}),
        (
            "codec",
            {"numpy", "zstandard", "edgeae"}
            | {f"edgeae.{name}" for name in ("errors", "bundle", "codec", "data", "runtime")},
        ),
    ],
)
def test_the_torch_free_folders_import_only_what_they_may(folder: str, allowed: set[str]) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            part = ".".join(name.split(".")[:2]) if top == "edgeae" else top
            assert part in allowed or top in sys.stdlib_module_names or top == "__future__", f"{path.name}: {name}"


@pytest.mark.parametrize("folder", ["bundle", "runtime", "data", "doctor", "codec"])
def test_the_torch_side_is_never_imported_by_the_torch_free_side(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            assert not (parts[0] == "edgeae" and len(parts) > 1 and parts[1] in TORCH_SIDE), f"{path.name}: {name}"
            assert parts[0] not in ("torch", "onnx"), f"{path.name}: {name}"


def test_a_first_score_imports_nothing_slow() -> None:
    """What a cold start does not need, each between 3 and 50 milliseconds; who adds one looks for another way."""
    slow = (
        "numpy.ma",
        "importlib.metadata",
        "subprocess",
        "zipfile",
        "random",
        "socket",
        "difflib",
        "shutil",
        "tempfile",
        "random",
        "email",
    )
    code = textwrap.dedent("""
        import sys
        import numpy, onnxruntime
        before = set(sys.modules)
        import edgeae
        model = edgeae.load(sys.argv[1], device="cpu")
        model.score(model.bundle.golden().x)
        print(",".join(sorted(set(sys.modules) - before)))
    """)
    found = set(run(code, str(GOLDEN / "dense")).strip().split(","))
    assert "edgeae.runtime.session" in found
    assert not found.intersection(slow)


def test_a_first_score_declares_no_dataclass() -> None:
    """Each takes 0.4 milliseconds to declare, and `edgeae.bundle.record` a tenth of that."""
    code = textwrap.dedent("""
        import sys
        import edgeae
        model = edgeae.load(sys.argv[1], device="cpu")
        model.score(model.bundle.golden().x)
        modules = [module for name, module in sys.modules.items() if name.startswith("edgeae")]
        classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
        made = [cls for cls in classes if "__dataclass_fields__" in vars(cls) and cls.__name__ != "_Methods"]
        print(len(made), [cls for cls in made if cls.__init__.__module__ != "edgeae.bundle.record"])
    """)
    count, others = run(code, str(GOLDEN / "dense")).strip().split(" ", 1)
    assert int(count) > 10
    assert others == "[]"
