"""Screenshots of the running program for README and docs, into docs/images/.

Usage: PYTHONPATH=. python docs/pictures.py WORKSPACE [--only report film run-form review-form]

WORKSPACE is a finished run's (``make demo`` makes one in demo/). The report and a film's page are
opened from disk; the forms are those of ``mammosift serve``, which is started for it and stopped.
Nothing in the workspace changes: the review is left waiting after a wrong entry. Needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.chromium import launched
from tests.flows.serving import Served, open_run_form, submit_run_form, submit_until

IMAGES = Path(__file__).parent / "images"
WIDTH_PX = 1400
PATIENCE_MS = 180_000
LARGEST_BYTES = 300_000


def save(png: bytes, name: str) -> None:
    """Write a picture with 256 colours, or fewer where it would be too large."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64):
        buffer = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < LARGEST_BYTES:
            break
    else:
        raise SystemExit(f"{name}: {buffer.tell():,} bytes with {colours} colours; show less of it")
    (IMAGES / f"{name}.png").write_bytes(buffer.getvalue())
    print(f"docs/images/{name}.png: {buffer.tell():,} bytes, {colours} colours")


def opened(browser: Any) -> Any:
    """Open a tab that waits for what a busy machine is late with."""
    page = browser.new_page(viewport={"width": WIDTH_PX, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    return page


def report(browser: Any, workspace: Path) -> None:
    """First screen of the films in the report."""
    page = opened(browser)
    page.goto((workspace / "report/index.html").as_uri())
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    page.locator("#films").evaluate("section => section.scrollIntoView()")
    save(page.screenshot(), "report")
    page.close()


def film(browser: Any, workspace: Path) -> None:
    """Page of the first film, the third tile of its table chosen."""
    page = opened(browser)
    page.goto((workspace / "report/index.html").as_uri())
    page.get_by_role("link", name="Every tile of this film").first.click()
    page.locator(".tiles th a").nth(2).focus()
    save(page.screenshot(), "film")
    page.close()


def run_form(browser: Any, served: Served, workspace: Path) -> None:
    """Form of a run in the Prefect UI, filled in."""
    page = opened(browser)
    open_run_form(page, served, deployment="films", titled="What a curation run is told")
    boxes = page.locator("textarea")
    boxes.nth(0).fill("/data/films")
    boxes.nth(1).fill("/data/curated")
    save(page.screenshot(), "run-form")
    page.close()


def review_form(browser: Any, served: Served, workspace: Path) -> None:
    """Form of a review that waits, after a wrong entry."""
    page = opened(browser)
    open_run_form(page, served, deployment="review", titled="What a review is told")
    page.locator("textarea").nth(0).fill(str(workspace))
    submit_run_form(page)
    url = f"{served.url}/runs/flow-run/{served.suspended(form=1)['id']}"
    page.goto(url)
    page.get_by_role("button", name="Resume").click()
    label = page.get_by_text("Clusters to drop (Optional)", exact=True)
    label.wait_for()
    field = page.locator(".p-modal .p-label", has=label).last
    field.locator("textarea, input").first.fill("999")
    submit_until(page, page.locator(".p-modal__card").first.is_hidden)
    served.suspended(form=2)
    page.goto(url)
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("NOT APPLIED, nothing was changed").wait_for()
    save(page.screenshot(), "review-form")
    page.close()


FROM_DISK: dict[str, Callable[[Any, Path], None]] = {"report": report, "film": film}
FROM_SERVER: dict[str, Callable[[Any, Served, Path], None]] = {
    "run-form": run_form,
    "review-form": review_form,
}


def main() -> None:
    """Take the pictures that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--only", nargs="+", choices=[*FROM_DISK, *FROM_SERVER])
    given = parser.parse_args()
    wanted = given.only or [*FROM_DISK, *FROM_SERVER]
    with launched() as browser:
        for name in FROM_DISK.keys() & wanted:
            FROM_DISK[name](browser, given.workspace.resolve())
        if FROM_SERVER.keys() & wanted:
            with tempfile.TemporaryDirectory() as folder:
                served = Served(Path(folder))
                try:
                    for name in FROM_SERVER.keys() & wanted:
                        FROM_SERVER[name](browser, served, given.workspace.resolve())
                finally:
                    served.stop()


if __name__ == "__main__":
    main()
