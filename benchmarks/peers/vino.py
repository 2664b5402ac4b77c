"""OpenVINO: the reconstruction graph with the error added to it, compiled for a fixed batch, with requests bound to
their buffers.

On processors with AMX it computes in bfloat16 unless told otherwise; both are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as operators

from benchmarks.cases import Case
from benchmarks.peers import Array, Bulk, Setup, Way, mean_square

__all__ = ["bulk", "compiled_ways", "queued", "ways"]


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """The latency hint, in fp32 and in the precision that OpenVINO chooses."""
    model = openvino.Core().read_model(case.graph)
    yield from compiled_ways(case, setup, model, "fp32", {"INFERENCE_PRECISION_HINT": "f32"})
    if chooses_bfloat16(model, case, setup):
        yield from compiled_ways(case, setup, model, "bf16", {"INFERENCE_PRECISION_HINT": "bf16"})


def compiled_ways(
    case: Case, setup: Setup, model: openvino.Model, precision: str, settings: dict[str, str]
) -> Iterator[Way]:
    """Yield a request whose output is the score and, for one row, one whose output is the reconstruction."""
    suffix = "" if precision == "fp32" else f", {precision}"
    rows = case.batch(setup.batch)
    fused = compile_model(with_error(model), case, setup, settings).create_infer_request()
    place, scores = _bind(fused, rows)

    def score_fused(rows: Array) -> Array:
        np.copyto(place, rows)
        fused.infer()
        return scores.copy()

    yield Way(f"OpenVINO, error in graph{suffix}", score_fused, fused.infer, scores.copy, precision=precision)
    if setup.bulk or precision == "bf16":
        return

    request = compile_model(model, case, setup, settings).create_infer_request()
    source, target = _bind(request, rows)

    def score(rows: Array) -> Array:
        np.copyto(source, rows)
        request.infer()
        return mean_square(rows, target)

    yield Way(
        f"OpenVINO, NumPy error{suffix}", score, request.infer, lambda: mean_square(source, target), precision=precision
    )


def bulk(case: Case, setup: Setup) -> Iterator[Bulk]:
    """A queue of requests under the throughput hint, in both precisions."""
    model = openvino.Core().read_model(case.graph)
    yield from queued(case, setup, model, "fp32", {"INFERENCE_PRECISION_HINT": "f32"})
    if chooses_bfloat16(model, case, setup):
        yield from queued(case, setup, model, "bf16", {"INFERENCE_PRECISION_HINT": "bf16"})


def queued(case: Case, setup: Setup, model: openvino.Model, precision: str, settings: dict[str, str]) -> Iterator[Bulk]:
    """Yield an `AsyncInferQueue` of as many requests as OpenVINO finds best; rows are read where they lie."""
    compiled = compile_model(with_error(model), case, setup, settings, "THROUGHPUT")
    queue = openvino.AsyncInferQueue(compiled)

    def finish(request: Any, place: tuple[Array, int]) -> None:
        out, start = place
        out[start : start + setup.batch] = request.get_output_tensor().data

    queue.set_callback(finish)

    def run(rows: Array, out: Array) -> None:
        for start in range(0, len(rows), setup.batch):
            block = openvino.Tensor(rows[start : start + setup.batch], shared_memory=True)
            queue.start_async({0: block}, (out, start))
        queue.wait_all()

    suffix = "" if precision == "fp32" else f", {precision}"
    yield Bulk(f"OpenVINO, async queue{suffix}", run, setup.batch, precision)


def chooses_bfloat16(model: openvino.Model, case: Case, setup: Setup) -> bool:
    """Tell whether OpenVINO computes in bfloat16 on this processor when nobody says otherwise."""
    compiled = compile_model(with_error(model), case, setup, {})
    return "bf16" in str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())


def with_error(model: openvino.Model) -> openvino.Model:
    """Return a copy of a reconstructing model that returns the mean square error of each row."""
    copied = model.clone()
    x, x_hat = copied.inputs[0], copied.outputs[0].get_node().input_value(0)
    error = operators.squared_difference(x_hat, x.get_node())
    axes = np.arange(1, len(x.get_partial_shape()), dtype=np.int64)
    score = operators.reduce_mean(error, operators.constant(axes), keep_dims=False)
    return openvino.Model([score], [x.get_node()], "score")


def compile_model(
    model: openvino.Model, case: Case, setup: Setup, settings: dict[str, str], hint: str = "LATENCY"
) -> openvino.CompiledModel:
    """Compile for the setup's batch and threads."""
    fixed = model.clone()
    fixed.reshape([setup.batch, *case.rows.shape[1:]])
    given = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": str(setup.threads)} | settings
    return openvino.Core().compile_model(fixed, "CPU", given)


def _bind(request: Any, rows: Array) -> tuple[Array, Array]:
    """Give a request an input and an output buffer; return both."""
    source = rows.copy()
    request.set_input_tensor(openvino.Tensor(source, shared_memory=True))
    request.infer()
    target = np.empty(tuple(request.get_output_tensor().shape), np.float32)
    request.set_output_tensor(openvino.Tensor(target, shared_memory=True))
    return source, target
