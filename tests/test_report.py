"""Figures: every layout, every format, wrong names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeae.bundle.manifest import Layout, Normalisation
from edgeae.errors import InputError
from edgeae.report import draw_reconstructions, draw_rows, draw_scores

SHAPES: dict[Layout, tuple[int, ...]] = {
    "vector": (12,),
    "HW": (9, 7),
    "CHW": (3, 9, 7),
    "HWC": (9, 7, 3),
    "TC": (20, 2),
}


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("count", [1, 3, 12])
def test_rows_of_every_layout_are_drawn(tmp_path: Path, layout: Layout, count: int) -> None:
    rows = np.random.default_rng(0).random((count, *SHAPES[layout])).astype(np.float32)
    draw_reconstructions(tmp_path / "a.png", rows, rows / 2, layout=layout, scores=np.arange(count), title="title")
    draw_rows(tmp_path / "b.png", rows, layout=layout)
    both, alone = (_pixels(tmp_path / name) for name in ("a.png", "b.png"))
    assert both.std() > 5 and alone.std() > 5  # something is drawn
    assert both.shape[0] > alone.shape[0] or layout in ("vector", "TC")


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((3, 8, 8))
    for name in ("one", "other"):
        for suffix in (".png", ".pdf"):
            draw_reconstructions(tmp_path / f"{name}{suffix}", rows, rows, layout="HW")
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"other{suffix}").read_bytes()


def test_features_of_different_units_share_an_axis(tmp_path: Path) -> None:
    units = np.array([1e-3, 1.0, 1e3])
    rows = np.random.default_rng(0).random((2, 3)) * units
    normalisation = Normalisation("standard", (0.0, 0.0, 0.0), tuple(units.tolist()))
    draw_reconstructions(tmp_path / "raw.png", rows, rows, layout="vector")
    draw_reconstructions(tmp_path / "scaled.png", rows, rows, layout="vector", normalisation=normalisation)
    assert (tmp_path / "raw.png").read_bytes() != (tmp_path / "scaled.png").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_scores_are_drawn_in_every_format(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(0)
    groups = {"normal": generator.random(100) + 0.1, "anomalies": np.append(generator.random(50) + 5, np.nan)}
    draw_scores(tmp_path / f"s{suffix}", groups, 1.0, kind="mse", title="scores")
    assert (tmp_path / f"s{suffix}").stat().st_size > 1000


def test_scores_below_zero_and_all_equal_scores_are_drawn(tmp_path: Path) -> None:
    draw_scores(tmp_path / "s.png", {"a": np.array([-5.0, 3.0]), "b": np.zeros(3)}, 0.0, kind="elbo")
    draw_scores(tmp_path / "t.png", {"a": np.ones(4)}, 1.0, kind="mse")


def test_wrong_figures_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    rows = np.zeros((2, 3))
    with pytest.raises(InputError, match=r"\.png"):
        draw_rows(tmp_path / "a.gif", rows, layout="vector")
    with pytest.raises(InputError, match="no rows"):
        draw_rows(tmp_path / "a.png", rows[:0], layout="vector")
    with pytest.raises(InputError, match="as many rows"):
        draw_reconstructions(tmp_path / "a.png", rows, rows[:1], layout="vector")
    with pytest.raises(InputError, match="no finite"):
        draw_scores(tmp_path / "a.png", {"a": np.array([np.nan])}, 1.0, kind="mse")
    with pytest.raises(InputError, match="cannot be written"):
        draw_rows(tmp_path / "nowhere" / "a.png", rows, layout="vector")
    assert not list(tmp_path.iterdir())
