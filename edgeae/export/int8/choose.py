"""int8 cores of a model: of several recipes the fastest whose scores stay close to float32's on rows held out.

Where no recipe keeps them close enough, layers stay in float, those first that cost the most accuracy.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from edgeae.export.assemble import Cores
from edgeae.export.graph import constants_of
from edgeae.export.int8.draft import shapes_of
from edgeae.export.int8.equalise import equalise
from edgeae.export.int8.integers import needed_ranges, to_integers
from edgeae.export.int8.layers import prepare
from edgeae.export.int8.ranges import RANGES, Observed, RangeName, observe, quantisation

__all__ = ["Layer", "Quantised", "Recipe", "candidates", "layers_of", "quantise_cores"]

_log = logging.getLogger("edgeae")

Array = np.ndarray[Any, Any]
Evened = Literal["nothing", "hidden", "input"]

# Per-channel scales of dense layers cost ONNX Runtime time at batch 1: half a microsecond for 128 units, 20 for 3,000;
# an evened input costs one node more.
_TIERS: tuple[tuple[bool, tuple[Evened, ...]], ...] = (
    (False, ("nothing", "hidden")),
    (True, ("nothing", "hidden")),
    (True, ("input",)),
)
# The share of its multiplications that a model must still do in integers. With fewer it is hardly faster than float32,
# since values become integers and float again in between.
_LEAST_INTEGER = 0.5


@dataclass(frozen=True)
class Recipe:
    """How ranges and scales are chosen: see `edgeae.export.int8.ranges`, `.equalise` and `.integers`."""

    ranges: RangeName
    evened: Evened
    per_channel: bool

    def describe(self) -> str:
        """Return it in a few words.

        Example:
            >>> Recipe("mse", "hidden", per_channel=True).describe()
            'mse ranges, hidden units equalised, one scale per channel'
        """
        parts = [f"{self.ranges} ranges", f"one scale per {'channel' if self.per_channel else 'dense layer'}"]
        if self.evened != "nothing":
            parts.insert(1, "hidden units equalised" if self.evened == "hidden" else "input and hidden units equalised")
        return ", ".join(parts)


class Layer(NamedTuple):
    """A layer of float32 cores: where it is, counted from 1 over both, and its multiplications for one row."""

    role: str
    output: str
    place: int
    work: int


@dataclass(frozen=True)
class Quantised:
    """Integer cores, the recipe that made them, and the layers that stayed in float for the sake of accuracy."""

    cores: Cores
    recipe: Recipe
    floating: tuple[Layer, ...] = ()

    def describe(self) -> str:
        """Return the recipe and how many layers compute in integers, and in float, in a few words."""
        kinds = Counter(node.op_type for core in (self.cores.encoder, self.cores.decoder) for node in core.node)
        integer = kinds["QGemm"] + kinds["QLinearConv"]
        floating = sum(kinds[kind] for kind in ("Gemm", "MatMul", "Conv", "ConvTranspose"))
        stay = "stays" if floating == 1 else "stay"
        layers = f"{integer} layers in integers" + (f", {floating} {stay} float" if floating else "")
        if self.floating:
            places = ", ".join(str(layer.place) for layer in self.floating)
            layers += f" (layer {places} of {integer + floating} for accuracy)"
        return f"{layers}; {self.recipe.describe()}"

    @property
    def has_integers(self) -> bool:
        """Whether any layer computes in integers."""
        nodes = (*self.cores.encoder.node, *self.cores.decoder.node)
        return any(node.op_type == "QuantizeLinear" for node in nodes)


@dataclass(frozen=True)
class _Model:
    """What is quantised: float32 cores and normalised calibration rows [n, *row]; see `candidates`."""

    cores: Cores
    opset: int
    rows: Array
    sigmoid: bool

    def prepared(self, floating: Sequence[Layer] = ()) -> Cores:
        """Return the cores in the forms that have integer kernels, but for some layers."""
        encoder, decoder = (
            prepare(core, self.opset, floating={layer.output for layer in floating if layer.role == role})
            for role, core in (("encoder", self.cores.encoder), ("decoder", self.cores.decoder))
        )
        return Cores(encoder, decoder)

    def observed(self, cores: Cores) -> _Prepared:
        """Look at what passes through prepared cores on the calibration rows."""
        encoder, z = observe(cores.encoder, self.opset, self.rows, needed_ranges(cores.encoder))
        names = needed_ranges(cores.decoder)
        decoder, _ = observe(cores.decoder, self.opset, z, names, sigmoid=self.sigmoid)
        return _Prepared(cores, (encoder, decoder))

    def evened(self, plain: _Prepared, evened: Evened) -> _Prepared:
        """Return equalised cores, or `plain` itself where there is nothing to even out."""
        if evened == "nothing":
            return plain
        encoder = equalise(plain.cores.encoder, plain.seen[0], inputs=evened == "input")
        decoder = equalise(plain.cores.decoder, plain.seen[1])
        if (encoder, decoder) == (plain.cores.encoder, plain.cores.decoder):
            return plain
        return self.observed(Cores(encoder, decoder))


@dataclass(frozen=True)
class _Prepared:
    """Cores in the forms that have integer kernels, and what passes through each on the calibration rows."""

    cores: Cores
    seen: tuple[dict[str, Observed], dict[str, Observed]]


def layers_of(cores: Cores, opset: int) -> list[Layer]:
    """Return the layers of float32 cores that have weights, in order."""
    found: list[Layer] = []
    for role, core in (("encoder", cores.encoder), ("decoder", cores.decoder)):
        constants, shapes = constants_of(core), shapes_of(core, opset)
        for node in core.node:
            if node.op_type not in ("Gemm", "MatMul", "Conv", "ConvTranspose") or node.input[1] not in constants:
                continue
            places = {"Conv": node.output[0], "ConvTranspose": node.input[0]}.get(node.op_type)
            sides = shapes[places][2:] if places is not None else ()
            work = constants[node.input[1]].size * math.prod(side or 1 for side in sides)
            found.append(Layer(role, node.output[0], len(found) + 1, work))
    return found


def candidates(cores: Cores, opset: int, rows: Array, *, sigmoid: bool = False) -> Iterator[list[Quantised]]:
    """Make integer cores by every recipe, in groups of equal speed, the fastest first.

    Args:
        cores: The float32 cores.
        opset: Their opset.
        rows: Normalised calibration rows, float32 [n, *row].
        sigmoid: Whether a sigmoid follows the decoder, and nothing else looks at what is before it.
    """
    model = _Model(cores, opset, rows, sigmoid)
    return _candidates(model, model.observed(model.prepared()))


def _candidates(model: _Model, plain: _Prepared) -> Iterator[list[Quantised]]:
    made: dict[Evened, _Prepared] = {}  # without those in which there was nothing to even out
    for per_channel, kinds in _TIERS:
        for kind in kinds:
            if kind not in made:
                evened = model.evened(plain, kind)
                if all(evened.cores != other.cores for other in made.values()):
                    made[kind] = evened
        yield [
            _quantised(made[kind], Recipe(method, kind, per_channel))
            for kind in kinds
            if kind in made
            for method in RANGES
        ]


def _quantised(prepared: _Prepared, recipe: Recipe, floating: tuple[Layer, ...] = ()) -> Quantised:
    encoder, decoder = (
        to_integers(
            core,
            {name: quantisation(value, recipe.ranges) for name, value in seen.items()},
            per_channel=recipe.per_channel,
        )
        for core, seen in zip((prepared.cores.encoder, prepared.cores.decoder), prepared.seen, strict=True)
    )
    return Quantised(Cores(encoder, decoder, quantised=True), recipe, floating)


def quantise_cores(
    cores: Cores,
    opset: int,
    rows: Array,
    drift: Callable[[Cores], float],
    gate: Callable[[Cores], float],
    *,
    enough: float,
    allowed: float,
    sigmoid: bool = False,
) -> Quantised | None:
    """Return integer cores of the fastest kind that stays close to float32, else those that stay closest.

    If not even those pass the gate, layers stay in float, one after the other, until they do: each time the one without
    which the scores are closest to float32's (a sensitivity analysis by leaving one out), or of several that are enough
    the one with the least work. At least half of the multiplications stay in integers.

    Args:
        cores: The float32 cores.
        opset: Their opset.
        rows: Normalised calibration rows, float32 [n, *row], from which ranges are taken.
        drift: Measures how far the scores of given cores are from float32's, on other rows; 0 is not at all.
        gate: Measures what decides whether they are kept; 1 is just allowed.
        enough: A drift so small that a slower recipe is not worth trying.
        allowed: What must come out of `gate`.
        sigmoid: Whether a sigmoid follows the decoder, and nothing else looks at what is before it.

    Returns:
        None where no layer of the cores has an integer kernel.
    """
    model = _Model(cores, opset, rows, sigmoid)
    plain = model.observed(model.prepared())
    best: Quantised | None = None
    least = np.inf
    for group in _candidates(model, plain):
        for candidate in group:
            if not candidate.has_integers:
                return None
            found = drift(candidate.cores)
            _log.debug("int8: %s: drift %.3g", candidate.recipe.describe(), found)
            if best is None or found < least:
                best, least = candidate, found
        if least <= enough:
            break
    if best is None or gate(best.cores) <= allowed:
        return best
    return _partly(model, plain, best.recipe, gate, allowed) or best


def _partly(
    model: _Model, plain: _Prepared, recipe: Recipe, gate: Callable[[Cores], float], allowed: float
) -> Quantised | None:
    """Return cores that pass the gate with some layers in float, or None where that takes too many."""
    layers = layers_of(model.cores, model.opset)
    spare = (1 - _LEAST_INTEGER) * sum(layer.work for layer in layers)
    floating: tuple[Layer, ...] = ()
    while True:
        trials: list[tuple[float, Quantised]] = []
        for layer in layers:
            chosen = (*floating, layer)
            if layer in floating or sum(each.work for each in chosen) > spare:
                continue
            prepared = model.evened(_Prepared(model.prepared(chosen), plain.seen), recipe.evened)
            made = [_quantised(prepared, replace(recipe, ranges=method), chosen) for method in RANGES]
            trials.append(min(((gate(each.cores), each) for each in made), key=lambda trial: trial[0]))
            _log.debug("int8: layers %s in float: %.3g of the gate", [each.place for each in chosen], trials[-1][0])
        if not trials:
            return None
        passing = [trial for trial in trials if trial[0] <= allowed]
        if passing:
            return min(passing, key=lambda trial: (trial[1].floating[-1].work, trial[0]))[1]
        floating = min(trials, key=lambda trial: trial[0])[1].floating
