"""Our own exceptions, for bad data; bad arguments raise ``ValueError``.

::

    MammosiftError
    ├── FilmError              the film is left out, the run goes on; becomes a row of mammograms/
    │   ├── UnreadableFilm     reason "unreadable": missing, empty, no permission, a loop of links
    │   ├── UnsupportedFilm    reason "unsupported": a format, or a kind of picture, that is no film
    │   ├── CorruptFilm        reason "corrupt": truncated, or disagreeing with its own header
    │   ├── OversizedFilm      reason "oversized": more pixels than max_film_megapixels
    │   ├── NotAFilm           reason "not_a_film": a cropped region or a mask of a film
    │   └── QuarantinedFilm    reason "quarantined": it ended every process that opened it
    ├── InputError             what the user named does not exist
    ├── TableError             a csv that the user gave cannot be used; names file, line and column
    ├── ExportError            an export that may not be made: patients in two parts, no tiles
    ├── FetchError             a collection cannot be fetched: no space, no answer, wrong bytes
    ├── ShardError             a shard is incomplete or was altered
    └── WorkspaceError         the workspace cannot be written, or is not one of ours
        ├── WorkspaceInUse     another run holds its lease
        └── OutOfSpace         its disk is full; the same command goes on when there is space
"""

import errno


class MammosiftError(Exception):
    """Root of the tree above."""


class FilmError(MammosiftError):
    """A film that cannot be used.

    Parameters
    ----------
    source : str
        Path of the film relative to the source root.
    rule : str
        What is wrong, one sentence, without any personal data of the file's header.
    remedy : str
        What the user can do about it.
    """

    reason = "unusable"

    def __init__(self, source: str, rule: str, remedy: str) -> None:
        self.source, self.rule, self.remedy = source, rule, remedy
        super().__init__(source, rule, remedy)  # all three, so that it survives pickling

    def __str__(self) -> str:
        return f"{self.source}: {self.rule} {self.remedy}"


class UnreadableFilm(FilmError):
    """The file cannot be opened, or is empty."""

    reason = "unreadable"


class UnsupportedFilm(FilmError):
    """The file is no film that we read: no pixels, colour, several frames, unknown format."""

    reason = "unsupported"


class CorruptFilm(FilmError):
    """The file ends early, or its pixels disagree with its header."""

    reason = "corrupt"


class OversizedFilm(FilmError):
    """The header asks for more pixels than ``max_film_megapixels`` allows."""

    reason = "oversized"


class NotAFilm(FilmError):
    """A cropped region or a mask: it belongs to a film, it is none."""

    reason = "not_a_film"


class QuarantinedFilm(FilmError):
    """Each worker process that cut the film ended."""

    reason = "quarantined"


class InputError(MammosiftError):
    """What the user named does not exist."""


class TableError(MammosiftError):
    """A table that the user gave cannot be used."""


class ExportError(MammosiftError):
    """An export that may not be made."""


class FetchError(MammosiftError):
    """A collection cannot be fetched."""


class ShardError(MammosiftError):
    """A shard is incomplete or was altered."""


class WorkspaceError(MammosiftError):
    """The workspace cannot be written, or is not one of ours."""


class WorkspaceInUse(WorkspaceError):
    """Another run holds the workspace's lease."""


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a full disk, and of a quota that is used up."""


class OutOfSpace(WorkspaceError):
    """The disk of the workspace, or a quota on it, is full.

    Parameters
    ----------
    place : str, optional
        Where.
    """

    def __init__(self, place: str = "the workspace") -> None:
        self.place = place
        super().__init__(place)

    def __str__(self) -> str:
        return (
            f"no space is left on the disk of {self.place} (or a quota on it is used up). What is "
            "complete stays. Make space, then give the same command again: it goes on where this "
            "one stopped."
        )
