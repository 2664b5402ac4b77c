"""Mutations of a model: of its bytes, and of what they mean."""

from __future__ import annotations

import random
import struct

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeae.bundle.guard.operators import OPERATORS, Attribute

INTEGERS = (
    *(-(2**63), -(2**31), -(2**16), -9, -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 255, 256, 1000, 65535, 65536, 2**26),
    *(2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1),
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-45, 1e30, -1e30, float("inf"), float("-inf"), float("nan"), 65536.0)
WORDS = (
    *(b"", b"reflect", b"edge", b"wrap", b"constant", b"nearest", b"linear", b"cubic", b"SAME_UPPER", b"VALID"),
    *(b"align_corners", b"tf_crop_and_resize", b"half_pixel", b"floor", b"ceil", b"CRD", b"DCR", b"NOTSET", b"tanh"),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes, spans or the length."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not spoilt:
            break
        at = rng.randrange(len(spoilt))
        span = slice(at, at + rng.choice((1, 2, 4, 8, 32)))
        match rng.randrange(7):
            case 0 | 1:
                spoilt[at] ^= 1 << rng.randrange(8)
            case 2:
                spoilt[at] = rng.randrange(256)
            case 3:
                del spoilt[span]
            case 4:
                spoilt[at:at] = spoilt[span]
            case 5:
                spoilt[at:at] = rng.randbytes(rng.choice((1, 4, 9)))
            case 6:
                spoilt[span] = struct.pack("<q", rng.choice(INTEGERS))[: span.stop - span.start]
    return bytes(spoilt)


def mutate_structure(data: bytes, rng: random.Random) -> bytes:
    """Change one to three things in the graph so that it stays a graph: operators, wires, attributes, weights."""
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(CHANGES)(model.graph, rng)
    if rng.random() < 0.1:
        model.opset_import[0].version = rng.randrange(16, 25)
    spoilt: bytes = model.SerializeToString()
    return spoilt


def _operator(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    node.domain, node.op_type = rng.choice(list(OPERATORS))


def _wire(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    names = [name for each in graph.node for name in each.output] + [tensor.name for tensor in graph.initializer]
    if node.input and rng.random() < 0.7:
        node.input[rng.randrange(len(node.input))] = rng.choice([*names, "x", "", ""])
    elif node.input and rng.random() < 0.5:
        node.input.pop()
    else:
        node.input.append(rng.choice([*names, "x"]))


def _node(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Insert an operator behind an input of another, with attributes and constants of its own."""
    at = rng.randrange(len(graph.node))
    node = graph.node[at]
    (domain, op), operator = rng.choice(list(OPERATORS.items()))
    made = f"made{len(graph.node)}"
    fresh = helper.make_node(op, [], [made], domain=domain)
    for letter in operator.signature.split():
        names = list(node.input[:1]) or ["x"]
        if letter[0] in "KS" or (letter[0] != "B" and fresh.input and rng.random() < 0.5):
            fresh.input.append(_constant(graph, rng, letter))
        else:
            fresh.input.append(rng.choice([*names, "x"]))
    for name, attribute in operator.attributes.items():
        if attribute.required or rng.random() < 0.5:
            fresh.attribute.append(_attribute(name, attribute, rng))
    if node.input:
        node.input[rng.randrange(len(node.input))] = made
    nodes = [*graph.node[:at], fresh, *graph.node[at:]]
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _constant(graph: onnx.GraphProto, rng: random.Random, letter: str) -> str:
    name = f"constant{len(graph.initializer)}"
    shape = [rng.choice((1, 2, 3, 4)) for _ in range(rng.choice((0, 1, 1, 2, 3, 4)))]
    if letter[0] == "K":
        count = rng.choice((1, 1, 2, 3, 4, 6))
        values = np.array([rng.choice(INTEGERS[3:15]) for _ in range(count)], np.int64)
    elif letter[0] == "S":
        values = np.array(
            [1, *(rng.choice((0.3, 0.5, 1, 1.5, 2, 33)) for _ in range(rng.choice((1, 2, 3))))], np.float32
        )
    elif letter[0] in "QD":
        values = np.full(shape, rng.randrange(256), np.uint8)
    else:
        values = np.full(shape, rng.choice(FLOATS), np.float32)
    graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def _attribute(name: str, allowed: Attribute, rng: random.Random) -> onnx.AttributeProto:
    wild = rng.random() < 0.2
    small = [rng.choice((0, 1, 1, 2, 2, 3, 4, 1024)) for _ in range(rng.choice((1, 2, 2, 4)))]
    if allowed.kind == "tensor":
        return helper.make_attribute(name, numpy_helper.from_array(np.array(small, np.int64)))
    if allowed.kind == "ints":
        return helper.make_attribute(name, [rng.choice(INTEGERS) for _ in small] if wild else small)
    if allowed.choices is not None and not wild:
        return helper.make_attribute(name, rng.choice(allowed.choices))
    if allowed.kind == "string":
        return helper.make_attribute(name, rng.choice(WORDS))
    if allowed.kind == "float":
        return helper.make_attribute(name, float(rng.choice(FLOATS)))
    return helper.make_attribute(name, rng.choice(INTEGERS) if wild else rng.randrange(-3, 6))


def _drop(graph: onnx.GraphProto, rng: random.Random) -> None:
    if len(graph.node) > 1:
        del graph.node[rng.randrange(len(graph.node))]


def _setting(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Set an attribute, there or not, to something the table knows or something wild."""
    node = rng.choice(graph.node)
    operator = OPERATORS.get((node.domain, node.op_type))
    if operator is None or not operator.attributes:
        return
    name = rng.choice(list(operator.attributes))
    for index in reversed(range(len(node.attribute))):
        if node.attribute[index].name == name:
            del node.attribute[index]
    node.attribute.append(_attribute(name, operator.attributes[name], rng))


def _weight(graph: onnx.GraphProto, rng: random.Random) -> None:
    """Change the numbers, the shape or the type of a weight."""
    if not graph.initializer:
        return
    tensor = rng.choice(graph.initializer)
    if rng.random() < 0.2:
        tensor.data_type = rng.choice((1, 2, 3, 6, 7, 9, 10, 11))
        return
    try:
        values = numpy_helper.to_array(tensor).copy()
    except (ValueError, TypeError):
        return
    if rng.random() < 0.4:
        shape = list(values.shape)
        if shape and rng.random() < 0.5:
            shape[rng.randrange(len(shape))] = rng.choice((1, 2, 3, 4, 5, 6))
        else:
            shape.insert(0, rng.choice((1, 2, 3)))
        values = np.resize(values, shape)
    elif values.size:
        at = rng.randrange(values.size)
        if values.dtype == np.int64:
            values.flat[at] = rng.choice(INTEGERS)
        elif values.dtype.kind == "f":
            with np.errstate(over="ignore"):
                values.flat[at] = rng.choice(FLOATS)
        else:
            values.flat[at] = rng.randrange(100)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


CHANGES = (_operator, _wire, _node, _node, _node, _drop, _setting, _setting, _setting, _weight, _weight)
