"""Folders of images and single image files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeae.data import load_data
from edgeae.errors import InputError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (4, 6), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)


def save(path: Path, pixels: Any, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(np.asarray(pixels))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("pixels", "suffix", "layout"),
    [
        *((GRAY, suffix, "HW") for suffix in (".png", ".BMP", ".tif", ".pgm")),
        *((COLOUR, suffix, "HWC") for suffix in (".png", ".ppm", ".tiff")),
    ],
)
def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path, pixels: Any, suffix: str, layout: str) -> None:
    for index, name in enumerate(("b", "a", "c")):
        save(tmp_path / f"{name}{suffix}", (pixels + np.uint8(index)))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("nor this")
    data = load_data(tmp_path)
    assert (data.layout, data.x.dtype, data.source) == (layout, np.uint8, tmp_path.name)
    np.testing.assert_array_equal(data.x, np.stack([pixels + np.uint8(index) for index in (1, 0, 2)]))
    one = load_data(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(one.x, data.x[:1])


def test_pixels_of_other_modes_become_gray_or_rgb(tmp_path: Path) -> None:
    def read(pixels: Any, mode: str, name: str = "x.png") -> Any:
        return load_data(save(tmp_path / name, pixels, mode)).x[0]

    np.testing.assert_array_equal(read(GRAY, "1"), np.asarray(Image.fromarray(GRAY).convert("1")) * np.uint8(255))
    np.testing.assert_array_equal(read(GRAY, "LA"), GRAY)
    np.testing.assert_array_equal(read(COLOUR, "RGBA"), COLOUR)
    web = COLOUR // 128 * 51  # colours of the palette that Pillow takes
    np.testing.assert_array_equal(read(web, "P"), web)
    np.testing.assert_array_equal(read(GRAY, "P", "x.gif"), np.dstack([GRAY] * 3))
    assert read(COLOUR, "CMYK", "x.jpg").shape == (4, 6, 3)


def test_deep_grayscale_keeps_its_values(tmp_path: Path) -> None:
    deep = np.array([[0, 256], [40_000, 65_535]], np.uint16)
    for name in ("x.png", "x.tif"):
        data = load_data(save(tmp_path / name, deep))
        assert data.x.dtype == np.float32
        np.testing.assert_array_equal(data.x[0], deep)
    fine = np.array([[0.25, -3.5]], np.float32)
    np.testing.assert_array_equal(load_data(save(tmp_path / "f.tif", fine)).x[0], fine)
    with pytest.raises(InputError, match=r"\[0, 0, 1\] is missing"):
        load_data(save(tmp_path / "n.tif", np.array([[0.25, np.nan]], np.float32)))


def test_deep_colour_is_refused_since_pillow_would_cut_it(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">3H", 1000, 2000, 3000))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(png)
    with pytest.raises(InputError, match="16 bits per colour channel"):
        load_data(tmp_path / "x.png")


def test_the_orientation_a_camera_recorded_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    save(tmp_path / "x.png", GRAY, exif=exif)
    np.testing.assert_array_equal(load_data(tmp_path / "x.png").x[0], np.rot90(GRAY, -1))


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    pixels = np.dstack([COLOUR, np.full((4, 6), 255, np.uint8)])
    pixels[1, 2, 3] = 254
    with pytest.raises(InputError, match=r"x\.png: has transparent pixels"):
        load_data(save(tmp_path / "x.png", pixels))


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"x\.gif: animated"):
        load_data(tmp_path / "x.gif")


@pytest.mark.parametrize(
    ("other", "message"),
    [(GRAY[:3], r"b\.png: 6x3 grayscale uint8, but a\.png is 6x4 grayscale uint8"), (COLOUR, "6x4 colour uint8, but")],
)
def test_images_that_differ_are_named(tmp_path: Path, other: Any, message: str) -> None:
    save(tmp_path / "a.png", GRAY)
    save(tmp_path / "b.png", other)
    with pytest.raises(InputError, match=message):
        load_data(tmp_path)


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", GRAY)
    whole = path.read_bytes()
    for content in (whole[:40], whole[:-30], b"text", whole[:50] + b"\0" * 20 + whole[70:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.png: not a readable image"):
            load_data(path)


def test_folders_without_images_get_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without images; it needs files ending in \.png"):
        load_data(tmp_path)
    (tmp_path / "t.csv").write_text("1,2\n")
    with pytest.raises(InputError, match="give the path of that file"):
        load_data(tmp_path)
    (tmp_path / "good").mkdir()
    save(tmp_path / "good" / "x.png", GRAY)
    with pytest.raises(InputError, match=r"for instance .*good"):
        load_data(tmp_path)
    (tmp_path / "manifest.json").touch()
    with pytest.raises(InputError, match="an edgeae bundle or run directory"):
        load_data(tmp_path)
