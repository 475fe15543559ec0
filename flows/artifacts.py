"""What a person sees while a run goes on and after it, in the Prefect UI and in the log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.futures import as_completed
from prefect.logging import get_run_logger

from storage.records import Mammogram
from storage.workspace import ShardRef
from tasks import progress
from tasks.review_page.contact import Contact

ROWS_SHOWN = 200
SHEETS_SHOWN = 30


def follow(stage: str, futures: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Number and result of each shard of a stage as it is done; one log line and one tick each.

    Raises
    ------
    Exception
        Whatever the first shard that failed for good raised.
    """
    ordered = list(futures)
    number = {future.task_run_id: i for i, future in enumerate(ordered)}
    if not ordered:
        return
    logger = get_run_logger()
    bar: Any = create_progress_artifact(0.0, key=f"progress-{stage}", description=f"Stage {stage}")
    started = time.monotonic()
    for done, future in enumerate(as_completed(ordered), start=1):
        result = future.result()
        logger.info(
            "%s %d/%d%s, about %s left",
            stage,
            done,
            len(ordered),
            _describe(result),
            _duration((time.monotonic() - started) / done * (len(ordered) - done)),
        )
        update_progress_artifact(bar, 100.0 * done / len(ordered))
        yield number[future.task_run_id], result


def listen(client: Any) -> None:
    """Show what long steps report from their worker."""
    logger = get_run_logger()

    def show(event: tuple[float, dict[str, Any]]) -> None:
        message = event[1]
        if message.get("stage") == "train":
            logger.info(
                "train epoch %d/%d: loss %.4f, validation %.4f",
                message["epoch"],
                message["max_epochs"],
                message["training_loss"],
                message["validation_loss"],
            )
        elif message.get("stage") == "trial":
            logger.info(
                "%s, seed %d, epoch %d/%d: loss %.4f",
                message["name"],
                message["seed"],
                message["epoch"],
                message["max_epochs"],
                message["loss"],
            )

    client.subscribe_topic(progress.TOPIC, show)


def waiting(holder: str) -> None:
    """Log that the run waits for another one in its workspace."""
    get_run_logger().info("the workspace is in use, waiting: %s", holder)


def warn(warnings: Sequence[str]) -> None:
    """Log the first few warnings and the number of all."""
    logger = get_run_logger()
    for text in warnings[:10]:
        logger.warning(text)
    if len(warnings) > 10:
        logger.warning("... %d warnings in all; the others are in runs/*.json", len(warnings))


def exclusions(films: Sequence[Mammogram]) -> None:
    """Table of the films that were left out, and why."""
    out = [f for f in films if f.excluded_reason is not None]
    logger = get_run_logger()
    logger.info("%d films used, %d files excluded", len(films) - len(out), len(out))
    if out:
        create_table_artifact(
            key="excluded-films",
            description=f"{len(out)} files excluded; the first {min(len(out), ROWS_SHOWN)}.",
            table=[
                {
                    "file": f.source,
                    "reason": f.excluded_reason,
                    "what is wrong": f.excluded_rule,
                    "what to do": f.excluded_remedy,
                }
                for f in out[:ROWS_SHOWN]
            ],
        )


def summary(facts: dict[str, Any], run_id: str, report: str) -> None:
    """Markdown of what came out."""
    films, tiles = facts["films"], facts["tiles"]
    lines = [
        f"# Run {run_id}",
        "",
        f"{films['used']} films used, {sum(films['excluded'].values())} files excluded.",
        "",
        "| tiles | number | share |",
        "| --- | ---: | ---: |",
    ]
    cut = max(1, tiles["cut"])
    for fate, n in tiles["by_fate"].items():
        lines.append(f"| {fate.replace('/', ': ')} | {n:,} | {n / cut:.1%} |")
    lines += [f"| **cut** | **{tiles['cut']:,}** | |", "", f"Report: `{report}`"]
    create_markdown_artifact(key="run-summary", markdown="\n".join(lines), description="Summary")


def trained(history: Sequence[Mapping[str, float]], key: str) -> None:
    """Table of the loss by epoch."""
    create_table_artifact(
        key="training",
        description=f"Encoder {key}: loss by epoch.",
        table=[{name: f"{value:.6g}" for name, value in row.items()} for row in history],
    )


@contextmanager
def arriving(films: int, n_bytes: int) -> Iterator[Callable[[int, int, int], None]]:
    """Progress of a transfer: a function to tell it by, and some twenty lines in the log."""
    logger = get_run_logger()
    logger.info("%d films, %.1f GB", films, n_bytes / 1e9)
    bar: Any = create_progress_artifact(0.0, key="progress-fetch", description="Files")
    shown = 0.0

    def told(done: int, of: int, arrived: int) -> None:
        nonlocal shown
        percent = 100.0 * done / max(1, of)
        if percent - shown >= 5 or done == of:
            shown = percent
            logger.info("%d of %d files, %.2f GB arrived", done, of, arrived / 1e9)
            update_progress_artifact(bar, percent)

    yield told


def fetched(films: int, patients: int, files: Mapping[str, int], out: str) -> None:
    """Markdown of what was fetched."""
    lines = [f"{films:,} films of {patients:,} patients in `{out}`", ""]
    lines += [f"- {n:,} files {how}" for how, n in sorted(files.items())]
    create_markdown_artifact(key="fetched", markdown="\n".join(lines), description="Fetched")


def clustered(figures: Mapping[str, Any], out: str) -> None:
    """Markdown of what a clustering came to."""
    lines = [f"Labels: `{out}`", "", "| | |", "| --- | ---: |"]
    lines += [
        f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value:.6g} |"
        for name, value in figures.items()
        if isinstance(value, int | float)
    ]
    create_markdown_artifact(key="clusters", markdown="\n".join(lines), description="Clusters")


def verdicts(review: dict[str, Any]) -> None:
    """Log what became of the verdicts of people, and which of them could not be followed."""
    if not review["tiles"]:
        return
    logger = get_run_logger()
    fates = ", ".join(f"{n:,} {fate.replace('/', ': ')}" for fate, n in review["by_fate"].items())
    logger.info("%s tiles decided by a person: %s", f"{review['tiles']:,}", fates)
    if n := review["lesion_guarded"]:
        logger.warning("%d tiles that a person would drop touch a lesion: they stay in review", n)
    if n := review["no_pixels"]:
        logger.warning(
            "%d tiles that a person would keep have no stored pixels: they go to review. Run with "
            "a larger black_samples_per_film to have them stored",
            n,
        )


def contact_sheets(sheets: Sequence[Contact], page: str) -> None:
    """Two artifacts with pictures of what there is to decide about; the page has more of them.

    Markdown, and no image artifacts: those show one sheet each, and all of its data as their link.
    """
    groups = {
        "review-clusters": [sheet for sheet in sheets if sheet.is_cluster],
        "review-tiles": [sheet for sheet in sheets if not sheet.is_cluster],
    }
    for key, members in groups.items():
        lines = [
            "Below each tile: K kept, M dropped as misinformative, B as black, D for another "
            f"reason, R in review; then its score. To choose with the mouse: `{page}`",
        ]
        for sheet in members[:SHEETS_SHOWN]:
            lines += ["", f"## {plain(sheet.title)}", "", plain(sheet.text), ""]
            lines.append(f"![{plain(sheet.title)}]({sheet.uri})")
            if not sheet.is_cluster:
                lines += ["", "In this order: " + ", ".join(f"`{i}`" for i in sheet.tile_ids)]
        if len(members) > SHEETS_SHOWN:
            lines += ["", f"{len(members) - SHEETS_SHOWN} more are on the page."]
        create_markdown_artifact(
            key=key,
            markdown="\n".join(lines),
            description=f"{len(members)} contact sheets",
        )
    get_run_logger().info("what there is to decide about: the artifacts of this run, or %s", page)


def wrong_entry(problems: Sequence[str], attempt: int) -> None:
    """Say what was wrong with a form, which can then be filled in again."""
    logger = get_run_logger()
    for text in problems:
        logger.warning("the form cannot be applied: %s", text)
    lines = ["# The form cannot be applied", "", *(f"- {plain(text)}" for text in problems)]
    lines += ["", "Nothing was changed. Resume the run: the form is there again."]
    create_markdown_artifact(
        key="wrong-entry", markdown="\n".join(lines), description=f"Form {attempt}"
    )


def reviewed(before: dict[str, int], after: dict[str, int], run_id: str, report: str) -> None:
    """Table of the tiles before and after a review."""
    lines = [f"# Review: manifest of run {run_id}", "", "| tiles | before | after |"]
    lines.append("| --- | ---: | ---: |")
    for fate in sorted(before.keys() | after.keys()):
        name = fate.replace("/", ": ")
        lines.append(f"| {name} | {before.get(fate, 0):,} | {after.get(fate, 0):,} |")
    lines += ["", f"Report: `{report}`"]
    create_markdown_artifact(key="review-summary", markdown="\n".join(lines), description="Review")


def plain(text: str) -> str:
    """Text of somebody's own in Markdown, taken as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", text)


def _describe(result: Any) -> str:
    if isinstance(result, ShardRef):
        counts = ", ".join(f"{n} {name}" for name, n in result.counts.items() if n)
        where = "already there" if result.reused else f"{result.seconds:.1f} s"
        return f": {counts}; {where}"
    if isinstance(result, list):
        return f": {len(result)} files"
    return ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
