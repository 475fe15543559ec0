"""Stage: a reproduction's table beside the published one: results.json, figures and one page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from storage.workspace import Workspace
from tasks.published import EXPERIMENTS, PUBLISHED_RECIPE, published_figure
from tasks.report_page.pictures import data_uri
from tasks.words import duration, moment, number

RESULTS = "results.json"
REPORT = "report/index.html"
FIGURES_FOLDER = "figures"
RECORD = "figures.json"
"""Of each trial or study, in its shard."""

COUNTS = ("clusters", "parameters", "tiles")
"""How metrics begin that count something; others are shares and losses."""

PICTURES = {
    "losses": "loss by epoch",
    "elbow": "inertia of k-means by the number of clusters, and where the elbow lies",
    "views": "pictures, and two views of each as the network saw them",
    "map": "embeddings on their two main axes",
    "tsne": "the same embeddings by t-SNE: near ones stay near, other distances mean nothing",
    "latent": "a map of the latent space: what the decoder makes of points on the plane of the two "
    "main axes, two standard deviations to each side",
    "prototypes": "prototypes, decoded",
    "reconstructions": "pictures above, what the networks make of them below",
    "clusters": "sizes of the clusters by rank",
    "neighbours": "annotated exemplars at the left, their nearest tiles beside them",
}
"""Pictures that a trial may have, in the page's order, in words."""


def write_report(workspace_uri: str, run_id: str) -> str:
    """Write results.json, the figures of the first seed as PNG, and the page.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    run_id : str
        Of a run whose trials are finished.

    Returns
    -------
    str
        Full path or URI of the page.
    """
    workspace = Workspace.open(workspace_uri)
    record = workspace.read_json("runs", f"{run_id}.json")
    kind, keys = record["shards"]["kind"], record["shards"]["trials"]
    trials = [(key, json.loads(workspace.shard(kind, key).read_bytes(RECORD))) for key in keys]
    name = record["settings"]["name"]
    results = tabulate(name, [found for _, found in trials])
    workspace.write_bytes(RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    plates = _plates(workspace, kind, _first_seeds(trials))
    page = _render(record, name, results, [found for _, found in _first_seeds(trials)], plates)
    workspace.write_bytes(REPORT, page.encode())
    return f"{workspace.uri}/{REPORT}"


def tabulate(name: str, trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds, beside the published figures.

    Parameters
    ----------
    name : str
        Of the experiment.
    trials : sequence of mapping
        What each trial wrote: ``settings`` and ``figures``.

    Returns
    -------
    list of dict
        Keys ``experiment``, ``split``, ``metric``, ``published``, ``ours_mean``, ``ours_sd``,
        ``seeds``; the spread is the sample standard deviation, null for one seed.
    """
    values: dict[tuple[str, str, str], list[float]] = {}
    for trial in trials:
        for figure in trial["figures"]:
            at = recipe_of(trial), figure["split"], figure["metric"]
            values.setdefault(at, []).append(figure["value"])
    return [
        {
            "experiment": experiment_name(name, recipe),
            "split": split,
            "metric": metric,
            "published": published_figure(name, recipe, split, metric),
            "ours_mean": statistics.fmean(found),
            "ours_sd": statistics.stdev(found) if len(found) > 1 else None,
            "seeds": len(found),
        }
        for (recipe, split, metric), found in values.items()
    ]


def recipe_of(trial: Mapping[str, Any]) -> str:
    """Recipe of a trial; a study has one alone."""
    return str(trial["settings"].get("recipe", PUBLISHED_RECIPE))


def experiment_name(name: str, recipe: str) -> str:
    """Name of an experiment in results.json: other recipes than the paper's are told apart."""
    return name if recipe == PUBLISHED_RECIPE else f"{name} ({recipe})"


def _first_seeds(trials: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(key, found) for key, found in trials if found["settings"]["seed"] == 0]


def _plates(
    workspace: Workspace, kind: str, trials: Sequence[tuple[str, Any]]
) -> list[dict[str, str]]:
    """Pictures of the page; each is also written as a file of its own."""
    plates = []
    for key, found in trials:
        shard = workspace.shard(kind, key)
        present = shard.record()["files"]
        label = found["settings"].get("network") or found["settings"]["recipe"]
        for picture, text in PICTURES.items():
            if f"{picture}.png" in present:
                data = shard.read_bytes(f"{picture}.png")
                workspace.write_bytes(f"{FIGURES_FOLDER}/{label}-{picture}.png", data)
                dark = f"{picture}-dark.png"
                plates.append(
                    {
                        "recipe": label,
                        "text": text,
                        "alt": found["alts"].get(picture, text),
                        "image": data_uri(data, "png"),
                        "dark": data_uri(shard.read_bytes(dark), "png") if dark in present else "",
                    }
                )
    return plates


def _render(
    record: Mapping[str, Any],
    name: str,
    results: Sequence[Mapping[str, Any]],
    trials: Sequence[Mapping[str, Any]],
    plates: Sequence[Mapping[str, str]],
) -> str:
    own, shared = files("tasks.reproduce_page"), files("tasks.report_page")
    style = "\n".join((folder / "page.css").read_text("utf-8").strip() for folder in (shared, own))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "duration": duration,
        "moment": moment,
        "figure": figure_text,
    }
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for row in results:
        tables.setdefault(row["experiment"], []).append(row)
    template = environment.from_string((own / "page.html.jinja").read_text("utf-8"))
    return template.render(
        record=record,
        style=Markup(style),  # noqa: S704 (our own file)
        experiment=EXPERIMENTS[name],
        quick=bool(record["settings"]["quick"]),
        seeds=max(row["seeds"] for row in results),
        results=RESULTS,
        tables=list(tables.items()),
        trainings=_trainings(trials),
        plates=plates,
        seconds=sum(s["seconds"] for stage, s in record["stages"].items() if stage != "report"),
    )


def _trainings(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "recipe": trial["settings"].get("network") or trial["settings"]["recipe"],
            "phase": phase,
            "parameters": facts["parameters"],
            "epochs": facts["epochs"],
            "batch_size": facts["settings"]["batch_size"],
            "optimizer": facts["settings"]["optimizer"]["name"],
            "seconds": facts["seconds"],
        }
        for trial in trials
        for phase, facts in trial["facts"].items()
        if isinstance(facts, dict) and "epochs" in facts
    ]


def figure_text(value: float | None, metric: str) -> str:
    """A figure of the table in short; a dash where there is none.

    What the metric counts is written without decimals where it is whole.
    """
    if value is None:
        return "-"
    whole = metric.startswith(COUNTS) and float(value).is_integer()
    return f"{value:,.0f}" if whole else f"{value:.4f}"
