"""The errors that edgeae raises on purpose.

Every message names the file or argument, says what is wrong and what to do about it, in one line, so that the command
line can print it as it is.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "DeviceError",
    "EdgeaeError",
    "ExportError",
    "InputError",
    "IntegrityError",
    "MissingPackageError",
    "OutOfMemoryError",
    "TrainingError",
]


class EdgeaeError(Exception):
    """Base of every error that edgeae raises on purpose."""


class InputError(EdgeaeError, ValueError):
    """Data or an argument is not what was asked for: shape, dtype, range, file format, option."""


class TrainingError(EdgeaeError):
    """Training cannot go on, for instance because the loss is not finite from the first step."""


class ExportError(EdgeaeError):
    """A model cannot be exported, or its graphs do not agree with PyTorch."""


class BundleError(EdgeaeError):
    """A bundle is missing, incomplete, of another format, or asks for something edgeae does not allow."""


class IntegrityError(BundleError):
    """A bundle's bytes are not the ones its manifest promises."""


class DeviceError(EdgeaeError):
    """The device that was asked for is absent or did not take the model."""


class OutOfMemoryError(EdgeaeError, MemoryError):
    """There is not enough memory for this much data at a time; less of it will do."""


class MissingPackageError(EdgeaeError, ImportError):
    """An optional package is needed for this and is not installed; the message has the command that installs it."""
