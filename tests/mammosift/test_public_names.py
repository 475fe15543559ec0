from __future__ import annotations

import subprocess
import sys

import pytest

import mammosift


def test_these_names_are_exported_and_no_others() -> None:
    assert dir(mammosift) == sorted(
        [
            "DBSCAN",
            "HDBSCAN",
            "KMeans",
            "TileDataset",
            "TileStream",
            "__version__",
            "neighbours",
            "read_manifest",
            "tiles",
        ]
    )
    assert sorted(mammosift.__all__) == dir(mammosift)
    for name in mammosift.__all__:
        assert getattr(mammosift, name) is not None


def test_importing_it_loads_nothing_heavy_and_the_manifest_needs_no_torch() -> None:
    program = (
        "import sys, mammosift\n"
        "heavy = {'torch', 'pyarrow', 'zarr', 'numpy', 'prefect', 'dask', 'pandas', 'sklearn'}\n"
        "print('AT IMPORT', heavy & sys.modules.keys())\n"
        "mammosift.read_manifest, mammosift.tiles\n"
        "print('LATER', {'torch', 'prefect', 'dask'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "AT IMPORT set()" in done.stdout, done.stderr
    assert "LATER set()" in done.stdout, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TileDatset'"):
        mammosift.TileDatset  # noqa: B018
