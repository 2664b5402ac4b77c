"""The checks of `edgeae verify`, and the child process that runs them: `python -m edgeae.runtime.checks ORDER`.

ORDER is the JSON of an `Order`. The child writes one JSON object a line: {"begin": NAME} before a check, then the
`Check`, and {"end": true} when it is through, so that the parent knows which check it died in.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeae.bundle import Bundle
from edgeae.bundle.bundle import GRAPHS
from edgeae.errors import BundleError, EdgeaeError
from edgeae.runtime.calibrated import bundle_table, table_name
from edgeae.runtime.drift import input_bins
from edgeae.runtime.explain import MAX_PROTOTYPES, WHITENED
from edgeae.runtime.model import load
from edgeae.runtime.parity import check_batches, check_parity

__all__ = ["Check", "Order", "run_checks"]

_SEED = 20_201


@dataclass(frozen=True)
class Check:
    """One check: what was checked, whether it passed, and the figures or the reason."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Order:
    """What to check.

    Attributes:
        path: The bundle.
        device: Where to run the graphs.
        deep: Whether to try fresh random rows as well.
        trust: Whether to run operators that need it.
        memory: Bytes beyond what Python and ONNX Runtime take themselves, or None for no limit.
    """

    path: str
    device: str
    deep: bool
    trust: bool
    memory: int | None


Report = Callable[[str | Check], None]


class _Result:
    """What a check has found so far."""

    detail = ""
    passed = False


@contextlib.contextmanager
def _check(name: str, report: Report) -> Iterator[_Result]:
    """Report a check's name, and what its block comes to; an exception of the block ends here."""
    report(name)
    result = _Result()
    try:
        yield result
        result.passed = True
    except EdgeaeError as problem:
        result.detail = str(problem)
    except MemoryError:
        result.detail = "it needs more memory than the limit allows"
    except Exception as problem:  # a check that breaks has failed, whatever broke it
        reason = str(problem).splitlines()[0][:300] if str(problem) else "no reason given"
        result.detail = f"unexpected {type(problem).__name__}: {reason}; please report it, with the bundle"
    report(Check(name, result.passed, result.detail))


def run_checks(order: Order, report: Report) -> None:
    """Run all checks, telling `report` each one's name when it begins and the `Check` when it has ended."""
    with _check("manifest", report) as result:
        bundle = Bundle.read(order.path)
        files = bundle.files()
        version = bundle.manifest.format_version
        result.detail = f"format version {version}, {len(files)} files, sha256:{bundle.digest[:16]}..."
    if not result.passed:
        return
    for file in files:
        with _check(file.path, report) as result:
            bundle.file(file)
            result.detail = f"{file.size:,} bytes, digest agrees"
    if bundle.manifest.statistics is not None:
        with _check("statistics", report) as result:
            result.detail = _check_statistics(bundle)
    for precision in bundle.manifest.precisions:
        try:
            _check_graphs(bundle, precision, order, report)
        except (EdgeaeError, MemoryError) as problem:
            report(Check(precision, False, str(problem) or "it needs more memory than the limit allows"))


def _check_statistics(bundle: Bundle) -> str:
    arrays, shape = bundle.statistics(), bundle.manifest.input.shape
    tables = {table_name(precision): precision for precision in bundle.manifest.precisions}
    for name, values in arrays.items():
        row = math.prod(shape)
        if name in ("input_edges", "input_shares"):
            input_bins(arrays, shape[-1], str(bundle.path))
            continue
        if name in tables:
            bundle_table(arrays, tables[name], str(bundle.path))
            continue
        wanted = {"whitening": (row, row), "prototypes": (min(max(1, len(values)), MAX_PROTOTYPES), row)}.get(
            name, shape
        )
        if values.dtype != np.float32 or values.shape != wanted or not np.isfinite(values).all():
            raise BundleError(
                f"{bundle.path}: statistics: {name} is not finite float32 {wanted}; export the bundle again"
            )
    kind = bundle.manifest.score.kind
    if kind in ("zscore", "prototype") and not ("spread" in arrays and (arrays["spread"] > 0).all()):
        raise BundleError(f"{bundle.path}: statistics: {kind} needs a positive 'spread'; export the bundle again")
    missing = {"centre", "whitening", *(("prototypes",) if kind == "prototype" else ())} - set(arrays)
    if kind in WHITENED and missing:
        raise BundleError(f"{bundle.path}: statistics: {kind} needs {sorted(missing)[0]!r}; export the bundle again")
    return ", ".join(f"{name} {list(values.shape)}" for name, values in arrays.items()) or "no arrays"


def _check_graphs(bundle: Bundle, precision: str, order: Order, report: Report) -> None:
    options = {"workers": 1, "chunk": 256}
    ready = True
    with load(bundle.path, device=order.device, precision=precision, options=options, trust=order.trust) as model:
        for role in GRAPHS:
            with _check(f"{precision} {role}", report) as result:
                model.prepare(role)
                result.detail = f"{len(bundle.golden(precision).x)} golden rows come out on {order.device}"
            ready = ready and result.passed
        if not (order.deep and ready):
            return
        with _check(f"{precision} parity", report) as result:
            result.detail = check_parity(model, seed=_SEED)
        with _check(f"{precision} batches", report) as result:
            result.detail = check_batches(model, seed=_SEED)


def _limit_memory(beyond: int) -> None:
    """Bound what this process may map from now on, and leave no core file behind."""
    import resource  # not on Windows

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + beyond
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(text: str) -> None:
    """Run the checks of an order and write what they report; nothing else can reach standard output."""
    order = Order(**json.loads(text))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as sink:
        os.dup2(2, 1)
        if order.memory is not None:
            _limit_memory(order.memory)

        def report(what: str | Check) -> None:
            write({"begin": what} if isinstance(what, str) else asdict(what))

        def write(message: dict[str, Any]) -> None:
            sink.write(json.dumps(message) + "\n")
            sink.flush()

        run_checks(order, report)
        write({"end": True})


if __name__ == "__main__":
    main(sys.argv[1])
