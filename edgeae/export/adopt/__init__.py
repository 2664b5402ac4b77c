"""Models that edgeae did not train: an ONNX autoencoder, an encoder and a decoder, or a PyTorch module into a bundle.

`read` loads the files, `observe` runs them (in a child process) and looks at the shapes, `rewrite`, `lower` and `tidy`
bring the nodes into the form that the guard allows, `cut` parts encoder from decoder, `network` stands in for PyTorch
in the parity gate, `modules` builds modules with their weights, and `adoption` puts it together.
"""

from edgeae.export.adopt.adoption import adopt, constants

__all__ = ["adopt", "constants"]
