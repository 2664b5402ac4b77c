"""Data and a model in, a run directory out (PyTorch, Lightning Fabric)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeae.training.config import TrainConfig

if TYPE_CHECKING:
    from edgeae.training.run import Run
    from edgeae.training.trainer import train

__all__ = ["Run", "TrainConfig", "train"]

_LAZY = {"train": "edgeae.training.trainer", "Run": "edgeae.training.run"}


def __getattr__(name: str) -> object:
    # lazy, so that the command line can read TrainConfig without importing PyTorch
    if name not in _LAZY:
        raise AttributeError(f"module 'edgeae.training' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
