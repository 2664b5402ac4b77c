"""A graph in a loop of ONNX Runtime's own: one run goes over many cache-sized pieces of rows.

Between two runs a thread needs Python's lock, and waits for it where another thread has it. In a loop there is no
Python between one piece and the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from edgeae.bundle.protobuf import graph_attribute, parse_model, write_model

__all__ = ["FLOAT", "INT", "INTS", "UINT8", "looped", "node", "value_info"]

# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: TensorProto.DataType, AttributeProto.AttributeType
FLOAT: Final = 1
UINT8: Final = 2
INT: Final = 2
INTS: Final = 7


def looped(
    data: bytes,
    dtype: np.dtype[Any],
    extend: Callable[[dict[str, Any], str], list[dict[str, Any]]] | None = None,
) -> bytes:
    """Return an ONNX file whose one node runs another file's graph over pieces of rows, one after the other.

    Its first input is the pieces, [pieces, rows, *shape of a row]; its outputs are the graph's for each piece,
    [pieces, *shape of the output].

    Args:
        data: The ONNX file.
        dtype: Of the rows: float32, or uint8, which is converted if the file takes float32.
        extend: Changes the graph and returns what else it needs from outside, the same for all pieces. It gets the
            graph, as bundle/protobuf.py reads it, and what names that are free begin with.

    Example:
        >>> from edgeae.bundle import Bundle
        >>> from edgeae.runtime.ort import ort
        >>> bundle = Bundle.read("export/golden/table")
        >>> file = looped(bundle.graph("fp32", "scorer"), np.dtype(np.float32))
        >>> session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        >>> (pieces,) = session.get_inputs()
        >>> session.run(None, {pieces.name: np.zeros((5, 3, *pieces.shape[2:]), np.float32)})[0].shape
        (5, 3)
    """
    model = parse_model(data)
    body = model["graph"]
    names = {name for each in body["nodes"] for name in (*each["inputs"], *each["outputs"])}
    own = "loop"
    while any(name.startswith(own) for name in names):
        own += "_"
    others = extend(body, own) if extend is not None else []
    source = body["inputs"][0]
    tensor = source["type"]["tensor"]
    if dtype == np.uint8 and tensor["dtype"] == FLOAT:
        cast = node("Cast", (f"{own}.rows",), source["name"], {"name": "to", "type": INT, "int": FLOAT})
        body["nodes"] = [cast, *body["nodes"]]
        source["name"], tensor["dtype"] = f"{own}.rows", UINT8
    loop = node("Scan", (f"{own}.pieces",), "", {"name": "num_scan_inputs", "type": INT, "int": 1})
    loop["attributes"].append(graph_attribute("body", body))
    loop["outputs"] = [f"{own}.{each['name']}.all" for each in body["outputs"]]
    model["graph"] = {
        "name": "looped",
        "nodes": [loop],
        "inputs": [_of_all_pieces(source, f"{own}.pieces"), *others],
        "outputs": [_of_all_pieces(*pair) for pair in zip(body["outputs"], loop["outputs"], strict=True)],
    }
    return write_model(model)


def node(operator: str, inputs: tuple[str, ...], output: str, *attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a node with one output."""
    return {"op": operator, "inputs": inputs, "outputs": [output], "attributes": list(attributes)}


def value_info(name: str, dtype: int, shape: tuple[int | None, ...]) -> dict[str, Any]:
    """Return the description of an input or output; None in its shape is any size."""
    dimensions = [{} if size is None else {"value": size} for size in shape]
    return {"name": name, "type": {"tensor": {"dtype": dtype, "shape": {"dimensions": dimensions}}}}


def _of_all_pieces(value: dict[str, Any], name: str) -> dict[str, Any]:
    tensor = value["type"]["tensor"]
    sizes = (dimension.get("value") for dimension in tensor["shape"]["dimensions"])
    return value_info(name, tensor["dtype"], (None, *sizes))
