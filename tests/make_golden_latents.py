"""Make the latent files in export/golden-latents/ again: `python -m tests.make_golden_latents`.

Small files of every kind with what must come out of them, for every reader in every language. Run it after a change of
the format only: file ids are random, and what is there is what other versions must go on reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

import edgeae
from edgeae.codec import LatentReader, LatentWriter
from edgeae.codec.chunk_writer import ChunkWriter
from edgeae.codec.coders import Coder
from edgeae.codec.latents import pack_latents
from edgeae.codec.settings import Settings, make_header
from tests.make_golden import GOLDEN

LATENTS = GOLDEN.parent / "golden-latents"
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A golden latent file.

    Attributes:
        bundle: The golden bundle that writes it.
        settings: Of the writer.
        precision: Of the graphs.
        dtype: Of the rows.
        chunks: Rows in each.
        rows: "usual": like the golden ones; "known": what the model gives back, with a row changed; "strange": some
            far from anything; "sparse": decoded from latents that are mostly 0, which are written as they are.
    """

    bundle: str
    settings: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    dtype: str = "float32"
    chunks: tuple[int, ...] = (12, 1, 7)
    rows: Literal["usual", "known", "strange", "sparse"] = "usual"


CASES = {
    "table.float32": Case("table", {"dtype": "float32"}),
    "table.float16": Case("table", {"dtype": "float16"}),
    "table.int8": Case("table", {"dtype": "int8"}, chunks=(130, 1, 7)),
    "table.int4": Case("table", {"dtype": "int4"}, chunks=(60, 5)),
    "table.int2": Case("table", {"dtype": "int2"}, chunks=(40, 5)),
    "table.empty": Case("table", chunks=()),
    "table.of-int8-graphs": Case("table", {"dtype": "int5"}, precision="int8"),
    "table.of-fp16-graphs": Case("table", precision="fp16"),
    "table.max-error": Case("table", {"max_error": 0.01}),
    "table.max-error-strange": Case("table", {"max_error": 3.0, "dtype": "int2"}, rows="strange"),
    "table.max-mse": Case("table", {"target_psnr": 60.0, "dtype": "int4"}),
    "table.int8-sparse": Case("table", {"dtype": "int8"}, chunks=(200, 80), rows="sparse"),
    "table.int4-sparse": Case("table", {"dtype": "int4"}, chunks=(200, 80), rows="sparse"),
    "dense.float32": Case("dense", {"dtype": "float32"}),
    "dense.max-error": Case("dense", {"max_error": 1.5}, dtype="uint8"),
    "dense.max-mse": Case("dense", {"target_psnr": 30.0, "dtype": "float16"}, dtype="uint8"),
    "dense.max-error-known": Case("dense", {"max_error": 0.25, "dtype": "float32"}, rows="known"),
    "dense.lossless-known": Case("dense", {"lossless": True, "dtype": "float32"}, dtype="uint8", rows="known"),
    "dense.lossless": Case("dense", {"lossless": True}, dtype="uint8"),
    "dense.lossless-float32": Case("dense", {"lossless": True, "dtype": "float32"}),
    "dense-uint8-batch1.max-error": Case("dense-uint8-batch1", {"max_error": 2.0}, dtype="uint8"),
    "sparse.float32": Case("sparse", {"dtype": "float32"}, chunks=(12, 7)),
    "sparse.float16": Case("sparse", {"dtype": "float16"}, chunks=(12, 7)),
    "sparse.int8": Case("sparse", {"dtype": "int8"}, chunks=(30, 7)),
    "sparse.int4": Case("sparse", {"dtype": "int4"}, chunks=(30, 7)),
    "sparse.lossless": Case("sparse", {"lossless": True, "dtype": "int4"}, dtype="uint8", chunks=(12, 7)),
    "convolutional.max-error": Case("convolutional", {"max_error": 4.0, "dtype": "int6"}, dtype="uint8"),
}


def rows_of(model: edgeae.Autoencoder, case: Case) -> Array:
    """Return rows of the kind that a case asks for; whole numbers from 0 to 255 for uint8 and for lossless."""
    rng, count = np.random.default_rng(0), sum(case.chunks)
    golden = model.bundle.golden(case.precision).x
    rows = golden[rng.integers(0, len(golden), count)].astype(np.float64)
    if case.rows == "known":
        for _ in range(100):
            rows = model.reconstruct(rows).astype(np.float64)
        rows[1, ..., 2:4] += 20
    else:
        rows += rng.normal(0, 0.1, rows.shape) * (golden.std(axis=0) + 1e-3)
    if case.rows == "strange":
        rows[: count // 2] = 1e3 * rng.normal(size=rows[: count // 2].shape)
        rows[3, ..., 0] = 3e9  # beyond every grid: stored as it is
    if case.dtype == "uint8" or "lossless" in case.settings:
        rows = np.clip(np.rint(rows), 0, 255)
    return rows.astype(case.dtype)


def write_sparse(path: Path, model: edgeae.Autoencoder, case: Case) -> None:
    """Write latents of which few are not 0, and one is far from the others."""
    rng, settings = np.random.default_rng(0), Settings(**case.settings)
    path.unlink(missing_ok=True)
    with ChunkWriter(path) as file:
        header = make_header(model, settings, np.empty(0, case.dtype))
        file.begin(header)
        for count in case.chunks:
            z = rng.normal(size=(count, model.latent_dim)).astype(np.float32)
            z[rng.random(z.shape) > 0.05] = 0
            z[count // 2, 1] = 1e5 if file.chunks else 1
            file.write(pack_latents(Coder(), z, header.bits)[0], count)


def make(name: str, out: Path) -> None:
    """Write the golden latent file `name`, the rows and the latents that come out of it into the folder `out`."""
    case = CASES[name]
    path = out / f"{name}.eae"
    with edgeae.load(GOLDEN / case.bundle, device="cpu", precision=case.precision, options={"workers": 1}) as model:
        if case.rows == "sparse":
            write_sparse(path, model, case)
        else:
            rows, start = rows_of(model, case), 0
            with LatentWriter(path, model, force=True, **case.settings) as writer:
                for count in case.chunks:
                    writer.write(rows[start : start + count])
                    writer.flush()
                    start += count
        with LatentReader(path, model) as reader:
            np.save(out / f"{name}.rows.npy", reader.read())
            np.save(out / f"{name}.latents.npy", reader.latents())


def main() -> None:
    """Make all of them."""
    LATENTS.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        make(name, LATENTS)


if __name__ == "__main__":
    main()
