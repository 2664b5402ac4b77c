"""Is a graph a dense chain? Read backwards from its output, node by node; whatever is not understood is no chain.

What is recognised: the scorers, encoders and decoders that edgeae exports for dense models, in fp32 and in int8
(QuantizeLinear, a chain of QGemm, floats), and what a plain `MatMul` and `Add` make of the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from edgeae.runtime.native.chain import Array, Chain, Distance, Divergence
from edgeae.runtime.native.layers import Heads, NoChain, Reader

__all__ = ["recognise"]


class Term(NamedTuple):
    """What a score adds up.

    Attributes:
        kind: "squared", "absolute" or "plain": what is added up over a row; "smallest" of a row; "number".
        name: The value that it is made of.
        factor: What it is multiplied by, or the number.
        mean: Whether it is divided by how many values a row has, which `factor` contains.
    """

    kind: str
    name: str
    factor: float
    mean: bool = False


def recognise(model: Mapping[str, Any]) -> Chain | None:
    """Return what a graph (from `parse_model`, after the guard) computes, or None if that is no dense chain."""
    graph = model["graph"]
    if len(graph["inputs"]) != 1 or len(graph["outputs"]) != 1:
        return None
    try:
        reader = Reader(graph)
        return _score(reader) if len(reader.out_row) == 0 else _values(reader)
    except NoChain:
        return None


def _values(reader: Reader) -> Chain:
    """Match what an encoder or a decoder gives."""
    name, constants = reader.target, {}
    for constant, op in (("out_shift", "Add"), ("out_factor", "Mul")):
        node = reader.makers.get(reader.moved(name))
        if node is not None and node["op"] == op and reader.has_constant(node) and reader.is_affine(node):
            name, value = reader.with_constant(node)
            constants[constant] = reader.along(value, reader.out_row)
    chain, _ = reader.chain(name, None)
    return replace(chain, constants={**chain.constants, **constants})


def _score(reader: Reader) -> Chain:
    terms = _totals(reader, reader.target, 1.0)
    shift = sum(term.factor for term in terms if term.kind == "number")
    terms = [term for term in terms if term.kind != "number"]
    smallest = _take(terms, lambda term: term.kind == "smallest")
    own = None
    if smallest is not None:
        prototypes, source, _ = reader.layer(smallest.name, None, None)
        own = _take(terms, lambda term: term.kind == "squared" and reader.moved(term.name) == source)
        plain = prototypes.activation == "linear" and prototypes.keep == 0 and prototypes.quantised is None
        if own is None or smallest.factor != 1 or not plain:
            raise NoChain
    heads, divergence = _divergence(reader, terms)
    chain, target, stacked = _error(reader, terms, heads)
    chain = replace(chain, score_shift=shift)
    if divergence is not None and stacked is not None:
        chain = replace(chain, divergence=replace(divergence, layer=stacked))
    if own is None:
        return chain
    constants = _affine(reader, source, reader.moved(target))
    return replace(chain, distance=Distance(prototypes, own.factor), constants={**chain.constants, **constants})


def _take(terms: list[Term], wanted: Callable[[Term], bool]) -> Term | None:
    """Take the first that is wanted out of the list."""
    found = next((term for term in terms if wanted(term)), None)
    if found is not None:
        terms.remove(found)
    return found


def _totals(reader: Reader, name: str, factor: float) -> list[Term]:
    """Match what is added up over a row: sums, means, minima, and their sums and multiples, and numbers."""
    if name in reader.tensors:
        return [Term("number", name, factor * reader.number(name))]
    node = reader.maker(name)
    source = node["inputs"][0]
    if node["op"] == "Add":
        return [term for part in node["inputs"] for term in _totals(reader, part, factor)]
    if node["op"] == "Mul":
        inner, number = reader.with_constant(node)
        if number.size != 1:
            raise NoChain
        return _totals(reader, inner, factor * float(number.reshape(())))
    if node["op"] == "ReduceMean":
        return _errors(reader, source, factor / math.prod(reader.row), mean=True)
    if node["op"] == "ReduceSum":
        return _errors(reader, source, factor)
    kind = {"ReduceSumSquare": "squared", "ReduceL1": "absolute", "ReduceMin": "smallest"}.get(node["op"])
    if kind is None:
        raise NoChain
    return [Term(kind, source, factor)]


def _errors(reader: Reader, name: str, factor: float, *, mean: bool = False) -> list[Term]:
    """Match what each value of a row adds."""
    node = reader.maker(name)
    if node["op"] == "Add":
        return [term for part in node["inputs"] for term in _errors(reader, part, factor, mean=mean)]
    if node["op"] == "Mul" and node["inputs"][0] == node["inputs"][1]:
        return [Term("squared", node["inputs"][0], factor, mean)]
    if node["op"] == "Abs":
        return [Term("absolute", node["inputs"][0], factor, mean)]
    return [Term("plain", name, factor, mean)]


def _error(reader: Reader, terms: list[Term], heads: Heads | None) -> tuple[Chain, str, int | None]:
    """Match the error of the reconstruction: the chain, what it is compared with, and see `Reader.chain`."""
    if len(terms) == 1 and terms[0].kind in ("squared", "absolute"):
        chain, target, stacked = _difference(reader, terms[0], heads)
        return replace(chain, score=terms[0].kind, score_factor=terms[0].factor), target, stacked
    if len(terms) not in (1, 2) or terms[0].kind != "plain":
        raise NoChain
    softplus, product = reader.maker(terms[0].name, "Sub")["inputs"]
    out = reader.maker(softplus, "Softplus")["inputs"][0]
    target, again = reader.maker(product, "Mul")["inputs"]
    if again != out:
        raise NoChain
    if len(terms) == 2:
        target = _clipped(reader, target, terms[1], terms[0].factor)
    chain, stacked = reader.chain(out, target, heads)
    factor = terms[0].factor
    return replace(chain, score="cross_entropy", score_factor=factor, clip=len(terms) == 2), target, stacked


def _clipped(reader: Reader, inside: str, excess: Term, factor: float) -> str:
    """Match the squared excess of x over what is inside 0..1, and return x."""
    first, second = reader.maker(excess.name, "Sub")["inputs"]
    clip = reader.maker(second, "Clip")
    bounds = [reader.number(bound) for bound in clip["inputs"][1:]]
    matches = excess.kind == "squared" and excess.factor == factor and inside == second and bounds == [0.0, 1.0]
    if not matches or reader.moved(clip["inputs"][0]) != reader.moved(first):
        raise NoChain
    return str(first)


def _difference(reader: Reader, term: Term, heads: Heads | None) -> tuple[Chain, str, int | None]:
    """Match (target - out), or that times a weight, or one of these through a whitening matrix."""
    name, whitening, weight = term.name, None, None
    if reader.maker(name)["op"] in ("Gemm", "MatMul", "Add"):
        whitening, name, _ = reader.layer(name, None, None)
        square = whitening.weight.shape == (math.prod(reader.row),) * 2
        if not square or term.kind != "squared" or whitening.keep or whitening.quantised is not None:
            raise NoChain
    node = reader.maker(name)
    if node["op"] in ("Mul", "Div"):
        name, weight = reader.with_constant(node)
        node = reader.maker(name)
    if node["op"] != "Sub":
        raise NoChain
    target, out = node["inputs"]
    chain, stacked = reader.chain(out, target, heads)
    if weight is not None:
        chain = replace(chain, constants={**chain.constants, "weight": reader.along(weight, reader.row)})
    return replace(chain, whitening=whitening), target, stacked


def _divergence(reader: Reader, terms: list[Term]) -> tuple[Heads | None, Divergence | None]:
    """Match the divergence of Gaussian latents and take its two terms out of the list."""

    def is_spread(term: Term) -> bool:
        return term.kind == "plain" and reader.maker(reader.maker(term.name, "Sub")["inputs"][0])["op"] == "Exp"

    spread = _take(terms, is_spread)
    if spread is None:
        return None, None
    exponential, log_variance = reader.maker(spread.name)["inputs"]
    if reader.maker(exponential)["inputs"][0] != log_variance:
        raise NoChain
    bound, raw = _unbounded(reader, reader.moved(log_variance))
    _, source, _ = reader.layer(raw, None, None)

    def is_mean(term: Term) -> bool:
        try:
            return term.kind == "squared" and reader.layer(term.name, None, None)[1] == source
        except NoChain:
            return False

    squares = _take(terms, is_mean)
    if squares is None or squares.factor != spread.factor or squares.mean or spread.mean:
        raise NoChain
    return Heads(reader.moved(squares.name), raw), Divergence(0, spread.factor, bound)


def _unbounded(reader: Reader, name: str) -> tuple[float, str]:
    """Match bound * tanh(raw / bound): the bound, or 0, and raw."""
    node = reader.maker(name)
    if node["op"] != "Mul":
        return 0.0, name
    inner, bound = reader.with_constant(node)
    divided = reader.maker(reader.maker(inner, "Tanh")["inputs"][0])
    raw, inverse = reader.with_constant(divided)
    inverts = divided["op"] in ("Mul", "Div") and bound.size == inverse.size == 1 and float(bound.reshape(())) > 0
    if not inverts or abs(float((bound * inverse).reshape(())) - 1) > 1e-6:
        raise NoChain
    return float(bound.reshape(())), reader.moved(raw)


def _affine(reader: Reader, name: str, target: str) -> dict[str, Array]:
    """Match (target - middle) * spread."""
    found: dict[str, Array] = {}
    for constant, ops in (("spread", ("Mul", "Div")), ("middle", ("Sub",))):
        node = reader.makers.get(name)
        if name != target and node is not None and node["op"] in ops:
            name, value = reader.with_constant(node)
            name = reader.moved(name)
            found[constant] = reader.along(value, reader.row)
    if name != target:
        raise NoChain
    return {constant: found[constant] for constant in ("middle", "spread") if constant in found}
