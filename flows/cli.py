"""The ``mammosift`` command. Each sub-command imports what it needs when it is called."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

NOT_MISSED = ("duplicate_film", "not_a_film")
"""Exclusions that take no film away: copies, and the crops and masks that belong to a film."""

DONE, FAILED, BAD_ARGUMENTS, DONE_WITH_EXCLUSIONS = 0, 1, 2, 3
INTERRUPTED = 130

app = typer.Typer(
    name="mammosift",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn digitised mammography films into a curated training set.\n\n"
    "Films are cut into tiles; black and misinformative tiles (lettering, labels, stickers, film "
    "edges) are found and dropped with a reason; what is kept is published as a Parquet "
    "manifest.\n\n"
    "Try it on eight real films: mammosift demo --out demo\n\n"
    "Exit codes: 0 done, 1 failed, 2 bad arguments, 3 done with excluded films (--strict).",
)


def main() -> None:
    """Entry point of the console command: whatever goes wrong ends with one line that says it."""
    try:
        app()
    except Exception as e:
        if os.environ.get("MAMMOSIFT_TRACEBACK"):
            raise
        message, code = _told(e)
        typer.echo(f"mammosift: {message}", err=True)
        sys.exit(code)


def _told(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    from storage.errors import InputError, MammosiftError

    if isinstance(error, MammosiftError):
        return str(error), BAD_ARGUMENTS if isinstance(error, InputError) else FAILED
    more = "Set MAMMOSIFT_TRACEBACK=1 and run again to see where."
    return f"{type(error).__name__}: {error}\n{more}", FAILED


def _settings_model(name: str) -> Any:
    """Model of the settings of a command: where it is, as ``module:class``."""
    module, _, model = name.partition(":")
    return getattr(importlib.import_module(module), model)


def _settings_options(model: Any) -> list[inspect.Parameter]:
    """One option a settings field, made from its title, description and default."""
    parameters = []
    for name, field in model.model_fields.items():
        text = field.description or ""
        if field.is_required():
            text += " [required, here or in --config]"
        if choices := _choices(field.annotation):
            text += f" [{', '.join(choices)}]"
        if not field.is_required() and field.default is not None:
            text += f" [default: {field.default}]"
        kind = _plain_type(field.annotation)
        option: Any
        if (field.json_schema_extra or {}).get("positional"):
            option = typer.Argument(metavar=name.upper(), help=text, show_default=False)
        else:
            option = typer.Option("--" + name.replace("_", "-"), help=text, show_default=False)
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, option],
            )
        )
    return parameters


def _choices(annotation: Any) -> list[str]:
    return [str(a) for a in get_args(annotation)] if get_origin(annotation) is Literal else []


def _plain_type(annotation: Any) -> Any:
    """Type that typer can parse; choices are checked by the settings, which name them all."""
    if get_origin(annotation) is Literal:
        return str
    plain = [t for t in get_args(annotation) if t is not type(None)]
    return _plain_type(plain[0]) if plain else annotation


CURATION = "tasks.settings:CurationSettings"


def _takes_settings(command: Any, model: str = CURATION) -> Any:
    """Give a command that takes ``settings`` all the options of the model, and ``--config``."""
    kind = _settings_model(model)
    config = Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file of settings, its paths relative to its folder; options override it.",
        ),
    ]
    hints = get_type_hints(command, include_extras=True)
    own = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in inspect.signature(command).parameters.values()
        if p.name != "settings"
    ]
    options = _settings_options(kind)
    names = {p.name for p in options}

    def wrapped(**given: Any) -> None:
        chosen = {k: given.pop(k) for k in names}
        command(settings=_settings(given.pop("config"), chosen, kind), **given)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            *options[:2],
            inspect.Parameter(
                "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=config
            ),
            *options[2:],
            *own,
        ]
    )
    return wrapped


def _settings(config: Path | None, given: dict[str, Any], model: Any = None) -> Any:
    """Settings from a TOML file and the options given; exits with 2 where they are wrong."""
    import tomllib

    from pydantic import ValidationError

    model = model or _settings_model(CURATION)
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values = tomllib.loads(config.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
            _stop(f"{config} cannot be read as TOML: {e}", BAD_ARGUMENTS)
        _make_absolute(values, config.absolute().parent)
    values |= {k: v for k, v in given.items() if v is not None}
    _make_absolute(values, Path.cwd())
    try:
        return model(**values)
    except ValidationError as e:
        lines = [
            f"{_option_of(error['loc'])}: {error['msg'].removeprefix('Value error, ')}"
            for error in e.errors()
        ]
        return _stop("\n".join(lines), BAD_ARGUMENTS)


PATHS = (
    "source",
    "data",
    "truth",
    "out",
    "films_csv",
    "lesions_csv",
    "exemplars",
    "verdicts",
    "embeddings",
    "scratch",
    "workspace",
    "decisions",
    "licences",
    "cases",
)


def _make_absolute(values: dict[str, Any], folder: Path) -> None:
    """Paths that a person wrote relative: to the TOML file's folder, or to the shell's."""
    for name in PATHS:
        if isinstance(values.get(name), str) and "://" not in values[name]:
            values[name] = str(folder / Path(values[name]).expanduser())


def _option_of(location: tuple[int | str, ...]) -> str:
    return "--" + str(location[0]).replace("_", "-") if location else "settings"


def _stop(message: str, code: int) -> Any:
    typer.echo(f"mammosift: {message}", err=True)
    raise typer.Exit(code)


def _quiet_prefect() -> None:
    """Prefect sends nothing outside; set before its first import."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)


PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages ask an outside host
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",  # the flow logs a line a shard
}


def _curate(settings: Any, *, strict: bool) -> None:
    """Run the flow in this process and say where to look."""
    _quiet_prefect()
    from storage.verdicts import read_verdicts
    from storage.workspace import Workspace
    from tasks.films import check_inputs

    check_inputs(
        settings.source,
        **settings.only("films_csv", "lesions_csv", "exemplars"),
    )
    if settings.verdicts is not None:
        read_verdicts(settings.verdicts)
    Workspace.create(settings.out)
    with _foreground("flows.curate:curate", workers_of=settings) as curate:
        record = curate(settings)
    tiles, films = record["tiles"], record["films"]
    excluded = sum(films["excluded"].values())
    reasons = ", ".join(f"{n} {reason}" for reason, n in films["excluded"].items())
    why = f": {reasons} (the report says which)" if excluded else ""
    typer.echo(f"\n{films['used']} films used, {excluded} files excluded{why}.")
    typer.echo(f"{tiles['cut']:,} tiles cut in {record['seconds']:.0f} s:")
    for fate, n in tiles["by_fate"].items():
        typer.echo(f"  {fate.replace('/', ': '):24} {n:>10,}")
    typer.echo(f"\nLook at   {record['report']}")
    typer.echo(f"Train on  {settings.out.rstrip('/')}/manifest   (Parquet; decision == 'keep')")
    unusable = excluded - sum(films["excluded"].get(reason, 0) for reason in NOT_MISSED)
    if strict and unusable:
        raise typer.Exit(DONE_WITH_EXCLUSIONS)


@contextlib.contextmanager
def _foreground(name: str, *, workers_of: Any = None) -> Iterator[Any]:
    """Give a flow (``module:function``) to be run in this process.

    It ends at once at Ctrl-C and where Prefect's server died. What the flow needs starts side by
    side: Prefect's server, its modules, and the workers of a run with these settings, if given.
    """
    signal.signal(signal.SIGINT, _interrupted)
    atexit.register(gc.freeze)  # Python ends sooner if it need not look for garbage
    from flows import temporary_server

    use_server = temporary_server.start()
    with contextlib.ExitStack() as stack:
        if workers_of is not None:
            from flows.early_workers import begun

            asked = (workers_of.dask_address, workers_of.workers, workers_of.dask_cluster)
            stack.enter_context(begun(*asked))
        module, _, function = name.partition(":")
        flow = getattr(importlib.import_module(module), function)
        use_server()
        stack.enter_context(
            temporary_server.needed(
                lambda: _end(
                    "its Prefect server has ended, by a signal or for want of memory", FAILED
                )
            )
        )
        yield flow


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    """End at once: what is complete stays, and the temporary server has had its Ctrl-C too."""
    _end("stopped", INTERRUPTED)


def _end(why: str, status: int) -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    typer.echo(f"\nmammosift: {why}. The same command goes on where it stopped.", err=True)
    os._exit(status)


Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit with 3 where films had to be excluded (copies, crops and masks aside).",
    ),
]


def run(settings: Any, strict: Strict = False) -> None:
    """Curate a folder of films: tiles, embeddings, clusters, decisions, manifest, report.

    A run in a workspace that an earlier one left unfinished goes on where that one stopped.

    Example: mammosift run --source films/ --out curated/ --tile-size-px 256
    """
    _curate(settings, strict=strict)


def plan(settings: Any) -> None:
    """Say what a run would do: films, tiles, bytes, memory, and time on 1, 8 and 64 workers.

    Nothing is written. The films' headers are read, and one film is cut to measure this machine.

    Example: mammosift plan --source films/ --out curated/ --tile-size-px 256
    """
    from tasks.films import check_inputs
    from tasks.planning import estimate

    check_inputs(settings.source, **settings.only("films_csv", "lesions_csv", "exemplars"))
    typer.echo(str(estimate(settings)))


def review(settings: Any) -> None:
    """Show the clusters of a finished run, take down what a person decides, publish anew.

    Without --decisions or a threshold it writes the page review/index.html and the table
    review/decisions.csv to fill in. With --decisions the table is applied: its verdicts outrank the
    score, are recorded in the workspace, and every later run there applies them. Nothing is cut,
    trained or clustered again.

    Example: mammosift review --workspace curated/ --decisions decisions.csv --reviewer "A. Reader"
    """
    from storage.errors import InputError, WorkspaceError
    from storage.verdicts import read_verdicts
    from storage.workspace import Workspace
    from tasks import reviews

    try:
        workspace = Workspace.open(settings.workspace)
    except WorkspaceError as e:
        raise InputError(str(e)) from e
    last = reviews.published(workspace)
    if not settings.is_decided:
        shown, _ = reviews.show(workspace, last)
        typer.echo(
            f"Run {last['run_id']}: {len(shown.clusters):,} clusters, threshold {shown.threshold:g}"
        )
        typer.echo(f"\nLook at  {workspace.path(reviews.PAGE)}")
        typer.echo(f"Fill in  {workspace.path(reviews.TEMPLATE)}   (or save one from the page)")
        typer.echo(f"Then     mammosift review --workspace {settings.workspace} --decisions FILE")
        return
    if settings.decisions is not None:
        if "://" not in settings.decisions and not Path(settings.decisions).is_file():
            raise InputError(f"decisions={settings.decisions!r} does not exist; check the path.")
        read_verdicts(settings.decisions, reviewer=settings.reviewer)  # before Prefect starts
    _quiet_prefect()
    with _foreground("flows.review:review") as review:
        record = review(settings)
    _tell_review(last, record, settings.workspace)


def _tell_review(last: dict[str, Any], record: dict[str, Any], workspace: str) -> None:
    before, after, said = last["tiles"]["by_fate"], record["tiles"]["by_fate"], record["review"]
    typer.echo(f"\nRun {record['run_id']} replaces {record['reviewed_run']}.")
    typer.echo(f"{said['tiles']:,} tiles decided by a person.\n")
    typer.echo(f"  {'tiles':28} {'before':>10} {'after':>10}")
    for fate in sorted(before.keys() | after.keys()):
        was, now = before.get(fate, 0), after.get(fate, 0)
        typer.echo(
            f"  {fate.replace('/', ': '):28} {was:>10,} {now:>10,}{'' if was == now else '  *'}"
        )
    if n := said["lesion_guarded"]:
        typer.echo(f"\n{n:,} tiles that a person would drop touch a lesion: they stay in review.")
    if n := said["no_pixels"]:
        typer.echo(
            f"\n{n:,} tiles that a person would keep have no stored pixels: they go to review. Run "
            "with a larger --black-samples-per-film to have them stored."
        )
    typer.echo(f"\nLook at   {record['report']}")
    typer.echo(f"Train on  {workspace.rstrip('/')}/manifest   (Parquet; decision == 'keep')")


def export(settings: Any) -> None:
    """Write the published tiles for other programs: tar shards, Hugging Face, Croissant, csv.

    The folder holds 16-bit pictures, the columns of the manifest, and a README.md that says whose
    films they are, under which licence, what was left out and how good the curation was. A patient
    in two parts of the split is refused.

    Example: mammosift export --workspace curated/ --format huggingface --out mammograms/
    """
    from tasks.exports import export
    from tasks.words import size

    done = export(settings)
    parts = ", ".join(f"{n:,} {split}" for split, n in done["tiles"].items())
    typer.echo(f"{sum(done['tiles'].values()):,} tiles ({parts}), {size(done['bytes'])}.")
    typer.echo("\nLicences, which go with the tiles:")
    for collection, licence in done["licences"].items():
        typer.echo(f"  {collection}: {licence}")
    if "not stated" in done["licences"].values():
        typer.echo("  (say what may be done with them: --licence or --licences)")
    typer.echo(f"\nLook at   {Path(done['folder']) / 'README.md'}")


def measure(settings: Any, strict: Strict = False) -> None:
    """Cluster the pixels of pictures by colour and measure what each cluster covers.

    Example: mammosift measure --source moles/ --out moles-measured/ --clusters 2
    """
    _quiet_prefect()
    _check_pictures(settings)
    with _foreground("flows.measure:measure") as measure:
        record = measure(settings)
    _tell_pictures(record["images"])
    typer.echo(f"{record['pixels']['measured']:,} pixels measured in {record['seconds']:.0f} s.")
    typer.echo(f"\nLook at   {record['report']}")
    typer.echo(f"Areas in  {record['pixels']['table']}   (Parquet; one row a picture and cluster)")
    _end_strictly(record["images"], strict)


def augment(settings: Any, strict: Strict = False) -> None:
    """Write altered copies of pictures: one for each operation, and random combinations of them.

    Example: mammosift augment --source moles/ --out more/ --rotate 90 --flip-h --noise 0.02
    """
    _quiet_prefect()
    _check_pictures(settings)
    with _foreground("flows.augment:augment") as augment:
        record = augment(settings)
    _tell_pictures(record["images"])
    typer.echo(f"{record['copies']['written']:,} copies in {record['seconds']:.0f} s.")
    typer.echo(f"\nLook at    {record['report']}")
    typer.echo(f"Copies in  {record['copies']['folder']}")
    typer.echo(f"Lineage in {record['copies']['table']}   (Parquet; one row a copy)")
    _end_strictly(record["images"], strict)


def cluster(settings: Any) -> None:
    """Cluster any embeddings: DBSCAN, HDBSCAN, KMeans, or the nearest neighbours; exact.

    Example: mammosift cluster --embeddings rows.npy --method dbscan --eps 0.9 --out labels.parquet
    """
    from flows.dask_cluster import dask_client_if_asked
    from tasks.cluster_file import cluster_file

    with dask_client_if_asked(
        settings.dask_address, settings.workers, settings.dask_cluster
    ) as client:
        figures = cluster_file(settings, client)
    typer.echo(f"{figures['rows']:,} rows of {figures['columns']} in {figures['seconds']:.1f} s.")
    if "clusters" in figures:
        share = figures["noise"] / figures["rows"]
        typer.echo(f"{figures['clusters']:,} clusters, {figures['noise']:,} noise ({share:.1%}).")
    if "eps" in figures:
        typer.echo(f"eps {figures['eps']:.6g}")
    if "rows_without_tile_id" in figures:
        typer.echo(f"{figures['rows_without_tile_id']:,} rows come from files without a tile_id.")
    typer.echo(f"\nLabels in {settings.out}")


def reproduce(settings: Any) -> None:
    """Run a published experiment on your data; its table beside the published one.

    Trains from scratch, measures validation and test parts, and writes results.json, figures (PNG)
    and an offline page. Each recipe is tried with several seeds; the table gives mean and spread. A
    killed run is started again with the same command and goes on where it stopped.

    Example: mammosift reproduce mnist-conv --data mnist/ --out mnist-conv/ --seeds 5
    """
    _quiet_prefect()
    from storage.workspace import Workspace
    from tasks.reproduce_settings import check_inputs

    check_inputs(settings)
    Workspace.create(settings.out)
    with _foreground("flows.reproduce:reproduce") as reproduce:
        record = reproduce(settings)
    _tell_results(record["results"])
    typer.echo(f"\nLook at  {record['report']}")
    typer.echo(f"Figures  {record['results']}   (JSON)")


def _tell_results(path: str) -> None:
    import json

    rows = json.loads(Path(path).read_text("utf-8")) if Path(path).is_file() else []
    typer.echo(
        f"\n  {'':34} {'part':12} {'figure':26} {'published':>10} {'ours':>10} {'spread':>8}"
    )
    for row in rows:
        if row["published"] is None:
            continue
        spread = "" if row["ours_sd"] is None else f"{row['ours_sd']:.4f}"
        typer.echo(
            f"  {row['experiment']:34} {row['split']:12} {row['metric']:26} "
            f"{row['published']:>10.6g} {row['ours_mean']:>10.6g} {spread:>8}"
        )


def _check_pictures(settings: Any) -> None:
    from storage.workspace import Workspace
    from tasks.films import check_inputs

    check_inputs(settings.source, films_csv=settings.films_csv, lesions_csv=None, exemplars=None)
    Workspace.create(settings.out)


def _tell_pictures(images: dict[str, Any]) -> None:
    excluded = sum(images["excluded"].values())
    reasons = ", ".join(f"{n} {reason}" for reason, n in images["excluded"].items())
    why = f": {reasons} (the report says which)" if excluded else ""
    typer.echo(f"\n{images['used']} pictures used, {excluded} files excluded{why}.")


def _end_strictly(images: dict[str, Any], strict: bool) -> None:
    copies = images["excluded"].get("duplicate_film", 0)
    if strict and sum(images["excluded"].values()) > copies:
        raise typer.Exit(DONE_WITH_EXCLUSIONS)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("mammosift"))
        raise typer.Exit(DONE)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say the version.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Workspace to make.")] = Path("demo"),
) -> None:
    """Curate the eight real CBIS-DDSM films of the package "mammograms", end to end.

    Example: mammosift demo --out demo
    """
    from flows.demo import demo_settings

    _curate(demo_settings(out.expanduser().absolute()), strict=False)


@app.command()
def doctor(
    workspace: Annotated[
        str | None,
        typer.Option("--workspace", help="Also compare every finished shard with its checksums."),
    ] = None,
) -> None:
    """Check this machine: packages, decoders, cores, memory, disk, GPU, Dask, Prefect.

    Example: mammosift doctor --workspace curated/
    """
    _quiet_prefect()
    from flows.doctor import examine

    sound = True
    for check in examine(workspace):
        sound &= check.sound
        typer.echo(f"{'ok ' if check.sound else 'BAD'}  {check.name:12} {check.finding}")
    raise typer.Exit(DONE if sound else FAILED)


@app.command()
def status(
    workspace: Annotated[str, typer.Option("--workspace", help="Folder or URI of a workspace.")],
) -> None:
    """Say who is at work in a workspace, how far, and what its last run came to.

    Example: mammosift status --workspace curated/
    """
    from flows.status import describe

    typer.echo("\n".join(describe(workspace)))


Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before fetching.")]


def fetch(settings: Any, yes: Yes = False) -> None:
    """Fetch films of a public collection: CBIS-DDSM from the Imaging Data Commons.

    Films and bytes are shown first. A transfer that broke off goes on with the same command; every
    file is compared with the bucket's checksum, also those that are there. A patient's films are
    taken together. Needs the index: pip install 'mammosift[fetch]'

    Example: mammosift fetch cbis-ddsm --films 20 --view MLO --out films/
    """
    from tasks import fetches
    from tasks.words import size

    chosen = fetches.choose(**settings.only("films", "view", "label", "cases", "with_findings"))
    licences = ", ".join(sorted({each.licence for each in chosen.series}))
    more = (
        f" with {len(chosen.series) - chosen.films} series of findings"
        if settings.with_findings
        else ""
    )
    typer.echo(
        f"{chosen.films:,} films{more} of {chosen.patients:,} patients, {size(chosen.bytes)}, "
        f"{licences}."
    )
    if not yes and not typer.confirm("Fetch them?"):
        raise typer.Exit(DONE)
    step = max(1, len(chosen.series) // 20)

    def told(done: int, of: int, n: int) -> None:
        if done % step == 0 or done == of:
            typer.echo(f"  {done:,} of {of:,} files, {size(n)} arrived")

    done = fetches.fetch(
        chosen, Path(settings.out), **settings.only("endpoint", "parallel"), told=told
    )
    counts = ", ".join(f"{n:,} {how}" for how, n in sorted(done.items()))
    typer.echo(f"\nFiles: {counts}; all have the bucket's checksums.")
    if not chosen.case_files:
        typer.echo("Without --cases the films have no labels (docs/collections.md).")
    typer.echo(f"Curate them with  mammosift run --source {settings.out} --out curated/")


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port of the server and the UI.")] = 4200,
) -> None:
    """Start the Prefect server (SQLite), a worker and the deployments; stop with Ctrl-C.

    Then open the address that it prints: Deployments, films, Run.

    Example: mammosift serve --port 4200
    """
    _quiet_prefect()
    from flows.serve import serve_all

    raise typer.Exit(serve_all(host=host, port=port))


app.command()(_takes_settings(run))
app.command()(_takes_settings(plan))
app.command()(_takes_settings(review, "tasks.review_settings:ReviewSettings"))
app.command()(_takes_settings(export, "tasks.export_settings:ExportSettings"))
app.command()(_takes_settings(fetch, "tasks.fetch_settings:FetchSettings"))
app.command()(_takes_settings(cluster, "tasks.cluster_settings:ClusterFileSettings"))
app.command()(_takes_settings(measure, "tasks.picture_settings:MeasureSettings"))
app.command()(_takes_settings(augment, "tasks.picture_settings:AugmentSettings"))
app.command()(_takes_settings(reproduce, "tasks.reproduce_settings:ReproduceSettings"))


if __name__ == "__main__":
    main()
