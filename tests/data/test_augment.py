"""Augmentation of groups of images, and CutMix."""

import pytest
import torch

from geodm_lightning.data.augment import Augmentation, CutMix
from geodm_lightning.data.operations import OPERATIONS
from geodm_lightning.types import InputError

FULL = "color_crop_cutout_flip_scale_rotate"
SLICES = {
    "color": slice(0, 3),
    "crop": slice(3, 5),
    "cutout": slice(5, 7),
    "flip": slice(7, 8),
    "scale": slice(8, 10),
    "rotate": slice(10, 11),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mode_one_equals_a_loop_over_groups(device, rng):
    images = torch.rand(24, 2, 3, 16, 16, generator=rng, device=device)
    augmentation = Augmentation(FULL)
    draw = augmentation.draw(24, generator=generator())
    assert len(draw.operation.unique()) == 6
    for group, result in enumerate(augmentation(images, draw)):
        name = list(OPERATIONS)[draw.operation[group]]
        own = draw.parameters[group : group + 1, SLICES[name]].to(device)
        expected = OPERATIONS[name].apply(images[group : group + 1], own)[0]
        torch.testing.assert_close(result, expected)


def test_compound_mode_applies_all_of_one_kind_and_one_of_the_other(device, rng):
    images = torch.rand(12, 2, 3, 16, 16, generator=rng, device=device)
    augmentation = Augmentation("color_crop_cutout_flip_scale_rotate", mode="compound")
    draw = augmentation.draw(12, generator=generator())
    assert {list(OPERATIONS)[index] for index in draw.operation} == {"crop", "scale", "rotate"}
    for group, result in enumerate(augmentation(images, draw)):
        expected = images[group : group + 1]
        for name in ("flip", "color", "cutout", list(OPERATIONS)[draw.operation[group]]):
            own = draw.parameters[group : group + 1, SLICES[name]].to(device)
            expected = OPERATIONS[name].apply(expected, own)
        torch.testing.assert_close(result, expected[0])


@pytest.mark.parametrize("mode", ["one", "compound"])
def test_images_of_a_group_share_one_draw(device, rng, mode):
    real = torch.rand(8, 4, 3, 16, 16, generator=rng, device=device)
    synthetic = real[:, :1]
    augmentation = Augmentation(FULL, mode=mode)
    draw = augmentation.draw(8, generator=generator())
    together = augmentation(real, draw)[:, :1]
    torch.testing.assert_close(together, augmentation(synthetic, draw))


@pytest.mark.parametrize("mode", ["one", "compound"])
def test_a_process_may_slice_the_draw_of_all_classes(device, rng, mode):
    images = torch.rand(9, 2, 3, 16, 16, generator=rng, device=device)
    augmentation = Augmentation(FULL, mode=mode)
    draw = augmentation.draw(9, generator=generator())
    whole = augmentation(images, draw)
    parts = [
        augmentation(images[part], draw.select(part)) for part in (slice(0, 4), slice(4, None))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    picked = torch.tensor([7, 2])
    chosen = augmentation(images[picked.to(device)], draw.select(picked))
    torch.testing.assert_close(chosen, whole[picked.to(device)])


def test_shared_operation_keeps_own_parameters():
    draw = Augmentation(FULL).draw(100, generator=generator(), shared_op=True)
    assert len(draw.operation.unique()) == 1
    assert len(draw.parameters.unique(dim=0)) == 100


def test_every_operation_is_drawn_equally_often():
    draw = Augmentation(FULL).draw(6000, generator=generator())
    counts = torch.bincount(draw.operation, minlength=6)
    assert ((counts - 1000).square() / 1000).sum() < 25  # χ² of 5 degrees, p ≈ 1e-4


def test_same_generator_state_gives_the_same_draw_whatever_the_strategy():
    first = Augmentation("crop").draw(5, generator=generator(3))
    second = Augmentation("color_crop").draw(5, generator=generator(3))
    other = Augmentation("crop").draw(5, generator=generator(4))
    assert torch.equal(first.parameters, second.parameters)
    assert not torch.equal(first.parameters, other.parameters)


@pytest.mark.parametrize("strategy", ["", "none"])
def test_empty_strategy_is_the_identity(strategy):
    images = torch.rand(3, 2, 1, 8, 8)
    augmentation = Augmentation(strategy)
    assert torch.equal(augmentation(images, augmentation.draw(3, generator=generator())), images)


def test_gradient_reaches_every_group(device, rng):
    images = torch.rand(12, 2, 3, 16, 16, generator=rng, device=device, requires_grad=True)
    augmentation = Augmentation("color_crop_flip_scale_rotate")
    draw = augmentation.draw(12, generator=generator())
    augmentation(images, draw).square().sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"unknown augmentation 'blur'.*valid: color, crop"):
        Augmentation("color_blur")
    with pytest.raises(InputError, match="valid: one, compound"):
        Augmentation("color", mode="all")
    augmentation = Augmentation("color")
    with pytest.raises(ValueError, match="draw is for 2 groups, images have 3"):
        augmentation(torch.rand(3, 1, 1, 8, 8), augmentation.draw(2, generator=generator()))


def test_cutmix_counts_the_pasted_area(device):
    images = torch.arange(8.0, device=device)[:, None, None, None].expand(8, 3, 16, 16)
    labels = torch.arange(8, device=device)
    for seed in range(20):
        mixed, labels_a, labels_b, lam = CutMix(1.0)(images, labels, generator=generator(seed))
        assert torch.equal(labels_a, labels)
        foreign = mixed != images
        assert torch.equal(
            mixed[foreign], labels_b.float()[:, None, None, None].expand_as(mixed)[foreign]
        )
        changed = labels_a != labels_b
        share = foreign.float().mean((1, 2, 3))[changed]
        torch.testing.assert_close(share, torch.full_like(share, 1 - lam))


def test_cutmix_share_is_uniform_and_probability_holds():
    images, labels = torch.rand(4, 1, 64, 64), torch.arange(4)
    rng = generator()
    shares = [CutMix(0.25)(images, labels, generator=rng).lam for _ in range(2000)]
    mixed = torch.tensor([share for share in shares if share < 1])
    assert abs(len(mixed) / 2000 - 0.25) < 0.04
    # Clipping at the border only takes away pasted area, so shares exceed U(0, 1).
    assert 0.5 < mixed.mean() < 0.8


def test_cutmix_without_probability_returns_the_batch():
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    batch = CutMix(0.0)(images, labels, generator=generator())
    assert batch.images is images
    assert batch.lam == 1.0
    with pytest.raises(InputError, match=r"within \[0, 1\], got 1.5"):
        CutMix(1.5)
