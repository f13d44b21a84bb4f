"""What the process that starts LocalStack says through the environment."""

import os
import shutil
from pathlib import Path


def node_binary() -> str:
    """The Node that runs the functions."""
    return os.environ.get("SNAPFERRY_NODE") or shutil.which("node") or "node"


def libraries() -> Path:
    """Folder in LocalStack's layout that holds Java and DynamoDB Local."""
    return Path(os.environ["SNAPFERRY_LIBRARIES"])


def run_directory() -> Path | None:
    """Folder of this cloud's run state, where the pids of helpers are recorded."""
    value = os.environ.get("SNAPFERRY_RUN_DIRECTORY")
    return Path(value) if value else None


def lifeline_fd() -> int | None:
    """End of a pipe that is closed when the owner of a foreground cloud is gone."""
    value = os.environ.get("SNAPFERRY_LIFELINE_FD")
    return int(value) if value else None


def is_warm_up_wanted() -> bool:
    """Whether something will be deployed, so that what state machines need is worth loading beforehand."""
    return os.environ.get("SNAPFERRY_WARM_UP") == "1"
