"""Loads what state machines need before the first one runs: the JSONata library starts a Java machine."""

import logging
import threading

LOG = logging.getLogger(__name__)


def start() -> None:
    """Does it in the background: a deployment takes longer."""
    threading.Thread(target=_load_jsonata, name="warm-up", daemon=True).start()


def _load_jsonata() -> None:
    try:
        from localstack.services.stepfunctions.asl.jsonata.jsonata import eval_jsonata_expression

        eval_jsonata_expression("1")
    except Exception as error:
        LOG.warning("JSONata could not be loaded beforehand: %s", error)
