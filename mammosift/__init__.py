"""What other programs import of mammosift; what lies behind these names may move.

Names are looked up when they are first used: ``import mammosift`` loads neither torch nor pyarrow.

Examples
--------
>>> import mammosift
>>> kept = [("decision", "==", "keep")]
>>> rows = mammosift.read_manifest("curated", filters=kept)  # doctest: +SKIP
>>> train = mammosift.TileDataset("curated", split="train")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.dbscan import DBSCANClusterer as DBSCAN  # noqa: N814
    from models.hdbscan import HDBSCANClusterer as HDBSCAN  # noqa: N814
    from models.kmeans import KMeansClusterer as KMeans
    from models.neighbours import nearest as neighbours
    from storage.manifest import read_manifest
    from storage.published_tiles import tiles
    from tasks.tile_dataset import TileDataset, TileStream

    __version__: str

__all__ = [
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

_WHERE = {
    "DBSCAN": ("models.dbscan", "DBSCANClusterer"),
    "HDBSCAN": ("models.hdbscan", "HDBSCANClusterer"),
    "KMeans": ("models.kmeans", "KMeansClusterer"),
    "TileDataset": ("tasks.tile_dataset", "TileDataset"),
    "TileStream": ("tasks.tile_dataset", "TileStream"),
    "neighbours": ("models.neighbours", "nearest"),
    "read_manifest": ("storage.manifest", "read_manifest"),
    "tiles": ("storage.published_tiles", "tiles"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("mammosift")
    elif name in _WHERE:
        module, attribute = _WHERE[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'mammosift' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
