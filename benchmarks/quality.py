"""Sizes on disk, and how well each precision's scores tell the odd rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cases import Case
from benchmarks.latency import collect
from benchmarks.peers import Array, Setup
from benchmarks.results import Accuracy, Latency, Size
from edgeae.bundle import Bundle
from edgeae.evaluation import auroc, rank_correlation

__all__ = ["measure_accuracy", "measure_sizes"]

CHUNK = 8  # the operator library is for so many rows


def measure_accuracy(
    case: Case, peers: Sequence[str], latency: Sequence[Latency], *, rows: int, device: str = "cpu"
) -> list[Accuracy]:
    """Score up to `rows` normal and odd rows each, in blocks, with every way."""
    normal, odd = (x[: min(rows, len(x)) // CHUNK * CHUNK] for x in (case.rows, case.odd))
    both = np.concatenate([normal, odd])
    wanted = case.expected(both)
    times = {row.way: row.p50 for row in latency if row.model == case.name and row.call == "full"}
    results = []
    for name, way in collect(case, peers, Setup(CHUNK, 1, device=device), []).items():
        parts = [np.array(way.score(both[start : start + CHUNK])) for start in range(0, len(both), CHUNK)]
        scores: Array = np.concatenate(parts)
        results.append(
            Accuracy(
                case.name,
                name,
                way.precision,
                auroc(scores[: len(normal)], scores[len(normal) :]),
                rank_correlation(scores, wanted) if way.same else None,
                times.get(name),
            )
        )
    return results


def measure_sizes(case: Case, peers: Sequence[str], folder: Path) -> list[Size]:
    """Return the bytes of the files that score rows, for every peer that has files."""
    return [Size(case.name, what, count) for what, count in _sizes(case, peers, folder)]


def _sizes(case: Case, peers: Sequence[str], folder: Path) -> Iterator[tuple[str, int]]:
    bundle = Bundle.read(case.bundle)
    for precision, entry in bundle.manifest.precisions.items():
        yield f"edgeae, scorer.onnx, {precision}", entry.scorer.size
    yield "ONNX, encoder and decoder in one graph, fp32", case.graph.stat().st_size
    if "pytorch" in peers:
        import torch

        torch.save(case.model.state_dict(), folder / "weights.pt")
        yield "PyTorch, state_dict, fp32", (folder / "weights.pt").stat().st_size
    if "openvino" in peers:
        import openvino

        yield "OpenVINO IR, fp32", _saved(openvino.Core().read_model(case.graph), folder)
    if "openvino-int8" in peers:
        from benchmarks.peers.vino_int8 import quantised

        yield "OpenVINO IR, int8 (NNCF)", _saved(quantised(case), folder)
    if "litert" in peers:
        from benchmarks.tflite import write

        yield "LiteRT, .tflite, fp32", len(write(case.model, 1))
    if "litert-int8" in peers:
        from benchmarks.peers import litert_int8

        yield "LiteRT, .tflite, int8", len(litert_int8.quantised(case, 1))


def _saved(model: object, folder: Path) -> int:
    import openvino

    path = folder / "model.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path.stat().st_size + path.with_suffix(".bin").stat().st_size
