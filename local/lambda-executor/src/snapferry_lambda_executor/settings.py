"""What the process that starts LocalStack says through the environment."""

import os
import shutil
from pathlib import Path


MARK = "SNAPFERRY_RUN_DIRECTORY"


def node_binary() -> str:
    """The Node that runs the functions."""
    return os.environ.get("SNAPFERRY_NODE") or shutil.which("node") or "node"


def libraries() -> Path:
    """Folder in LocalStack's layout that holds Java and DynamoDB Local."""
    return Path(os.environ["SNAPFERRY_LIBRARIES"])


def mark() -> dict[str, str]:
    """The variable by which all processes of this cloud can be told, to be handed to every one of them."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def lifeline_fd() -> int | None:
    """End of a pipe that is closed when the owner of a foreground cloud is gone."""
    value = os.environ.get("SNAPFERRY_LIFELINE_FD")
    return int(value) if value else None


def is_warm_up_wanted() -> bool:
    """Whether something will be deployed, so that what state machines need is worth loading beforehand."""
    return os.environ.get("SNAPFERRY_WARM_UP") == "1"
