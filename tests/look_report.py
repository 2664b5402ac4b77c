"""Look at reports in a real browser: `python -m tests.look_report -o FOLDER [REPORT.html ...]`.

Without reports it makes four, of a table with labelled anomalies, of digits, of windows of a series from a generative
model, and of digits that are restored. Each is opened in headless Chromium in light and dark, on a phone and as it
prints; the pictures are left in FOLDER to be looked at. Exits with 1 if a page asks for anything from outside,
complains, is wider than its window or has text too small to read. FOLDER/split.png, the first report half light and
half dark, is what docs/report.png shows.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from edgeae.data.dataset import Dataset
from edgeae.report import write_report
from tests.browser import Browser, Look, find_chromium
from tests.bundles import Recipe, make_bundle
from tests.make_golden import GOLDEN, sensor_table

SMALLEST_TEXT = 11.0
# name -> width in CSS pixels, dark, medium
VIEWS = {
    "light": (1100, False, "screen"),
    "dark": (1100, True, "screen"),
    "phone": (360, False, "screen"),
    "print": (720, True, "print"),
}


def sensors() -> Dataset:
    """Return the rows that the golden table was trained on, with a broken sensor in one of twelve."""
    x = sensor_table()
    y = (np.arange(len(x)) % 12 == 0).astype(np.int64)
    broken = np.flatnonzero(y)
    x[broken, broken % 10] *= np.linspace(0.2, 1.9, len(broken), dtype=np.float32)
    return Dataset(x, y, "vector", source="sensors.csv")


def make_reports(folder: Path) -> list[Path]:
    """Write a report for each kind of rows that there is, of generative and denoising models among them."""
    network = make_bundle(folder / "windows", Recipe((48, 3), "TC", latent_dim=6, generative=True))
    write_report(GOLDEN / "table", sensors(), folder / "table.html", force=True)
    write_report(GOLDEN / "convolutional", "digits", folder / "digits.html", force=True)
    write_report(folder / "windows", network.rows(300), folder / "windows.html", force=True)
    write_report(GOLDEN / "denoising", "digits", folder / "denoising.html", force=True)
    return [folder / f"{name}.html" for name in ("table", "digits", "windows", "denoising")]


def problems(look: Look, width: int) -> list[str]:
    """Return what is wrong with a page in a window of `width` pixels."""
    found = [f"asks for {address}" for address in look.requests]
    found += [f"the browser says {message}" for message in look.messages]
    if look.width > width:
        found.append(f"is {look.width} pixels wide in a window of {width}")
    if look.smallest_text < SMALLEST_TEXT:
        found.append(f"has text of {look.smallest_text} pixels")
    return found


def split(light: bytes, dark: bytes, height: int = 1180) -> Image.Image:
    """Return the top of a page, its left half from one picture and its right half from another, in a few colours."""
    left, right = (Image.open(io.BytesIO(data)).convert("RGB") for data in (light, dark))
    middle = left.width // 2
    made = left.crop((0, 0, left.width, height))
    made.paste(right.crop((middle, 0, right.width, height)), (middle, 0))
    return made.quantize(96)


def main(given: list[str] | None = None) -> int:
    """Take the pictures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("reports", type=Path, nargs="*", metavar="REPORT.html")
    arguments = parser.parse_args(given)
    chromium = find_chromium()
    if chromium is None:
        parser.error("no Chromium here; install one (apt install chromium)")
    arguments.output.mkdir(parents=True, exist_ok=True)
    failed = False
    with Browser(chromium) as browser:
        pictures: dict[str, bytes] = {}
        for report in arguments.reports or make_reports(arguments.output):
            for name, (width, dark, media) in VIEWS.items():
                look = browser.look(report, width=width, dark=dark, media=media, scale=2 if name == "phone" else 1)
                picture = arguments.output / f"{report.stem}-{name}.png"
                picture.write_bytes(look.picture)
                pictures.setdefault(name, look.picture)
                wrong = problems(look, width)
                failed = failed or bool(wrong)
                sys.stdout.write(f"{picture}: {'; '.join(wrong) or 'ok'}\n")
    split(pictures["light"], pictures["dark"]).save(arguments.output / "split.png", optimize=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
