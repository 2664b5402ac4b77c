"""The bundle's three graphs, put together from the two cores.

encoder:  x -> [cast] -> normalise -> encoder core -> z
decoder:  z -> decoder core -> output activation -> denormalise -> x_hat
scorer:   x -> normalise -> encoder core -> decoder core -> error against the normalised x -> score
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from edgeae.bundle.manifest import Input, Normalisation
from edgeae.export.flatten import flat_cores, flat_input, flat_normalisation
from edgeae.export.fold import fold_input, fold_output, shift_folds
from edgeae.export.graph import GraphBuilder
from edgeae.export.int8.fuse import fuse
from edgeae.export.scores import ScoreSpec, add_score

__all__ = ["Cores", "Plan", "assemble", "graph_metadata"]

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Cores:
    """The bare networks at one precision: see `edgeae.export.cores.export_core`."""

    encoder: onnx.GraphProto
    decoder: onnx.GraphProto
    half: bool = False
    quantised: bool = False


@dataclass(frozen=True)
class Plan:
    """What the graphs around the cores shall do; `trust` allows operators that need it to be loaded."""

    input: Input
    normalisation: Normalisation
    latent_dim: int
    sigmoid: bool
    score: ScoreSpec
    batch: int | None
    opset: int
    trust: bool = False


def assemble(role: str, cores: Cores, plan: Plan, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Build the "encoder", "decoder" or "scorer" model.

    Raises:
        ExportError: if the result is not valid ONNX.
    """
    graph = GraphBuilder(plan.opset)
    batch: int | str = plan.batch if plan.batch is not None else "batch"
    rows = (batch, *plan.input.shape)
    latents = (batch, plan.latent_dim)
    if role == "decoder":
        output = _decoder(graph, cores, plan)
        _tidy(graph, cores, output)
        return graph.finish({"z": ("float32", latents)}, {"x_hat": (output, "float32", rows)}, metadata)
    if role == "encoder":
        output = _encoder(graph, cores, plan)
        _tidy(graph, cores, output)
        return graph.finish({"x": (plan.input.dtype, rows)}, {"z": (output, "float32", latents)}, metadata)
    output = _scorer(graph, cores, plan)
    _tidy(graph, cores, output)
    return graph.finish({"x": (plan.input.dtype, rows)}, {"score": (output, "float32", (batch,))}, metadata)


def _tidy(graph: GraphBuilder, cores: Cores, output: str) -> None:
    if cores.quantised:
        graph.prune({output})
        graph.nodes = fuse(graph.nodes, graph.constants, {output})


def graph_metadata(role: str, plan: Plan, *, variant: str, precision: str, threshold: float) -> dict[str, str]:
    """Return the metadata_props with which one .onnx file is enough for a C++ or mobile program."""
    metadata = {
        "edgeae.format_version": "1",
        "edgeae.role": role,
        "edgeae.variant": variant,
        "edgeae.precision": precision,
        "edgeae.input_shape": ",".join(map(str, plan.input.shape)),
        "edgeae.input_dtype": plan.input.dtype,
        "edgeae.layout": plan.input.layout,
        "edgeae.latent_dim": str(plan.latent_dim),
        "edgeae.score": plan.score.kind,
        "edgeae.threshold": repr(threshold),
    }
    if plan.input.feature_names is not None:
        metadata["edgeae.feature_names"] = json.dumps(plan.input.feature_names, ensure_ascii=False)
    return metadata


def _encoder(graph: GraphBuilder, cores: Cores, plan: Plan) -> str:
    factor, offset = _affine(plan)
    core, source = cores.encoder, _as_float(graph, plan)
    folded = None
    if not cores.half and _foldable(plan):
        folded = fold_input(core, factor, offset, plan.input.shape)
    if folded is not None:
        return graph.paste(folded, {"x": source}, "encoder")[0]
    return _run(graph, cores, "encoder", _normalised(graph, plan, source))[0]


def _decoder(graph: GraphBuilder, cores: Cores, plan: Plan) -> str:
    shift, scale = plan.normalisation.arrays(plan.input.shape, plan.input.layout)
    if not plan.sigmoid and not cores.half:
        folded = fold_output(cores.decoder, scale, shift, plan.input.shape)
        if folded is not None:
            return graph.paste(folded, {"z": "z"}, "decoder")[0]
    (value,) = _run(graph, cores, "decoder", "z")
    if plan.sigmoid:
        value = graph.add("Sigmoid", [value])
    if np.any(scale != 1):
        value = graph.add("Mul", [value, graph.constant(_small(scale), "scale")])
    if np.any(shift != 0):
        value = graph.add("Add", [value, graph.constant(_small(shift), "shift")])
    return value


def _scorer(graph: GraphBuilder, cores: Cores, plan: Plan) -> str:
    source = _as_float(graph, plan)
    shape = plan.input.shape
    flat = flat_cores(cores.encoder, cores.decoder, shape) if len(shape) > 1 else None
    if flat is not None:
        cores, plan = replace(cores, encoder=flat[0], decoder=flat[1]), _flat(plan)
        source = graph.add("Reshape", [source, graph.constant(np.array([-1, *plan.input.shape], np.int64), "flat")])
    shared = _shifted_cores(cores, plan)
    if shared is not None:
        # the error is a difference, so both sides may keep the shift: x / scale against out + shift / scale
        cores, target = shared, _scaled(graph, plan, source)
    else:
        target = _normalised(graph, plan, source)
    encoded = _run(graph, cores, "encoder", target)
    z = encoded[0]
    (out,) = _run(graph, cores, "decoder", z)
    return add_score(
        graph,
        plan.score,
        x=target,
        out=out,
        z=z,
        log_var=encoded[1] if len(encoded) > 1 else None,
        row=plan.input.shape,
        latent_dim=plan.latent_dim,
        sigmoid=plan.sigmoid,
        clip=not _within_unit(plan),
    )


def _flat(plan: Plan) -> Plan:
    spread, centre = (None if array is None else array.reshape(-1) for array in (plan.score.spread, plan.score.centre))
    return replace(
        plan,
        input=flat_input(plan.input),
        normalisation=flat_normalisation(plan.normalisation, plan.input),
        score=replace(plan.score, spread=spread, centre=centre),
    )


def _shifted_cores(cores: Cores, plan: Plan) -> Cores | None:
    """Return cores that work on x / scale instead of (x - shift) / scale, where a shift is there and folds."""
    _, offset = _affine(plan)
    if cores.half or plan.sigmoid or not plan.score.of_difference or not np.any(offset) or not _foldable(plan):
        return None
    one = np.ones([1] * len(plan.input.shape), np.float32)
    encoder = fold_input(cores.encoder, one, offset, plan.input.shape)
    decoder = fold_output(cores.decoder, one, -offset, plan.input.shape)
    return Cores(encoder, decoder) if encoder is not None and decoder is not None else None


def _run(graph: GraphBuilder, cores: Cores, role: str, source: str) -> list[str]:
    """Paste a core behind `source`, in float32 on both sides."""
    core = getattr(cores, role)
    name = core.input[0].name
    if not cores.half:
        return graph.paste(core, {name: source}, role)
    half = graph.add("Cast", [source], to=onnx.TensorProto.FLOAT16)
    outputs = graph.paste(core, {name: half}, role)
    return [graph.add("Cast", [output], to=onnx.TensorProto.FLOAT) for output in outputs]


def _as_float(graph: GraphBuilder, plan: Plan) -> str:
    return "x" if plan.input.dtype == "float32" else graph.add("Cast", ["x"], to=onnx.TensorProto.FLOAT)


def _scaled(graph: GraphBuilder, plan: Plan, source: str) -> str:
    factor, _ = _affine(plan)
    if np.all(factor == 1):
        return source
    return graph.add("Mul", [source, graph.constant(_small(factor), "factor")])


def _normalised(graph: GraphBuilder, plan: Plan, source: str) -> str:
    shift, _ = plan.normalisation.arrays(plan.input.shape, plan.input.layout)
    if np.any(shift != 0):
        source = graph.add("Sub", [source, graph.constant(_small(shift), "shift")])
    return _scaled(graph, plan, source)


def _affine(plan: Plan) -> tuple[Array, Array]:
    """Return (factor, offset) with normalised = x * factor + offset."""
    shift, scale = plan.normalisation.arrays(plan.input.shape, plan.input.layout)
    factor = 1 / scale.astype(np.float64)
    return factor.astype(np.float32), (-shift * factor).astype(np.float32)


def _within_unit(plan: Plan) -> bool:
    """Whether every possible input is within 0..1 once normalised."""
    shift, scale = plan.normalisation.arrays(plan.input.shape, plan.input.layout)
    return plan.input.dtype == "uint8" and bool(np.all(shift == 0) and np.all(scale >= 255))


def _foldable(plan: Plan) -> bool:
    return shift_folds(*plan.normalisation.arrays(plan.input.shape, plan.input.layout))


def _small(array: Array) -> Array:
    """Drop a broadcast array to a scalar where it holds one number; ONNX Runtime has a faster path for that."""
    return array.reshape(()) if array.size == 1 else array
