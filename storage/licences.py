"""Whose films these are, and what may be done with them."""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import TableError

NOT_STATED = "not stated"
COLUMNS = ("source", "collection", "licence", "url", "citation")
MAX_TABLE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Licence:
    """Terms of a collection of films. ``licence`` is "not stated" where nobody told."""

    collection: str
    licence: str = NOT_STATED
    url: str = ""
    citation: str = ""
    identifier: str | None = None
    """As Hugging Face names it; None for any other."""


CBIS_DDSM = Licence(
    "CBIS-DDSM",
    "CC BY 3.0",
    "https://creativecommons.org/licenses/by/3.0/",
    "R. S. Lee, F. Gimenez, A. Hoogi, K. K. Miyake, M. Gorovoy, D. L. Rubin (2017), A curated "
    "mammography data set for use in computer-aided detection and diagnosis research, Scientific "
    "Data 4, 170177; data: doi 10.7937/K9/TCIA.2016.7O02S9CY",
    "cc-by-3.0",
)
DDSM = Licence(
    "DDSM",
    NOT_STATED,
    "",
    "M. Heath, K. Bowyer, D. Kopans, R. Moore, W. P. Kegelmeyer (2001), The digital database for "
    "screening mammography, Proc. 5th International Workshop on Digital Mammography, 212-218",
)
KNOWN = {"cbis-ddsm:": CBIS_DDSM, "ddsm:": DDSM}
"""By the prefix of ``patient_key``."""


@dataclass(frozen=True)
class Licences:
    """Which licence goes with which film: the user's table, then the known collections.

    Parameters
    ----------
    table : sequence of (str, Licence)
        Patterns of ``source`` in order; the first that fits decides.
    other : Licence
        Of all other films.
    """

    table: Sequence[tuple[str, Licence]] = ()
    other: Licence = Licence("other films")

    def of(self, source: str, patient_key: str) -> Licence:
        """Licence of a film."""
        for pattern, licence in self.table:
            if fnmatch.fnmatchcase(source, pattern):
                return licence
        for prefix, licence in KNOWN.items():
            if patient_key.startswith(prefix):
                return licence
        return self.other


def read_licences(path: str | None, other: str | None) -> Licences:
    """Licences of a csv table (columns source, collection, licence; url and citation may miss).

    Parameters
    ----------
    path : str or None
        The table; None: known collections only.
    other : str or None
        Licence of all other films.

    Raises
    ------
    TableError
        Names file, line and what to do.
    """
    rest = Licence("other films", other or NOT_STATED)
    if path is None:
        return Licences(other=rest)
    file = Path(path)
    try:
        if file.stat().st_size > MAX_TABLE_BYTES:
            raise TableError(f"{path}: larger than 4 MiB, so no table of licences. Check the path.")
        text = file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise TableError(f"{path}: there is no such table. Check the path.") from None
    except (OSError, UnicodeDecodeError) as e:
        raise TableError(f"{path}: cannot be read ({e}). Save it as csv in UTF-8.") from e
    reader = csv.DictReader(text.splitlines())
    missing = [c for c in COLUMNS[:3] if c not in (reader.fieldnames or ())]
    if missing:
        raise TableError(
            f"{file.name}, line 1: no column {missing[0]}. The columns are {', '.join(COLUMNS)}."
        )
    rows = []
    for row in reader:
        cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
        if not all(cells[name] for name in COLUMNS[:3]):
            raise TableError(
                f"{file.name}, line {reader.line_num}: source, collection and licence may not be "
                "blank. Use * as source for all films."
            )
        licence = Licence(*(cells[name] for name in COLUMNS[1:]))
        rows.append((cells["source"], licence))
    return Licences(rows, rest)
