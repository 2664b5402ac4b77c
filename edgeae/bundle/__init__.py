"""The contract between training and running: a bundle on disk (standard library and numpy only)."""

from edgeae.bundle.bundle import Bundle, Golden
from edgeae.bundle.manifest import Manifest

__all__ = ["Bundle", "Golden", "Manifest"]
