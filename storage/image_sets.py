"""Labelled picture sets as their makers publish them: MNIST's idx files, MedMNIST's npz.

Nothing is unpickled, and nothing is allocated on the word of a header before it is checked.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.errors import InputError

MAX_BYTES = 2 * 2**30
"""Of one set, unpacked."""
TO_UINT16 = 257
"""255 becomes 65535."""

_IDX = {"train": "train", "t10k": "test"}
_NPZ = {"train": "train", "val": "validation", "test": "test"}
_IDX_BYTES, _GZIP = 0x08, b"\x1f\x8b"


@dataclass(frozen=True)
class LabelledPictures:
    """One part of a set.

    Parameters
    ----------
    pixels : ndarray of uint16, shape (n, side, side)
        0 to 65535 stands for 0 to 1.
    labels : ndarray of int64, shape (n,)
        From 0.
    """

    pixels: npt.NDArray[np.uint16]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, n: int) -> LabelledPictures:
        """The first n pictures."""
        return LabelledPictures(self.pixels[:n], self.labels[:n])


def find_files(folder: str | Path) -> dict[str, Path]:
    """Files of the set in a folder, by what they hold.

    Raises
    ------
    InputError
        There is no such folder, or no set in it, or more than one.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"--data {folder} is no folder; name the folder that holds the set.")
    named = {}
    for stem in _IDX:
        for kind, suffix in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            for ending in ("", ".gz"):
                path = root / f"{stem}-{suffix}{ending}"
                if path.is_file():
                    named[f"{stem}-{kind}"] = path
    archives = sorted(root.glob("*.npz"))
    if len(archives) == 1 and not named:
        return {"npz": archives[0]}
    if len(named) == 2 * len(_IDX) and not archives:
        return named
    if archives and (named or len(archives) > 1):
        raise InputError(
            f"{folder} holds more than one set ({', '.join(p.name for p in archives[:3])}, ...). "
            "Put each into a folder of its own."
        )
    raise InputError(
        f"{folder} holds no picture set: one .npz in MedMNIST's layout is wanted (train_images, "
        "train_labels, val_..., test_...), or MNIST's four files train-images-idx3-ubyte, "
        "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (.gz or not)."
    )


def fingerprint(folder: str | Path) -> str:
    """SHA-256 over the set's files, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, path in sorted(find_files(folder).items()):
        digest.update(f"{name}\n".encode())
        with path.open("rb") as f:
            while block := f.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def read(folder: str | Path) -> dict[str, LabelledPictures]:
    """Read a set.

    Parameters
    ----------
    folder : str or Path
        Holds one npz in MedMNIST's layout, or MNIST's four idx files.

    Returns
    -------
    dict of str to LabelledPictures
        ``train`` and ``test``; ``validation`` where the set has one.

    Raises
    ------
    InputError
        The set is missing, cut off, larger than 2 GiB, in colour, or holds something else.
    """
    files = find_files(folder)
    if "npz" in files:
        return _read_npz(files["npz"])
    return {
        part: _paired(
            _read_idx(files[f"{stem}-images"], 3),
            _read_idx(files[f"{stem}-labels"], 1),
            files[f"{stem}-images"],
        )
        for stem, part in _IDX.items()
    }


def _read_npz(path: Path) -> dict[str, LabelledPictures]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        _refuse_large(path, unpacked)
        found = {}
        with np.load(path, allow_pickle=False) as arrays:
            for name, part in _NPZ.items():
                if f"{name}_images" in arrays and f"{name}_labels" in arrays:
                    pair = arrays[f"{name}_images"], arrays[f"{name}_labels"]
                    found[part] = _paired(*pair, path)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error) as e:
        raise InputError(f"{path} cannot be read as npz ({e}). Fetch the file again.") from e
    if "train" not in found or "test" not in found:
        raise InputError(
            f"{path} lacks train_images, train_labels, test_images or test_labels; an archive in "
            "MedMNIST's layout has them."
        )
    return found


def _read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """One array of an idx file: two zeros, type, number of dimensions, their sizes, bytes."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as f:
            head = f.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:3] != bytes((0, 0, _IDX_BYTES)):
                raise InputError(f"{path} is no idx file of bytes. Fetch the file again.")
            if head[3] != dimensions:
                raise InputError(
                    f"{path} holds an array of {head[3]} dimensions, {dimensions} are wanted. "
                    "Images and labels may have changed their names."
                )
            shape = tuple(int(n) for n in np.frombuffer(head[4:], ">u4"))
            size = math.prod(shape)
            _refuse_large(path, size)
            data = f.read(size + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path} cannot be read ({e}). Fetch the file again.") from e
    if len(data) != size:
        held = "more" if len(data) > size else str(len(data))
        raise InputError(
            f"{path} says that it holds {size} bytes and holds {held}. Fetch the file again."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _paired(
    pictures: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], path: Path
) -> LabelledPictures:
    if pictures.dtype != np.uint8 or pictures.ndim != 3 or pictures.shape[1] != pictures.shape[2]:
        raise InputError(
            f"{path} holds pictures of {pictures.dtype} {pictures.shape}; square grey ones of "
            "bytes are wanted, (n, side, side)."
        )
    flat = labels.reshape(len(labels), -1)
    if flat.shape != (len(pictures), 1) or not np.issubdtype(flat.dtype, np.integer):
        raise InputError(
            f"{path} holds labels of {labels.dtype} {labels.shape} for {len(pictures)} pictures; "
            "one whole number a picture is wanted."
        )
    if len(flat) == 0 or flat.min() < 0 or flat.max() > 65_535:
        raise InputError(f"{path} holds no pictures, or labels outside of 0 to 65,535.")
    pixels = pictures.astype(np.uint16) * np.uint16(TO_UINT16)
    return LabelledPictures(pixels, flat[:, 0].astype(np.int64))


def _refuse_large(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise InputError(
            f"{path} unpacks to {size:,} bytes, more than the {MAX_BYTES:,} that a picture set may "
            "have here. Use a smaller set."
        )
