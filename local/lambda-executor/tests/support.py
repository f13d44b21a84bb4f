"""What the tests share: the Node to run with and a worker for a handler of functions.mjs."""

import os
import shutil
import time
from pathlib import Path

from snapferry_lambda_executor.worker import NodeWorker

FOLDER = Path(__file__).parent
NODE = os.environ.get("SNAPFERRY_NODE") or shutil.which("node")
# A cold Node on a busy machine.
READY_SECONDS = 30


def start_worker(handler: str, memory_mb: int = 256, **env: str) -> NodeWorker:
    """A worker that has not been waited for."""
    environment = {
        "LAMBDA_TASK_ROOT": str(FOLDER),
        "_HANDLER": f"functions.{handler}",
        "PATH": os.environ["PATH"],
        **env,
    }
    return NodeWorker(NODE, memory_mb, environment, str(FOLDER))


def is_process_alive(pid: int) -> bool:
    """False also for a process that has ended and was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_process_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
