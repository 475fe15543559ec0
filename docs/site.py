"""Pages of the site that are made, not written: from the README and its like, and from the code."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, get_args, get_origin

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TAKEN = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deployments/README.md": "deployments.md",
}
MODELS = {
    "run": "tasks.settings:CurationSettings",
    "review": "tasks.review_settings:ReviewSettings",
    "cluster": "tasks.cluster_settings:ClusterFileSettings",
    "measure": "tasks.picture_settings:MeasureSettings",
    "augment": "tasks.picture_settings:AugmentSettings",
    "export": "tasks.export_settings:ExportSettings",
    "reproduce": "tasks.reproduce_settings:ReproduceSettings",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    pages = {page: (ROOT / source).read_text("utf-8") for source, page in TAKEN.items()}
    pages["reference/settings.md"] = settings()
    pages["reference/commands.md"] = commands()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to where things are on the site; what is not on it becomes its bare name."""
    here = Path(page.file.src_uri)
    made = {page: source for source, page in TAKEN.items()}
    origin = Path(made.get(str(here), f"docs/{here}"))

    def moved(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        wanted = (ROOT / origin.parent / path).resolve().relative_to(ROOT)
        to = TAKEN.get(str(wanted))
        if to is None and wanted.parts[0] == "docs" and (ROOT / wanted).is_file():
            to = str(Path(*wanted.parts[1:]))
        if to is None:
            return text if text.startswith("`") else f"{text} (`{wanted}`)"
        up = "../" * (len(here.parts) - 1)
        return f"{match['image']}[{text}]({up}{to}{'#' + anchor if anchor else ''})"

    return re.sub(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", moved, markdown)


def settings() -> str:
    """Tables of all settings, one a command, from the settings' own titles and sentences."""
    from flows.cli import _settings_model

    parts = [
        "# Settings",
        "Each is an option of the command (`--tile-size-px 512`), a key of the TOML file that "
        "`--config` names (`tile_size_px = 512`), and a field of the form in the Prefect UI.",
    ]
    for command, name in MODELS.items():
        parts += [f"## mammosift {command}", "| setting | default | meaning |\n| --- | --- | --- |"]
        rows = []
        for key, field in _settings_model(name).model_fields.items():
            default = "required" if field.is_required() else _shown(field.get_default())
            kind = _kind(field.annotation)
            text = f"**{field.title or key}.** {field.description or ''} {kind}".strip()
            rows.append(f"| `{key}` | {default} | {_cell(text)} |")
        parts[-1] += "\n" + "\n".join(rows)
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """What each command says of itself."""
    from flows.cli import app

    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    parts = ["# Commands"]
    for name in ("", *names):
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *([name] if name else []), "--help"],
            cwd=ROOT,
            env={"COLUMNS": "96", "PATH": "", "PYTHONPATH": str(ROOT), "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=True,
        )
        title = f"mammosift {name}".strip()
        said = done.stdout.replace("python -m flows.cli", "mammosift").replace(str(ROOT) + "/", "")
        parts += [f"## {title}", f"```text\n{said.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _kind(annotation: Any) -> str:
    """Choices of a setting that has a few."""
    for part in (annotation, *get_args(annotation)):
        if getattr(get_origin(part), "__name__", str(get_origin(part))).endswith("Literal"):
            return "One of " + ", ".join(f"`{choice}`" for choice in get_args(part)) + "."
    return ""


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list | tuple | types.MappingProxyType) and len(str(value)) > 40:
        return "see its help"
    return f"`{value}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
