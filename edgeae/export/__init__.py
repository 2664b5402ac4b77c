"""A training run, or any pair of PyTorch modules, in; ONNX graphs and a bundle out (PyTorch, onnx)."""

from edgeae.export.bundle import export_bundle

__all__ = ["export_bundle"]
