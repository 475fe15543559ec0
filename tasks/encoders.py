"""Stage: train the autoencoder on a sample of the tiles, then encode the tiles of each shard."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from dask.system import CPU_COUNT

from storage.errors import MammosiftError
from storage.tile_shards import PIXELS, read_index, read_pixels
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from storage.zarr_rows import rows_of
from tasks import progress
from tasks.fingerprint import source_fingerprint
from tasks.kernels import thumbnails
from tasks.resumable import from_state_or_anew

if TYPE_CHECKING:
    from models.tile_source import TileSource
    from models.training import TrainingResult

KIND = "encoders"
EMBEDDINGS = "embeddings"
WEIGHTS = "weights.safetensors"
LAST_WEIGHTS = "last.safetensors"
"""Of the last epoch; those of the best one, ``WEIGHTS``, encode."""
CONFIG = "config.json"
HISTORY = "history.parquet"
RECONSTRUCTIONS = "reconstructions.png"
EMBEDDING_TABLE = "embeddings.parquet"
EMBEDDING_ARRAY = "embeddings.zarr"

NETWORK_CODE = ("models.autoencoder", "models.checkpoints", "models.devices", "tasks.encoders")
CHECKPOINT_EVERY_STEPS = 64
"""A killed training has lost so many steps at most; of the published network on a CPU, minutes."""
IN_MEMORY_BYTES = 256 * 2**20
"""Larger samples are streamed from their shards, some 256 MiB at a time."""
HOLD_OUT = 0.1
"""Share of the training tiles that validates where no patient fell into the validation part."""
SHOWN_RECONSTRUCTIONS = 12


@dataclass(frozen=True)
class EncoderSettings:
    """The settings that training depends on."""

    encoder: Literal["light", "ddsm"]
    training_tiles: int
    max_epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    precision: Literal["auto", "float32", "bfloat16"]
    seed: int
    training_threads: int | None


@dataclass(frozen=True)
class TrainingSample:
    """Which tiles train and which validate, as (shard key, rows of its pixels)."""

    training: tuple[tuple[str, npt.NDArray[np.int64]], ...]
    validation: tuple[tuple[str, npt.NDArray[np.int64]], ...]
    note: str | None
    """Said in the report where the split by patient could not be followed."""


def encoder_key(
    tile_keys: Sequence[str], split_of_film: Mapping[str, str], settings: EncoderSettings
) -> str:
    """Key of an encoder: tiles, split, settings and code."""
    code = source_fingerprint(
        *NETWORK_CODE,
        "models.encoding",
        "models.epochs",
        "models.fitting",
        "models.objectives",
        "models.optimizers",
        "models.tile_source",
        "models.training",
        "tasks.kernels.thumbnails",
        "tasks.resumable",
        "storage.tile_shards",
    )
    split = sorted(split_of_film.items())
    return content_key(KIND, sorted(tile_keys), split, asdict(settings), code)


def train_encoder(
    workspace_uri: str,
    tile_keys: Sequence[str],
    split_of_film: Mapping[str, str],
    settings: EncoderSettings,
) -> ShardRef:
    """Train the autoencoder, unless it is there; goes on from the last epoch of a killed run.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    tile_keys : sequence of str
        Tile shards to draw from.
    split_of_film : mapping of str to str
        Part of each mammogram_id; tiles of the test part are not used.
    settings : EncoderSettings
        What to train and how.

    Returns
    -------
    ShardRef
        Of kind ``encoders``; rows are the tiles trained on.

    Raises
    ------
    MammosiftError
        There are fewer than two tiles to train on.
    """
    workspace = Workspace.open(workspace_uri)
    key = encoder_key(tile_keys, split_of_film, settings)
    state = f"{KIND}/.{key}.training/state.safetensors"
    sample = functools.partial(
        draw_sample,
        workspace,
        tile_keys,
        split_of_film,
        size=settings.training_tiles,
        seed=settings.seed,
    )
    ref = workspace.made(
        KIND, key, lambda writer: _write_encoder(writer, sample(), settings, state)
    )
    if workspace.exists(state):
        workspace.fs.rm(workspace.path(f"{KIND}/.{key}.training"), recursive=True)
    return ref


def _write_encoder(
    writer: ShardWriter, sample: TrainingSample, settings: EncoderSettings, state: str
) -> None:
    from safetensors.torch import save

    from models import autoencoder, checkpoints, encoding

    workspace = writer.workspace
    config = autoencoder.named_config(settings.encoder)
    train_tiles = _source(workspace, sample.training, config.input_size_px)
    validation_tiles = _source(workspace, sample.validation, config.input_size_px)
    result = _train(train_tiles, validation_tiles, settings, workspace, state)
    writer.write_bytes(WEIGHTS, checkpoints.to_bytes(result.model))
    writer.write_bytes(LAST_WEIGHTS, save(result.last))
    writer.write_bytes(CONFIG, checkpoints.config_json(config).encode())
    history = [{k: v for k, v in asdict(r).items() if k != "seconds"} for r in result.history]
    writer.write_table(HISTORY, pa.Table.from_pylist(history))
    shown = validation_tiles.read(np.arange(min(SHOWN_RECONSTRUCTIONS, len(validation_tiles))))
    side = config.input_size_px
    shown = np.stack([thumbnails.shrink(tile, side, side) for tile in shown])
    writer.write_bytes(
        RECONSTRUCTIONS, _reconstruction_sheet(shown, encoding.reconstruct(result.model, shown))
    )
    facts = {"note": sample.note, "settings": asdict(settings)}
    writer.write_bytes("training.json", json.dumps(facts, indent=2).encode())
    writer.rows = len(train_tiles)
    writer.counts = {
        "training_tiles": len(train_tiles),
        "validation_tiles": len(validation_tiles),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
    }


def _train(
    train_tiles: TileSource,
    validation_tiles: TileSource,
    settings: EncoderSettings,
    workspace: Workspace,
    state: str,
) -> TrainingResult:
    """Train, writing the state as it goes; a killed run's state is gone on from."""
    from models import autoencoder, epochs, training

    def on_epoch(record: epochs.EpochRecord) -> None:
        progress.report(
            stage="train",
            epoch=record.epoch,
            max_epochs=settings.max_epochs,
            training_loss=record.training_loss,
            validation_loss=record.validation_loss,
        )

    def train(resume: bytes | None) -> TrainingResult:
        return training.train(
            train_tiles,
            autoencoder.named_config(settings.encoder),
            training.TrainingSettings(
                max_epochs=settings.max_epochs,
                patience=settings.patience,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                checkpoint_every_steps=CHECKPOINT_EVERY_STEPS,
                precision=settings.precision,
            ),
            validation_tiles=validation_tiles,
            seed=settings.seed,
            checkpoint=lambda data: workspace.write_bytes(state, data),
            resume=resume,
            on_epoch=on_epoch,
            n_threads=settings.training_threads or CPU_COUNT,
        )

    return from_state_or_anew(workspace, state, train)


def draw_sample(
    workspace: Workspace,
    tile_keys: Sequence[str],
    split_of_film: Mapping[str, str],
    *,
    size: int,
    seed: int,
) -> TrainingSample:
    """Draw tiles by the hash of their ids: the order of shards and films changes nothing.

    One shard's index is in memory at a time, and of what is drawn ``size`` rows.
    """
    drawn: pd.DataFrame | None = None
    for key in sorted(tile_keys):
        index = read_index(workspace, key, ["tile_id", "mammogram_id", "is_black", "pixels_index"])
        frame = index.to_pandas()
        frame = frame[~frame["is_black"]]
        frame = frame.assign(
            key=key,
            part=frame["mammogram_id"].map(split_of_film),
            draw=pd.util.hash_array(frame["tile_id"].to_numpy(object), hash_key=f"{seed:016d}"),
        )
        drawn = frame if drawn is None else pd.concat([drawn, frame], ignore_index=True)
        drawn = drawn.sort_values(["draw", "tile_id"], kind="stable").groupby("part").head(size)
    if drawn is None or len(drawn) < 2:
        raise MammosiftError(
            "fewer than two tiles are left after the black screen, so there is nothing to train "
            "on. Look at the exclusions and at the black tiles in the report."
        )
    train, validation = (drawn[drawn["part"] == part] for part in ("train", "validation"))
    note = None
    if len(train) < 2:
        train = drawn.head(size)
        note = "No patient fell into the training part: the encoder was trained on all parts."
    if len(validation) < 1:
        n = min(max(1, round(HOLD_OUT * len(train))), len(train) - 1)
        train, validation = train.iloc[n:], train.iloc[:n]
        note = note or "No patient fell into the validation part: tiles of the training part serve."
    validation = validation.head(max(1, size // 4))
    return TrainingSample(_by_shard(train), _by_shard(validation), note)


def _by_shard(frame: pd.DataFrame) -> tuple[tuple[str, npt.NDArray[np.int64]], ...]:
    groups = frame.groupby("key", sort=True)["pixels_index"]
    return tuple((str(key), np.sort(rows.to_numpy(np.int64))) for key, rows in groups)


def _source(
    workspace: Workspace,
    chosen: Sequence[tuple[str, npt.NDArray[np.int64]]],
    size_px: int,
) -> TileSource:
    """Tiles chosen: in memory, at the network's size, while they are few; else streamed."""
    from models.tile_source import ArrayTiles, StoredTiles

    n = sum(len(rows) for _, rows in chosen)
    if n * 2 * size_px**2 <= IN_MEMORY_BYTES:
        return ArrayTiles(_load(workspace, chosen, size_px))
    arrays = [rows_of(workspace.shard("tiles", key).array(PIXELS)) for key, _ in chosen]
    return StoredTiles(arrays, [rows for _, rows in chosen])


def _load(
    workspace: Workspace,
    chosen: Sequence[tuple[str, npt.NDArray[np.int64]]],
    size_px: int,
) -> npt.NDArray[np.uint16]:
    """Pixels of the tiles chosen, already at the network's size: (n, size_px, size_px)."""
    out = []
    for key, rows in chosen:
        for block in read_pixels(workspace, key, rows):
            if block.shape[1] == size_px:
                out.append(block)
            else:
                out.append(np.stack([thumbnails.shrink(t, size_px, size_px) for t in block]))
    return np.concatenate(out)


def _reconstruction_sheet(
    tiles: npt.NDArray[np.uint16], reconstructed: npt.NDArray[np.float32]
) -> bytes:
    """Originals in the upper row, what the network makes of them below."""
    upper = thumbnails.to_8bit(tiles)
    lower = np.clip(reconstructed * 255, 0, 255).astype(np.uint8)
    both = np.concatenate([upper, lower.reshape(upper.shape)])
    return thumbnails.png(thumbnails.contact_sheet(both, per_row=len(tiles)))


def embedding_key(tile_key: str, encoder: str) -> str:
    """Key of an embedding shard."""
    code = source_fingerprint("models.encoding", *NETWORK_CODE)
    return content_key(EMBEDDINGS, tile_key, encoder, code)


def embed_shard(workspace_uri: str, tile_key: str, encoder: str) -> ShardRef:
    """Write the embeddings of a shard's tiles (the black ones aside), unless they are there.

    Parameters
    ----------
    workspace_uri, tile_key, encoder : str
        Workspace, tile shard and encoder.

    Returns
    -------
    ShardRef
        Of kind ``embeddings``; rows are tiles.
    """
    workspace = Workspace.open(workspace_uri)
    return workspace.made(
        EMBEDDINGS,
        embedding_key(tile_key, encoder),
        lambda writer: _write_embeddings(writer, tile_key, encoder),
    )


def _write_embeddings(writer: ShardWriter, tile_key: str, encoder: str) -> None:
    from models import checkpoints, encoding

    workspace = writer.workspace
    weights = workspace.shard(KIND, encoder)
    weights.check()
    model = checkpoints.from_bytes(weights.read_bytes(WEIGHTS), weights.read_bytes(CONFIG).decode())
    workspace.shard("tiles", tile_key).check()
    index = read_index(workspace, tile_key, ["tile_id", "is_black", "pixels_index"]).to_pandas()
    index = index[~index["is_black"]]
    rows = index["pixels_index"].to_numpy(np.int64)
    dim = model.config.latent_dim
    out = writer.array(EMBEDDING_ARRAY, (dim,), "float32", {"encoder": encoder})
    blocks = [np.empty((0, dim), np.float32)]
    for tiles in read_pixels(workspace, tile_key, rows):
        block = encoding.encode(model, tiles)
        out.append(block)
        blocks.append(block)
    out.close()
    embeddings = np.concatenate(blocks)
    values = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), dim)
    ids = pa.array(index["tile_id"].to_numpy(object), pa.string())
    writer.write_table(EMBEDDING_TABLE, pa.table({"tile_id": ids, "embedding": values}))
    writer.rows = len(embeddings)
    writer.counts = {"tiles": len(embeddings)}
