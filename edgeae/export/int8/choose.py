"""int8 cores of a model: of several recipes the fastest whose scores stay close to float32's on rows held out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgeae.export.assemble import Cores
from edgeae.export.int8.equalise import equalise
from edgeae.export.int8.integers import needed_ranges, to_integers
from edgeae.export.int8.layers import prepare
from edgeae.export.int8.ranges import RANGES, Observed, RangeName, observe, quantisation

__all__ = ["Quantised", "Recipe", "candidates", "quantise_cores"]

_log = logging.getLogger("edgeae")

Array = np.ndarray[Any, Any]
Evened = Literal["nothing", "hidden", "input"]

# Per-channel scales cost ONNX Runtime half a microsecond a layer at batch 1, an evened input one node more.
_TIERS: tuple[tuple[bool, tuple[Evened, ...]], ...] = (
    (False, ("nothing", "hidden")),
    (True, ("nothing", "hidden")),
    (True, ("input",)),
)


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
        parts = [f"{self.ranges} ranges", f"one scale per {'channel' if self.per_channel else 'layer'}"]
        if self.evened != "nothing":
            parts.insert(1, "hidden units equalised" if self.evened == "hidden" else "input and hidden units equalised")
        return ", ".join(parts)


@dataclass(frozen=True)
class Quantised:
    """Integer cores and the recipe that made them."""

    cores: Cores
    recipe: Recipe

    def describe(self) -> str:
        """Return the recipe and how many layers compute in integers, and in float, in a few words."""
        kinds = Counter(node.op_type for core in (self.cores.encoder, self.cores.decoder) for node in core.node)
        integer = kinds["QGemm"] + kinds["QLinearConv"]
        floating = sum(kinds[kind] for kind in ("Gemm", "MatMul", "Conv", "ConvTranspose"))
        layers = f"{integer} layers in integers" + (f", {floating} stay float" if floating else "")
        return f"{layers}; {self.recipe.describe()}"

    @property
    def has_integers(self) -> bool:
        """Whether any layer computes in integers."""
        nodes = (*self.cores.encoder.node, *self.cores.decoder.node)
        return any(node.op_type == "QuantizeLinear" for node in nodes)


@dataclass(frozen=True)
class _Prepared:
    """Cores in the forms that have integer kernels, and what passes through each on the calibration rows."""

    cores: Cores
    seen: tuple[dict[str, Observed], dict[str, Observed]]

    @staticmethod
    def of(cores: Cores, opset: int, rows: Array) -> _Prepared:
        """Look at cores on normalised `rows`."""
        encoder, z = observe(cores.encoder, opset, rows, needed_ranges(cores.encoder))
        decoder, _ = observe(cores.decoder, opset, z, needed_ranges(cores.decoder))
        return _Prepared(cores, (encoder, decoder))

    def evened(self, opset: int, rows: Array, *, inputs: bool) -> _Prepared:
        """Return equalised cores, or itself where there is nothing to even out."""
        encoder = equalise(self.cores.encoder, self.seen[0], inputs=inputs)
        decoder = equalise(self.cores.decoder, self.seen[1])
        if (encoder, decoder) == (self.cores.encoder, self.cores.decoder):
            return self
        return _Prepared.of(Cores(encoder, decoder), opset, rows)


def candidates(cores: Cores, opset: int, rows: Array) -> Iterator[list[Quantised]]:
    """Make integer cores by every recipe, in groups of equal speed, the fastest first.

    Args:
        cores: The float32 cores.
        opset: Their opset.
        rows: Normalised calibration rows, float32 [n, *row].
    """
    plain = _Prepared.of(Cores(prepare(cores.encoder, opset), prepare(cores.decoder, opset)), opset, rows)
    made: dict[Evened, _Prepared] = {}  # without those in which there was nothing to even out
    for per_channel, kinds in _TIERS:
        for kind in kinds:
            if kind not in made:
                evened = plain if kind == "nothing" else plain.evened(opset, rows, inputs=kind == "input")
                if all(evened.cores != other.cores for other in made.values()):
                    made[kind] = evened
        yield [
            _quantised(made[kind], Recipe(method, kind, per_channel))
            for kind in kinds
            if kind in made
            for method in RANGES
        ]


def _quantised(prepared: _Prepared, recipe: Recipe) -> Quantised:
    encoder, decoder = (
        to_integers(
            core,
            {name: quantisation(value, recipe.ranges) for name, value in seen.items()},
            per_channel=recipe.per_channel,
        )
        for core, seen in zip((prepared.cores.encoder, prepared.cores.decoder), prepared.seen, strict=True)
    )
    return Quantised(Cores(encoder, decoder, quantised=True), recipe)


def quantise_cores(
    cores: Cores, opset: int, rows: Array, drift: Callable[[Cores], float], *, enough: float
) -> Quantised | None:
    """Return integer cores of the fastest kind that stays close to float32, else those that stay closest.

    Args:
        cores: The float32 cores.
        opset: Their opset.
        rows: Normalised calibration rows, float32 [n, *row], from which ranges are taken.
        drift: Measures how far the scores of given cores are from float32's, on other rows; 0 is not at all.
        enough: A drift so small that a slower recipe is not worth trying.

    Returns:
        None where no layer of the cores has an integer kernel.
    """
    best: Quantised | None = None
    least = np.inf
    for group in candidates(cores, opset, rows):
        for candidate in group:
            if not candidate.has_integers:
                return None
            found = drift(candidate.cores)
            _log.debug("int8: %s: drift %.3g", candidate.recipe.describe(), found)
            if best is None or found < least:
                best, least = candidate, found
        if least <= enough:
            break
    return best
