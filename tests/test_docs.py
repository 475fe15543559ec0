"""Every command and every line of Python in README and docs runs as it stands, or says why not.

A block of a page is ``bash``, ``python`` or ``text``. One that is not run has a comment before it
in the page's source: ``<!-- not run: needs the internet -->``. The others are run page by page, a
page in a folder of its own, from top to bottom; what a page takes for granted (films, a curated
workspace) lies there when a command names it. Runs are made small by settings (``TINY``), nothing
else.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr

from flows.cli import app
from flows.dask_cluster import dask_client

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
        ROOT / "deployments/README.md",
    ]
)
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+) -->\n$")
BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^ *```$", re.S | re.M)
OURS = re.compile(r"(\.venv/bin/)?mammosift (?P<command>[a-z]+)")

TINY = {
    "run": {
        "--films-per-shard": "4096",
        "--max-epochs": "1",
        "--batch-size": "32",
        "--training-tiles": "64",
        "--planted-tiles": "100",
        "--min-cluster-size": "5",
        "--training-threads": "1",
    },
}
"""Options that a command is given besides its own, so that it takes seconds."""
ON_DASK = ("run", "review", "measure", "augment")
"""Commands that use one Dask cluster of the test in place of one of their own each."""
TINY_TILES = {"--tile-size-px": "64", "--stride-px": "64"}
"""In place of what a page says: the made-up films are 384 x 512 px."""

PYTHON_STARTS = {
    "docs/clustering.md": "import numpy as np\nfrom distributed import Client\n"
    "rows = np.load('rows.npy')\n"
    "client = Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None)\n",
    "docs/measure.md": "import torch\n"
    "batch, run_seed, epoch = torch.rand(3, 1, 32, 32), 0, 0\ntile_ids = ['a', 'b', 'c']\n",
}
"""What the Python of a page takes for granted."""
PYTHON_SAYS = {
    "README.md": "",
    "docs/training.md": "{'benign': ",
    "docs/exports.md": "'train': ",
    "docs/tutorials/your-own-films.md": "keep",
    "docs/tutorials/review.md": "[5 rows x 4 columns]",
}
"""What it must print."""


READ_ONLY = ("docs/training.md", "docs/exports.md")
"""Pages whose commands need a manifest with all labels and parts, and nothing else of a run."""


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None
    """Why it is not run."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    found = []
    for match in BLOCK.finditer(text):
        before = text[: match.start()]
        said = NOT_RUN.search(before)
        inside = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
        found.append(
            Block(
                page,
                before.count("\n") + 1,
                match["language"].strip(),
                inside,
                said["reason"] if said else None,
            )
        )
    return found


def commands(text: str) -> Iterator[str]:
    """Commands of a block one by one: continued lines and here-documents are one."""
    lines = iter(text.splitlines())
    for line in lines:
        whole = line
        while whole.endswith("\\"):
            whole += "\n" + next(lines)
        if here := re.search(r"<<'?(\w+)'?$", whole):
            for more in lines:
                whole += "\n" + more
                if more == here[1]:
                    break
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield whole


ALL = [block for page in PAGES for block in blocks(page)]
RUN = sorted({b.page for b in ALL if b.language in ("bash", "python") and b.reason is None})


@pytest.mark.parametrize("page", sorted({block.page for block in ALL}))
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        if page == "ARCHITECTURE.md":  # a drawing
            continue
        assert block.language in ("bash", "python", "text"), f"{block}: ```{block.language}"
        assert block.language != "text" or not OURS.match(block.text), f"{block} is a command"
        assert block.reason is None or len(block.reason) > 10, block


def test_every_not_run_stands_before_a_block() -> None:
    for page in PAGES:
        marks = (ROOT / page).read_text("utf-8").count("<!-- not run")
        assert marks == sum(block.reason is not None for block in blocks(page)), page


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_is_there_says_what_it_shows_and_is_small(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for alt, name in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text):
        picture = (ROOT / page).parent / name
        assert len(alt) > 15, f"{page}: {name}"
        assert 0 < picture.stat().st_size < 300_000, f"{page}: {name}"


# -- what a reader has -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def things(
    film_folder: Path,
    published: Path,
    prefect_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Things]:
    """What a page takes for granted."""
    store = tmp_path_factory.mktemp("docs")
    with dask_client(None, 1) as client:
        yield Things(film_folder, published, store, client.scheduler.address)


class Things:
    """What a page takes for granted, put into its folder when a command names it.

    The workspace ``curated`` is one of made-up tiles with all labels and parts where a page only
    reads the manifest (``READ_ONLY``). Elsewhere it is what README's own command leaves, made once.
    """

    def __init__(self, films: Path, published: Path, store: Path, dask_address: str) -> None:
        self.films, self.published, self.store = films, published, store
        self.dask_address = dask_address
        self.done: dict[tuple[str, ...], str] = {}
        """Page that has run a command; it is not run again for another page."""

    def put(self, name: str, folder: Path, page: str) -> None:
        target = folder / name
        if target.exists():
            return
        if name == "films":
            shutil.copytree(self.films, target)
        elif name == "curated":
            shutil.copytree(self.published if page in READ_ONLY else self.curated(), target)
        elif name in MAKERS:
            MAKERS[name](target)

    def curated(self) -> Path:
        """Workspace after README's command."""
        if not (self.store / "curated").exists():
            of_readme = [c for b in blocks("README.md") for c in commands(b.text)]
            command = next(c for c in of_readme if c.startswith(".venv/bin/mammosift run"))
            folder = self.store / "first"
            folder.mkdir()
            with contextlib.chdir(folder):
                run_command(command, folder, self, "README.md")
        return self.store / "curated"

    def kept(self, workspace: str) -> Path:
        """Where a run's workspace lies for the pages after it, which go on from there."""
        return self.store / workspace.rstrip("/")


def tiles(target: Path) -> None:
    """A folder of pictures of 128 px."""
    from tests.conftest import make_film

    target.mkdir()
    pieces = [
        make_film(i)[y : y + 128, x : x + 128]
        for i in range(2)
        for y in range(0, 512, 128)
        for x in (0, 256)
    ]
    for i, piece in enumerate(pieces):
        cv2.imwrite(str(target / f"{i:04}.png"), piece)


def moles(target: Path) -> None:
    target.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        picture = np.full((50, 60, 3), (200 - 20 * i, 160, 130), np.float64)
        picture[10:20, 10 : 20 + 5 * i] *= 0.4
        noisy = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(target / f"{i}.png"), noisy[..., ::-1])


def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([c + rng.normal(0, 0.1, (100, 8)) for c in range(4)]).astype(np.float32)


def rows_zarr(target: Path) -> None:
    zarr.save_array(target, rows())


def known(target: Path) -> None:
    target.write_text("source,x,y,width,height,kind\ncase0/R film.png,320,0,64,64,misinformative\n")


def decisions(target: Path) -> None:
    """The table of the review's page, with a verdict on its first row."""
    table = (target.parent / "curated/review/decisions.csv").read_text().splitlines()
    columns, first = table[0].split(","), table[1].split(",")
    first[columns.index("verdict")] = "review"
    target.write_text("\n".join([table[0], ",".join(first)]) + "\n")


MAKERS: dict[str, Callable[[Path], None]] = {
    "tiles": tiles,
    "moles": moles,
    "rows.npy": lambda target: np.save(target, rows()),
    "rows.zarr": rows_zarr,
    "known.csv": known,
    "decisions.csv": decisions,
}


# -- running a page --------------------------------------------------------------------------


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_as_it_stands(
    page: str,
    things: Things,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("examples", "Makefile", "deployments"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    monkeypatch.chdir(tmp_path)
    chosen = [b for b in blocks(page) if b.reason is None]
    for block in chosen:
        if block.language == "bash":
            for command in commands(block.text):
                run_command(command, tmp_path, things, page)
    python = "\n".join(b.text for b in chosen if b.language == "python")
    if python:
        for name in re.findall(r"\"(curated|mammograms)\b", python):
            things.put(name, tmp_path, page)
        printed = run_python(PYTHON_STARTS.get(page, "") + python, tmp_path)
        assert PYTHON_SAYS.get(page, "") in printed


def run_command(command: str, folder: Path, things: Things, page: str) -> None:
    ours = OURS.match(command)
    words = shlex.split(command, comments=True)
    if ours is None or ours["command"] != "run":
        for name in words:
            things.put(name.rstrip("/"), folder, page)
    if ours is None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=folder,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{page}: {command}\n{done.stdout}{done.stderr}"
        return
    words = words[1:]
    if ours["command"] in ON_DASK and things.done.setdefault(tuple(words), page) != page:
        return
    workspace = option(words, "--out") or option(words, "--workspace") or "curated/"
    if ours["command"] == "run":
        for name in ("films", "tiles", "known.csv"):
            things.put(name, folder, page)
        if things.kept(workspace).exists():
            shutil.copytree(things.kept(workspace), folder / workspace, dirs_exist_ok=True)
        words = with_options(words, TINY["run"])
    if ours["command"] in ("run", "plan"):
        words = with_options(words, TINY_TILES)
    if ours["command"] in ON_DASK:
        words = with_options(words, {"--dask-address": things.dask_address})
    handler = signal.getsignal(signal.SIGINT)
    try:
        started = time.perf_counter()
        assert not app(words, standalone_mode=False), f"{page}: {command}"
        print(f"{time.perf_counter() - started:.1f} s: {command}")
    finally:
        signal.signal(signal.SIGINT, handler)
    if ours["command"] in ("run", "review"):
        shutil.rmtree(things.kept(workspace), ignore_errors=True)
        shutil.copytree(folder / workspace, things.kept(workspace))


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def with_options(words: list[str], options: dict[str, str]) -> list[str]:
    """The words with these options, in place of the values that they have there."""
    words = list(words)
    for name, value in options.items():
        if name in words:
            words[words.index(name) + 1] = value
        else:
            words += [name, value]
    return words


def run_python(program: str, folder: Path) -> str:
    more: dict[str, Any] = {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | more,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
