"""What denormal inputs cost: rows of 1e-40 and of 1e-37 against ordinary ones, with and without what edgeae does.

"bare" runs the same graph with ONNX Runtime alone. Numbers below 1.2e-38 are denormal; 1e-37 is not, but its products
with weights are.

Example:
    python -m benchmarks.denormals
    python -m benchmarks.denormals BUNDLE...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

import edgeae
from edgeae.cli.output import print_table, table
from edgeae.runtime import Bound
from edgeae.timing import measure

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
ROWS = 256

Array = np.ndarray[Any, Any]


@click.command()
@click.argument("bundles", nargs=-1, type=click.Path(exists=True, file_okay=False))
@click.option("--seconds", default=0.5, show_default=True, help="How long each call is timed.")
def main(bundles: tuple[str, ...], seconds: float) -> None:
    """Print the time of denormal rows as a multiple of the time of the golden ones."""
    shown = table("", "bundle", "call", ">golden us", ">1e-40", ">1e-37", ">half 1e-40")
    for path in map(Path, bundles or sorted(map(str, GOLDEN.iterdir()))):
        model = edgeae.load(path, device="cpu", options={"workers": 1})
        if model.manifest.input.dtype != "float32" or model.manifest.batch is not None:
            continue
        rows = np.resize(model.bundle.golden().x, (ROWS, *model.input_shape)).astype(np.float32)
        mixed = np.where(np.random.default_rng(0).random(rows.shape) < 0.5, rows, np.float32(1e-40))
        inputs = {"golden": rows, "1e-40": rows * 0 + np.float32(1e-40), "1e-37": rows * 0 + np.float32(1e-37)}
        inputs["half 1e-40"] = mixed
        bare = onnxruntime.InferenceSession(path / "scorer.onnx", providers=["CPUExecutionProvider"])
        functions: dict[str, Callable[[Any], object]] = {
            f"score, {ROWS} rows": model.score,
            f"encode, {ROWS} rows": model.encode,
            "bound score, 1 row": partial(_first_row, model.bind()),
            f"bare score, {ROWS} rows": partial(_bare, bare),
        }
        for name, function in functions.items():
            timings = measure({kind: partial(function, x) for kind, x in inputs.items()}, seconds=seconds)
            base, *others = (timings[kind].p50 for kind in inputs)
            shown.add_row(path.name, name, f"{1e6 * base:.1f}", *(f"{each / base:.2f}" for each in others))
    print_table(shown)


def _first_row(one: Bound, x: Array) -> object:
    return one.score(x[0])


def _bare(session: Any, x: Array) -> object:
    return session.run(None, {"x": x})


if __name__ == "__main__":
    main()
