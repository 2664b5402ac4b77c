"""The golden latent files, which every reader in every language must read, come out as they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("zstandard", reason="needs zstandard: pip install 'edgeae[codec]'")

import edgeae
from edgeae.codec import LatentReader
from tests.make_golden import GOLDEN
from tests.make_golden_latents import CASES, LATENTS, make


def check(name: str, folder: Path) -> None:
    """Compare what comes out of a file with what lies beside it."""
    with LatentReader(folder / f"{name}.eae") as latents:
        header = latents.header
        assert np.array_equal(latents.latents(), np.load(folder / f"{name}.latents.npy"))
    with (
        edgeae.load(GOLDEN / name.split(".")[0], device="cpu", precision=header.precision) as model,
        LatentReader(folder / f"{name}.eae", model) as reader,
    ):
        rows, wanted = reader.read(), np.load(folder / f"{name}.rows.npy")
        assert rows.dtype == wanted.dtype and rows.shape == wanted.shape == (sum(CASES[name].chunks), *header.shape)
        if header.bound == "none":
            tolerance = model.bundle.entry(header.precision).tolerance["x_hat"]
            assert np.allclose(rows, wanted, rtol=tolerance.rtol, atol=tolerance.atol)
        else:
            assert np.array_equal(rows, wanted)


@pytest.mark.parametrize("name", CASES)
def test_golden_latent_files_come_out_as_they_did(name: str) -> None:
    check(name, LATENTS)


def test_every_file_in_the_folder_is_one_of_them() -> None:
    assert {path.stem for path in LATENTS.glob("*.eae")} == set(CASES)
    assert sum(path.stat().st_size for path in LATENTS.iterdir()) < 200_000


@pytest.mark.parametrize("name", ["table.max-error", "table.int4-sparse", "dense.lossless-known"])
def test_they_can_be_made_again(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    check(name, tmp_path)
    x, again = (np.load(folder / f"{name}.rows.npy") for folder in (LATENTS, tmp_path))
    assert np.allclose(x.astype(float), again.astype(float), rtol=1e-3, atol=1)
