"""`python -m benchmarks.compression BUNDLE DATA`: latent files beside the codecs that people would use instead.

Four tables: how fast files are written and read beside the model alone; what zstd makes of quantised latents beside
their order-0 entropy, which is what a coder of our own could gain; size and error at every latent type, beside PCA with
as many bytes; and size at a promised error, beside zstd, PNG and JPEG (at the same PSNR, all images in one picture) for
images, or zfp and fpzip for other numbers.
"""

from __future__ import annotations

import importlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import zstandard

import edgeae
from edgeae import timing
from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.output import number, print_table, table
from edgeae.codec import LatentReader, LatentWriter
from edgeae.codec.coders import Coder
from edgeae.codec.grids import quantise
from edgeae.data import load_rows
from edgeae.evaluation.pictures import ssim

Array = np.ndarray[Any, Any]
BITS = (8, 7, 6, 5, 4, 3, 2)
PSNR = (30.0, 40.0, 50.0)
SPEED_BYTES = 2**28
COLUMNS = 64  # images side by side in one picture


@dataclass(frozen=True)
class Entropy:
    """Latents of so many bits: bytes at their order-0 entropy by dimension, and as they are stored."""

    bits: int
    ideal_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Speed:
    """How fast int8 latents without a bound go, beside the model's own method on all rows at once.

    The rows are taken as often as it needs for a quarter of a GiB: beginning a file takes some ten milliseconds, in
    which its first rows tell how fine the codes of each latent have to be.

    Attributes:
        name: "write" or "read".
        rows_per_second: At the 10th percentile of the durations.
        share: Of the model's rate, by 10th percentiles.
        share_median: By medians; far from `share`, the machine was busy.
        cpu_share: Processor time of the model alone over that with coding, least of all runs: what is left of the rate
            on a machine whose cores are all busy.
    """

    name: str
    rows_per_second: float
    share: float
    share_median: float
    cpu_share: float


@dataclass(frozen=True)
class Point:
    """One way to store the rows.

    Attributes:
        name: The way.
        promise: What was asked for, if anything.
        bytes_per_row: Of the file.
        ratio: Raw bytes over it.
        psnr: In decibels; None if nothing is lost.
        largest_error: Of a value.
        ssim: Mean structural similarity of the first 500 images; None where rows are no images.
        write_mb_per_second: Raw bytes, model included; None where it was not timed.
        read_mb_per_second: The same.
    """

    name: str
    promise: str
    bytes_per_row: float
    ratio: float
    psnr: float | None
    largest_error: float
    ssim: float | None = None
    write_mb_per_second: float | None = None
    read_mb_per_second: float | None = None


@dataclass(frozen=True)
class Result:
    """Everything that was measured; `absent` names the codecs that are not installed."""

    bundle: str
    rows: int
    absent: tuple[str, ...]
    speeds: tuple[Speed, ...]
    entropy: tuple[Entropy, ...]
    points: tuple[Point, ...]


def measure(model: edgeae.Autoencoder, x: Array, *, seconds: float = 2.0, speed_bytes: int = SPEED_BYTES) -> Result:
    """Store rows in every way, read them again, and compare.

    Args:
        model: Compresses.
        x: Rows.
        seconds: For which each of four ways is timed.
        speed_bytes: How many these are timed on, the rows once more and again.
    """
    peak = 255.0 if x.dtype == np.uint8 else float(np.ptp(x))
    points, absent = [], []
    for dtype in ("float32", "float16", *(f"int{bits}" for bits in BITS)):
        points.append(_own(model, x, peak, "edgeae", dtype, dtype=dtype))
        points.append(_pca(x, points[-1].bytes_per_row, peak))
    points.append(_point("zstd -19", "lossless", x, len(zstandard.compress(x.tobytes(), 19)), x, peak))
    if x.dtype == np.uint8:
        points.append(_own(model, x, peak, "edgeae", "lossless", lossless=True))
    for target in PSNR:
        own = _own(model, x, peak, "edgeae", f"PSNR {target:g} dB", target_psnr=target)
        points.append(own)
        others: dict[str, Callable[[], list[Point]]] = {"PIL": partial(_pictures, x, target, peak)}
        if x.dtype != np.uint8 or x.ndim != 3:
            error = own.largest_error
            points.append(_own(model, x, peak, "edgeae", f"error {error:.3g}", max_error=error))
            others = {"zfpy": partial(_zfp, x, error, peak), "fpzip": partial(_fpzip, x, error, peak)}
        for package, compare in others.items():
            try:
                importlib.import_module(package)
            except ImportError:
                absent.append(package)
            else:
                points += compare()
    many = np.concatenate([x] * max(1, speed_bytes // x.nbytes))
    speeds, entropy = _speeds(model, many, seconds), _entropy(model.encode(x))
    return Result(model.manifest.name, len(x), tuple(dict.fromkeys(absent)), speeds, entropy, tuple(points))


class _Nowhere(io.RawIOBase):
    """Takes all bytes and keeps none: the disk is not what is timed."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data)


def _speeds(model: edgeae.Autoencoder, x: Array, seconds: float) -> tuple[Speed, ...]:
    file, z = io.BytesIO(), model.encode(x)
    with LatentWriter(file, model) as writer:
        writer.write(x)

    def write() -> None:
        with LatentWriter(_Nowhere(), model) as writer:  # type: ignore[arg-type]
            writer.write(x)

    def read() -> None:
        for _ in LatentReader(io.BytesIO(file.getvalue()), model):
            pass

    ways = {"encode": lambda: model.encode(x), "write": write, "decode": lambda: model.decode(z), "read": read}
    cpu: dict[str, float] = {}

    def counted(name: str) -> None:
        begun = time.process_time()
        ways[name]()
        cpu[name] = min(cpu.get(name, math.inf), time.process_time() - begun)

    timings = timing.measure({name: partial(counted, name) for name in ways}, seconds=seconds, slice_seconds=0.1)
    found = []
    for name, alone in (("write", "encode"), ("read", "decode")):
        with_coding, model_only = timings[name], timings[alone]
        shares = (model_only.p10 / with_coding.p10, model_only.p50 / with_coding.p50, cpu[alone] / cpu[name])
        found.append(Speed(name, len(x) / with_coding.p10, *shares))
    return tuple(found)


def _own(model: edgeae.Autoencoder, x: Array, peak: float, name: str, promise: str, **settings: Any) -> Point:
    buffer = io.BytesIO()
    begun = time.perf_counter()
    with LatentWriter(buffer, model, **settings) as writer:
        writer.write(x)
    written = time.perf_counter()
    found = LatentReader(io.BytesIO(buffer.getvalue()), model).read()
    read = time.perf_counter()
    speeds = x.nbytes / 1e6 / (written - begun), x.nbytes / 1e6 / (read - written)
    return _point(name, promise, x, len(buffer.getvalue()), found, peak, *speeds)


def _point(name: str, promise: str, x: Array, size: int, found: Array, peak: float, *speeds: float) -> Point:
    error = found.astype(np.float64) - x
    mse = float(np.square(error).mean())
    psnr = 10 * math.log10(peak**2 / mse) if mse else None
    alike = ssim(x[:500] / peak, found[:500] / peak) if x.ndim == 3 else None
    return Point(name, promise, size / len(x), x.nbytes / size, psnr, float(np.abs(error).max()), alike, *speeds)


def _pca(x: Array, budget: float, peak: float) -> Point:
    """Return PCA with as many components as fit the bytes of a row as float32, fitted to these very rows."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    _, axes = np.linalg.eigh((flat - mean).T @ (flat - mean))
    count = min(flat.shape[1], int(budget // 4))
    basis = axes[:, ::-1][:, :count]
    found = ((flat - mean) @ basis @ basis.T + mean).reshape(x.shape)
    return _point("PCA, float32", f"{count} components", x, max(1, 4 * count * len(x)), found, peak)


def _pictures(x: Array, target: float, peak: float) -> list[Point]:
    """Return PNG, and JPEG at the lowest quality that reaches the target, of all images in one picture."""
    points = [_point("PNG", "lossless", x, *as_picture(x, format="PNG", optimize=True), peak)]
    for quality in range(5, 101, 5):
        point = _point("JPEG", f"PSNR {target:g} dB", x, *as_picture(x, format="JPEG", quality=quality), peak)
        if point.psnr is None or point.psnr >= target:
            return [*points, point]
    return points


def as_picture(x: Array, **settings: Any) -> tuple[int, Array]:
    """Save all images, uint8 [n, height, width], as one picture; return its bytes, and the images that it holds then.

    Args:
        x: The images; COLUMNS of them lie side by side.
        settings: Of Pillow's `Image.save`.
    """
    image = importlib.import_module("PIL.Image")
    rows = -(-len(x) // COLUMNS)
    height, width = x.shape[1:]
    tiles = np.zeros((rows * COLUMNS, height, width), np.uint8)
    tiles[: len(x)] = x
    sheet = tiles.reshape(rows, COLUMNS, height, width).swapaxes(1, 2).reshape(rows * height, COLUMNS * width)
    buffer = io.BytesIO()
    image.fromarray(sheet).save(buffer, **settings)
    back = np.asarray(image.open(io.BytesIO(buffer.getvalue()))).reshape(rows, height, COLUMNS, width)
    return len(buffer.getvalue()), back.swapaxes(1, 2).reshape(-1, height, width)[: len(x)]


def _zfp(x: Array, error: float, peak: float) -> list[Point]:
    zfpy = importlib.import_module("zfpy")
    flat = np.ascontiguousarray(x.reshape(len(x), -1), np.float32)
    data = zfpy.compress_numpy(flat, tolerance=error)
    return [_point("zfp", f"error {error:.3g}", x, len(data), zfpy.decompress_numpy(data).reshape(x.shape), peak)]


def _fpzip(x: Array, error: float, peak: float) -> list[Point]:
    """Return fpzip at the fewest bits of precision that stay within the error; its bound is a relative one."""
    fpzip = importlib.import_module("fpzip")
    flat = np.ascontiguousarray(x.reshape(len(x), -1), np.float32)
    for precision in range(8, 34, 2):
        data = fpzip.compress(flat, precision=0 if precision > 31 else precision, order="C")
        found = fpzip.decompress(data, order="C").reshape(x.shape)
        if np.abs(found.astype(np.float64) - x).max() <= error:
            break
    return [_point("fpzip", f"error {error:.3g}", x, len(data), found, peak)]


def _entropy(z: Array) -> tuple[Entropy, ...]:
    found, coder = [], Coder()
    for bits in BITS:
        codes = quantise(z, bits).codes
        shares = [np.bincount(column, minlength=256) / len(column) for column in codes]
        ideal = -sum(float((share[share > 0] * np.log2(share[share > 0])).sum()) for share in shares) * len(z) / 8
        found.append(Entropy(bits, round(ideal), len(coder.symbols(codes.reshape(-1)))))
    return tuple(found)


@click.command()
@click.argument("bundle")
@click.argument("data")
@click.option("--data-dir", help="Folder with the files of a named data set.")
@click.option("--rows", default=10_000, show_default=True, help="Most rows to use.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write it all to a file.")
def main(bundle: str, data: str, data_dir: str | None, rows: int, json_file: Path | None) -> None:
    """Compare the latent files of BUNDLE with other codecs on the rows of DATA."""
    with edgeae.load(bundle, device="cpu") as model:
        model.prepare()
        x = np.array(load_rows(data, model.manifest.input, data_dir=data_dir).x[:rows])
        result = measure(model, x)
    made = table("int8 without a bound", "", ">rows/s", ">of the model's", ">median", ">CPU time")
    for speed in result.speeds:
        shares = (f"{each:.2f}" for each in (speed.share, speed.share_median, speed.cpu_share))
        made.add_row(speed.name, f"{speed.rows_per_second:.3g}", *shares)
    print_table(made)
    made = table("Latents", ">bits", ">order-0 entropy", ">stored", ">ratio")
    for entropy in result.entropy:
        share = entropy.stored_bytes / max(1, entropy.ideal_bytes)
        made.add_row(f"{entropy.bits}", f"{entropy.ideal_bytes}", f"{entropy.stored_bytes}", f"{share:.3f}")
    print_table(made)
    heads = (">bytes/row", ">ratio", ">PSNR", ">largest error", ">SSIM", ">write MB/s", ">read MB/s")
    made = table(f"{result.rows} rows", "codec", "asked for", *heads)
    for point in result.points:
        figures = (point.bytes_per_row, point.ratio, point.psnr, point.largest_error, point.ssim)
        speeds = (point.write_mb_per_second, point.read_mb_per_second)
        made.add_row(point.name, point.promise, *(number(each) for each in (*figures, *speeds)))
    print_table(made)
    for name in result.absent:
        click.echo(f"left out: {name} is not installed")
    if json_file is not None:
        write_file(json_file, to_json(result))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.compression")
