"""Operations of augmentation by the names and strengths that settings give them. Imports torch."""

from __future__ import annotations

from collections.abc import Callable

from models import augmentation
from models.augmentation import Operation


def operation_of(name: str, value: float, *, probability: float) -> Operation:
    """Operation of an option of the command, whose strongest form is the value given.

    Parameters
    ----------
    name : str
        Of `tasks.picture_settings.OPERATION_OPTIONS`, without ``mix``.
    value : float
        As `AugmentSettings` describes it.
    probability : float
        That a picture is changed.
    """
    if name == "rotate" and value % 90 == 0:
        quarter = int(value // 90) % 4
        turns = tuple(dict.fromkeys(quarter * n % 4 for n in (1, 2, 3)))
        kept = tuple(t for t in turns if t) or (0,)
        return augmentation.QuarterTurn(probability, turns=kept)
    make: dict[str, Callable[[], Operation]] = {
        "rotate": lambda: augmentation.Rotate(probability, degrees=(0.0, value)),
        "flip_h": lambda: augmentation.FlipHorizontal(probability),
        "flip_v": lambda: augmentation.FlipVertical(probability),
        "crop": lambda: augmentation.ResizedCrop(probability, scale=(1.0, value)),
        "blur_sigma": lambda: augmentation.GaussianBlur(probability, sigma_px=(0.0, value)),
        "sharpen": lambda: augmentation.Sharpen(probability, amount=(0.0, value)),
        "brightness": lambda: augmentation.Brightness(probability, change=(0.0, value)),
        "contrast": lambda: augmentation.Contrast(probability, change=(0.0, value)),
        "saturation": lambda: augmentation.Saturation(probability, change=(0.0, value)),
        "hue": lambda: augmentation.Hue(probability, turns=(0.0, value)),
        "noise": lambda: augmentation.GaussianNoise(probability, sigma=(0.0, value)),
        "erase": lambda: augmentation.Erase(probability, area=(value / 10, value)),
    }
    return make[name]()
