"""The C interface from another language, here Python's ctypes:  python score.py LIBRARY BUNDLE < rows.csv"""

from __future__ import annotations

import csv
import ctypes
import sys

FLAG = 1  # rows with NaN get the score NaN instead of an error
ERROR_SIZE = 512


class Options(ctypes.Structure):
    """edgeae_options; zeros are the defaults."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("device", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("on_invalid", ctypes.c_int32),
        ("cpu_fallback", ctypes.c_int32),
        ("workers", ctypes.c_size_t),
        ("chunk", ctypes.c_size_t),
    )


class Edgeae:
    """A model behind the C interface."""

    def __init__(self, library: str, bundle: str) -> None:
        self._library = ctypes.CDLL(library)
        self._error = ctypes.create_string_buffer(ERROR_SIZE)
        self._model = ctypes.c_void_p()
        options = Options(struct_size=ctypes.sizeof(Options), on_invalid=FLAG)
        self._check(
            self._library.edgeae_load(
                bundle.encode(),
                ctypes.byref(options),
                ctypes.byref(self._model),
                self._error,
                ctypes.c_size_t(ERROR_SIZE),
            )
        )

    def score(self, rows: list[list[float]]) -> list[float]:
        """Return the score of each row; higher is more anomalous."""
        x = (ctypes.c_float * (len(rows) * len(rows[0])))(*(value for row in rows for value in row))
        scores = (ctypes.c_float * len(rows))()
        count, size = ctypes.c_size_t(len(rows)), ctypes.c_size_t(ERROR_SIZE)
        self._check(self._library.edgeae_score(self._model, x, count, scores, self._error, size))
        return list(scores)

    def is_anomaly(self, score: float) -> bool:
        """Tell whether a score is an anomaly's; NaN is one."""
        return bool(self._library.edgeae_is_anomaly(self._model, ctypes.c_float(score)))

    def close(self) -> None:
        """Free the model."""
        self._library.edgeae_free(self._model)

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(self._error.value.decode())


def main() -> None:
    """Print a line for each row on standard input."""
    model = Edgeae(sys.argv[1], sys.argv[2])
    rows = [[float(cell) for cell in line] for line in csv.reader(sys.stdin)]
    for row, score in enumerate(model.score(rows)):
        sys.stdout.write(f"{row},{score!r},{model.is_anomaly(score)}\n")
    model.close()


if __name__ == "__main__":
    main()
