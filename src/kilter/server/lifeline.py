"""Children of ``kilter up`` do not outlive it, however it ends.

The supervisor holds the writing end of a pipe; when it dies, even by ``kill -9``, the reading end in each child comes to
its end. On Linux the kernel also sends the child a signal of its own accord (``PR_SET_PDEATHSIG``), which reaches it even
while one of its extension modules holds the interpreter.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

VARIABLE = "KILTER_LIFELINE"
GRACE = 10.0

_PR_SET_PDEATHSIG = 1


def hold_on() -> bool:
    """End this process with its supervisor; without one, do nothing.

    Returns:
        Whether there is a supervisor.
    """
    said = os.environ.pop(VARIABLE, "")
    parent, _, descriptor = said.partition(":")
    if not (parent.isdecimal() and descriptor.isdecimal()):
        return False
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel was asked
        os._exit(1)
    os.set_inheritable(int(descriptor), False)
    threading.Thread(target=_watch, args=(int(descriptor),), name="kilter-lifeline", daemon=True).start()
    return True


def _watch(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
