"""What all tests share."""

from __future__ import annotations

import signal

# A shell that starts a job in the background lets it ignore Ctrl-C, and children inherit that; the tests that interrupt
# a process need it to listen.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
