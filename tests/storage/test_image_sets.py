"""MNIST's and MedMNIST's layouts are read; whatever else lies there is refused with its reason."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from storage.errors import InputError
from storage.image_sets import fingerprint, read

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write_mnist(folder: Path, *, packed: bool = True) -> dict[str, np.ndarray]:
    arrays = {}
    for stem, n in (("train", 7), ("t10k", 3)):
        arrays[f"{stem}-images-idx3-ubyte"] = RNG.integers(0, 256, (n, 5, 5)).astype(np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = RNG.integers(0, 10, n).astype(np.uint8)
    for name, array in arrays.items():
        data = idx(array)
        path = folder / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(data) if packed else data)
    return arrays


def write_medmnist(folder: Path, **changed: np.ndarray) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for part, n in (("train", 6), ("val", 2), ("test", 3)):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (n, 5, 5)).astype(np.uint8)
        arrays[f"{part}_labels"] = RNG.integers(0, 2, (n, 1)).astype(np.uint8)
    arrays |= changed
    np.savez_compressed(folder / "set.npz", **arrays)  # type: ignore[arg-type]
    return arrays


@pytest.mark.parametrize("packed", [True, False])
def test_mnists_four_files_become_two_parts(tmp_path: Path, packed: bool) -> None:
    arrays = write_mnist(tmp_path, packed=packed)
    parts = read(tmp_path)
    assert list(parts) == ["train", "test"]
    assert (parts["test"].pixels == arrays["t10k-images-idx3-ubyte"] * np.uint16(257)).all()
    assert (parts["train"].labels == arrays["train-labels-idx1-ubyte"]).all()
    assert len(parts["train"].head(2)) == 2


def test_medmnists_archive_becomes_three_parts(tmp_path: Path) -> None:
    arrays = write_medmnist(tmp_path)
    parts = read(tmp_path)
    assert list(parts) == ["train", "validation", "test"]
    assert (parts["validation"].pixels // 257 == arrays["val_images"]).all()
    assert (parts["test"].labels == arrays["test_labels"][:, 0]).all()
    assert parts["train"].pixels.dtype == np.uint16


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_medmnist(tmp_path / "a")
    (tmp_path / "b/other.npz").write_bytes((tmp_path / "a/set.npz").read_bytes())
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    write_medmnist(tmp_path / "a")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_images": np.zeros((6, 5, 5, 3), np.uint8)}, "square grey ones"),
        ({"train_images": np.zeros((6, 5, 5), np.float32)}, "square grey ones"),
        ({"train_labels": np.zeros((5, 1), np.uint8)}, "one whole number a picture"),
        ({"train_labels": np.zeros((6, 2), np.uint8)}, "one whole number a picture"),
        ({"train_images": np.array([{}] * 6)}, "cannot be read as npz"),
    ],
)
def test_an_archive_of_something_else_is_refused(
    tmp_path: Path, changed: dict[str, np.ndarray], said: str
) -> None:
    write_medmnist(tmp_path, **changed)
    with pytest.raises(InputError, match=said):
        read(tmp_path)


def test_an_archive_without_a_test_part_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", train_images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(InputError, match="lacks train_images, train_labels"):
        read(tmp_path)


def test_a_file_cut_off_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"says that it holds 175 bytes and holds 174"):
        read(tmp_path)
    path.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**10, 2**10))
    with pytest.raises(InputError, match="Use a smaller set"):
        read(tmp_path)
    path.write_bytes((tmp_path / "train-labels-idx1-ubyte").read_bytes() + bytes(20))
    with pytest.raises(InputError, match="1 dimensions, 3 are wanted"):
        read(tmp_path)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="no idx file"):
        read(tmp_path)


def test_a_packed_file_cut_off_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="Fetch the file again"):
        read(tmp_path)


def test_folders_that_hold_no_set_or_two_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        read(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no picture set"):
        read(tmp_path)
    write_mnist(tmp_path)
    write_medmnist(tmp_path)
    with pytest.raises(InputError, match="more than one set"):
        read(tmp_path)
    (tmp_path / "set.npz").write_bytes(b"no archive")
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    for path in tmp_path.glob("t*"):
        path.unlink()
    with pytest.raises(InputError, match="cannot be read as npz"):
        read(tmp_path)
