"""Review by a person: show a finished run, wait for verdicts, publish the manifest anew.

A run from a deployment is suspended while it waits: its process ends, and worker and server may be
restarted. Prefect then starts the flow from the top, so all before the form is there already, and
the form's key depends on nothing but the clustering and the number of the attempt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as this_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field, create_model

from flows import artifacts, temporary_server
from flows.curate import audit, gather_evidence, publish, report, split_of_films
from flows.dask_cluster import dask_client
from flows.run_record import RunRecord
from storage.errors import WorkspaceError
from storage.records import FilmShard
from storage.tile_shards import read_films
from storage.verdicts import Frame, read_verdicts
from storage.workspace import Workspace
from tasks import films, reviews
from tasks.planning import MOST_TASKS
from tasks.review_settings import ReviewSettings
from tasks.reviews import Entry, Shown
from tasks.settings import CurationSettings

PAUSE_S = 10 * 365 * 24 * 3600
"""A pause needs a number (its default is one hour); a suspension without one waits for ever."""
POLL_S = 5


def _run_name() -> str:
    settings: Any = this_run.parameters["settings"]
    folder = settings["workspace"] if isinstance(settings, dict) else settings.workspace
    if str(this_run.name).startswith("review "):  # it was suspended: the name stays as it was
        return str(this_run.name)
    return f"review {Path(folder).name or 'workspace'} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(
    name="review",
    flow_run_name=_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_TASKS),  # type: ignore[arg-type]
    validate_parameters=True,
)
def review(settings: ReviewSettings) -> dict[str, Any]:
    """Ask a person about clusters and tiles, then publish the manifest with their verdicts.

    With decisions or a threshold given, nobody is asked. Nothing is cut, trained or clustered.
    """
    temporary_server.end_with_this_process()
    workspace = Workspace.open(settings.workspace)
    last = reviews.published(workspace)
    if settings.is_decided:
        given = (
            None
            if settings.decisions is None
            else read_verdicts(settings.decisions, reviewer=settings.reviewer)
        )
        return republish(workspace, last, settings, given, settings.thresholds)
    shown = _show(workspace, last)
    entry = _ask(settings, workspace, shown)
    rows = reviews.rows_of(entry, shown)
    changed = entry.misinformative_threshold != shown.threshold
    if rows.empty and not changed:
        get_run_logger().info("nothing was decided, so nothing is changed")
        return last
    thresholds = {"misinformative_threshold": entry.misinformative_threshold} if changed else {}
    return republish(workspace, last, settings, rows, thresholds)


# -- asking ----------------------------------------------------------------------------------


def _show(workspace: Workspace, last: dict[str, Any]) -> Shown:
    """Write the page and show its contact sheets, unless this run has done so before it stopped."""
    asked = _forms_asked()
    clustering = last["shards"]["clusters"]
    asked_of_this = any(key.startswith(clustering) for key in asked)
    shown = reviews.shown_before(workspace, last) if asked_of_this else None
    if shown is None:
        shown, sheets = reviews.show(workspace, last)
        artifacts.contact_sheets(sheets, workspace.path(reviews.PAGE))
    if asked and not asked_of_this:
        get_run_logger().warning(
            "the workspace was clustered anew while this run waited: the same number means another "
            "cluster now, so what was entered is not applied. Please look again"
        )
    return shown


def _forms_asked() -> set[str]:
    """Keys of the forms that this run has asked for, in this process or before it was suspended."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return set()
    return set(context.flow_run.empirical_policy.pause_keys or ())


def _ask(settings: ReviewSettings, workspace: Workspace, shown: Shown) -> Entry:
    """Wait for a form that can be applied; a wrong one is told, and asked for again."""
    entry = Entry(
        misinformative_threshold=shown.threshold, reviewer=(settings.reviewer or "").strip()
    )
    problems: list[str] = []
    for attempt in range(1, 1000):
        form = review_form(entry, problems, page=workspace.path(reviews.PAGE), shown=shown)
        entry = _wait(form, key=f"{shown.clustering}-{attempt}")
        problems = reviews.problems_of(entry, shown, workspace)
        if not problems:
            return entry
        if f"{shown.clustering}-{attempt + 1}" not in _forms_asked():  # or it has been told
            artifacts.wrong_entry(problems, attempt)
    raise WorkspaceError("the form was filled in wrongly 999 times; start another review.")


def _wait(form: type[RunInput], *, key: str) -> Entry:
    """Stop for a person. From a deployment the process ends here, and the flow begins anew."""
    from prefect.runtime import deployment

    answer: Any
    if deployment.id is not None:
        answer = suspend_flow_run(wait_for_input=form, key=key)
    else:
        answer = pause_flow_run(wait_for_input=form, key=key, timeout=PAUSE_S, poll_interval=POLL_S)
    return Entry(**answer.model_dump())


def review_form(
    entry: Entry, problems: Sequence[str], *, page: str, shown: Shown
) -> type[RunInput]:
    """Form with what is known filled in: flat fields, each with a title and a sentence.

    Parameters
    ----------
    entry : Entry
        Values that the fields begin with.
    problems : sequence of str
        What was wrong with the entry before this one.
    page : str
        Where the contact sheets are.
    shown : Shown
        What can be decided about.
    """
    labels = "Numbers as on the contact sheets, apart by commas; or noise."
    names = "tile_id as on the contact sheets, apart by commas."
    told = f"NOT APPLIED, nothing was changed: {' '.join(problems)} - " if problems else ""
    fields: dict[str, tuple[str, str]] = {
        "drop_clusters": ("Clusters to drop", told + labels),  # seen first, whatever the window
        "keep_clusters": ("Clusters to keep", labels),
        "review_clusters": ("Clusters to send to review", labels),
        "drop_tiles": ("Tiles to drop", names),
        "keep_tiles": ("Tiles to keep", names),
        "review_tiles": ("Tiles to send to review", names),
        "misinformative_threshold": (
            "Threshold of the misinformative score",
            "Tiles that score at least this are dropped, or sent to review. Between 0 and 1.",
        ),
        "reviewer": ("Reviewer", "Who decides; stands in the manifest beside each verdict."),
        "note": ("Note", "Why; kept with the verdicts."),
    }
    definitions: dict[str, Any] = {}
    for name, (title, text) in fields.items():
        value = getattr(entry, name)
        # a field that is emptied is not sent: it must not come back as what it began with
        empty = "" if isinstance(value, str) else shown.threshold
        begin: dict[str, Any] = {"default": value}
        field = Field(default=empty, title=title, description=text, json_schema_extra=begin)
        definitions[name] = (type(value), field)
    form: type[RunInput] = create_model("Verdicts", __base__=RunInput, **definitions)
    form._description = _instructions(problems, page, shown)
    return form


def _instructions(problems: Sequence[str], page: str, shown: Shown) -> str:
    lines = []
    if problems:
        lines += ["**The last entry was not applied:**", ""]
        lines += [f"- {artifacts.plain(text)}" for text in problems]
        lines.append("")
    lines += [
        f"Decide about clusters and tiles of run {shown.run_id}: see the run's artifacts, or look "
        f"at `{page}`. A verdict on a tile outranks one on its cluster; both outrank the score. A "
        "form left as it is changes nothing."
    ]
    return "\n".join(lines)


# -- publishing anew -------------------------------------------------------------------------


def republish(
    workspace: Workspace,
    last: dict[str, Any],
    settings: ReviewSettings,
    given: Frame | None,
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """Decide on all tiles of a finished run again, and publish; nothing else is done again.

    Parameters
    ----------
    workspace : Workspace
        Of the run.
    last : dict
        Record of the run whose manifest is replaced.
    settings : ReviewSettings
        Where the work is done.
    given : DataFrame or None
        Verdicts to take down first.
    thresholds : mapping of str to float
        Settings of the run that change.

    Returns
    -------
    dict
        Record of the new run; ``reviewed_run`` names the one before.

    Raises
    ------
    MammosiftError
        A verdict cannot be applied, the films are another run's, or counts do not add up; the
        manifest is then as it was.
    """
    run = RunRecord(workspace, CurationSettings(**{**last["settings"], **thresholds}))
    with run.exclusive(wait_min=settings.wait_for_workspace_min):
        shards, clustering = last["shards"], last["shards"]["clusters"]
        if given is not None:
            name = settings.decisions or "the form"
            reviews.record(workspace, given, name=name, now=run.started, present=clustering)
        run.facts["reviewed_run"] = last["run_id"]
        run.facts |= {name: last[name] for name in ("inputs", "films")}
        run.found = last["films"]["found"]
        with run.recorded(), dask_client(settings.dask_address, settings.workers):
            used = films.read(workspace)
            _refuse_other_films(workspace, last, [f.source_sha256 or f.source for f in used])
            by_id = {f.mammogram_id: f for f in used}
            refs = {
                kind: [workspace.shard(kind, key).ref(reused=True) for key in shards[kind]]
                for kind in ("tiles", "embeddings")
            }
            members = [
                FilmShard(
                    key,
                    tuple(by_id[i] for i in read_films(workspace, key)["mammogram_id"].to_pylist()),
                    (),
                )
                for key in shards["tiles"]
            ]
            clustered = workspace.shard("clusters", clustering).ref(reused=True)
            encoder = workspace.shard("encoders", shards["encoder"]).ref(reused=True)
            key = shards.get("scorer")  # runs of earlier versions had none
            scorer = None if key is None else workspace.shard("scorers", key).ref(reused=True)
            split = split_of_films(run.settings, used)
            key = shards.get("duplicates")
            copies = None if key is None else workspace.shard("duplicates", key).ref(reused=True)
            tiles, embedded = refs["tiles"], refs["embeddings"]
            publish(run, members, tiles, embedded, clustered, scorer, copies, used, split)
            audit(run, tiles)
            described = gather_evidence(run, tiles, embedded, encoder, clustered)
            report(run, tiles, embedded, encoder, clustered, scorer, copies, described)
        record = run.write()
    artifacts.reviewed(
        last["tiles"]["by_fate"], record["tiles"]["by_fate"], run.run_id, record["report"]
    )
    return record


def _refuse_other_films(workspace: Workspace, last: dict[str, Any], found: list[str]) -> None:
    """Refuse where the table of films is that of a later run, which was not finished."""
    digest = hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
    if digest != last["inputs"]["films_sha256"]:
        raise WorkspaceError(
            f"{workspace.path(films.TABLE)} is not that of run {last['run_id']}: a later run began "
            "in this workspace and did not end. Start that one again; it goes on where it stopped."
        )
