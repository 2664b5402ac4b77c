"""Make the golden bundles in export/golden/ and export/manifest.schema.json again: `python tests/make_golden.py`.

One tiny bundle per variant, trained for a few epochs on 8x8 digits or a synthetic table, so that every graph shape that
export can write is there for every runtime to reproduce. Run it after a change of the format or of the graphs, and look
at the difference before you commit it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "export" / "golden"


@dataclass(frozen=True)
class Variant:
    """A golden bundle: options of the training and of the export, on a table or on digits."""

    train: dict[str, Any]
    export: dict[str, Any] = field(default_factory=dict)
    table: bool = False


VARIANTS = {
    "dense": Variant({"latent_dim": 8}, {"precision": ("fp32", "int8")}),
    "dense-uint8-batch1": Variant({"latent_dim": 8}, {"input_dtype": "uint8", "batch": 1}),
    "denoising": Variant({"variant": "denoising", "latent_dim": 8, "hidden": [16]}, {"score": "mae"}),
    "sparse": Variant({"variant": "sparse", "latent_dim": 96, "sparsity_target": 0.1}, {"precision": ("fp32", "int8")}),
    "variational": Variant({"variant": "variational", "latent_dim": 4, "hidden": [16]}, {"score": "elbo"}),
    "convolutional": Variant(
        {"variant": "convolutional", "latent_dim": 6, "hidden": [4, 8], "batch_norm": True},
        {"score": "bce", "precision": ("fp32", "fp16", "int8")},
    ),
    "convolutional-resize": Variant(
        {"variant": "convolutional", "latent_dim": 6, "hidden": [4, 8], "upsample": "resize"},
        {"precision": ("fp32", "int8")},
    ),
    "table": Variant(
        {"latent_dim": 3, "hidden": [16]}, {"score": "zscore", "precision": ("fp32", "fp16", "int8")}, table=True
    ),
    "table-far": Variant({"latent_dim": 3, "hidden": [16], "batch_norm": True}, {"score": "mse"}, table=True),
    "table-prototype": Variant(
        {"latent_dim": 3, "hidden": [16]}, {"score": "prototype", "precision": ("fp32", "int8")}, table=True
    ),
    "mlperf-tiny-ad": Variant(
        {"variant": "mlperf-tiny-ad", "hidden": [16, 16], "latent_dim": 4}, {"score": "mse"}, table=True
    ),
}


def sensor_table(rows: int = 600, *, far: bool = False, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return correlated sensor-like columns [rows, 10], in units from thousandths to thousands.

    Args:
        rows: How many.
        far: Put the columns far from zero, where normalisation must not be folded.
        seed: Of the noise.
    """
    generator = np.random.default_rng(seed)
    hidden = generator.standard_normal((rows, 3))
    values = np.tanh(hidden @ generator.standard_normal((3, 10))) + 0.05 * generator.standard_normal((rows, 10))
    units = np.geomspace(1e-3, 1e3, 10)
    return np.asarray(values * units + units * (1e4 if far else 2.0), np.float32)


def make(name: str, out: Path) -> None:
    """Train and export the golden bundle `name` into the folder `out`."""
    import edgeae
    from edgeae.data import load_data

    variant = VARIANTS[name]
    if variant.table:
        table = sensor_table(far=name == "table-far")
        data = load_data(table, feature_names=[f"sensor_{index}" for index in range(table.shape[1])])
    else:
        data = load_data("digits")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"epochs": 5, "device": "cpu", "threads": 1, **variant.train}
        run = edgeae.train(data, Path(folder) / "run", progress=False, **options)
        edgeae.export_bundle(run, out / name, name=f"golden {name}", force=True, **variant.export)


def main() -> None:
    """Make all golden bundles and the schema."""
    from edgeae.bundle import Manifest

    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or VARIANTS:
        make(name, GOLDEN)
    schema = json.dumps(Manifest.schema(), indent=2) + "\n"
    (ROOT / "export" / "manifest.schema.json").write_text(schema, "utf-8")


if __name__ == "__main__":
    main()
