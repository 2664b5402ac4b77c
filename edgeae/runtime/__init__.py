"""Bundle in; latents, reconstructions and scores out, with NumPy and ONNX Runtime only.

Importing this package needs ONNX Runtime and raises MissingPackageError, with the commands that install it, without.
"""

from edgeae.runtime.bound import Bound
from edgeae.runtime.explain import Explanation
from edgeae.runtime.model import Autoencoder, load
from edgeae.runtime.options import Options

__all__ = ["Autoencoder", "Bound", "Explanation", "Options", "load"]
