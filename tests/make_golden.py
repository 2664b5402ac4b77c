"""Make the golden bundles in export/golden/ and export/manifest.schema.json again: `python tests/make_golden.py`.

One tiny bundle per variant, trained for a few epochs on 8x8 digits or a synthetic table, so that every graph shape that
export can write is there for every runtime to reproduce. Run it after a change of the format or of the graphs, and look
at the difference before you commit it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "export" / "golden"


@dataclass(frozen=True)
class Variant:
    """A golden bundle: options of the training and of the export, on a table, on windows of a series or on digits."""

    train: dict[str, Any]
    export: dict[str, Any] = field(default_factory=dict)
    table: bool = False
    series: bool = False


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
    "windows": Variant(
        {"variant": "convolutional", "latent_dim": 8, "hidden": [8, 8], "epochs": 60},
        {"precision": ("fp32", "int8"), "fpr": 0.05},
        series=True,
    ),
    "mlperf-tiny-ad": Variant(
        {"variant": "mlperf-tiny-ad", "hidden": [16, 16], "latent_dim": 4}, {"score": "mse"}, table=True
    ),
}


# Layers of encoder and decoder, and the opset: one that phones take, and a newer one.
RECURRENT = {"recurrent-lstm": ("LSTM", "LSTM", 18), "recurrent-gru-rnn": ("GRU", "RNN", 20)}


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


def sensor_series(steps: int = 1200, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a series [steps, 2]: a daily cycle and one that follows it, in units of tens and thousandths, noisy."""
    generator = np.random.default_rng(seed)
    phase = 2 * np.pi * np.arange(steps) / 24
    cycle = np.sin(phase) + 0.3 * np.sin(3 * phase) + 0.1 * generator.standard_normal(steps)
    after = np.cos(phase) + 0.1 * generator.standard_normal(steps)
    return np.stack([20 + 5 * cycle, 0.003 * after], axis=1).astype(np.float32)


def make(name: str, out: Path) -> None:
    """Train and export the golden bundle `name` into the folder `out`."""
    import edgeae
    from edgeae.data import Windowing, load_data

    variant = VARIANTS[name]
    if variant.table:
        table = sensor_table(far=name == "table-far")
        data = load_data(table, feature_names=[f"sensor_{index}" for index in range(table.shape[1])])
    elif variant.series:
        data = load_data(sensor_series(), windows=Windowing(24), feature_names=["heat", "flow"])
    else:
        data = load_data("digits")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"epochs": 5, "device": "cpu", "threads": 1, **variant.train}
        run = edgeae.train(data, Path(folder) / "run", progress=False, **options)
        edgeae.export_bundle(run, out / name, name=f"golden {name}", force=True, **variant.export)


def make_recurrent(name: str, out: Path) -> None:
    """Train an autoencoder of windows in PyTorch's own way and adopt it as the golden bundle `name`.

    The encoder reads a window and the decoder unrolls the latent again; the kinds of their layers are in RECURRENT. An
    encoder of another kind than LSTM reads in both directions.
    """
    import torch
    from torch import Tensor, nn

    import edgeae

    reader, unroller, opset = RECURRENT[name]
    both = reader != "LSTM"

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = getattr(nn, reader)(2, 4, batch_first=True, bidirectional=both)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.read(x)
            return y[:, -1]  # type: ignore[no-any-return]

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unroll = getattr(nn, unroller)(8 if both else 4, 6, batch_first=True)
            self.head = nn.Linear(6, 2)

        def forward(self, z: Tensor) -> Tensor:
            y, _ = self.unroll(z.unsqueeze(1).repeat(1, 12, 1))
            return self.head(y)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    series = sensor_series(600)
    windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(series, 12, axis=0)[::2].transpose(0, 2, 1))
    model = nn.Sequential(Encoder(), Decoder())
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    x = torch.from_numpy((windows - series.mean(0)) / series.std(0))
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), x).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about PyTorch: the exporter that keeps RNN whole is its older one
        files = []
        for part, example in ((model[0], x[:2]), (model[1], model[0](x[:2]).detach())):
            files.append(Path(folder) / f"{type(part).__name__.lower()}.onnx")
            torch.onnx.export(
                part.eval(),
                (example,),
                files[-1],
                opset_version=opset,
                dynamo=False,
                input_names=["input"],
                dynamic_axes={"input": {0: "batch"}},
            )
        edgeae.adopt(
            files[0],
            out / name,
            decoder=files[1],
            calibrate=windows,
            layout="TC",
            normalisation="standard",
            fpr=0.05,
            name=f"golden {name}",
            force=True,
        )


def main() -> None:
    """Make all golden bundles and the schema."""
    from edgeae.bundle import Manifest

    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or (*VARIANTS, *RECURRENT):
        (make_recurrent if name in RECURRENT else make)(name, GOLDEN)
    schema = json.dumps(Manifest.schema(), indent=2) + "\n"
    (ROOT / "export" / "manifest.schema.json").write_text(schema, "utf-8")


if __name__ == "__main__":
    main()
