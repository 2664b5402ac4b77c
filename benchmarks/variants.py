"""How good each variant's defaults are on MNIST: trained on 54,000 digits, exported, measured on the other 10,000.

Everything but the training goes through the exported bundle on ONNX Runtime. Figures of originals over reconstructions
and of generated digits are written beside the bundles, to look at.

Example:
    python -m benchmarks.variants --data-dir DIR --out variants
    python -m benchmarks.variants dense --seeds 0,1,2
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

import edgeae
from edgeae.cli.options import BATCHES
from edgeae.cli.output import print_table, table
from edgeae.data import load_data
from edgeae.report import draw_reconstructions, draw_rows
from edgeae.runtime import Autoencoder
from edgeae.training import Run

# name in the table -> options beside the variant's defaults
CONTESTANTS: dict[str, dict[str, Any]] = {
    "dense": {"latent_dim": 64},
    "denoising": {"variant": "denoising"},
    "sparse": {"variant": "sparse"},
    "sparse-kl": {"variant": "sparse", "sparsity": "kl"},
    "variational": {"variant": "variational"},
    "convolutional": {"variant": "convolutional", "latent_dim": 32},
}
NOISE = 0.3


def psnr(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Return the peak signal-to-noise ratio in dB of images with pixels 0..255."""
    error = float(np.mean(np.square(x.astype(np.float64) - y)))
    return 10 * math.log10(255**2 / error)


def remark(run: Run, model: Autoencoder, test: np.ndarray[Any, Any]) -> str:
    """Measure what the variant is for, on test rows."""
    if run.objective.noise != "none":
        generator = np.random.default_rng(0)
        noisy = np.clip(test + 255 * NOISE * generator.standard_normal(test.shape, np.float32), 0, 255)
        before, after = psnr(test, noisy), psnr(test, model.reconstruct(noisy))
        return f"gaussian noise {NOISE}: {before:.2f} dB -> {after:.2f} dB ({after - before:+.2f} dB)"
    z = model.encode(test)
    if run.config.bottleneck == "sparse":
        share = float(np.mean(z)) if run.config.sparsity == "kl" else float(np.mean(z != 0))
        what = "mean activation" if run.config.sparsity == "kl" else "active share"
        return f"{what} {share:.4f}, target {run.objective.sparsity_target:.4f}"
    if run.config.bottleneck == "variational":
        return f"{int(np.sum(z.var(axis=0) > 0.01))} of {z.shape[1]} units active (variance of the mean > 0.01)"
    return ""


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CONTESTANTS)))
@click.option("--data-dir", type=click.Path(), help="Folder with the files of MNIST.")
@click.option("--out", default="variants", show_default=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--seeds", type=BATCHES, default="0", show_default=True)
def main(names: tuple[str, ...], data_dir: str | None, out: Path, epochs: int, seeds: tuple[int, ...]) -> None:
    """Train the default of each variant on MNIST and print what it is good for."""
    test = load_data("mnist:test", data_dir=data_dir).x
    shown = table("", "variant", ">seed", "network", ">test MSE", "", ">seconds")
    for name in names or CONTESTANTS:
        for seed in seeds:
            folder = out / f"{name}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            run = edgeae.train(
                "mnist",
                folder / "run",
                data_dir=data_dir,
                epochs=epochs,
                seed=seed,
                force=True,
                progress=True,
                **CONTESTANTS[name],
            )
            seconds = time.perf_counter() - started
            edgeae.export_bundle(run, folder / "bundle", force=True)
            with edgeae.load(folder / "bundle") as model:
                x_hat = model.reconstruct(test)
                mse = float(np.mean(np.square((test - x_hat) / 255.0)))
                note = remark(run, model, test.astype(np.float32))
                draw_reconstructions(folder / "reconstructions.png", test[:20], x_hat[:20], layout="HW")
                if model.manifest.generative:
                    draw_rows(folder / "samples.png", model.sample(60), layout="HW")
            shown.add_row(name, str(seed), run.config.describe(), f"{mse:.5f}", note, f"{seconds:.0f}")
            print_table(shown)


if __name__ == "__main__":
    main()
