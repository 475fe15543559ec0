"""Runs whose process or machine vanished begin again by themselves.

    python -m flows.watch     registers this with the server that PREFECT_API_URL names

A run gives a sign of life every `BEAT_S` seconds (its worker must have
``PREFECT_FLOWS_HEARTBEAT_FREQUENCY`` set to that). Where none comes for `SILENT_S`, the server sets
the run to AwaitingRetry; the next worker takes it up, and it goes on in its workspace where it
stopped. A run whose worker lives and reports the crash itself is Crashed at once, and stays so: a
person looks at it and chooses Retry.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

NAME = "mammosift: runs that vanished begin again"
BEAT_S, SILENT_S = 30, 180
"""30 s is the least that Prefect allows; a lease of another machine has ended by then (120 s)."""
ENDED = ("Completed", "Failed", "Crashed", "Cancelled", "Suspended", "Paused", "AwaitingRetry")


def register() -> None:
    """Create the automation, or bring it up to date."""
    import anyio

    anyio.run(_register)


async def _register() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    beat = "prefect.flow-run.heartbeat"
    automation = AutomationCore(
        name=NAME,
        description="A run whose process gave no sign of life for three minutes is given to the "
        "next worker; it goes on in its workspace where it stopped.",
        trigger=EventTrigger(
            after={beat},
            expect={beat, *(f"prefect.flow-run.{state}" for state in ENDED)},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message="its process gave no sign of life for three minutes",
            )
        ],
    )
    async with get_client() as client:
        known = await client.read_automations_by_name(NAME)
        if any(_same(one, automation) for one in known):
            return  # a new one would forget the runs that this one watches
        for one in known:
            await client.delete_automation(one.id)
        await client.create_automation(automation)


def _same(one: Any, other: Any) -> bool:
    """Whether two automations do the same."""
    left, right = (
        x.model_dump(mode="json", include={"name", "description", "trigger", "actions"})
        for x in (one, other)
    )
    for x in (left, right):
        x["trigger"].pop("id", None)
        for name in ("after", "expect", "for_each"):
            x["trigger"][name] = sorted(x["trigger"][name])
    return bool(left == right)


if __name__ == "__main__":
    register()
