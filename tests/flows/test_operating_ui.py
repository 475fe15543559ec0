"""A person at the Prefect UI whose runs go wrong: refused, failed and retried, cancelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage import lease
from storage.manifest import read_manifest
from storage.workspace import Workspace
from tests.flows.serving import (
    SHORT,
    Served,
    fill_run_form,
    go,
    open_artifact,
    open_run_form,
    submit_run_form,
)

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(2400)
def test_a_bad_value_is_refused_a_failed_run_is_retried_and_a_running_one_cancelled(
    served: Served, page: Any, film_folder: Path, tmp_path: Path, pictures: Path
) -> None:
    from playwright.sync_api import expect

    films, out = tmp_path / "films", tmp_path / "curated"

    open_run_form(page, served, deployment="films", titled="What a curation run is told")
    fill_run_form(page, films, out, SHORT | {"Tile size (Optional)": "8"})
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Submit").click()
    told = page.get_by_text("8 is less than the minimum of 16")
    expect(told.first).to_be_visible(timeout=60_000)
    told.first.scroll_into_view_if_needed()
    page.screenshot(path=pictures / "ui-refused.png")
    assert served.runs() == [], "nothing was started"

    fill_run_form(page, films, out, SHORT)
    submit_run_form(page)
    failed = served.wait(lambda run: run["state_type"] in ENDED)
    assert failed["state_type"] == "FAILED"
    url = f"{served.url}/runs/flow-run/{failed['id']}"
    go(page, url, page.get_by_text("does not exist").first.wait_for, shows="Failed", exact=True)
    page.screenshot(path=pictures / "ui-failed.png")

    films.symlink_to(film_folder)
    page.get_by_role("button", name="Retry").first.click()
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / "ui-retry.png")
    page.locator(".p-modal").get_by_role("button", name="Retry").click()
    served.wait(lambda run: run["state_type"] == "COMPLETED")
    go(page, url, shows="Completed", exact=True)
    open_artifact(page, url, "run-summary")
    page.screenshot(path=pictures / "ui-retried.png")
    manifest = read_manifest(Workspace.open(out))

    open_run_form(page, served, deployment="films", titled="What a curation run is told")
    endless = {"Epochs (Optional)": "100000", "Patience (Optional)": "100000"}
    fill_run_form(page, films, out, SHORT | endless)
    submit_run_form(page)
    first = failed["id"]
    running = served.wait(lambda run: run["state_type"] == "RUNNING", other_than=first)
    held = at_work(served, out)
    url = f"{served.url}/runs/flow-run/{running['id']}"
    go(page, url, shows="Running", exact=True)
    page.screenshot(path=pictures / "ui-running.png")
    page.get_by_role("button", name="Cancel").first.click()
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / "ui-cancel.png")
    page.locator(".p-modal").get_by_role("button", name="Confirm").click()
    served.wait(lambda run: run["state_type"] == "CANCELLED", other_than=first)
    go(page, url, shows="Cancelled", exact=True)
    page.screenshot(path=pictures / "ui-cancelled.png")

    workspace = Workspace.open(out)
    left = lease.read(workspace)
    assert not left or (left["token"] == held["token"] and lease.is_stale(left))
    assert read_manifest(workspace).equals(manifest), "what was published stays"


def at_work(served: Served, out: Path) -> dict[str, Any]:
    """Wait until the run holds the workspace and trains; gives its lease."""
    workspace = Workspace.open(out)
    served.wait(lambda _: lease.read(workspace).get("stage") == "encoder")
    return lease.read(workspace)
