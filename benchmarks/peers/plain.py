"""ONNX Runtime as its tutorial has it: a session with default options, `run`, the error in NumPy.

Source: https://onnxruntime.ai/docs/get-started/with-python.html
"""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime

from benchmarks.cases import Case
from benchmarks.peers import Array, Setup, Way, mean_square
from edgeae.errors import DeviceError

DEFAULT = "ONNX Runtime, default session"


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """One graph that reconstructs and, for one row, an encoder and a decoder apart."""
    # On a GPU as precise as the others are: TF32 would be other numbers.
    cuda = (
        "CUDAExecutionProvider",
        {"device_id": setup.device.removeprefix("cuda").lstrip(":") or "0", "use_tf32": "0"},
    )
    providers = ["CPUExecutionProvider"] if setup.device == "cpu" else [cuda]
    if setup.device != "cpu":
        onnxruntime.preload_dlls()

    def open_session(path: str) -> onnxruntime.InferenceSession:
        session = onnxruntime.InferenceSession(path, providers=providers)
        if setup.device != "cpu" and session.get_providers()[0] != cuda[0]:
            raise DeviceError(f"{setup.device}: {path} does not run there")
        return session

    session = open_session(str(case.graph))
    name = session.get_inputs()[0].name

    def score(rows: Array) -> Array:
        return mean_square(rows, session.run(None, {name: rows})[0])

    rows = case.batch(setup.batch)
    yield Way(DEFAULT, score, lambda: session.run(None, {name: rows}), lambda: score(rows))

    if setup.bulk:
        return
    encoder, decoder = (open_session(str(case.bundle / f"{role}.onnx")) for role in ("encoder", "decoder"))

    def score_in_two(rows: Array) -> Array:
        z = encoder.run(None, {"x": rows})[0]
        return mean_square(rows, decoder.run(None, {"z": z})[0])

    yield Way("ONNX Runtime, encoder and decoder", score_in_two)
