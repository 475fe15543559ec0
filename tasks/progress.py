"""Progress of long work on a Dask worker, sent to whoever listens at the client."""

from __future__ import annotations

TOPIC = "mammosift-progress"


def report(**message: object) -> None:
    """Send a small message (numbers and short strings); outside a Dask worker it goes nowhere."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return
    worker.log_event(TOPIC, message)
