"""What a step of a stream costs beside the bound scorer that it runs, for windows of several lengths.

Example:
    python -m benchmarks.streaming
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

import edgeae
from edgeae.cli.output import print_table, status, table
from edgeae.data import Windowing, load_data
from edgeae.runtime import Stream, StreamOptions
from edgeae.timing import measure

CHANNELS = 4
LENGTHS = (16, 64, 256, 1024)


@click.command()
@click.option("--seconds", default=2.0, show_default=True, help="For each way.")
def main(seconds: float) -> None:
    """Print microseconds: the 10th percentile and the median, all ways in turns."""
    title = f"One step, {CHANNELS} channels, µs (10th percentile / median)"
    shown = table(title, ">T", ">bound scorer", ">push", ">all options")
    for length in LENGTHS:
        with status(f"windows of {length}"), tempfile.TemporaryDirectory() as folder:
            series = np.random.default_rng(0).normal(size=(max(3000, 4 * length), CHANNELS)).astype(np.float32)
            data = load_data(series, windows=Windowing(length, stride=max(1, length // 64)))
            options: dict[str, Any] = {
                "variant": "convolutional",
                "hidden": (4, 4),
                "latent_dim": 8,
                "epochs": 1,
                "device": "cpu",
            }
            run = edgeae.train(data, Path(folder) / "run", progress=False, **options)
            bundle = edgeae.export_bundle(run, Path(folder) / "bundle", calibrate=data)
            with edgeae.load(bundle.path, device="cpu", profile="latency") as model:
                one, window, sample = model.bind(), np.ascontiguousarray(data.x[0]), series[0]
                full = StreamOptions(3, 5, adaptive=0.001, drift_steps=1000)
                plain, busy = Stream(model), Stream(model, full)
                for row in series[:length]:
                    plain.push(row)
                    busy.push(row)
                ways = {
                    "bound": lambda one=one, window=window: one.score(window),
                    "push": lambda plain=plain, sample=sample: plain.push(sample),
                    "all": lambda busy=busy, sample=sample: busy.push(sample),
                }
                times = measure(ways, seconds=seconds)
        shown.add_row(str(length), *(f"{1e6 * times[way].p10:.1f} / {1e6 * times[way].p50:.1f}" for way in ways))
    print_table(shown)


if __name__ == "__main__":
    main()
