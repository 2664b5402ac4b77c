"""What a user asks of a latent file, and what becomes of it for a model."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeae.bundle import Bundle
from edgeae.bundle.protobuf import Malformed, Refused, with_metadata
from edgeae.codec.coders import Array
from edgeae.codec.format import Bound, Header
from edgeae.errors import BundleError, InputError
from edgeae.runtime import Autoencoder

__all__ = [
    "Settings",
    "check_model",
    "decoder_digest",
    "dtype_name",
    "least_steps",
    "make_header",
    "measured_drift",
    "peak",
    "reference_of",
]

FLOATS: Final = {"float32": 32, "float16": 16}
DEFAULT_BITS: Final = 8
SAMPLE: Final = 32
DRIFT: Final = 2.0**-17  # of the largest result: five times what PyTorch differed by from ONNX Runtime
SMALL: Final = 2.0**-3  # of the scale that the last layer's output is multiplied with
TINY: Final = 1e-38
SENSITIVITY_ROWS: Final = 512
SENSITIVITY_VALUES: Final = 2**18
WIDEST: Final = 4.0  # ranges; a latent that leaves its usual range by more is stored whatever it seemed to matter


@dataclass(frozen=True)
class Settings:
    """How to compress; what is None is left to the default, or to the file that is gone on with.

    Attributes:
        dtype: Of the stored latents: "float32", "float16", "int8" (the default), or "int2" to "int7".
        max_error: No value is further than this from its original, in the units of the rows.
        target_psnr: No chunk has a lower peak signal-to-noise ratio, in decibels. The peak is 255 for uint8 rows, else
            the range that the bundle has seen in training.
        lossless: Every value comes out as it was; for whole numbers.

    Raises:
        InputError: for other values, or more than one promise.
    """

    dtype: str | None = None
    max_error: float | None = None
    target_psnr: float | None = None
    lossless: bool = False

    def __post_init__(self) -> None:
        for name in ("max_error", "target_psnr"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name}: expected a positive number, got {value!r}")
        if sum((self.max_error is not None, self.target_psnr is not None, self.lossless)) > 1:
            raise InputError("max_error, target_psnr and lossless exclude each other; give one of them")
        if self.dtype is not None:
            self._bits(self.dtype)

    @property
    def bits(self) -> int | None:
        """Bits of a stored latent value, if the user said so."""
        return None if self.dtype is None else self._bits(self.dtype)

    @property
    def promises(self) -> bool:
        """Whether the user asked for a bound."""
        return self.lossless or self.max_error is not None or self.target_psnr is not None

    @staticmethod
    def _bits(dtype: str) -> int:
        found = re.fullmatch("int([2-8])", dtype)
        if dtype not in FLOATS and found is None:
            raise InputError(f"dtype: {dtype!r} is not one of float32, float16, int8, int7, ... int2")
        return FLOATS[dtype] if found is None else int(found[1])


def dtype_name(bits: int) -> str:
    """Return the name of a latent type."""
    return {32: "float32", 16: "float16"}.get(bits, f"int{bits}")


def peak(model: Autoencoder, dtype: str, rows: Array) -> float:
    """Return the range of values that a peak signal-to-noise ratio refers to."""
    seen = model.manifest.input
    if dtype == "uint8":
        return 255.0
    if seen.minimum is not None and seen.maximum is not None and seen.maximum > seen.minimum:
        return seen.maximum - seen.minimum
    return float(np.ptp(rows)) or 1.0


def make_header(model: Autoencoder, settings: Settings, rows: Array) -> Header:
    """Return the header of a new file whose first rows are these.

    Raises:
        InputError: if the settings do not fit the model or the rows.
    """
    dtype = "uint8" if rows.dtype == np.uint8 else "float32"
    bound: Bound = "none"
    value = 0.0
    if settings.lossless:
        bound = "lossless"
    elif settings.max_error is not None:
        bound, value = "max-error", settings.max_error
    elif settings.target_psnr is not None:
        bound, value = "max-mse", peak(model, dtype, rows) ** 2 / 10 ** (settings.target_psnr / 10)
    if bound != "none" and model.precision != "fp32":
        raise InputError(
            f"{model.precision} graphs compute too differently from machine to machine for a promise about rows; "
            "load the bundle with precision fp32, or ask for no bound"
        )
    return Header(
        file_id=secrets.token_bytes(16),
        digest=decoder_digest(model.bundle, model.precision),
        precision=model.precision,
        latent_dim=model.latent_dim,
        shape=model.input_shape,
        dtype=dtype,
        bits=settings.bits or DEFAULT_BITS,
        bound=bound,
        value=value,
    )


def check_model(header: Header, model: Autoencoder, where: str) -> None:
    """Refuse a model that did not write a file.

    Raises:
        InputError: saying which one did.
    """
    if header.precision != model.precision:
        raise InputError(
            f"{where}: written at precision {header.precision}, the model runs at {model.precision}; "
            f"load the bundle with precision {header.precision}"
        )
    digest = decoder_digest(model.bundle, model.precision)
    if header.digest != digest:
        raise InputError(
            f"{where}: written by another model: its decoder's digest begins with {header.digest.hex()[:12]}, that of "
            f"{model.bundle.path} with {digest.hex()[:12]}; use the bundle that wrote it"
        )
    if (header.latent_dim, header.shape) != (model.latent_dim, model.input_shape):
        raise InputError(f"{where}: its rows or latents have another shape than those of {model.bundle.path}")


def decoder_digest(bundle: Bundle, precision: str) -> bytes:
    """Return what binds a file to its model: SHA-256 of the decoder's graph without its metadata, 32 bytes.

    A new threshold, which stands in the metadata, changes nothing in it; whatever changes a decoded value does.

    Raises:
        BundleError: if the decoder is missing or no ONNX file.

    Example:
        >>> decoder_digest(Bundle.read("export/golden/dense"), "fp32").hex()[:8]
        '0f3ea2b6'
    """
    try:
        return hashlib.sha256(with_metadata(bundle.graph(precision, "decoder"), {})).digest()
    except (Malformed, Refused) as problem:
        raise BundleError(f"{bundle.path}: the decoder is no graph that edgeae reads: {problem}") from None


def reference_of(model: Autoencoder) -> Array:
    """Return for each value of a row the magnitudes that its decoder's arithmetic goes through, float64 [values]."""
    shift, scale = model.manifest.normalisation.arrays(model.input_shape, model.manifest.input.layout)
    least = np.maximum(np.abs(shift), np.abs(scale) * SMALL)
    return np.broadcast_to(least, model.input_shape).astype(np.float64).reshape(-1)


def measured_drift(decode: Callable[[Array], Array], z: Array, reference: Array) -> float:
    """Return how far another machine's decoder may be from this one's, relative to the largest results.

    It is eight times what changing the batch size changes here, and at least a few units in the last place of float32.
    """
    sample = z[:SAMPLE]
    apart = np.concatenate([decode(row[None]) for row in sample]).reshape(len(sample), -1)
    together = decode(sample).reshape(len(sample), -1)
    largest = np.maximum(np.abs(together).max(axis=0, initial=0), reference)
    return max(DRIFT, 8 * float((np.abs(together - apart) / np.maximum(largest, TINY)).max(initial=0)))


def least_steps(decode: Callable[[Array], Array], z: Array, bits: int) -> Array | None:
    """Return for each latent dimension a step that need not be finer, float32 [d], or None if there is nothing to see.

    The decoder is run with one dimension after the other at its mean: what that changes says how much a step of the
    dimension changes. Steps are made wider where they would change less than those of the other dimensions do on
    average, which at most doubles the error of quantisation, and makes dimensions that the decoder ignores, such as the
    near-prior ones of a variational model, cost nothing. It is the rule of equal slopes of transform coding (Gersho and
    Gray, Vector Quantization and Signal Compression, 1992, section 8.3).

    Args:
        decode: Latents to rows.
        z: float32 [n, d].
        bits: Of a code.
    """
    dims = z.shape[1]
    most = min(16, max(4, SENSITIVITY_ROWS // dims))
    sample = z[:: max(1, len(z) // most)][:most]
    spread = sample.var(axis=0, dtype=np.float64)
    if len(sample) < 4 or not spread.any():
        return None
    rows, mean = decode(sample).reshape(len(sample), -1), sample.mean(axis=0)
    changed = np.zeros(dims)
    varying = np.flatnonzero(spread)
    together = max(1, SENSITIVITY_VALUES // rows.size)
    for start in range(0, len(varying), together):
        part = varying[start : start + together]
        flat = np.repeat(sample[None], len(part), axis=0)
        flat[np.arange(len(part)), :, part] = mean[part, None]
        apart = decode(flat.reshape(-1, dims)).reshape(len(part), *rows.shape)
        apart -= rows
        changed[part] = np.einsum("ijk,ijk->i", apart, apart) / rows.size
    span = np.ptp(z, axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(spread > 0, np.sqrt(changed / spread), 0)
        usual = math.sqrt(np.square(slope * span / (2**bits - 1)).mean())
        least = np.where(slope > 0, usual / slope, np.where(spread > 0, np.inf, 0))
    bounded: Array = np.minimum(least, WIDEST * span).astype(np.float32)
    return bounded
