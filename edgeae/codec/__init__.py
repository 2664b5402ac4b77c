"""Latents in files: small, seekable, with a bound on the error where asked for, and whole or known not to be.

Importing this package needs zstandard (`pip install 'edgeae[codec]'`); export/FORMAT.md specifies the file.
"""

from edgeae.codec.format import Header
from edgeae.codec.latent_reader import LatentReader
from edgeae.codec.latent_writer import LatentWriter
from edgeae.codec.measure import CodedSize, coded_size
from edgeae.codec.report import Report

__all__ = ["CodedSize", "Header", "LatentReader", "LatentWriter", "Report", "coded_size"]
