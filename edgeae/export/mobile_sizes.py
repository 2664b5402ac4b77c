"""How large a build of ONNX Runtime becomes that holds only some operators: an estimate from measured kernels.

`kernel_sizes.json` was made by runtime/mobile/measure_sizes.py, which says how, with ONNX Runtime 1.21.0 for Linux on
arm64: clang 19, MinSizeRel, a minimal build without exceptions, RTTI and ML operators, the C++ library within. Kernels
are those that opset 18 takes, for all their types. Phones' compilers and other releases give other sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Estimate", "Kernels", "estimate_size"]


@dataclass(frozen=True)
class Kernels:
    """Bytes of code and data of ONNX Runtime's kernels.

    Attributes:
        base: The library without operators.
        own: By operator, what no other operator needs.
        shared: What several operators need, and which.
    """

    base: int
    own: Mapping[str, int]
    shared: tuple[tuple[int, frozenset[str]], ...]

    @classmethod
    def read(cls, path: Path) -> Kernels:
        """Read a file that measure_sizes.py wrote."""
        held = json.loads(path.read_text("utf-8"))
        return cls(held["base"], held["own"], tuple((size, frozenset(names)) for size, names in held["shared"]))


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes.

    Attributes:
        base: ONNX Runtime without operators.
        own: What each operator adds that no other one needs.
        shared: What all of them add beyond that.
        unknown: Operators that were never measured.
    """

    base: int
    own: Mapping[str, int]
    shared: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """The size of the library."""
        return self.base + sum(self.own.values()) + self.shared


@cache
def _measured() -> Kernels:
    return Kernels.read(Path(__file__).with_name("kernel_sizes.json"))


def estimate_size(operators: Mapping[str, Sequence[str]], kernels: Kernels | None = None) -> Estimate:
    """Estimate the size of a reduced build.

    Args:
        operators: What it holds, by "domain;opset", as `read_operators` returns it.
        kernels: Other measurements than those that come with edgeae.

    Example:
        >>> size = estimate_size({"ai.onnx;11": ("Conv",), "com.microsoft;1": ("FusedConv",)})
        >>> sorted(size.own), size.shared > 100_000
        (['Conv', 'com.microsoft:FusedConv'], True)
    """
    kernels = kernels or _measured()
    names = sorted(
        name if key.startswith("ai.onnx;") else f"{key.partition(';')[0]}:{name}"
        for key, held in operators.items()
        for name in held
    )
    own = {name: kernels.own[name] for name in names if name in kernels.own}
    shared = sum(size for size, users in kernels.shared if users & own.keys())
    return Estimate(kernels.base, own, shared, tuple(name for name in names if name not in own))
