"""What lies beside a DDSM film: the case's ``.ics`` file and the film's ``.OVERLAY``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from storage.errors import CorruptFilm
from storage.films import names, overlays
from storage.records import Lesion, Mammogram

_NORMAL = re.compile(r"normals?([_-]?\d+)?", re.IGNORECASE)
_NOT_NORMAL = re.compile(r"(cancer|benign|malignant)(s|_without_callbacks?)?([_-]?\d+)?", re.I)


@dataclass(frozen=True)
class IcsView:
    """One film's line of an ``.ics`` file."""

    rows: int
    columns: int
    bits: int
    spacing_mm: float
    has_overlay: bool


@dataclass(frozen=True)
class Ics:
    """A case: its digitiser, breast density and films. Dates and age are left out."""

    digitizer: str | None
    breast_density: str | None
    views: dict[str, IcsView]
    """By ``LEFT_CC``, ``LEFT_MLO``, ``RIGHT_CC``, ``RIGHT_MLO``."""

    @property
    def is_normal(self) -> bool:
        """Whether no film of the case has a finding: true of all normal cases, and of no other."""
        return bool(self.views) and not any(view.has_overlay for view in self.views.values())


_VIEW = re.compile(
    r"^\s*(LEFT|RIGHT)_(CC|MLO)\s+LINES\s+(\d+)\s+PIXELS_PER_LINE\s+(\d+)\s+BITS_PER_PIXEL\s+(\d+)"
    r"\s+RESOLUTION\s+([\d.]+)\s+(NON_OVERLAY|OVERLAY)",
    re.MULTILINE,
)
_FIELD = r"^\s*{}[ \t]+(\S[^\r\n]*?)[ \t]*\r?$"


def parse_ics(text: str) -> Ics:
    """Read a case file; what it lacks is None or missing.

    Parameters
    ----------
    text : str
        Content of the ``.ics`` file. RESOLUTION is in micrometres.
    """
    views = {
        f"{side}_{view}": IcsView(
            int(rows), int(columns), int(bits), round(float(microns) / 1000, 7), mark == "OVERLAY"
        )
        for side, view, rows, columns, bits, microns, mark in _VIEW.findall(text)
    }
    return Ics(_field(text, "DIGITIZER"), _field(text, "DENSITY"), views)


def _field(text: str, name: str) -> str | None:
    found = re.search(_FIELD.format(name), text, re.MULTILINE)
    return found[1] if found else None


def scanner_key(case: str, digitizer: str | None) -> str | None:
    """Digitiser of a case: dba, howtek-mgh, howtek-ismd or lumisys; None where in doubt.

    The prefix names the site (A: MGH, B and C: WFU, D: ISMD); MGH had two digitisers, which only
    the ``.ics`` file tells apart.

    Parameters
    ----------
    case : str
        Such as ``A_0018_1``.
    digitizer : str or None
        DIGITIZER of the ``.ics`` file.
    """
    site = case[0]
    name = (digitizer or {"B": "LUMISYS", "C": "LUMISYS", "D": "HOWTEK"}.get(site, "")).upper()
    if site == "A" and name.startswith("DBA"):
        return "dba"
    if site in "BC" and name.startswith("LUMISYS"):
        return "lumisys"
    if name.startswith("HOWTEK"):
        return {"A": "howtek-mgh", "D": "howtek-ismd"}.get(site)
    return None


def with_sidecars(film: Mammogram, path: Path) -> Mammogram:
    """Film with what its case's files say: spacing, digitiser, density, label and lesions.

    The digitiser's key and the grey scale are set for lossless JPEG alone, whose grey levels are
    the digitiser's own. In a picture made from one (PNG, TIFF, JPEG) nobody knows what was done to
    them: there the digitiser's plain name stands. Spacing and outlines are used where the film has
    the size that the ``.ics`` file states; of a reduced picture the lesions' place is unknown.

    The label: the worst pathology of the ``.OVERLAY``; ``normal`` for a film of a normal case (one
    whose ``.ics`` file names no overlay, or, without such a file, one in a folder called normal);
    otherwise None. A film without a finding in a cancer case is not normal: nobody said so.

    Parameters
    ----------
    film : Mammogram
        With source, format, size, laterality and view.
    path : Path
        Of its file.

    Returns
    -------
    Mammogram
        The same where the name is not DDSM's.

    Raises
    ------
    CorruptFilm
        Where a lossless JPEG has another size than its ``.ics`` file states.
    """
    case = names.hints(path.name).ddsm_case
    if case is None:
        return film
    ics = _read_ics(path.parent, case)
    view_name = f"{'LEFT' if film.laterality == 'L' else 'RIGHT'}_{film.view}"
    view = ics.views.get(view_name) if ics else None
    same_size = view is not None and (view.rows, view.columns) == (film.rows, film.columns)
    raw = film.file_format == "ddsm-ljpeg"
    if raw and view is not None and not same_size:
        raise CorruptFilm(
            film.source,
            f"The film is {film.rows} x {film.columns}, its .ics file says"
            f" {view.rows} x {view.columns}.",
            "Fetch the film and its .ics file again.",
        )
    key = scanner_key(case, ics.digitizer if ics else None)
    name = ics.digitizer if ics and ics.digitizer else key and key.split("-")[0].upper()
    film = replace(
        film,
        patient_key=names.patient_key(case),
        scanner=key if raw and key else name,
        grey_scale=f"raw-{key}" if raw and key else None,
        pixel_spacing_mm=view.spacing_mm if view and same_size else film.pixel_spacing_mm,
        bits_stored=view.bits if view and raw else film.bits_stored,
        breast_density=ics.breast_density if ics else None,
    )
    return _with_findings(film, path, case, view_name, ics, placed=same_size or raw)


def _with_findings(
    film: Mammogram, path: Path, case: str, view_name: str, ics: Ics | None, *, placed: bool
) -> Mammogram:
    overlay = _beside(path.parent, f"{case}.{view_name}.OVERLAY")
    if overlay is not None:
        source = (PurePosixPath(film.source).parent / overlay.name).as_posix()
        return _with_overlay(film, overlay, source, placed=placed)
    view = ics.views.get(view_name) if ics else None
    if view is not None and view.has_overlay:  # a finding, but its file is missing
        return replace(film, lesions=(Lesion("circle"),))
    normal = ics.is_normal if ics else None
    if normal is None:
        normal = _folder_says_normal(film.source)
    return replace(film, label="normal" if normal else None)


def _with_overlay(film: Mammogram, overlay: Path, source: str, *, placed: bool) -> Mammogram:
    try:
        abnormalities = overlays.parse(overlay.read_text("latin-1"))
    except ValueError:
        return replace(film, lesions=(Lesion("circle"),))
    if placed:
        lesions = [
            Lesion("outline", found.pathology, source=source)
            if found.outlines
            else Lesion("circle", found.pathology)
            for found in abnormalities
        ]
    else:
        lesions = [Lesion("circle", found.pathology) for found in abnormalities]
    return replace(
        film, lesions=tuple(lesions), label=worst_pathology(found.pathology for found in lesions)
    )


def worst_pathology(pathologies: Iterable[str | None]) -> str | None:
    """Label of a film: the worst of its findings; None where one that might be worse is unproven.

    Examples
    --------
    >>> worst_pathology(["benign", "malignant", None])
    'malignant'
    >>> worst_pathology(["benign", None]) is None
    True
    """
    found = set(pathologies)
    if "malignant" in found:
        return "malignant"
    if not found or not found <= {"benign", "benign_without_callback"}:
        return None
    return "benign" if "benign" in found else "benign_without_callback"


def _folder_says_normal(source: str) -> bool:
    folders = PurePosixPath(source).parent.parts
    if any(_NOT_NORMAL.fullmatch(name) for name in folders):
        return False
    return any(_NORMAL.fullmatch(name) for name in folders)


def _read_ics(folder: Path, case: str) -> Ics | None:
    for stem in (case.replace("_", "-"), case):
        path = _beside(folder, f"{stem}.ics")
        if path is not None:
            return parse_ics(path.read_text("latin-1"))
    return None


def _beside(folder: Path, name: str) -> Path | None:
    """File of that name, or of the name in lower case (some copies of DDSM are)."""
    stem, _, suffix = name.rpartition(".")
    for candidate in (name, f"{stem}.{suffix.lower()}", f"{stem}.{suffix.upper()}", name.lower()):
        if (folder / candidate).is_file():
            return folder / candidate
    return None
