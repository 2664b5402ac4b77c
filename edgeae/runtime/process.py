"""Noticing that this process is a fork of the one that loaded a model, which ONNX Runtime need not survive."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, NoReturn

from edgeae.errors import EdgeaeError

__all__ = ["keep_in_children", "refuse_fork"]

# Comparing with this number spares every call the system call that os.getpid is.
current = os.getpid()

_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


def keep_in_children(session: Any) -> None:
    """Never destroy `session` in a forked child: its destructor would wait for threads that only the parent has."""
    _sessions.add(session)


def _after_fork() -> None:
    global current
    current = os.getpid()
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def refuse_fork() -> NoReturn:
    """Raise what a forked child gets that uses its parent's model."""
    raise EdgeaeError(
        "this model was loaded before the process forked, and its sessions belong to the parent; call edgeae.load in "
        "the child, or start workers with multiprocessing.get_context('spawn')"
    )
