"""Many use the CUDA devices at a time, or one records a CUDA graph alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["GATE", "Gate"]


class Gate:
    """Lets any number of threads through together, and one alone when it asks for that.

    ONNX Runtime records a CUDA graph in the mode in which an allocation, a copy or a wait by any other thread of the
    process fails, and spoils the recording. A thread that waits to be alone holds back those that come after it, so
    that it gets its turn. Not to be entered twice by a thread.

    Source: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__STREAM.html (cudaStreamCaptureModeGlobal)

    Example:
        >>> gate = Gate()
        >>> with gate.shared():
        ...     pass
        >>> with gate.alone():
        ...     pass
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._inside = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Enter together with others, once nobody is or waits to be alone."""
        with self._turn, self._left:
            self._inside += 1
        try:
            yield
        finally:
            with self._left:
                self._inside -= 1
                self._left.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Enter once all others have left, and let nobody in meanwhile."""
        with self._turn, self._left:
            self._left.wait_for(lambda: self._inside == 0)
            yield


GATE = Gate()
