from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import BAD_ARGUMENTS, app
from tasks.settings import CurationSettings

run = CliRunner().invoke


def test_help_names_every_command_and_imports_no_heavy_package() -> None:
    program = (
        "import sys; sys.argv = ['mammosift', '--help']\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'prefect', 'torch', 'dask', 'numba', 'pyarrow', 'pandas', 'zarr', 'cv2'}\n"
        "print('HEAVY', heavy & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "HEAVY set()" in done.stdout
    for command in ("demo", "run", "plan", "review", "export", "fetch", "doctor", "serve"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    "command", ["demo", "run", "plan", "review", "export", "fetch", "doctor", "serve"]
)
def test_every_command_has_an_example(command: str) -> None:
    assert f"Example: mammosift {command}" in run(app, [command, "--help"]).output


def test_run_offers_every_setting() -> None:
    text = run(app, ["run", "--help"]).output
    for name in CurationSettings.model_fields:
        assert "--" + name.replace("_", "-") in text


def test_a_bad_setting_exits_with_2_and_says_what_to_do(tmp_path: Path) -> None:
    given = ["run", "--source", "x", "--out", str(tmp_path), "--tile-size-px=64", "--stride-px=99"]
    done = run(app, given)
    assert done.exit_code == BAD_ARGUMENTS
    assert "use stride_px <= 64" in done.output


def test_a_missing_source_exits_with_2() -> None:
    done = run(app, ["run", "--out", "x"])
    assert done.exit_code == BAD_ARGUMENTS
    assert "--source: Field required" in done.output


def test_options_override_the_toml_file(tmp_path: Path) -> None:
    from flows.cli import _settings

    file = tmp_path / "s.toml"
    file.write_text('source = "films"\nout = "w"\nseed = 1\ntile_size_px = 99\n')
    settings = _settings(file, {"seed": 7, "stride_px": None})
    assert (settings.seed, settings.tile_size_px) == (7, 99)
    assert settings.source == str(tmp_path / "films"), "relative to the file's folder"


def test_an_unreadable_toml_file_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("seed = = 1")
    done = run(app, ["run", "--config", str(tmp_path / "s.toml")])
    assert done.exit_code == BAD_ARGUMENTS
    assert "cannot be read as TOML" in done.output


def test_plan_counts_films_and_tiles_and_writes_nothing(film_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "w"
    done = run(
        app, ["plan", "--source", str(film_folder), "--out", str(out), "--tile-size-px", "64"]
    )
    assert done.exit_code == 0, done.output
    assert "films      12 used, " in done.output
    assert "; 0 files excluded" in done.output
    assert f"{12 * 48} cut" in done.output
    assert not out.exists()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"--source": "nowhere"}, "does not exist; give a folder"),
        ({"--films-csv": "nowhere.csv"}, "does not exist; check the path"),
        ({"--lesions-csv": "nowhere.csv"}, "does not exist; check the path"),
    ],
)
@pytest.mark.parametrize("name", ["run", "plan"])
def test_what_does_not_exist_is_said_in_one_line_and_exits_with_2(
    name: str, wrong: dict[str, str], said: str, film_folder: Path, tmp_path: Path
) -> None:
    given = {"--source": str(film_folder), "--out": str(tmp_path / "w")} | wrong
    done = command(name, *(f"{option}={value}" for option, value in given.items()))
    assert done.returncode == BAD_ARGUMENTS
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_serve_listens_to_the_network_only_with_a_password() -> None:
    done = command("serve", "--host", "0.0.0.0")  # noqa: S104
    assert done.returncode == BAD_ARGUMENTS
    assert "PREFECT_SERVER_API_AUTH_STRING" in done.stderr


def test_serve_refuses_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == BAD_ARGUMENTS
    assert "Choose another port" in done.stderr
