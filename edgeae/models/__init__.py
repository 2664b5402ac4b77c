"""Architectures, bottlenecks and objectives, composed rather than copied (PyTorch; the configuration is free of it)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeae.models.config import ModelConfig, ObjectiveConfig

if TYPE_CHECKING:
    from edgeae.models.autoencoder import Autoencoder
    from edgeae.models.objective import Objective

__all__ = ["Autoencoder", "ModelConfig", "Objective", "ObjectiveConfig"]

_LAZY = {
    "Autoencoder": "edgeae.models.autoencoder",
    "Objective": "edgeae.models.objective",
}


def __getattr__(name: str) -> object:
    # lazy, so that the configuration can be read without importing PyTorch
    if name not in _LAZY:
        raise AttributeError(f"module 'edgeae.models' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
