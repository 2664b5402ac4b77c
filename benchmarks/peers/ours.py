"""edgeae: a bound model for a given number of rows; every precision and way of running that this edgeae has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import edgeae
from benchmarks.cases import Case
from benchmarks.peers import Array, Bulk, Setup, Way
from edgeae.bundle import Bundle
from edgeae.runtime import Autoencoder
from edgeae.runtime.bound import Bound, bind_arrays
from edgeae.runtime.native import find_library, rewrite
from edgeae.runtime.options import Options, Profile

__all__ = ["Variation", "bulk", "load", "variations", "ways"]


@dataclass(frozen=True)
class Variation:
    """A way to load the bundle; `tuned`: with what `edgeae tune` found for it, which may be the operator library."""

    name: str
    precision: str = "fp32"
    native: bool = False
    tuned: bool = False

    def options(self, case: Case, profile: Profile) -> Options:
        """Return the options of `edgeae.load`."""
        if self.tuned and case.tuning is not None:
            return case.tuning.options(profile, self.precision)
        return Options(native=self.native or None)


def variations(case: Case, device: str) -> list[Variation]:
    """Return what the bundle and the device offer."""
    on_cpu = device == "cpu"
    precisions = [name for name in ("fp32", "int8") if name not in case.missing and (on_cpu or name != "int8")]
    found = [Variation(f"edgeae, {name}", name) for name in precisions]
    if on_cpu and find_library() is not None:
        bundle = Bundle.read(case.bundle)
        found += [
            Variation(f"edgeae, {name}, native", name, native=True)
            for name in precisions
            if rewrite(bundle.graph(name, "scorer")) is not None
        ]
    if case.tuning is not None:
        found += [Variation(f"edgeae, {name}, tuned", name, tuned=True) for name in precisions]
    return found


@cache
def load(case: Case, variation: Variation, device: str, profile: Profile) -> Autoencoder:
    """Return the case's bundle loaded that way."""
    return edgeae.load(
        case.bundle,
        device=device,
        precision=variation.precision,
        profile=profile,
        options=variation.options(case, profile),
    )


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """`bind(batch).score(rows)`, input check included; bare: the run alone. In bulk `score(rows)`."""
    for variation in variations(case, setup.device):
        if setup.bulk:
            many = load(case, variation, setup.device, "throughput")
            yield Way(variation.name, many.score, precision=variation.precision)
            continue
        model = load(case, variation, setup.device, "latency")
        bound = model.bind(setup.batch)
        bare, result = _bare(bound, case.batch(setup.batch))
        yield Way(
            variation.name,
            bound.score,
            bare,
            result,
            precision=variation.precision,
            takes_row=setup.batch == 1,
        )


def bulk(case: Case, setup: Setup) -> Iterator[Bulk]:
    """`score(rows, out=out)`: chunks and workers are edgeae's business."""
    for variation in variations(case, setup.device):
        model = load(case, variation, setup.device, "throughput")
        yield Bulk(variation.name, partial(_score_into, model), None, variation.precision)


def _score_into(model: Autoencoder, rows: Array, out: Array) -> None:
    model.score(rows, out=out)


def _bare(bound: Bound, rows: Array) -> tuple[Callable[[], object], Callable[[], Array]]:
    source, scores, (run,), _ = bind_arrays(bound._paths("score").graphs, len(rows))
    source[:] = rows
    return run, scores.copy
