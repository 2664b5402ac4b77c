"""edgeae: train an autoencoder in PyTorch, export it as ONNX graphs, run it anywhere ONNX Runtime runs.

`import edgeae` is light: PyTorch and ONNX Runtime are imported when a function needs them.

Example:
    >>> import edgeae
    >>> run = edgeae.train("mnist-5k", "run", latent_dim=64)  # doctest: +SKIP
    >>> bundle = edgeae.export_bundle("run", "bundle")  # doctest: +SKIP
    >>> model = edgeae.load("bundle")  # doctest: +SKIP
    >>> scores = model.score(rows)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeae.errors import (
    BundleError,
    DeviceError,
    EdgeaeError,
    ExportError,
    InputError,
    IntegrityError,
    MissingPackageError,
    OutOfMemoryError,
    TrainingError,
)

if TYPE_CHECKING:
    from edgeae.export import export_bundle
    from edgeae.export.adopt import adopt
    from edgeae.runtime import Autoencoder, load
    from edgeae.sweeping import sweep
    from edgeae.training import train

__version__ = "0.1.0"

__all__ = [
    "Autoencoder",
    "BundleError",
    "DeviceError",
    "EdgeaeError",
    "ExportError",
    "InputError",
    "IntegrityError",
    "MissingPackageError",
    "OutOfMemoryError",
    "TrainingError",
    "__version__",
    "adopt",
    "export_bundle",
    "load",
    "sweep",
    "train",
]

_LAZY = {
    "Autoencoder": "edgeae.runtime",
    "load": "edgeae.runtime",
    "train": "edgeae.training",
    "export_bundle": "edgeae.export",
    "sweep": "edgeae.sweeping",
    "adopt": "edgeae.export.adopt",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgeae' has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as problem:
        missing = (problem.name or "").split(".")[0]
        if missing in ("", "edgeae"):
            raise
        raise MissingPackageError(
            f"edgeae.{name} needs the package {missing}, which is not installed; "
            "install what training and export need with: pip install 'edgeae[train]'"
        ) from problem


def __dir__() -> list[str]:
    return sorted(__all__)
