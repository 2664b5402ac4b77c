"""From anomalies, step by step, to alarms: m of n, with hysteresis and a pause after each."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeae.errors import InputError

__all__ = ["Alarms"]

Array = np.ndarray[Any, Any]


class Alarms:
    """An alarm begins when `needed` of the last `among` scored steps are anomalies, and ends when at most `clear` are.

    After its end no other begins for `cooldown` steps.

    Attributes:
        active: Whether there is an alarm.
        begun: How many alarms have begun.

    Example:
        >>> alarms = Alarms(needed=2, among=3, clear=0, cooldown=0)
        >>> [alarms.step(anomaly) for anomaly in (True, False, True, False, False, False)]
        [False, False, True, True, True, False]
    """

    def __init__(self, needed: int, among: int, clear: int, cooldown: int) -> None:
        """Begin without an alarm."""
        self._needed, self._clear, self._cooldown = needed, clear, cooldown
        self._last = [False] * among
        self._at = self._count = self._quiet = 0
        self.active = False
        self.begun = 0

    def step(self, anomaly: bool | None) -> bool:
        """Take one step, None where there is no score yet, and return whether there is an alarm."""
        quiet = self._quiet
        if quiet:
            self._quiet = quiet - 1
        if anomaly is None:
            return self.active
        last, at = self._last, self._at
        self._count += anomaly - last[at]
        last[at] = anomaly
        self._at = at + 1 if at + 1 < len(last) else 0
        if self.active:
            if self._count <= self._clear:
                self.active, self._quiet = False, self._cooldown
        elif self._count >= self._needed and not quiet:
            self.active = True
            self.begun += 1
        return self.active

    def state(self) -> dict[str, Array]:
        """Return what there is to save."""
        facts = [self._at, self._quiet, int(self.active), self.begun]
        return {"alarms": np.array(facts, np.int64), "anomalies": np.array(self._last, np.uint8)}

    def restore(self, alarms: Array, anomalies: Array) -> None:
        """Take what `state` returned.

        Raises:
            InputError: if it is nothing of that kind.
        """
        fits = alarms.shape == (4,) and alarms.dtype == np.int64 and anomalies.shape == (len(self._last),)
        if not (fits and 0 <= alarms[0] < len(anomalies) and (alarms >= 0).all() and (anomalies <= 1).all()):
            raise InputError("the state of the alarms is damaged; begin anew")
        self._at, self._quiet, self.begun = int(alarms[0]), int(alarms[1]), int(alarms[3])
        self.active = bool(alarms[2])
        self._last = [bool(each) for each in anomalies]
        self._count = sum(self._last)
