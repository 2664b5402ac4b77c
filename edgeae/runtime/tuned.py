"""The settings that `edgeae tune` found for a bundle on this machine, kept in the user's cache for `edgeae.load`.

They are kept under a key of all that they depend on: the bundle, the processor and its cores, the versions of ONNX
Runtime and edgeae, the device, and the operator library if there is one.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path

from edgeae import __version__
from edgeae.bundle.atomic import write_file
from edgeae.bundle.record import record
from edgeae.bundle.strict import from_plain, parse_json, to_json
from edgeae.cache import cache_path
from edgeae.errors import EdgeaeError, InputError
from edgeae.runtime.machine import machine
from edgeae.runtime.native import find_library
from edgeae.runtime.options import Options, Profile

__all__ = ["Choice", "Trial", "Tuning", "lookup", "store", "tuning_key"]

_logger = logging.getLogger("edgeae")


@record(frozen=True)
class Choice:
    """Settings that change how fast a model runs and not what it computes.

    Attributes:
        workers: As in `Options`; None leaves it to the profile.
        chunk: As in `Options`; None leaves it to the size of a row.
        threads: Of ONNX Runtime, within one call; None leaves it to the profile.
        spin: Whether its idle threads wait busily.
        prepack: Whether ONNX Runtime rearranges weights when it loads them.
        native: Whether dense models run on the operator library; see `edgeae.runtime.native`.
    """

    workers: int | None = None
    chunk: int | None = None
    threads: int | None = None
    spin: bool = False
    prepack: bool = True
    native: bool = False

    def options(self) -> Options:
        """Return them as options of `edgeae.load`."""
        config = {"session.intra_op.allow_spinning": "1"} if self.spin else {}
        if not self.prepack:
            config["session.disable_prepacking"] = "1"
        session = {"intra_op_num_threads": self.threads} if self.threads is not None else {}
        return Options(
            workers=self.workers, chunk=self.chunk, session=session, config=config, native=self.native or None
        )

    def __str__(self) -> str:
        changed = {name: value for name, value in asdict(self).items() if value != getattr(Choice(), name)}
        return ", ".join(f"{name} {_word(value)}" for name, value in changed.items()) or "default"


@record(frozen=True)
class Trial:
    """One candidate and how it did.

    Attributes:
        profile: "latency" or "throughput".
        precision: Of the graphs.
        choice: The settings.
        p50: Median duration in seconds: of one bound row, or in bulk of one row among many.
        p10: 10th percentile of the same.
    """

    profile: Profile
    precision: str
    choice: Choice
    p50: float
    p10: float


@record(frozen=True)
class Tuning:
    """What was measured and chosen for a bundle on a machine.

    Attributes:
        key: What the choice depends on; see `lookup`.
        bundle: Name of the bundle, for people.
        latency: The best settings for each precision.
        throughput: The same.
        fastest: What precision="auto" stands for in each profile.
        trials: Everything that was measured.
    """

    key: str
    bundle: str
    latency: dict[str, Choice]
    throughput: dict[str, Choice]
    fastest: dict[str, str]
    trials: tuple[Trial, ...]

    def options(self, profile: Profile, precision: str) -> Options:
        """Return the settings for a profile and a precision; the default ones where nothing was measured."""
        chosen = self.latency if profile == "latency" else self.throughput
        return chosen.get(precision, Choice()).options()


def lookup(digest: str, device: str) -> Tuning | None:
    """Return what was stored for the bundle with this digest on this machine and device, or None.

    A file that cannot be used is as good as none; the log (logger "edgeae") says so.
    """
    if not cache_path("tune").is_dir():
        return None
    path = _path(tuning_key(digest, device))
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        return from_plain(Tuning, parse_json(data, where=str(path)), where=str(path))
    except (EdgeaeError, TypeError, ValueError) as problem:
        _logger.warning("%s; run edgeae tune again", problem)
        return None


def store(tuning: Tuning) -> Path:
    """Keep a tuning for `edgeae.load`, and return the file.

    Raises:
        InputError: if the cache folder cannot be written to.
    """
    path = _path(tuning.key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(
            f"{path.parent}: {problem.strerror}; set XDG_CACHE_HOME to a folder you may write in"
        ) from None
    write_file(path, to_json(tuning))
    return path


def tuning_key(digest: str, device: str) -> str:
    """Return the key of a bundle (by the SHA-256 of its manifest) on this machine and device."""
    here = machine()
    library = find_library()
    built = library and (library, library.stat().st_mtime_ns)
    parts = (digest, device, here.processor, here.architecture, here.cores, here.onnxruntime, __version__, built)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _path(key: str) -> Path:
    return cache_path("tune", f"{key[:32]}.json")


def _word(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
