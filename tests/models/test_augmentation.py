"""Views of pictures: what each operation does, and what a view depends on."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models import augmentation as aug
from models.augmentation import Augmentation, view_seeds

ALL = Augmentation(tuple(kind() for kind in aug.OPERATIONS.values()))


def pictures(n: int = 6, channels: int = 3, rows: int = 24, columns: int = 24) -> Tensor:
    return torch.rand(n, channels, rows, columns, generator=torch.Generator().manual_seed(1))


def names(n: int = 6) -> list[str]:
    return [f"tile-{i}" for i in range(n)]


def test_a_view_does_not_depend_on_the_batch_it_lies_in() -> None:
    batch, seeds = pictures(), view_seeds(7, names(), 3)
    together = ALL(batch, seeds)
    order = [4, 1, 5]
    assert torch.allclose(ALL(batch[order], seeds[order]), together[order], atol=1e-6)
    alone = torch.cat([ALL(batch[i : i + 1], seeds[i : i + 1]) for i in range(6)])
    assert torch.allclose(alone, together, atol=1e-6)


def test_seed_sample_and_epoch_each_give_another_view() -> None:
    seeds = {
        int(view_seeds(seed, [name], view)[0])
        for seed in (0, 1)
        for name in ("a", "b")
        for view in (0, 1)
    }
    assert len(seeds) == 8


def test_views_are_those_that_earlier_versions_gave() -> None:
    assert view_seeds(0, ["a"], 0).tolist() == [1630929851460596145]


def test_values_stay_in_zero_to_one_and_shapes_stay() -> None:
    for channels in (1, 3):
        batch = pictures(32, channels)
        out = ALL(batch, view_seeds(0, names(32), 0))
        assert out.shape == batch.shape
        assert float(out.min()) >= 0
        assert float(out.max()) <= 1
        assert bool(torch.isfinite(out).all())


def test_probability_is_the_share_of_pictures_changed() -> None:
    flip = Augmentation((aug.FlipHorizontal(0.3),))
    chosen = flip.draw(view_seeds(0, torch.arange(20_000), 0))[0].chosen
    assert float(chosen.float().mean()) == pytest.approx(0.3, abs=0.015)


def test_uniform_and_normal_numbers_have_their_moments() -> None:
    draws = aug.Draws(view_seeds(0, torch.arange(50_000), 0))
    first, second = draws.uniform(), draws.uniform()
    assert float(first.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(first.var()) == pytest.approx(1 / 12, abs=0.003)
    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 0.02
    noise = aug.normal(view_seeds(0, torch.arange(4), 0), (3, 101, 101))
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float((noise**4).mean()) == pytest.approx(3, abs=0.15)


# -- operations ------------------------------------------------------------------------------------


def test_a_rotation_by_90_degrees_is_a_quarter_turn() -> None:
    batch = pictures()
    rotated = aug.Rotate().apply(batch, {"degrees": torch.full((6,), 90.0)})
    assert torch.allclose(rotated, torch.rot90(batch, 1, (2, 3)), atol=1e-4)


def test_quarter_turns_move_pixels_and_change_none() -> None:
    batch = pictures(1, rows=5, columns=9)
    turned = aug.QuarterTurn().apply(batch, {"turns": torch.tensor([1])})
    assert turned.shape == (1, 3, 9, 5)
    assert torch.equal(torch.rot90(turned, -1, (2, 3)), batch)


def test_oblong_pictures_cannot_turn_differently_in_one_batch() -> None:
    with pytest.raises(ValueError, match="make them square"):
        aug.QuarterTurn().apply(pictures(2, columns=9), {"turns": torch.tensor([1, 2])})


def test_flips_mirror() -> None:
    batch = pictures()
    assert torch.equal(aug.FlipHorizontal().apply(batch, {}), batch[..., range(23, -1, -1)])
    assert torch.equal(aug.FlipVertical().apply(batch, {}), batch[:, :, range(23, -1, -1)])


def test_the_blur_is_opencvs() -> None:
    batch = pictures(2)
    blurred = aug.GaussianBlur().apply(batch, {"sigma_px": torch.tensor([2.0, 0.7])})
    for sigma, size, picture, ours in zip((2.0, 0.7), (13, 7), batch, blurred, strict=True):
        theirs = cv2.GaussianBlur(
            picture.permute(1, 2, 0).numpy(), (size, size), sigma, borderType=cv2.BORDER_REPLICATE
        )
        assert ours.permute(1, 2, 0).numpy() == pytest.approx(theirs, abs=1e-5)


def test_noise_has_the_sigma_asked_for() -> None:
    batch = torch.full((2, 3, 64, 64), 0.5)
    operation = aug.GaussianNoise(1.0, sigma=(0.0, 0.05))
    out = Augmentation((operation,), strongest=True)(batch, view_seeds(0, ["a", "b"], 0))
    assert float((out - 0.5).std()) == pytest.approx(0.05, rel=0.03)


def test_a_crop_of_a_quarter_enlarges_that_box() -> None:
    batch = pictures(1, rows=8, columns=8)
    half = torch.tensor([0.5])
    out = aug.ResizedCrop().apply(
        batch, {"left": half * 0, "top": half, "width": half, "height": half}
    )
    box = torch.nn.functional.interpolate(batch[:, :, 4:, :4], scale_factor=2, mode="bilinear")
    assert torch.allclose(out[:, :, 1:-1, 1:-1], box[:, :, 1:-1, 1:-1], atol=1e-5)


def test_brightness_multiplies_and_contrast_keeps_the_mean() -> None:
    batch = 0.25 + 0.3 * pictures(1, channels=1)
    factor = {"factor": torch.tensor([1.5])}
    assert torch.allclose(aug.Brightness().apply(batch, factor), 1.5 * batch)
    contrasted = aug.Contrast().apply(batch, factor)
    assert float(contrasted.mean()) == pytest.approx(float(batch.mean()), abs=1e-6)
    assert float(contrasted.std()) == pytest.approx(1.5 * float(batch.std()), rel=1e-4)


def test_saturation_zero_is_grey() -> None:
    out = aug.Saturation().apply(pictures(1), {"factor": torch.tensor([0.0])})
    assert float((out[:, 0] - out[:, 2]).abs().max()) < 1e-6


def test_hue_turns_as_in_hsv() -> None:
    batch = pictures(1, rows=5, columns=5)
    out = aug.Hue().apply(batch, {"turns": torch.tensor([0.3])})
    for y in range(5):
        for x in range(5):
            h, s, v = colorsys.rgb_to_hsv(*batch[0, :, y, x].tolist())
            expected = colorsys.hsv_to_rgb((h + 0.3) % 1, s, v)
            assert out[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_colour_changes_leave_grey_pictures() -> None:
    batch = pictures(2, channels=1)
    colour = Augmentation((aug.Hue(1.0), aug.Saturation(1.0)))
    seeds = view_seeds(0, names(2), 0)
    assert torch.equal(colour(batch, seeds), batch)
    assert aug.lineage(colour.draw(seeds), 0, channels=1) == []


def test_sharpening_raises_the_contrast_of_an_edge_and_leaves_flat_areas() -> None:
    batch = torch.full((1, 1, 16, 16), 0.3)
    batch[..., 8:] = 0.6
    out = aug.Sharpen().apply(batch, {"amount": torch.tensor([1.0])})
    assert float(out[0, 0, 8, 8]) > 0.65
    assert float(out[0, 0, 8, 1]) == pytest.approx(0.3, abs=1e-5)


def test_erasing_fills_a_box_of_the_area_asked_for_with_the_mean() -> None:
    batch = pictures(8, rows=64, columns=64)
    erase = Augmentation((aug.Erase(1.0, area=(0.1, 0.2)),), strongest=True)
    out = erase(batch, view_seeds(0, names(8), 0))
    erased = (out != batch).all(dim=1)
    assert erased.float().mean(dim=(1, 2)).numpy() == pytest.approx(0.2, abs=0.02)
    assert float(out[0][:, erased[0]].std(dim=1).max()) < 1e-6


def test_mixing_is_the_weighted_sum() -> None:
    mixed = aug.mix(torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), torch.tensor([0.25, 1.0]))
    assert mixed[:, 0, 0, 0].tolist() == [0.25, 1.0]


def test_lineage_tells_enough_to_make_the_view_again() -> None:
    batch, seeds = pictures(2), view_seeds(0, names(2), 1)
    out = ALL(batch, seeds)
    again = batch[:1]
    for step in aug.lineage(ALL.draw(seeds), 0, channels=3):
        kind = aug.OPERATIONS[step.pop("operation")]
        values = {
            name: torch.tensor([v], dtype=torch.int64 if isinstance(v, int) else torch.float32)
            for name, v in step.items()
        }
        again = kind().apply(again, values).clamp(0, 1)
    assert torch.allclose(again, out[:1], atol=1e-6)


def test_probabilities_outside_of_zero_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="probability"):
        aug.FlipVertical(1.5)


def test_batches_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="batch of shape"):
        ALL(torch.rand(2, 4, 8, 8), view_seeds(0, names(2), 0))


def test_a_float_picture_of_16_bits_comes_back_exactly() -> None:
    levels = np.arange(65536, dtype=np.float32)
    assert np.array_equal(np.rint(levels / np.float32(65535) * np.float32(65535)), levels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_view_is_the_same_on_a_gpu() -> None:
    batch, seeds = pictures(), view_seeds(0, names(), 0)
    on_gpu = ALL(batch.cuda(), seeds).cpu()
    assert torch.allclose(on_gpu, ALL(batch, seeds), atol=1e-4)
