"""A review by a person with a browser, over the death of worker and server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.manifest import read_manifest
from storage.workspace import Workspace
from tasks import reviews
from tasks.settings import CurationSettings
from tests.flows.serving import (
    Served,
    go,
    open_artifact,
    open_run_form,
    submit_run_form,
    submit_until,
)

READER = "A. Reader"


@pytest.fixture
def curated(
    prefect_server: str, film_folder: Path, small: dict[str, int], tmp_path: Path
) -> Workspace:
    from flows.curate import curate

    out = tmp_path / "curated"
    curate(CurationSettings(source=str(film_folder), out=str(out), **small))
    return Workspace.open(out)


def open_dialog(page: Any, url: str, *, shows: str) -> None:
    """Open the dialog of a suspended run."""
    go(page, url, page.get_by_role("button", name="Resume").click, shows=shows)


def fill_in(page: Any, url: str, picture: Path, **fields: str) -> None:
    """Open the dialog of a suspended run, fill in fields by their titles, submit."""
    open_dialog(page, url, shows="Clusters to drop (Optional)")
    for title, value in fields.items():
        label = page.get_by_text(title.replace("_", " ") + " (Optional)", exact=True)
        box = page.locator(".p-modal .p-label", has=label).last
        box.locator("textarea, input").first.fill(value)
    page.screenshot(path=picture)
    card = page.locator(".p-modal__card").first
    submit_until(page, card.is_hidden)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(900)
def test_a_person_decides_in_the_ui_and_the_wait_outlives_worker_and_server(
    curated: Workspace, served: Served, page: Any, pictures: Path
) -> None:
    from playwright.sync_api import expect

    before = read_manifest(curated).to_pandas().set_index("tile_id")
    shown, _ = reviews.show(curated, reviews.published(curated))
    label = shown.clusters[0].label
    open_run_form(page, served, deployment="review", titled="What a review is told")
    page.locator("textarea").nth(0).fill(curated.uri)
    submit_run_form(page)

    run = served.suspended(form=1)
    url = f"{served.url}/runs/flow-run/{run['id']}"
    open_artifact(page, url, "review-clusters")
    page.get_by_text("review-clusters").first.click()
    sheet = page.locator("img[src^='data:image/jpeg']").first
    expect(sheet).to_be_visible(timeout=30_000)
    assert sheet.evaluate("picture => picture.naturalWidth") > 500
    page.screenshot(path=pictures / "review-artifact.png")

    wrong = {"Clusters_to_drop": "999", "Threshold_of_the_misinformative_score": "7"}
    fill_in(page, url, pictures / "review-wrong.png", **wrong)
    served.suspended(form=2)
    assert read_manifest(curated).to_pandas().set_index("tile_id").equals(before)

    served.kill()
    served.start()
    assert served.suspended(form=2)["id"] == run["id"], "the wait outlived both"

    right = {
        "Clusters_to_drop": "",
        "Clusters_to_keep": str(label),
        "Threshold_of_the_misinformative_score": "0.5",
        "Reviewer": READER,
    }
    open_dialog(page, url, shows="NOT APPLIED, nothing was changed")
    page.screenshot(path=pictures / "review-told.png")
    fill_in(page, url, pictures / "review-right.png", **right)
    served.wait(lambda run: run["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))
    go(page, url, shows="Completed", exact=True)
    page.screenshot(path=pictures / "review-done.png")

    after = read_manifest(curated).to_pandas().set_index("tile_id")
    judged = after[after.reviewed_by.notna()]
    assert set(judged.index) == set(before.index[before.cluster_label == label])
    assert set(judged.decision + "/" + judged.reason) == {"keep/reviewer"}
    assert set(judged.reviewed_by) == {READER}
    assert judged.reviewed_at.notna().all()
    rest = after.drop(judged.index).drop(columns="run_id")
    assert rest.equals(before.drop(judged.index).drop(columns="run_id"))
    record = reviews.published(curated)
    assert record["reviewed_run"] == set(before.run_id).pop()
    assert json.dumps(record["review"]["by_fate"]) == f'{{"keep/reviewer": {len(judged)}}}'
