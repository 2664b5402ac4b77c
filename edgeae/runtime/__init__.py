"""Bundle in; latents, reconstructions and scores out, with NumPy and ONNX Runtime only.

Importing this package needs ONNX Runtime and raises MissingPackageError, with the commands that install it, without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeae.runtime.bound import Bound
from edgeae.runtime.explain import Explanation
from edgeae.runtime.model import Autoencoder, load
from edgeae.runtime.options import Options

if TYPE_CHECKING:
    from edgeae.runtime.stream import Step, Stream, StreamOptions

__all__ = ["Autoencoder", "Bound", "Explanation", "Options", "Step", "Stream", "StreamOptions", "load"]


def __getattr__(name: str) -> object:
    # lazy, for a fast start
    if name not in ("Step", "Stream", "StreamOptions"):
        raise AttributeError(f"module 'edgeae.runtime' has no attribute {name!r}")
    return getattr(import_module("edgeae.runtime.stream"), name)
