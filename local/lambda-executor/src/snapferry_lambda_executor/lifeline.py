"""Ends LocalStack when the process that owns a foreground cloud is gone, even by SIGKILL."""

import logging
import os
import signal
import threading
import time

LOG = logging.getLogger(__name__)

# An orderly shutdown takes three to eight seconds; there is nothing to save, so it does not get longer than that.
GRACE_SECONDS = 8


def watch(fd: int) -> threading.Thread:
    """Watches the reading end of the owner's pipe from a thread of its own."""
    thread = threading.Thread(target=_end_at_eof, args=(fd,), name="lifeline", daemon=True)
    thread.start()
    return thread


def _end_at_eof(fd: int) -> None:
    while os.read(fd, 1):
        pass
    LOG.warning("The process that owns this cloud is gone: shutting down.")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
