"""LiteRT (TensorFlow Lite) with XNNPACK: an equivalent network, the same weights, written by benchmarks/tflite.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.cases import Case
from benchmarks.peers import Array, Setup, Way
from benchmarks.tflite import write

__all__ = ["interpreted", "ways"]


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """Set, invoke, get and the NumPy error; bare: invoke."""
    yield interpreted("LiteRT, fp32", write(case.model, setup.batch), case, setup, "fp32")


def interpreted(name: str, data: bytes, case: Case, setup: Setup, precision: str) -> Way:
    """Return the way through an interpreter of a .tflite file."""
    interpreter = Interpreter(model_content=data, num_threads=setup.threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    width = case.rows[0].size

    def score(rows: Array) -> Array:
        interpreter.set_tensor(source, rows)
        interpreter.invoke()
        # einsum is the fastest way to the error that NumPy has: nobody shall say that LiteRT was slowed down
        difference = (rows - interpreter.get_tensor(target)).reshape(len(rows), width)
        error: Array = np.einsum("ij,ij->i", difference, difference) / width
        return error

    rows = case.batch(setup.batch)
    score(rows)
    return Way(name, score, interpreter.invoke, lambda: score(rows), precision=precision)
