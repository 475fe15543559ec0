"""What lies beside the films: tables of films and lesions, CBIS-DDSM's case files and masks."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage import films as readers
from storage.discovery import film_path
from storage.errors import TableError
from storage.films import names, overlays
from storage.films.ddsm import worst_pathology
from storage.records import Lesion, Mammogram
from storage.schemas import MAMMOGRAMS

FILMS_CSV = "films.csv"
LESIONS_CSV = "lesions.csv"
CASES_PATTERN = "*case_description*.csv"
CASES_FOLDERS = (".", "metadata", "csv")

_View = tuple[str | None, str | None, str | None]
"""patient_key, laterality, view."""


def join(
    films: Sequence[Mammogram],
    root: Path,
    *,
    films_csv: Path | None = None,
    lesions_csv: Path | None = None,
) -> tuple[list[Mammogram], list[str]]:
    """Add to the films what tables and masks say of them, and exclude copies.

    In order: CBIS-DDSM's case files (``*case_description*.csv`` at the root or in ``metadata`` or
    ``csv``) and mask pictures, by patient, side, view and finding; the table of films (``source,
    patient, laterality, view, label, scanner, pixel_spacing_mm``; blank cells say nothing, other
    columns are passed over); the table of lesions (``source, pathology, x_px, y_px, radius_px``;
    without a place the lesion is spread over the film). Last, of films with the same bytes the
    first in order of source is kept.

    A film's label is the table's; else the worst pathology of its findings (malignant, benign,
    benign_without_callback). A label of ``normal`` yields to a lesion.

    Parameters
    ----------
    films : sequence of Mammogram
        Used and excluded ones.
    root : Path
        Of the films.
    films_csv, lesions_csv : Path or None
        The tables; None looks for ``films.csv`` and ``lesions.csv`` at the root.

    Returns
    -------
    films : list of Mammogram
        In the order given.
    warnings : list of str
        Rows that name no film, masks that fit none, places outside the film.

    Raises
    ------
    TableError
        Where a table cannot be used: file, line, column and what to do.
    """
    warnings: list[str] = []
    out = _join_cases(list(films), root, warnings)
    out = _join_films_csv(out, _table(root, films_csv, FILMS_CSV), warnings)
    out = _join_lesions_csv(out, _table(root, lesions_csv, LESIONS_CSV), warnings)
    return _without_copies(out), warnings


def _table(root: Path, given: Path | None, name: str) -> Path | None:
    if given is not None:
        if not given.is_file():
            raise TableError(f"{given}: there is no such table. Check the path.")
        return given
    return root / name if (root / name).is_file() else None


# -- reading tables --------------------------------------------------------------------------------

_Row = dict[str, str]
_T = TypeVar("_T")


def _rows(path: Path, *, needed: Sequence[str]) -> list[tuple[int, _Row]]:
    """Rows of a csv with their line numbers; column names and cells stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for column in needed:
                if column not in header:
                    raise TableError(
                        f"{path.name}, line 1: no column {column}. The columns needed are"
                        f" {', '.join(needed)}."
                    )
            rows = []
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    _check_width(path, reader.line_num, cells, header)
                    stripped = (cell.strip() for cell in cells)
                    rows.append((reader.line_num, dict(zip(header, stripped, strict=False))))
            return rows
    except UnicodeDecodeError:
        raise TableError(f"{path.name}: not in UTF-8. Save it as UTF-8.") from None
    except csv.Error as error:
        raise TableError(f"{path.name}: no csv ({error}). Save it again as csv.") from None


def _check_width(path: Path, line: int, cells: list[str], header: list[str]) -> None:
    if len(cells) != len(header):
        raise TableError(
            f"{path.name}, line {line}: {len(cells)} cells under {len(header)} columns. Quote cells"
            " that hold commas."
        )


def _cell(
    path: Path,
    line: int,
    row: _Row,
    column: str,
    convert: Callable[[str], _T | None],
    expected: str,
) -> _T | None:
    """Value of a cell; None where it is blank or the column is missing."""
    text = row.get(column, "")
    if not text:
        return None
    value = convert(text)
    if value is None:
        raise TableError(
            f"{path.name}, line {line}, column {column}: {text!r} is not {expected}. Correct the"
            " cell or leave it blank."
        )
    return value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _positive(text: str) -> float | None:
    value = _number(text)
    return value if value is not None and value > 0 else None


def _source_of(row: _Row) -> str:
    return row["source"].replace("\\", "/").removeprefix("./")


# -- tables of films and lesions -------------------------------------------------------------------


def _join_films_csv(
    films: list[Mammogram], path: Path | None, warnings: list[str]
) -> list[Mammogram]:
    if path is None:
        return films
    place = {film.source: n for n, film in enumerate(films)}
    lines: dict[str, int] = {}
    missing: list[str] = []
    for line, row in _rows(path, needed=("source",)):
        source = _source_of(row)
        if source in lines:
            raise TableError(
                f"{path.name}, line {line}, column source: {source} stands in line"
                f" {lines[source]} too. Keep one of them."
            )
        lines[source] = line
        if source not in place:
            missing.append(f"line {line}: {source}")
            continue
        film = films[place[source]]
        films[place[source]] = replace(film, **_told(path, line, row))
    warnings.extend(_without_films(path, missing))
    return films


def _without_films(path: Path, missing: list[str]) -> list[str]:
    """One warning for all lines of a table that name films which are not here."""
    if not missing:
        return []
    more = f", and {len(missing) - 3} more" if len(missing) > 3 else ""
    return [f"{path.name}: no film for {'; '.join(missing[:3])}{more}."]


def _told(path: Path, line: int, row: _Row) -> dict[str, Any]:
    """Fields that a row sets."""
    cells = {
        "patient_key": _cell(path, line, row, "patient", names.patient_key, "a patient"),
        "laterality": _cell(path, line, row, "laterality", names.side, "L or R"),
        "view": row.get("view", "").upper() or None,
        "label": row.get("label", "").lower() or None,
        "scanner": row.get("scanner") or None,
        "pixel_spacing_mm": _cell(
            path, line, row, "pixel_spacing_mm", _positive, "a positive number of millimetres"
        ),
    }
    return {name: value for name, value in cells.items() if value is not None}


def _join_lesions_csv(
    films: list[Mammogram], path: Path | None, warnings: list[str]
) -> list[Mammogram]:
    if path is None:
        return films
    place = {film.source: n for n, film in enumerate(films)}
    found: dict[int, list[Lesion]] = defaultdict(list)
    missing: list[str] = []
    for line, row in _rows(path, needed=("source", "pathology", "x_px", "y_px", "radius_px")):
        source = _source_of(row)
        if source not in place:
            missing.append(f"line {line}: {source}")
            continue
        n = place[source]
        found[n].append(_circle(path, line, row, films[n], warnings))
    warnings.extend(_without_films(path, missing))
    for n, lesions in found.items():
        films[n] = _with_lesions(films[n], lesions, warnings)
    return films


def _circle(path: Path, line: int, row: _Row, film: Mammogram, warnings: list[str]) -> Lesion:
    x_px = _cell(path, line, row, "x_px", _number, "a number of pixels")
    y_px = _cell(path, line, row, "y_px", _number, "a number of pixels")
    radius_px = _cell(path, line, row, "radius_px", _positive, "a positive number of pixels")
    pathology = row["pathology"].lower() or None
    given = [value for value in (x_px, y_px, radius_px) if value is not None]
    if len(given) in (1, 2):
        raise TableError(
            f"{path.name}, line {line}: x_px, y_px and radius_px are not all given. Give all three,"
            " or none for a lesion that is spread over the film."
        )
    if x_px is None or y_px is None:
        return Lesion("circle", pathology)
    if film.rows and film.columns and not (0 <= x_px < film.columns and 0 <= y_px < film.rows):
        warnings.append(
            f"{path.name}, line {line}: the centre lies outside of {film.source}; taken as a lesion"
            " of unknown place. The origin is top left."
        )
        return Lesion("circle", pathology)
    return Lesion("circle", pathology, x_px, y_px, radius_px)


def _with_lesions(film: Mammogram, lesions: list[Lesion], warnings: list[str]) -> Mammogram:
    """Film with more lesions, and a label where it had none or a wrong one."""
    worst = worst_pathology(lesion.pathology for lesion in (*film.lesions, *lesions))
    label = film.label
    if label == "normal":
        warnings.append(
            f"{film.source}: labelled normal, but it has a lesion; taken as {worst or 'unknown'}."
        )
        label = worst
    return replace(film, lesions=(*film.lesions, *lesions), label=label or worst)


# -- CBIS-DDSM -------------------------------------------------------------------------------------


def _join_cases(films: list[Mammogram], root: Path, warnings: list[str]) -> list[Mammogram]:
    pathologies: dict[_View, dict[str, str]] = defaultdict(dict)
    densities: dict[_View, str] = {}
    for path in _case_files(root):
        for line, row in _case_rows(path):
            view, finding, pathology = _case(path, line, row)
            pathologies[view][finding] = pathology
            density = row.get("breast density") or row.get("breast_density")
            if density:
                densities[view] = density
    pictures = _pictures_of_findings(films)
    return [
        _with_case(film, pathologies, densities, pictures, warnings)
        if film.role == "film" and film.excluded_reason is None
        else film
        for film in films
    ]


def _case_files(root: Path) -> list[Path]:
    return [
        path for folder in CASES_FOLDERS for path in sorted((root / folder).glob(CASES_PATTERN))
    ]


def case_labels(folder: Path) -> tuple[list[Path], dict[_View, str | None]]:
    """Labels of CBIS-DDSM's films by its case files.

    Parameters
    ----------
    folder : Path
        With ``*case_description*.csv``, at its root or in ``metadata`` or ``csv``.

    Returns
    -------
    files : list of Path
        The case files.
    labels : dict
        By patient_key, laterality and view: the worst pathology of the film's findings.

    Raises
    ------
    TableError
        No case file there, or one that cannot be used.
    """
    files = _case_files(folder)
    if not files:
        raise TableError(
            f"{folder}: no case table ({CASES_PATTERN}) there. Name the folder that holds the "
            "csvs of CBIS-DDSM."
        )
    pathologies: dict[_View, list[str]] = defaultdict(list)
    for path in files:
        for line, row in _case_rows(path):
            view, _, pathology = _case(path, line, row)
            pathologies[view].append(pathology)
    return files, {view: worst_pathology(found) for view, found in pathologies.items()}


def _case_rows(path: Path) -> list[tuple[int, _Row]]:
    needed = (
        "patient_id",
        "left or right breast",
        "image view",
        "abnormality id",
        "abnormality type",
        "pathology",
    )
    return _rows(path, needed=needed)


def _case(path: Path, line: int, row: _Row) -> tuple[_View, str, str]:
    side = _cell(path, line, row, "left or right breast", names.side, "LEFT or RIGHT")
    patient = names.patient_key(row["patient_id"])
    kind = "calc" if row["abnormality type"].startswith("calc") else "mass"
    view = patient, side, row["image view"].upper()
    return view, f"{kind}-{row['abnormality id']}", row["pathology"].lower()


def _pictures_of_findings(films: Iterable[Mammogram]) -> dict[_View, list[Mammogram]]:
    """Masks and crops of the findings, by film."""
    found: dict[_View, list[Mammogram]] = defaultdict(list)
    for film in films:
        if film.role != "film" and film.finding is not None and film.patient_key is not None:
            found[_view(film)].append(film)
    return found


def _view(film: Mammogram) -> _View:
    return film.patient_key, film.laterality, film.view


def _with_case(
    film: Mammogram,
    pathologies: dict[_View, dict[str, str]],
    densities: dict[_View, str],
    pictures: dict[_View, list[Mammogram]],
    warnings: list[str],
) -> Mammogram:
    view = _view(film)
    known = pathologies.get(view, {})
    masks = {
        finding: _mask_of(film, finding, pictures.get(view, []), warnings)
        for finding in sorted(
            {*known, *(picture.finding or "" for picture in pictures.get(view, []))}
        )
    }
    if not masks:
        return film
    lesions = tuple(
        Lesion("mask", known.get(finding), source=mask.source)
        if mask is not None
        else Lesion("circle", known.get(finding))
        for finding, mask in masks.items()
    )
    return replace(
        film,
        lesions=(*film.lesions, *lesions),
        label=worst_pathology(known.values()) or film.label,
        breast_density=densities.get(view, film.breast_density),
    )


def _mask_of(
    film: Mammogram, finding: str, pictures: list[Mammogram], warnings: list[str]
) -> Mammogram | None:
    """The finding's picture that has the film's size: its mask, whatever it calls itself."""
    own = [picture for picture in pictures if picture.finding == finding]
    same_size = [p for p in own if (p.rows, p.columns) == (film.rows, film.columns)]
    same_size.sort(key=lambda picture: (picture.role != "mask", picture.source))
    if same_size:
        return same_size[0]
    warnings.extend(
        f"{mask.source}: the mask is {mask.rows} x {mask.columns}, its film {film.source}"
        f" {film.rows} x {film.columns}; not used, the lesion's place is unknown."
        for mask in own
        if mask.role == "mask"
    )
    return None


# -- copies ----------------------------------------------------------------------------------------


def _without_copies(films: list[Mammogram]) -> list[Mammogram]:
    first: dict[str, Mammogram] = {}
    for film in sorted(films, key=lambda film: (-_facts_known(film), film.source)):
        if film.excluded_reason is None and film.source_sha256 is not None:
            first.setdefault(film.source_sha256, film)
    return [
        film
        if film.excluded_reason is not None or first.get(film.source_sha256 or "", film) is film
        else replace(
            film,
            excluded_reason="duplicate_film",
            excluded_rule=f"The same bytes as {first[film.source_sha256 or ''].source}.",
            excluded_remedy="Nothing to do: of equal files the one that most is known of is used, "
            "else the first in order of name.",
        )
        for film in films
    ]


def _facts_known(film: Mammogram) -> int:
    """How much header, name and tables say: a stray copy must not displace a labelled film."""
    facts = (film.label, film.laterality, film.view, film.scanner, film.pixel_spacing_mm)
    named = film.patient_key is not None and film.patient_key != film.mammogram_id
    return sum(fact is not None for fact in facts) + len(film.lesions) + named


def without_spacing_excluded(films: Sequence[Mammogram]) -> list[Mammogram]:
    """Films with those of unknown pixel spacing excluded: tiles in millimetres need one."""
    return [
        replace(
            film,
            excluded_reason="unknown_pixel_spacing",
            excluded_rule="no pixel spacing in the header, and tile_size_mm needs one.",
            excluded_remedy="Give it in the column pixel_spacing_mm of the table of films.",
        )
        if film.excluded_reason is None and film.pixel_spacing_mm is None
        else film
        for film in films
    ]


# -- lesions ---------------------------------------------------------------------------------------


def has_unlocated_lesion(film: Mammogram) -> bool:
    """Whether the film has a lesion whose place nobody gave: any tile of it may hold one."""
    return any(lesion.kind == "circle" and lesion.x_px is None for lesion in film.lesions)


def lesion_mask(film: Mammogram, root: Path) -> npt.NDArray[np.bool_] | None:
    """Area of the film's located lesions: circles, masks and filled outlines together.

    A mask picture counts where it exceeds half of its highest value.

    Parameters
    ----------
    film : Mammogram
        With its size.
    root : Path
        Of the films.

    Returns
    -------
    ndarray of bool, shape (rows, columns), or None
        None where no lesion is located.

    Raises
    ------
    FilmError
        Where a mask picture or an overlay cannot be read.
    """
    located = [item for item in film.lesions if item.kind != "circle" or item.x_px is not None]
    if not located or not film.rows or not film.columns:
        return None
    mask = np.zeros((film.rows, film.columns), np.bool_)
    for lesion in dict.fromkeys(replace(item, pathology=None) for item in located):
        if lesion.kind == "circle":
            _draw_circle(mask, lesion)
        elif lesion.kind == "mask":
            mask |= _mask_picture(film, lesion, root)
        else:
            text = film_path(root, lesion.source or "").read_text("latin-1")
            mask |= overlays.fill(overlays.parse(text), rows=film.rows, columns=film.columns)
    return mask


def _draw_circle(mask: npt.NDArray[np.bool_], lesion: Lesion) -> None:
    x_px, y_px, radius_px = (value or 0.0 for value in (lesion.x_px, lesion.y_px, lesion.radius_px))
    rows, columns = mask.shape
    top, bottom = max(0, math.floor(y_px - radius_px)), min(rows, math.ceil(y_px + radius_px) + 1)
    left, right = (
        max(0, math.floor(x_px - radius_px)),
        min(columns, math.ceil(x_px + radius_px) + 1),
    )
    y, x = np.ogrid[top:bottom, left:right]
    mask[top:bottom, left:right] |= (x - x_px) ** 2 + (y - y_px) ** 2 <= radius_px**2


def _mask_picture(film: Mammogram, lesion: Lesion, root: Path) -> npt.NDArray[np.bool_]:
    rows, columns = film.rows or 0, film.columns or 0
    source = lesion.source or ""
    picture = replace(film, source=source)
    pixels = readers.read_pixels(
        film_path(root, source), picture, max_film_megapixels=rows * columns / 1e6
    )
    inside: npt.NDArray[np.bool_] = pixels > int(pixels.max()) // 2
    return inside


# -- tables of films in a workspace ----------------------------------------------------------------


def to_table(films: Sequence[Mammogram]) -> pa.Table:
    """Rows of ``mammograms/`` in the order given; schema :data:`storage.schemas.MAMMOGRAMS`."""
    rows = [asdict(film) for film in films]
    for row in rows:
        row["lesions"] = list(row["lesions"])
    return pa.Table.from_pylist(rows, schema=MAMMOGRAMS)


def from_table(table: pa.Table) -> list[Mammogram]:
    """Films of a table: the inverse of :func:`to_table`.

    Spacings and places come back as the shortest decimals that their 32-bit numbers stand for.
    """
    wanted = [item.name for item in fields(Mammogram)]
    return [
        Mammogram(
            **{
                **row,
                "pixel_spacing_mm": _shortest(row["pixel_spacing_mm"]),
                "lesions": tuple(_lesion(item) for item in row["lesions"]),
            }
        )
        for row in table.select(wanted).to_pylist()
    ]


def _lesion(row: dict[str, Any]) -> Lesion:
    places = {name: _shortest(row[name]) for name in ("x_px", "y_px", "radius_px")}
    return Lesion(**{**row, **places})


def _shortest(value: float | None) -> float | None:
    return None if value is None else float(str(np.float32(value)))
