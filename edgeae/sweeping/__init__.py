"""Many models trained, exported and measured, and the smallest that is good enough picked (PyTorch; Optuna at most)."""

from edgeae.sweeping.loop import sweep
from edgeae.sweeping.record import Limits, Point, Sweep, Trial

__all__ = ["Limits", "Point", "Sweep", "Trial", "sweep"]
