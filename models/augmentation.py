"""Augmentation: altered views of pictures in batches, on any device, the same in every run.

A view depends on its seed alone: not on the batch that the picture lies in, its place there, the
device, or what was drawn before. Seeds come from `view_seeds`, of a run's seed, the sample's name
and the number of the view (of an epoch, say): a run that goes on after a break sees the same views.

Random numbers are counted, not drawn in a row (Salmon et al. 2011): number i of stream s of a view
is a hash (Steele, Lea and Flood's SplitMix64) of the three.

Batches are float32 in [0, 1], shape (n, channels, rows, columns), with one channel or three (sRGB).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Range: TypeAlias = tuple[float, float]
Values: TypeAlias = dict[str, Tensor]

LUMA = (0.299, 0.587, 0.114)
"""Of ITU-R BT.601."""

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
_BITS_24 = (1 << 24) - 1
_ROTATION_PADDING = "reflection"
RESCUE_STREAM = 901
"""Of random numbers, apart from those of the operations."""


# -- random numbers --------------------------------------------------------------------------------


def view_seeds(seed: int, samples: Sequence[str] | Tensor, view: int) -> Tensor:
    """Seeds of one view of each sample.

    Parameters
    ----------
    seed : int
        Of the run.
    samples : sequence of str, or int64 tensor (n,)
        Names that stay with the samples, such as tile_id; or numbers that do.
    view : int
        Of the copy or epoch, from 0.

    Returns
    -------
    int64, (n,)
    """
    if not isinstance(samples, Tensor):
        names = [hashlib.sha256(name.encode()).digest()[:8] for name in samples]
        samples = torch.tensor([int.from_bytes(d, "big", signed=True) for d in names])
    return _hash(_hash(samples.to(torch.int64) + _hash(_scalar(seed))) + _scalar(view))


class Draws:
    """Random numbers of views, one row a seed.

    Parameters
    ----------
    seeds : int64 tensor, (n,)
        Of `view_seeds`.
    stream : int
        Views that draw more than once keep the draws apart by this number.
    strongest : bool
        True gives each strength its strongest value; places are still random.
    """

    def __init__(self, seeds: Tensor, *, stream: int = 0, strongest: bool = False) -> None:
        self.seeds = _hash(seeds + _scalar(stream))
        self.strongest = strongest
        self._drawn = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers in [low, high), float32 (n,)."""
        self._drawn += 1
        share = (_hash(self.seeds + self._drawn) >> 40) & _BITS_24
        return low + (high - low) * share.to(torch.float32) / (1 << 24)

    def strength(self, weakest_to_strongest: Range) -> Tensor:
        """A number between the two, float32 (n,)."""
        weakest, strongest = weakest_to_strongest
        drawn = self.uniform(weakest, strongest)
        return torch.full_like(drawn, strongest) if self.strongest else drawn

    def sign(self) -> Tensor:
        """-1 or 1, float32 (n,); 1 where the strongest is asked for."""
        drawn = torch.where(self.uniform() < 0.5, -1.0, 1.0)
        return torch.ones_like(drawn) if self.strongest else drawn

    def seed(self) -> Tensor:
        """Seeds for `normal`, int64 (n,)."""
        self._drawn += 1
        return _hash(self.seeds + self._drawn)


def normal(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float32 (n, *shape): Box and Muller's of counted uniform ones."""
    count = math.prod(shape)
    pairs = torch.arange((count + 1) // 2, device=seeds.device)
    bits = _hash(seeds[:, None] + pairs)
    radius = torch.sqrt(-2 * torch.log((((bits >> 40) & _BITS_24) + 1).to(torch.float32) / 2**24))
    angle = ((bits >> 16) & _BITS_24).to(torch.float32) * (2 * math.pi / 2**24)
    numbers = torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)), dim=1)
    return numbers[:, :count].reshape(len(seeds), *shape)


def _hash(numbers: Tensor) -> Tensor:
    mixed = numbers * _GOLDEN
    mixed = (mixed ^ _shifted(mixed, 30)) * _MIX_1
    mixed = (mixed ^ _shifted(mixed, 27)) * _MIX_2
    return mixed ^ _shifted(mixed, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """Shift to the right, zeros in front."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def _scalar(number: int) -> Tensor:
    return torch.tensor(number & ((1 << 62) - 1), dtype=torch.int64)


# -- operations ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation(ABC):
    """One kind of change. ``draw`` chooses values for each picture, ``apply`` makes the change.

    Ranges are written from the weakest to the strongest value.
    """

    probability: float = 0.5
    """That a picture is changed at all."""
    name: ClassVar[str] = ""
    needs_colour: ClassVar[bool] = False
    """True where pictures of one channel are left as they are."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"{self.name}: probability={self.probability} is not in [0, 1].")

    def draw(self, draws: Draws) -> Values:
        """Values of the change for each picture, each (n,)."""
        return {}

    @abstractmethod
    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Change every picture of a batch by its values."""


@dataclass(frozen=True)
class QuarterTurn(Operation):
    """Turn by a multiple of 90 degrees, counter-clockwise; no pixel is interpolated.

    Pictures that are not square change their shape, so a batch of them must turn together.
    """

    turns: tuple[int, ...] = (1, 2, 3)
    """Numbers of quarter turns to choose from, the strongest first."""
    name: ClassVar[str] = "quarter_turn"

    def draw(self, draws: Draws) -> Values:
        """Values: turns."""
        choice = (draws.uniform() * len(self.turns)).to(torch.int64)
        if draws.strongest:
            choice = torch.zeros_like(choice)
        return {"turns": torch.tensor(self.turns, device=choice.device)[choice] % 4}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Turn each picture."""
        turns = values["turns"].tolist()
        if len(set(turns)) == 1:
            return torch.rot90(batch, turns[0], (2, 3)).contiguous()
        if batch.shape[2] != batch.shape[3] and any(t % 2 for t in turns):
            raise ValueError(
                f"pictures of {batch.shape[2]} x {batch.shape[3]} in one batch cannot turn by "
                "different angles; make them square, or augment them one by one."
            )
        return torch.stack([torch.rot90(p, t, (1, 2)) for p, t in zip(batch, turns, strict=True)])


@dataclass(frozen=True)
class Rotate(Operation):
    """Rotate about the middle, bilinear; corners are filled by reflection at the edge."""

    degrees: Range = (0.0, 15.0)
    """Of the angle, to either side; counter-clockwise is positive."""
    name: ClassVar[str] = "rotate"

    def draw(self, draws: Draws) -> Values:
        """Values: degrees."""
        return {"degrees": draws.strength(self.degrees) * draws.sign()}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Rotate each picture; its size stays."""
        angle = torch.deg2rad(values["degrees"])
        cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
        rows, columns = batch.shape[2:]
        upper = torch.stack((cos, -sin * rows / columns, zero), 1)
        lower = torch.stack((sin * columns / rows, cos, zero), 1)
        return _sampled(batch, torch.stack((upper, lower), 1))


@dataclass(frozen=True)
class FlipHorizontal(Operation):
    """Mirror left and right. A film's laterality is mirrored with it."""

    name: ClassVar[str] = "flip_h"

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Mirror every picture."""
        return batch.flip(3)


@dataclass(frozen=True)
class FlipVertical(Operation):
    """Mirror top and bottom."""

    name: ClassVar[str] = "flip_v"

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Mirror every picture."""
        return batch.flip(2)


@dataclass(frozen=True)
class GaussianBlur(Operation):
    """Blur by a Gaussian, cut at three sigma; the edge is continued."""

    sigma_px: Range = (0.1, 2.0)
    name: ClassVar[str] = "blur"

    def draw(self, draws: Draws) -> Values:
        """Values: sigma_px."""
        return {"sigma_px": draws.strength(self.sigma_px)}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Blur each picture."""
        return gaussian_blur(batch, values["sigma_px"], most_px=max(self.sigma_px))


@dataclass(frozen=True)
class GaussianNoise(Operation):
    """Add independent normal noise to every value."""

    sigma: Range = (0.0, 0.02)
    """Standard deviation, as a share of full scale."""
    name: ClassVar[str] = "noise"

    def draw(self, draws: Draws) -> Values:
        """Values: sigma, noise_seed."""
        return {"sigma": draws.strength(self.sigma), "noise_seed": draws.seed()}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Add noise to each picture."""
        noise = normal(values["noise_seed"], batch.shape[1:])
        return batch + _each(values["sigma"]) * noise.to(batch.dtype)


@dataclass(frozen=True)
class ResizedCrop(Operation):
    """Cut a box out and enlarge it to the picture's size, bilinear."""

    scale: Range = (1.0, 0.5)
    """Area of the box as a share of the picture."""
    ratio: Range = (0.75, 4 / 3)
    """Width of the box over its height, both as shares of the picture's."""
    name: ClassVar[str] = "crop"

    def draw(self, draws: Draws) -> Values:
        """Values: left, top, width, height, as shares of the picture."""
        area = draws.strength(self.scale)
        ratio = torch.exp(draws.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        left, top = draws.uniform() * (1 - width), draws.uniform() * (1 - height)
        return {"left": left, "top": top, "width": width, "height": height}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Crop each picture; its size stays."""
        width, height, zero = values["width"], values["height"], torch.zeros_like(values["left"])
        middle_x, middle_y = 2 * values["left"] + width - 1, 2 * values["top"] + height - 1
        upper = torch.stack((width, zero, middle_x), 1)
        lower = torch.stack((zero, height, middle_y), 1)
        return _sampled(batch, torch.stack((upper, lower), 1))


@dataclass(frozen=True)
class Brightness(Operation):
    """Multiply all values."""

    change: Range = (0.0, 0.2)
    """To either side of the factor 1."""
    name: ClassVar[str] = "brightness"

    def draw(self, draws: Draws) -> Values:
        """Values: factor."""
        return {"factor": 1 + draws.strength(self.change) * draws.sign()}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Change each picture."""
        return batch * _each(values["factor"])


@dataclass(frozen=True)
class Contrast(Operation):
    """Multiply distances from the picture's mean luma."""

    change: Range = (0.0, 0.2)
    """To either side of the factor 1."""
    name: ClassVar[str] = "contrast"

    def draw(self, draws: Draws) -> Values:
        """Values: factor."""
        return {"factor": 1 + draws.strength(self.change) * draws.sign()}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Change each picture."""
        mean = _luma(batch).mean(dim=(1, 2, 3), keepdim=True)
        return mean + (batch - mean) * _each(values["factor"])


@dataclass(frozen=True)
class Saturation(Operation):
    """Multiply distances from grey."""

    change: Range = (0.0, 0.2)
    """To either side of the factor 1."""
    name: ClassVar[str] = "saturation"
    needs_colour: ClassVar[bool] = True

    def draw(self, draws: Draws) -> Values:
        """Values: factor."""
        return {"factor": 1 + draws.strength(self.change) * draws.sign()}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Change each picture."""
        grey = _luma(batch)
        return grey + (batch - grey) * _each(values["factor"])


@dataclass(frozen=True)
class Hue(Operation):
    """Turn the hue; value and saturation (of HSV) stay."""

    turns: Range = (0.0, 0.05)
    """Of the colour circle, to either side."""
    name: ClassVar[str] = "hue"
    needs_colour: ClassVar[bool] = True

    def draw(self, draws: Draws) -> Values:
        """Values: turns."""
        return {"turns": draws.strength(self.turns) * draws.sign()}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Change each picture."""
        return _with_hue(batch, _each(values["turns"])[:, 0])


@dataclass(frozen=True)
class Sharpen(Operation):
    """Add the difference from a blurred copy (unsharp mask)."""

    amount: Range = (0.0, 1.0)
    sigma_px: float = 1.0
    """Of the blurred copy."""
    name: ClassVar[str] = "sharpen"

    def draw(self, draws: Draws) -> Values:
        """Values: amount."""
        return {"amount": draws.strength(self.amount)}

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Sharpen each picture."""
        sigma = torch.full((len(batch),), self.sigma_px, device=batch.device)
        blurred = gaussian_blur(batch, sigma, most_px=self.sigma_px)
        return batch + _each(values["amount"]) * (batch - blurred)


@dataclass(frozen=True)
class Erase(Operation):
    """Fill a box with the picture's mean (random erasing, Zhong et al. 2020)."""

    area: Range = (0.02, 0.2)
    """Of the box, as a share of the picture."""
    ratio: Range = (0.5, 2.0)
    """Width of the box over its height, both as shares of the picture's."""
    name: ClassVar[str] = "erase"

    def draw(self, draws: Draws) -> Values:
        """Values: left, top, width, height, as shares of the picture."""
        return ResizedCrop(scale=self.area, ratio=self.ratio).draw(draws)

    def apply(self, batch: Tensor, values: Values) -> Tensor:
        """Erase a box of each picture."""
        rows, columns = batch.shape[2:]
        y = (torch.arange(rows, device=batch.device) + 0.5) / rows
        x = (torch.arange(columns, device=batch.device) + 0.5) / columns
        left, top = values["left"][:, None], values["top"][:, None]
        across = (x >= left) & (x < left + values["width"][:, None])
        down = (y >= top) & (y < top + values["height"][:, None])
        box = (down[:, :, None] & across[:, None, :])[:, None]
        return torch.where(box, batch.mean(dim=(2, 3), keepdim=True), batch)


OPERATIONS: dict[str, type[Operation]] = {
    kind.name: kind
    for kind in (
        QuarterTurn, Rotate, FlipHorizontal, FlipVertical, ResizedCrop, GaussianBlur, Sharpen,
        Brightness, Contrast, Saturation, Hue, GaussianNoise, Erase,
    )
}  # fmt: skip
"""By name, in the order in which a combined view applies them."""


@dataclass(frozen=True)
class Choice:
    """What was drawn for one operation: which pictures of the batch it changes, and how."""

    operation: Operation
    chosen: Tensor
    """bool, (n,)"""
    values: Values


@dataclass(frozen=True)
class Augmentation:
    """A chain of operations.

    Examples
    --------
    A training loop that sees a new view of each tile in every epoch::

        augment = Augmentation((FlipHorizontal(), Rotate(degrees=(0, 15)), GaussianNoise()))
        views = augment(batch, view_seeds(run_seed, tile_ids, epoch))

    Parameters
    ----------
    operations : tuple of Operation
        In the order in which they are applied.
    strongest : bool
        True gives each strength its strongest value; places are still random.
    """

    operations: tuple[Operation, ...]
    strongest: bool = False

    def __call__(self, batch: Tensor, seeds: Tensor) -> Tensor:
        """Views of a batch.

        Parameters
        ----------
        batch : float32, (n, channels, rows, columns)
            In [0, 1].
        seeds : int64, (n,)
            Of `view_seeds`.

        Returns
        -------
        float32, (n, channels, rows, columns)
            In [0, 1], on the batch's device.
        """
        return apply(batch, self.draw(seeds.to(batch.device)))

    def draw(self, seeds: Tensor) -> list[Choice]:
        """Choose operations and values for pictures with these seeds, (n,) int64."""
        choices = []
        for place, operation in enumerate(self.operations):
            draws = Draws(seeds, stream=place, strongest=self.strongest)
            chosen = draws.uniform() < operation.probability
            choices.append(Choice(operation, chosen, operation.draw(draws)))
        return choices


def apply(batch: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Change a batch as was drawn; see `Augmentation`."""
    if batch.ndim != 4 or batch.shape[1] not in (1, 3):
        raise ValueError(f"a batch of shape {tuple(batch.shape)} is not (n, 1 or 3, rows, columns)")
    for choice in choices:
        if choice.operation.needs_colour and batch.shape[1] == 1:
            continue
        if bool(choice.chosen.all()):
            batch = choice.operation.apply(batch, choice.values).clamp(0, 1)
        elif bool(choice.chosen.any()):
            rows = choice.chosen.nonzero()[:, 0]
            values = {name: value[rows] for name, value in choice.values.items()}
            changed = choice.operation.apply(batch[rows], values).clamp(0, 1)
            batch = batch.index_copy(0, rows, changed)
    return batch


def with_one_at_least(choices: Sequence[Choice], seeds: Tensor, *, channels: int) -> list[Choice]:
    """Choose one operation for each picture that none was drawn for, so that no copy is equal.

    Parameters
    ----------
    choices : sequence of Choice
        Of `Augmentation.draw`.
    seeds : int64, (n,)
        Those that they were drawn by.
    channels : int
        Operations of colour do nothing to one channel, and are not chosen.
    """
    usable = [i for i, c in enumerate(choices) if channels == 3 or not c.operation.needs_colour]
    if not usable:
        return list(choices)
    none = ~torch.stack([choices[i].chosen for i in usable]).any(dim=0)
    picked = (Draws(seeds, stream=RESCUE_STREAM).uniform() * len(usable)).long()
    out = list(choices)
    for place, i in enumerate(usable):
        rescued = choices[i].chosen | (none & (picked == place))
        out[i] = Choice(choices[i].operation, rescued, choices[i].values)
    return out


def lineage(choices: Sequence[Choice], row: int, *, channels: int) -> list[dict[str, Any]]:
    """What was done to one picture of a batch, in order, as JSON takes it."""
    done = []
    for choice in choices:
        if bool(choice.chosen[row]) and not (choice.operation.needs_colour and channels == 1):
            values = {name: v[row].item() for name, v in choice.values.items()}
            done.append({"operation": choice.operation.name} | values)
    return done


def mix(batch: Tensor, partners: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of pictures (mixup, Zhang et al. 2018).

    Parameters
    ----------
    batch, partners : float32, (n, channels, rows, columns)
    weights : float32, (n,)
        Of ``batch``, in [0, 1]; labels are mixed by the same.
    """
    return partners + _each(weights) * (batch - partners)


def gaussian_blur(batch: Tensor, sigma_px: Tensor, *, most_px: float) -> Tensor:
    """Blur each picture by its own sigma.

    Parameters
    ----------
    batch : float, (n, channels, rows, columns)
    sigma_px : float, (n,)
        0 leaves the picture as it is.
    most_px : float
        None is larger; the kernel's size follows from it, so that it does not depend on the batch.
    """
    n, channels, rows, columns = batch.shape
    reach = max(1, math.ceil(3 * most_px))
    at = torch.arange(-reach, reach + 1, device=batch.device, dtype=batch.dtype)
    sigma = sigma_px.to(batch)[:, None].clamp(min=1e-3)
    weights = torch.exp(-0.5 * (at / sigma) ** 2) * (at.abs() <= torch.ceil(3 * sigma))
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    planes = batch.reshape(1, n * channels, rows, columns)
    across = (-1, 1, 1, len(at)), (reach, reach, 0, 0)
    down = (-1, 1, len(at), 1), (0, 0, reach, reach)
    for shape, padding in (across, down):
        planes = F.pad(planes, padding, mode="replicate")
        planes = F.conv2d(planes, weights.reshape(shape), groups=n * channels)
    return planes.reshape(batch.shape)


def _sampled(batch: Tensor, matrices: Tensor) -> Tensor:
    grid = F.affine_grid(matrices.to(batch), list(batch.shape), align_corners=False)
    return F.grid_sample(
        batch, grid, mode="bilinear", padding_mode=_ROTATION_PADDING, align_corners=False
    )


def _each(values: Tensor) -> Tensor:
    """One value a picture, to be multiplied with a batch."""
    return values[:, None, None, None]


def _luma(batch: Tensor) -> Tensor:
    if batch.shape[1] == 1:
        return batch
    weights = torch.tensor(LUMA, device=batch.device, dtype=batch.dtype)
    return (batch * weights[:, None, None]).sum(1, keepdim=True)


def _with_hue(batch: Tensor, turns: Tensor) -> Tensor:
    red, green, blue = batch.unbind(1)
    most, least = batch.amax(1), batch.amin(1)
    span = most - least
    safe = torch.where(span > 0, span, torch.ones_like(span))
    sixths = torch.where(
        most == red,
        (green - blue) / safe,
        torch.where(most == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turns
    channels = []
    for start in (5, 3, 1):  # of red, green, blue: Alvy Ray Smith's hexcone, unrolled
        along = torch.remainder(start + sixths, 6)
        channels.append(most - span * torch.minimum(along, 4 - along).clamp(0, 1))
    return torch.stack(channels, 1)


def parameters(operation: Operation) -> dict[str, Any]:
    """Settings of an operation, as JSON takes them."""
    own = {f.name: getattr(operation, f.name) for f in fields(operation)}
    return {"operation": operation.name} | own
