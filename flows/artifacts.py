"""What a person sees while a run goes on and after it, in the Prefect UI and in the log."""

from __future__ import annotations

import contextvars
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.logging import get_run_logger

from flows.scalars import Scalars
from storage.records import Mammogram
from tasks import progress
from tasks.review_page.contact import Contact

ROWS_SHOWN = 200
SHEETS_SHOWN = 30


@contextmanager
def listening(client: Any, scalars: Scalars | None = None) -> Iterator[None]:
    """Show inside what long steps report from their worker: a log line and a bar a training.

    Parameters
    ----------
    client : distributed.Client
    scalars : Scalars, optional
        Receives the losses too; closed at the end.
    """
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    client.subscribe_topic(progress.TOPIC, lambda event: messages.put(event[1]))
    # a thread of its own: the client's must not wait for Prefect's server
    shower = threading.Thread(
        target=contextvars.copy_context().run, args=(_show, messages, scalars)
    )
    shower.start()
    try:
        yield
    finally:
        client.unsubscribe_topic(progress.TOPIC)
        messages.put(None)
        shower.join()
        if scalars is not None:
            scalars.close()


def _show(messages: queue.SimpleQueue[dict[str, Any] | None], scalars: Scalars | None) -> None:
    logger = get_run_logger()
    bars: dict[str, Any] = {}
    while (message := messages.get()) is not None:
        name = "encoder" if message["stage"] == "train" else f"{message['name']} {message['seed']}"
        losses = f"loss {message['training_loss']:.4f}"
        if message["validation_loss"] is not None:
            losses += f", validation {message['validation_loss']:.4f}"
        if scalars is not None:
            parts = {part: message[f"{part}_loss"] for part in ("training", "validation")}
            known = {f"loss/{part}": loss for part, loss in parts.items() if loss is not None}
            scalars.add(name, message["epoch"], known)
        epochs = f"epoch {message['epoch']}/{message['max_epochs']}"
        logger.info("%s, %s: %s", name, epochs, losses)
        done, said = 100.0 * message["epoch"] / message["max_epochs"], f"{epochs}: {losses}"
        if name not in bars:
            key = "training-" + re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
            bars[name] = create_progress_artifact(done, key=key, description=f"{name}, {said}")
        else:
            update_progress_artifact(bars[name], done, description=f"{name}, {said}")


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
