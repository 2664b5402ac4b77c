"""The guard: whether the bytes of an ONNX file hold a graph that edgeae runs, decided before ONNX Runtime sees them."""

from edgeae.bundle.guard.check import GraphInfo, Limits, Tensor, check_graph

__all__ = ["GraphInfo", "Limits", "Tensor", "check_graph"]
