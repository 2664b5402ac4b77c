"""`python -m benchmarks.rate_distortion DATA... -o FOLDER`: error against size, beside PCA and ordinary codecs.

For each data set dense models of several latent sizes are trained, and held-out rows are written by each at several bit
depths. Beside them: PCA with as many components, fitted to the same rows, whose components go through the very same
quantiser and coder; for images JPEG at several qualities and PNG, all images in one picture; for series zfp and fpzip
at several tolerances; and zstd. Models and PCA's axes are not counted in the bytes. Each data set gets a picture and a
table.

DATA is the name of a data set of images, or a .csv file with a column `value`, a series, which is cut into rows of
`--window` steps that do not overlap; every fifth of these is held out.

Example:
    python -m benchmarks.rate_distortion mnist fashion-mnist machine_temperature_system_failure.csv -o rates
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import zstandard

import edgeae
from benchmarks.compression import as_picture
from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.output import number, print_table, table
from edgeae.codec import coded_size
from edgeae.codec.coders import Coder
from edgeae.codec.format import CHUNK_BYTES, END_BYTES, ENTRY, HEADER_BYTES, INDEX_HEAD
from edgeae.codec.latents import pack_latents
from edgeae.data import load_data
from edgeae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, Any]
BATCH = 256
BITS = (8, 6, 5, 4, 3, 2)
QUALITIES = (5, 10, 20, 40, 60, 75, 90, 95)
TOLERANCES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # of the range of the values
FPZIP_BITS = (10, 12, 14, 16, 18, 20)
FRAME = HEADER_BYTES + CHUNK_BYTES + INDEX_HEAD.size + ENTRY.size + END_BYTES  # of a latent file with one chunk
INK, QUIET = "#22303c", "#9aa5ad"


@dataclass(frozen=True)
class At:
    """One way to store the rows: the setting, the bytes of a row, and the PSNR in decibels (None: nothing is lost)."""

    setting: str
    bytes_per_row: float
    psnr: float | None


@dataclass(frozen=True)
class Curve:
    """A codec in several settings; `size` is the number of latents or components, None for other codecs."""

    codec: str
    size: int | None
    points: tuple[At, ...]


@dataclass(frozen=True)
class Rates:
    """The curves of one data set; `absent` names what was left out because its package is not installed."""

    data: str
    rows: int
    raw_bytes_per_row: float
    curves: tuple[Curve, ...]
    absent: tuple[str, ...]


def measure(name: str, train: Array, test: Array, sizes: Sequence[int], *, steps: int) -> Rates:
    """Store held-out rows in every way.

    Args:
        name: Of the data.
        train: Rows that models and PCA are fitted to.
        test: Rows that are stored.
        sizes: Numbers of latents.
        steps: Of each training, in batches of BATCH rows.
    """
    peak = 255.0 if test.dtype == np.uint8 else float(np.ptp(train))
    curves = []
    for size in sizes:
        curves += [_own(train, test, size, steps, peak), _pca(train, test, size, peak)]
    found, absent = _ordinary(test, peak)
    return Rates(name, len(test), test.nbytes / len(test), (*curves, *found), absent)


def _own(train: Array, test: Array, size: int, steps: int, peak: float) -> Curve:
    with tempfile.TemporaryDirectory() as folder:
        run = edgeae.train(
            load_data(train),
            Path(folder) / "run",
            latent_dim=size,
            hidden=[256],
            epochs=-(-steps * BATCH // len(train)),
            batch_size=BATCH,
            device="cpu",
            seed=0,
            progress=False,
        )
        bundle = edgeae.export_bundle(run, Path(folder) / "bundle", name=f"{size} latents")
        with edgeae.load(bundle.path, device="cpu") as model:
            coded = [coded_size(model, test, f"int{bits}") for bits in BITS]
    points = (At(each.dtype, each.bytes_per_row, _finite(each.psnr(peak))) for each in coded)
    return Curve("edgeae", size, tuple(points))


def _pca(train: Array, test: Array, size: int, peak: float) -> Curve:
    """Return PCA, its components in a latent file like latents."""
    flat = train.reshape(len(train), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    _, axes = np.linalg.eigh((flat - mean).T @ (flat - mean))
    basis = axes[:, ::-1][:, :size]
    z = ((test.reshape(len(test), -1) - mean) @ basis).astype(np.float32)
    points = []
    for bits in BITS:
        data, again = pack_latents(Coder(), z, bits)
        points.append(_at(f"int{bits}", FRAME + len(data), test, again() @ basis.T + mean, peak))
    return Curve("PCA", size, tuple(points))


def _ordinary(test: Array, peak: float) -> tuple[list[Curve], tuple[str, ...]]:
    """Return the curves of other codecs, and the packages that are not there."""
    kinds: dict[str, Callable[[], Iterator[Curve]]] = {}
    if test.dtype == np.uint8 and test.ndim == 3:
        kinds["PIL"] = lambda: _pictures(test, peak)
    else:
        kinds |= {"zfpy": lambda: _zfp(test, peak), "fpzip": lambda: _fpzip(test, peak)}
    size = len(zstandard.compress(test.tobytes(), 19))
    curves, absent = [Curve("zstd -19", None, (At("lossless", size / len(test), None),))], []
    for package, kind in kinds.items():
        try:
            importlib.import_module(package)
        except ImportError:
            absent.append(package)
        else:
            curves += kind()
    return curves, tuple(absent)


def _pictures(x: Array, peak: float) -> Iterator[Curve]:
    yield Curve("PNG", None, (_at("lossless", *_with_rows(x, format="PNG", optimize=True), peak),))
    points = (_at(f"quality {each}", *_with_rows(x, format="JPEG", quality=each), peak) for each in QUALITIES)
    yield Curve("JPEG", None, tuple(points))


def _with_rows(x: Array, **settings: Any) -> tuple[int, Array, Array]:
    size, found = as_picture(x, **settings)
    return size, x, found


def _zfp(x: Array, peak: float) -> Iterator[Curve]:
    zfpy = importlib.import_module("zfpy")
    points = []
    for share in TOLERANCES:
        data = zfpy.compress_numpy(np.ascontiguousarray(x), tolerance=share * peak)
        points.append(_at(f"tolerance {share * peak:.3g}", len(data), x, zfpy.decompress_numpy(data), peak))
    yield Curve("zfp", None, tuple(points))


def _fpzip(x: Array, peak: float) -> Iterator[Curve]:
    fpzip = importlib.import_module("fpzip")
    points = []
    for bits in FPZIP_BITS:
        data = fpzip.compress(np.ascontiguousarray(x), precision=bits, order="C")
        points.append(_at(f"{bits} bits", len(data), x, fpzip.decompress(data, order="C").reshape(x.shape), peak))
    yield Curve("fpzip", None, tuple(points))


def _at(setting: str, size: int, x: Array, found: Array, peak: float) -> At:
    mse = float(np.square(found.reshape(x.shape).astype(np.float64) - x).mean())
    return At(setting, size / len(x), 10 * math.log10(peak**2 / mse) if mse else None)


def _finite(psnr: float) -> float | None:
    return psnr if math.isfinite(psnr) else None


def draw(rates: Rates, path: Path) -> None:
    """Draw PSNR over bytes a row; what loses nothing is a line from top to bottom."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    sizes = sorted({curve.size for curve in rates.curves if curve.size is not None})
    shades = dict(zip(sizes, pyplot.get_cmap("viridis")(np.linspace(0, 0.85, len(sizes))), strict=True))
    others = iter(("#c1440e", "#7b2d8b", "#b8860b", QUIET))
    for curve in rates.curves:
        _draw_curve(axes, curve, shades[curve.size] if curve.size is not None else next(others))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(f"bytes a row (raw: {rates.raw_bytes_per_row:g})", color=INK)
    axes.set_ylabel("PSNR in dB", color=INK)
    axes.set_title(f"{rates.data}: {rates.rows} held-out rows; each line {BITS[0]} to {BITS[-1]} bits", color=INK)
    axes.grid(color=QUIET, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_curve(axes: Axes, curve: Curve, colour: Any) -> None:
    lossy = sorted((point.bytes_per_row, point.psnr) for point in curve.points if point.psnr is not None)
    if not lossy:
        axes.axvline(curve.points[0].bytes_per_row, color=colour, linestyle=":", label=f"{curve.codec}, lossless")
        return
    unit = "components" if curve.codec == "PCA" else "latents"
    label = curve.codec if curve.size is None else f"{curve.codec}, {curve.size} {unit}"
    style = {"edgeae": "o-", "PCA": "x--"}.get(curve.codec, "s-")
    axes.plot(*zip(*lossy, strict=True), style, color=colour, label=label, markersize=4, linewidth=1.2)


def load(name: str, *, rows: int, window: int, data_dir: str | None) -> tuple[Array, Array]:
    """Return rows to fit to, and others to store.

    Raises:
        InputError: if there is no such data.
    """
    if name.endswith(".csv"):
        steps = load_data(name, columns=("value",)).x.reshape(-1).astype(np.float32)
        cut = steps[: len(steps) // window * window].reshape(-1, window)
        held = np.arange(len(cut)) % 5 == 4
        return cut[~held], cut[held]
    x = np.asarray(load_data(name, data_dir=data_dir).x)
    x = x[np.random.default_rng(0).permutation(len(x))][:rows]
    return x[len(x) // 5 :], x[: len(x) // 5]


@click.command()
@click.argument("data", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="For the pictures.")
@click.option("--sizes", default="4,8,16,32,64", show_default=True, help="Numbers of latents.")
@click.option("--steps", default=2000, show_default=True, help="Of each training.")
@click.option("--rows", default=20_000, show_default=True, help="Most images to use, a fifth of them held out.")
@click.option("--window", default=32, show_default=True, help="Steps in a row of a series.")
@click.option("--data-dir", help="Folder with the files of named data sets.")
def main(
    data: tuple[str, ...], out: Path, sizes: str, steps: int, rows: int, window: int, data_dir: str | None
) -> None:
    """Draw error against size for DATA, over latent sizes and bit depths."""
    out.mkdir(parents=True, exist_ok=True)
    for source in data:
        name = Path(source).stem
        try:
            train, test = load(source, rows=rows, window=window, data_dir=data_dir)
        except InputError as problem:
            click.echo(f"left out: {problem}")
            continue
        wanted = [int(each) for each in sizes.split(",") if int(each) < math.prod(test.shape[1:])]
        rates = measure(name, train, test, wanted, steps=steps)
        draw(rates, out / f"rate-{name}.png")
        write_file(out / f"rate-{name}.json", to_json(rates))
        made = table(
            f"{name}, {rates.rows} rows of {rates.raw_bytes_per_row:g} bytes", "codec", "setting", ">bytes/row", ">PSNR"
        )
        for curve in rates.curves:
            for point in curve.points:
                label = curve.codec if curve.size is None else f"{curve.codec} {curve.size}"
                made.add_row(label, point.setting, number(point.bytes_per_row), number(point.psnr))
        print_table(made)
        for package in rates.absent:
            click.echo(f"left out: {package} is not installed")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.rate_distortion")
