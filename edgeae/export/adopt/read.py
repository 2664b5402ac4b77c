"""Foreign ONNX files as models in memory: weights inline, nothing but the computation kept, one of our opsets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, external_data_helper, helper, inliner, numpy_helper, version_converter

from edgeae.bundle.guard.check import OPSETS
from edgeae.bundle.manifest import MAX_FILE_BYTES
from edgeae.errors import ExportError, InputError

__all__ = ["modern", "nodes_of", "read_model"]

# from these on, the upgrade would have to guess
_OLDEST_OPSET = 7
_BYTES: dict[int, int] = {TensorProto.FLOAT16: 2, TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8, TensorProto.INT64: 8}


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with all of its weights inline, and without names of files, people or source lines.

    Weights in other files are read from the folder of the model only: no absolute path, no "..", no link out of it.

    Raises:
        InputError: if the file, or one that it keeps weights in, is missing or no ONNX.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror or problem}") from None
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path}: {size:,} bytes are more than one ONNX file can hold ({MAX_FILE_BYTES:,})")
    if data[4:8] == b"ORTM":
        raise InputError(f"{path}: is in ORT format, which cannot be cut; give the .onnx file that it was made from")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputError(f"{path}: is no ONNX file, or not a whole one") from None
    if not model.graph.node:
        raise InputError(f"{path}: is no ONNX model: it holds no graph")
    _inline_weights(model, path)
    return _stripped(model)


def _inline_weights(model: onnx.ModelProto, path: Path) -> None:
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        place = external_data_helper.ExternalDataInfo(tensor).location
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except (onnx.checker.ValidationError, OSError, ValueError) as problem:
            folder = path.parent.resolve()
            inside = not Path(place).is_absolute() and (folder / place).resolve().is_relative_to(folder)
            if inside and not (folder / place).exists():
                raise InputError(
                    f"{path}: keeps weights in {place!r}, which is not beside it; copy that file there too"
                ) from None
            raise InputError(
                f"{path}: its weights in {place!r} cannot be read: {str(problem).splitlines()[0]}"
            ) from None
        wanted = _BYTES.get(tensor.data_type, 0)
        for side in tensor.dims:
            wanted *= side
        if wanted and len(tensor.raw_data) != wanted:
            raise InputError(
                f"{path}: {place!r} holds {len(tensor.raw_data):,} of {wanted:,} bytes of the tensor {tensor.name!r}; "
                "copy it again"
            )
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in (*nodes_of(model.graph), *(each for function in model.functions for each in function.node)):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.type == AttributeProto.GRAPH else []), *attribute.graphs):
                yield from nodes_of(inner)


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    clean = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    clean.graph.CopyFrom(model.graph)
    for field in ("value_info", "metadata_props", "doc_string", "quantization_annotation"):
        clean.graph.ClearField(field)
    for item in (*nodes_of(clean.graph), *clean.graph.initializer, *clean.graph.input, *clean.graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    return clean


def modern(model: onnx.ModelProto, where: str, least: int | None = None) -> onnx.ModelProto:
    """Return the model in one of the opsets that bundles have, without functions, its constants as initializers.

    Raises:
        ExportError: if it cannot be converted.
    """
    if model.functions:
        model = inliner.inline_local_functions(model, convert_version=True)
    versions = {each.domain: each.version for each in model.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0)) or OPSETS[0]
    wanted = min(max(opset, least or OPSETS[0]), OPSETS[-1])
    if wanted != opset:
        if opset < _OLDEST_OPSET:
            raise ExportError(f"{where}: opset {opset} is too old to convert; export it with {_OLDEST_OPSET} or later")
        try:
            model = version_converter.convert_version(model, wanted)
        except (RuntimeError, ValueError) as problem:  # the converter raises nothing more precise
            reason = re.sub(r".*?: ", "", str(problem).splitlines()[0], count=1) or "no reason given"
            raise ExportError(
                f"{where}: opset {opset} cannot be converted to {wanted}: {reason[:200]}; export it with opset {wanted}"
            ) from None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for node in model.graph.node:
        constant = _constant(node)
        if constant is None:
            made.graph.node.append(node)
        else:
            made.graph.initializer.append(constant)
    names = {tensor.name for tensor in made.graph.initializer}
    inputs = [value for value in made.graph.input if value.name not in names]
    del made.graph.input[:]
    made.graph.input.extend(inputs)
    return made


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return what a Constant node holds, under the name of its output."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.attribute:
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    kinds = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    if attribute.name not in kinds:
        return None
    return numpy_helper.from_array(np.array(value, kinds[attribute.name]), node.output[0])
