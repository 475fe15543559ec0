"""Sizes that compressed frames state of themselves: JPEG, JPEG-LS, JPEG 2000."""

from __future__ import annotations

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_J2K_START = b"\xff\x4f\xff\x51"
_MAX_BOXES_BYTES = 65536


def size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns by a frame's own header; None where it has none that can be read.

    A decoder allocates by this header, whatever the file around it says.

    Parameters
    ----------
    frame : bytes
        A codestream of JPEG (ITU-T T.81), JPEG-LS (T.87) or JPEG 2000 (T.800, with boxes around it
        or without).
    """
    if frame.startswith(b"\xff\xd8"):
        return _size_of_jpeg(frame)
    start = frame.find(_J2K_START, 0, _MAX_BOXES_BYTES)
    if start < 0 or len(frame) < start + 24:
        return None
    at = start + 8  # after SOC, SIZ, its length and Rsiz
    right, bottom, left, top = (
        int.from_bytes(frame[n : n + 4], "big") for n in (at, at + 4, at + 8, at + 12)
    )
    return bottom - top, right - left


def _size_of_jpeg(frame: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _START_OF_FRAME:
            body = frame[at + 5 : at + 9]
            return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:], "big")
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
