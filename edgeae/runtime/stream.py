"""Scores step by step: samples in, one at a time, and a score, an anomaly and an alarm out for each."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from edgeae.bundle.arrays import read_arrays
from edgeae.bundle.atomic import write_file
from edgeae.bundle.bundle import pack_arrays
from edgeae.bundle.strict import from_plain, parse_json, to_json, to_plain
from edgeae.errors import BundleError, InputError
from edgeae.runtime.adaptive import AdaptiveThreshold
from edgeae.runtime.alarms import Alarms
from edgeae.runtime.calibrated import bundle_table
from edgeae.runtime.drift import Drift, Watch, input_bins, score_bins
from edgeae.runtime.inputs import Array
from edgeae.runtime.model import Autoencoder

__all__ = ["Step", "Stream", "StreamOptions"]

_log = logging.getLogger("edgeae")

STATE_VERSION: Final = 1
MAX_STATE_BYTES: Final = 2**28


@dataclass(frozen=True)
class StreamOptions:
    """What becomes of the scores of a stream.

    Attributes:
        needed: An alarm begins when so many ...
        among: ... of the last so many scored steps are anomalies.
        clear: It ends when at most so many of them are.
        cooldown: After its end no other begins for so many steps.
        adaptive: Let the threshold follow the stream, so that this share of normal scores exceeds it (SPOT); None
            leaves it where the bundle has it.
        drift_steps: Compare blocks of so many steps with the normal rows at export; 0: never.
        drift_level: From which population stability index on a block has drifted.

    Example:
        >>> StreamOptions(needed=3, among=5, cooldown=100).clear
        0
    """

    needed: int = 1
    among: int = 1
    clear: int = 0
    cooldown: int = 0
    adaptive: float | None = None
    drift_steps: int = 0
    drift_level: float = 0.25

    @staticmethod
    def of(options: StreamOptions | Mapping[str, Any] | None) -> StreamOptions:
        """Accept what `Stream` accepts as options, and refuse impossible ones.

        Raises:
            InputError: naming the option.
        """
        if not isinstance(options, StreamOptions):
            options = from_plain(StreamOptions, dict(options or {}), where="stream options", error=InputError)
        for name, least in (("needed", 1), ("among", 1), ("clear", 0), ("cooldown", 0), ("drift_steps", 0)):
            value = getattr(options, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
                raise InputError(f"stream options: {name} must be a whole number from {least}, got {value!r}")
        if not options.clear < options.needed <= options.among:
            raise InputError(
                f"stream options: needed must be above clear and at most among, got {options.needed} of "
                f"{options.among} with clear {options.clear}"
            )
        if not options.drift_level > 0:
            raise InputError(f"stream options: drift_level must be above 0, got {options.drift_level!r}")
        return options


class Step(NamedTuple):
    """What a stream says to one sample.

    Attributes:
        row: Number of the sample, from 0.
        score: Of the window that ends with it, higher is more anomalous; None until a window is full; NaN for a sample
            with values that are not finite, where the model was loaded with on_invalid="flag".
        anomaly: `not (score <= threshold)`; False while there is no score.
        alarm: Whether there is an alarm.
    """

    row: int
    score: float | None
    anomaly: bool
    alarm: bool


class Stream:
    """A model that takes a series sample by sample.

    Samples lie in a ring that is written twice, so that the newest T of them are always one piece of memory, from which
    the bound scorer (`Autoencoder.bind`) takes its window with one copy. A step allocates no array, and does the same
    work however long the window is: what grows with it are that copy and the network.

    After a sample that is not finite (with on_invalid="flag") and after `gap`, a window begins anew: none ever holds an
    invalid sample or reaches across a gap. A bundle whose rows are vectors has windows of one sample.

    One thread at a time.

    Attributes:
        options: What becomes of the scores.
        drift: How far the last full block was from the normal rows at export, or None.

    Example:
        >>> import edgeae
        >>> with edgeae.load("export/golden/table", device="cpu") as model:
        ...     stream = Stream(model, StreamOptions(needed=2, among=3))
        ...     steps = [stream.push(sample) for sample in model.bundle.golden().x]
        >>> steps[0].row, steps[0].alarm, len(steps)
        (0, False, 8)
    """

    def __init__(self, model: Autoencoder, options: StreamOptions | Mapping[str, Any] | None = None) -> None:
        """Begin a stream.

        Args:
            model: A loaded bundle for windows [T, channels] (layout TC) or vectors.
            options: A `StreamOptions` or a mapping with the same keys.

        Raises:
            InputError: if the bundle takes images, an option is impossible, or the bundle does not have what it needs.
        """
        self.options = options = StreamOptions.of(options)
        row = model.manifest.input
        if row.layout not in ("TC", "vector"):
            raise InputError(
                f"{model.bundle.path}: takes rows of the layout {row.layout}; a stream has windows or vectors"
            )
        self._model = model
        self._length, self._channels = (1, *row.shape) if row.layout == "vector" else row.shape
        self._names = row.feature_names or (None if row.series is None else row.series.channel_names)
        self._dtype = np.dtype(row.dtype)
        self._flag = model.flags_invalid
        self._shape = (self._channels,)
        self._ring = ring = np.zeros((2 * self._length, self._channels), self._dtype)
        self._first, self._second = list(ring[: self._length]), list(ring[self._length :])
        self._windows = [ring[at + 1 : at + 1 + self._length].reshape(row.shape) for at in range(self._length)]
        self._score = model.bind().score
        self._threshold = model.threshold
        self._statistics = model.bundle.statistics() if options.adaptive is not None or options.drift_steps else {}
        self._begin()

    def _begin(self) -> None:
        """Be as if there had been no sample."""
        model, options, statistics = self._model, self.options, self._statistics
        where = str(model.bundle.path)
        self._at = self._filled = self._row = self._block = 0
        self.drift: Drift | None = None
        self._alarms = Alarms(options.needed, options.among, options.clear, options.cooldown)
        self._adaptive = self._inputs = self._scores = None
        if options.adaptive is not None:
            self._adaptive = AdaptiveThreshold(bundle_table(statistics, model.precision, where), options.adaptive)
        if options.drift_steps:
            inputs = input_bins(statistics, self._channels, where)
            scores = score_bins(statistics, model.precision, where)
            if inputs is None and scores is None:
                raise InputError(f"{where}: keeps no histograms of normal rows to see a drift by; export it again")
            self._inputs = None if inputs is None else Watch(inputs, "inputs")
            self._scores = None if scores is None else Watch(scores, "scores")

    @property
    def threshold(self) -> float:
        """Scores above it are anomalies; it moves if it is adaptive."""
        return self._threshold if self._adaptive is None else self._adaptive.value

    @property
    def channels(self) -> int:
        """How many numbers a sample has."""
        return self._channels

    @property
    def channel_names(self) -> tuple[str, ...] | None:
        """One name per channel, where the bundle has names."""
        return self._names

    @property
    def period(self) -> float | None:
        """Seconds from one sample to the next, where the bundle knows."""
        series = self._model.manifest.input.series
        return None if series is None else series.period

    @property
    def flags_invalid(self) -> bool:
        """Whether samples that are not finite get the score NaN instead of an error."""
        return self._flag

    @property
    def row(self) -> int:
        """Number of the next sample."""
        return self._row

    @property
    def alarms(self) -> int:
        """How many alarms have begun."""
        return self._alarms.begun

    def push(self, sample: object) -> Step:
        """Take the next sample.

        Args:
            sample: [channels] numbers in the units of the training data; one number where there is one channel.

        Returns:
            What there is to say about it.

        Raises:
            InputError: if it is no such sample; then the stream is as if it had not been there.
            EdgeaeError: as `Bound.score` does.
        """
        at = self._at
        target = self._first[at]
        if type(sample) is np.ndarray and sample.dtype is self._dtype and sample.shape == self._shape:
            target[...] = sample
        else:
            self._convert(sample, target)
        # a sum of squares is finite only if all values are
        if not math.isfinite(np.vdot(target, target)) and not np.isfinite(target).all():
            return self._invalid(target)
        self._second[at][...] = target
        score: Any = None
        if self._filled >= self._length - 1:
            score = self._score(self._windows[at])
        else:
            self._filled += 1
        self._at = at + 1 if at + 1 < self._length else 0
        if self._inputs is not None:
            self._inputs.add(target)
        return self._judge(score)

    def prepare(self) -> None:
        """Load and test the scorer now rather than when the first window is full."""
        self._model.prepare("scorer")

    def gap(self) -> None:
        """Say that steps are missing before the next sample, so that the window begins anew."""
        self._filled = 0

    def _judge(self, score: float | None) -> Step:
        row = self._row
        self._row = row + 1
        anomaly = False
        if score is not None:
            adaptive = self._adaptive
            anomaly = not (score <= self._threshold) if adaptive is None else adaptive.is_anomaly(score)
            if self._scores is not None and score == score:
                self._scores.add(score)
        alarm = self._alarms.step(None if score is None else anomaly)
        if self.options.drift_steps:
            self._block += 1
            if self._block == self.options.drift_steps:
                self._compare()
        return Step(row, score, anomaly, alarm)

    def _invalid(self, target: Array) -> Step:
        if not self._flag:
            channel = int(np.flatnonzero(~np.isfinite(target))[0])
            name = channel if self._names is None else repr(self._names[channel])
            raise InputError(
                f"sample {self._row}: channel {name} is {target[channel]}; leave such samples out, or load the bundle "
                "with on_invalid='flag' to give them the score NaN"
            )
        self._filled = 0
        return self._judge(math.nan)

    def _convert(self, sample: object, target: Array) -> None:
        try:
            values = np.asarray(sample)
        except (ValueError, TypeError) as problem:
            raise InputError(f"sample {self._row}: cannot be read as numbers: {str(problem).splitlines()[0]}") from None
        if values.ndim == 0 and self._channels == 1:
            values = values[None]
        if values.dtype.kind not in "biuf" or values.shape != self._shape:
            raise InputError(
                f"sample {self._row}: expected {self._channels} number{'s' if self._channels > 1 else ''}, got "
                f"{values.dtype} {list(values.shape)}"
            )
        if self._dtype == np.uint8:
            whole = np.isfinite(values) & (values >= 0) & (values <= 255) & (values == np.rint(values))
            if not whole.all():
                raise InputError(f"sample {self._row}: the bundle takes whole numbers from 0 to 255")
        with np.errstate(all="ignore"):
            np.copyto(target, values, casting="unsafe")

    def _compare(self) -> None:
        """End a block: compare it with the normal rows at export, and say so where it has begun to differ."""
        inputs = None if self._inputs is None else self._inputs.index()
        scores = None if self._scores is None else self._scores.index()
        names = self._names or tuple(str(channel) for channel in range(self._channels))
        by_channel = {} if inputs is None else dict(zip(names, inputs.tolist(), strict=True))
        score = None if scores is None else float(scores[0])
        level = self.options.drift_level
        exceeded = [name for name, value in by_channel.items() if value > level]
        exceeded += ["score"] if score is not None and score > level else []
        before = () if self.drift is None else self.drift.exceeded
        self.drift = Drift(self._block, by_channel, score, tuple(exceeded))
        self._block = 0
        if set(exceeded) - set(before):
            _log.warning(
                "drift: in the %d steps up to %d, %s differ from the normal rows at export (stability index above %g)",
                *(self.options.drift_steps, self._row - 1, ", ".join(exceeded), level),
            )

    def state(self) -> bytes:
        """Return everything that the next step depends on, as the bytes of an .npz file without pickles."""
        newest = [(self._at - back) % self._length for back in range(self._filled, 0, -1)]
        arrays: dict[str, Array] = {
            "facts": np.frombuffer(to_json(self._facts()), np.uint8),
            "counts": np.array([self._row, self._block], np.int64),
            "samples": self._ring[newest],
        }
        for part in self._parts():
            arrays |= part.state()
        return pack_arrays(**arrays)

    def restore(self, state: bytes, *, where: str = "state") -> None:
        """Go on where `state` was taken: what comes next is what would have come.

        Args:
            state: From `Stream.state` of a stream with the same bundle, precision and options.
            where: What to call it in messages.

        Raises:
            InputError: if it is damaged, or that of another bundle, precision or other options; then the stream begins
                anew.
        """
        self._begin()
        try:
            arrays = read_arrays(state, where)
            found = parse_json(arrays.pop("facts").tobytes(), where=where)
            for key, value in self._facts().items():
                other = found.get(key) if isinstance(found, dict) else None
                if other != value:
                    raise InputError(f"is of another {key}, {other!r} where {value!r} is wanted")
            counts, samples = arrays.pop("counts"), arrays.pop("samples")
            fits = samples.dtype == self._dtype and samples.ndim == 2 and samples.shape[1] == self._channels
            if not (fits and len(samples) < self._length and np.isfinite(samples).all()):
                raise InputError("does not hold samples of this bundle")
            if counts.shape != (2,) or counts.dtype != np.int64 or not (counts >= 0).all():
                raise InputError("does not hold the number of samples")
            for part in self._parts():
                part.restore(**{name: arrays.pop(name) for name in part.state()})
        except (BundleError, InputError, KeyError) as problem:
            self._begin()
            raise InputError(f"{where}: is no state that this stream can go on from: {problem}") from None
        for at, sample in enumerate(samples):
            self._first[at][...] = self._second[at][...] = sample
        self._at = self._filled = len(samples)
        self._row, self._block = counts.tolist()

    def _facts(self) -> dict[str, Any]:
        model = self._model
        options = to_plain(self.options)
        return {
            "version": STATE_VERSION,
            "bundle": model.bundle.digest,
            "precision": model.precision,
            "options": options,
        }

    def _parts(self) -> list[Alarms | AdaptiveThreshold | Watch]:
        optional = (self._adaptive, self._inputs, self._scores)
        return [self._alarms, *(part for part in optional if part is not None)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state` to a file, atomically.

        Raises:
            InputError: if it cannot be written.
        """
        write_file(Path(path), self.state())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file that `save` wrote; see `restore`.

        Raises:
            InputError: if it cannot be read, too.
        """
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_STATE_BYTES + 1)
        except OSError as problem:
            raise InputError(f"{path}: cannot be read: {problem.strerror or problem}") from None
        if len(data) > MAX_STATE_BYTES:
            raise InputError(f"{path}: is too large to be the state of a stream")
        self.restore(data, where=str(path))
