"""The demonstration behind `edgeae demo`: the whole way from data to scores on 5,000 real digits, offline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import edgeae
from edgeae.bundle.atomic import check_new
from edgeae.data import load_data
from edgeae.errors import EdgeaeError, InputError
from edgeae.evaluation import auroc

__all__ = ["DemoResult", "corrupt", "glyphs", "photographs", "run_demo"]

TEST_ROWS = 1000
Images = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration measured.

    Attributes:
        model: The network in one line.
        reconstruction_mse: Mean squared error on unseen digits, pixels scaled to 0..1.
        auroc: Group of other images to the area under the ROC curve against unseen digits.
        threshold: Score above which an image is called an anomaly.
        false_alarms: Share of unseen digits above it.
        latency_us: Median microseconds for one row, input check included.
        rows_per_second: Rows scored per second in bulk.
        files: What was written, to look at.
    """

    model: str
    reconstruction_mse: float
    auroc: dict[str, float]
    threshold: float
    false_alarms: float
    latency_us: float
    rows_per_second: float
    files: tuple[str, ...]


def run_demo(out: str | Path, *, force: bool = False, progress: bool = False, epochs: int = 40) -> DemoResult:
    """Train on real digits, export, verify, score digits against corrupted and foreign images, draw two figures.

    Args:
        out: Folder to create; gets run/, bundle/, reconstructions.png and scores.png.
        force: Replace what earlier demonstrations wrote there.
        progress: Show a progress bar on a terminal.
        epochs: Passes over the training digits (4,000, a fifth of them held out for the threshold).

    Raises:
        InputError: if `out` exists and `force` is false.

    Example:
        >>> result = run_demo("demo")  # doctest: +SKIP
        >>> result.auroc["photographs"]  # doctest: +SKIP
        1.0
    """
    from edgeae.report import draw_reconstructions, draw_scores
    from edgeae.runtime.bench import bench
    from edgeae.runtime.verify import verify_bundle

    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a folder; choose another name with -o")
    check_new(out, force=force, what="the demonstration's folder")
    train_model, export_bundle = (
        edgeae.train,
        edgeae.export_bundle,
    )  # a missing package shows before anything is written
    out.mkdir(exist_ok=True)
    digits = load_data("mnist-5k")
    train, test = digits.x[:-TEST_ROWS], digits.x[-TEST_ROWS:]
    run = train_model(
        replace(digits, x=train, y=None),
        out / "run",
        latent_dim=64,
        epochs=epochs,
        validation=0.2,
        force=force,
        progress=progress,
    )
    export_bundle(run, out / "bundle", name="digits", force=force)
    failed = [check for check in verify_bundle(out / "bundle") if not check.passed]
    if failed:
        raise EdgeaeError(f"{out / 'bundle'}: the check {failed[0].name!r} failed: {failed[0].detail}")
    groups = {
        "noisy digits": corrupt(test, seed=0),
        "letters": glyphs(TEST_ROWS, seed=0),
        "photographs": photographs(TEST_ROWS, seed=0),
    }
    with edgeae.load(out / "bundle") as model:
        normal = model.score(test)
        scores = {name: model.score(images) for name, images in groups.items()}
        x_hat = model.reconstruct(test)
        threshold = model.threshold
        few = np.concatenate([test[:7], *(images[_most_contrast(images)][None] for images in groups.values())])
        draw_reconstructions(
            out / "reconstructions.png",
            few,
            model.reconstruct(few),
            layout="HW",
            scores=model.score(few),
            title="Unseen digits, a noisy one, a letter and a photograph, over their reconstructions; score below",
        )
    speed = bench(out / "bundle", batches=(1,), seconds=1.0, cold_starts=0)
    draw_scores(out / "scores.png", {"unseen digits": normal, **scores}, threshold, kind="mse")
    return DemoResult(
        model=run.config.describe(),
        reconstruction_mse=float(np.mean(np.square((test - x_hat) / 255.0))),
        auroc={name: auroc(normal, values) for name, values in scores.items()},
        threshold=threshold,
        false_alarms=float(np.mean(~(normal <= threshold))),
        latency_us=speed.latency[0].p50_us,
        rows_per_second=speed.throughput.rows_per_second,
        files=tuple(str(out / name) for name in ("bundle", "reconstructions.png", "scores.png")),
    )


def _most_contrast(images: Images) -> int:
    return int(np.argmax(images.reshape(len(images), -1).std(axis=1)))


def corrupt(digits: Images, *, seed: int, share: float = 0.05) -> Images:
    """Return copies of images [n, 28, 28] with a share of the pixels set to black or white."""
    generator = np.random.default_rng(seed)
    hit = generator.random(digits.shape) < share
    noise = np.where(generator.random(digits.shape) < 0.5, 0, 255).astype(np.uint8)
    return np.where(hit, noise, digits).astype(np.uint8)


def glyphs(count: int, *, seed: int) -> Images:
    """Draw capital letters in the fonts that come with matplotlib, as uint8 [count, 28, 28] like the digits."""
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont

    fonts = [
        font_manager.findfont(font_manager.FontProperties(family=name)) for name in ("DejaVu Sans", "DejaVu Serif")
    ]
    generator = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    for index in range(count):
        font = ImageFont.truetype(fonts[index % len(fonts)], int(generator.integers(18, 24)))
        picture = Image.new("L", (28, 28))
        across, down = (float(place) for place in generator.integers(12, 17, 2))
        letter = "ABCDEFGHJKLMNPQRSTUVWXYZ"[int(generator.integers(24))]
        ImageDraw.Draw(picture).text((across, down), letter, fill=255, font=font, anchor="mm")
        images[index] = np.asarray(picture)
    return images


def photographs(count: int, *, seed: int) -> Images:
    """Cut patches uint8 [count, 28, 28] from the photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    pictures = [picture.mean(axis=2).astype(np.uint8) for picture in load_sample_images().images]
    generator = np.random.default_rng(seed)
    patches = np.empty((count, 28, 28), np.uint8)
    for index in range(count):
        picture = pictures[index % len(pictures)]
        top, left = (int(generator.integers(side - 28)) for side in picture.shape)
        patches[index] = picture[top : top + 28, left : left + 28]
    return patches
