"""Views against torchvision, grid_sample and a plain CutMix, and what they may not depend on."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from geodm_lightning.data.views import Crops, ViewRecipe, crop, draw, render
from geodm_lightning.types import InputError

NUM_IMAGES = 40


@pytest.fixture
def images(rng, device):
    return torch.randn(NUM_IMAGES, 3, 12, 12, generator=rng, device=device)


def views_of(images, recipe, indices, *, seed=0, epoch=0):
    views = draw(recipe, seed=seed, epoch=epoch, indices=indices, num_images=len(images))
    return render(lambda chosen: images[chosen], indices, views, recipe)


def boxes_of(images, box):
    return Crops(torch.tensor([box] * len(images), dtype=torch.float64), no_mirror(images))


def no_mirror(images):
    return torch.zeros(len(images), dtype=torch.bool)


@pytest.mark.parametrize("resolution", [8, 12, 31])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_view_does_not_know_its_batch(images, device, resolution, num_threads):
    recipe = ViewRecipe(resolution, cutmix_probability=0.7)
    whole = views_of(images, recipe, torch.arange(NUM_IMAGES, device=device))
    order = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(1)).to(device)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for batch_size in (1, 7):
            for indices in order.split(batch_size):
                batch = views_of(images, recipe, indices)
                if device.type == "cpu":
                    assert torch.equal(batch, whole[indices])
                torch.testing.assert_close(batch, whole[indices])
    finally:
        torch.set_num_threads(before)


def test_epochs_and_seeds_see_other_views(images, device):
    indices = torch.arange(NUM_IMAGES, device=device)
    first = views_of(images, ViewRecipe(12), indices)
    for other in ({"epoch": 1}, {"seed": 1}):
        changed = (views_of(images, ViewRecipe(12), indices, **other) != first).flatten(1).any(1)
        assert changed.all()


def test_the_patch_is_the_partners_own_view(images, device):
    indices = torch.arange(NUM_IMAGES)
    recipe = ViewRecipe(9)
    views = draw(recipe, seed=0, epoch=3, indices=indices, num_images=NUM_IMAGES)
    mixed = views_of(images, recipe, indices.to(device), epoch=3)
    plain = views_of(images, ViewRecipe(9, cutmix_probability=0), indices.to(device), epoch=3)
    for i, (top, left, bottom, right) in enumerate(views.cuts.tolist()):
        expected = plain[i].clone()
        patch = (slice(None), slice(top, bottom), slice(left, right))
        expected[patch] = plain[views.partners[i]][patch]
        assert torch.equal(mixed[i], expected)
    assert (views.shares < 1).sum() > NUM_IMAGES / 2


def test_share_is_the_area_of_the_image_itself():
    recipe = ViewRecipe(32)
    views = draw(recipe, seed=1, epoch=0, indices=torch.arange(200), num_images=200)
    flat = torch.arange(200.0, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 32, 32)
    means = render(lambda i: flat[i], torch.arange(200), views, recipe).mean((1, 2, 3))
    shares = views.shares.double()
    expected = shares * torch.arange(200) + (1 - shares) * views.partners
    torch.testing.assert_close(means, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("box", [[0.1, 0.25, 0.5, 0.7], [0.0, 0.3, 1.0, 0.41]])
def test_enlarging_is_bilinear(images, box):
    images = images.double()
    top, left, height, width = box
    position = (torch.arange(30, dtype=torch.float64, device=images.device) + 0.5) / 30
    rows, columns = 2 * (top + height * position) - 1, 2 * (left + width * position) - 1
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    grid = grid.expand(NUM_IMAGES, -1, -1, -1)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(crop(images, boxes_of(images, box), resolution=30), expected)


@pytest.mark.parametrize(("side", "resolution"), [(12, 5), (12, 9), (64, 20), (12, 12), (12, 25)])
def test_a_whole_image_is_resized_as_torchvision_does(rng, device, side, resolution):
    images = torch.randn(2, 3, side, side, generator=rng, device=device)
    expected = resized_crop(images, 0, 0, side, side, [resolution] * 2, antialias=True)
    result = crop(images, boxes_of(images, [0, 0, 1, 1]), resolution=resolution)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_a_crop_is_torchvisions_away_from_its_border(rng, device):
    images = torch.randn(2, 3, 64, 64, generator=rng, device=device)
    expected = resized_crop(images, 8, 4, 48, 56, [20, 20], antialias=True)
    result = crop(images, boxes_of(images, [8 / 64, 4 / 64, 48 / 64, 56 / 64]), resolution=20)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(result[inner], expected[inner], rtol=1e-4, atol=1e-4)


def test_a_mirrored_crop_is_the_crop_mirrored(images):
    box = [0.1, 0.2, 0.6, 0.7]
    plain = crop(images, boxes_of(images, box), resolution=10)
    mirrored = crop(
        images, boxes_of(images, box)._replace(mirrored=~no_mirror(images)), resolution=10
    )
    torch.testing.assert_close(mirrored, plain.flip(-1))


def test_a_recipe_of_nothing_changes_nothing(images, device):
    recipe = ViewRecipe(12, (1, 1), (1, 1), flip=False, cutmix_probability=0)
    assert torch.equal(views_of(images, recipe, torch.arange(NUM_IMAGES, device=device)), images)


@pytest.mark.parametrize("scale", [(0.5, 1.0), (0.08, 1.0), (0.3, 0.4)])
def test_crops_are_distributed_as_torchvisions(scale):
    recipe = ViewRecipe(8, scale)
    boxes = draw(recipe, seed=0, epoch=0, indices=torch.arange(4000), num_images=4000).crops.boxes
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        blank = torch.empty(1, 2000, 2000)
        ratio = list(recipe.crop_ratio)
        reference = [RandomResizedCrop.get_params(blank, list(scale), ratio) for _ in range(4000)]
    expected = np.array(reference) / 2000
    area = boxes[:, 2] * boxes[:, 3]
    assert area.min() >= scale[0] - 1e-9
    assert area.max() <= scale[1] + 1e-9
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 1 + 1e-9
    for column in range(4):
        assert ks_2samp(boxes[:, column].numpy(), expected[:, column]).pvalue > 1e-3
    assert ks_2samp(area.numpy(), expected[:, 2] * expected[:, 3]).pvalue > 1e-3


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_shares_are_distributed_as_those_of_a_plain_cutmix(beta):
    resolution, num_views = 64, 4000
    recipe = ViewRecipe(resolution, cutmix_beta=beta)
    views = draw(recipe, seed=0, epoch=0, indices=torch.arange(num_views), num_images=num_views)
    random = np.random.default_rng(0)
    expected = []
    for _ in range(num_views):
        half = resolution * math.sqrt(1 - random.beta(beta, beta)) / 2
        sides = []
        for centre in random.uniform(0, resolution, 2):
            sides.append(min(round(centre + half), resolution) - max(round(centre - half), 0))
        expected.append(1 - sides[0] * sides[1] / resolution**2)
    assert ks_2samp(views.shares.numpy(), expected).pvalue > 1e-3


def test_coins_fall_as_often_as_asked():
    indices = torch.arange(10_000)
    recipe = ViewRecipe(8, cutmix_probability=0.3)
    views = draw(recipe, seed=0, epoch=0, indices=indices, num_images=10_000)
    spread = 4 * math.sqrt(0.25 / 10_000)
    assert abs((views.partners != indices).double().mean() - 0.3) < spread
    assert abs(views.crops.mirrored.double().mean() - 0.5) < spread
    assert ((views.shares < 1).double().mean() - 0.3).abs() < spread
    assert not draw(
        ViewRecipe(8, flip=False), seed=0, epoch=0, indices=indices, num_images=10_000
    ).crops.mirrored.any()


def test_every_image_is_a_partner_equally_often():
    counts = torch.zeros(10)
    for epoch in range(400):
        views = draw(ViewRecipe(8), seed=0, epoch=epoch, indices=torch.arange(10), num_images=10)
        counts += torch.bincount(views.partners, minlength=10)
    assert ((counts - 400).square() / 400).sum() < 34  # χ² of 9 degrees, p ≈ 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 0}, "resolution of views must be positive, got 0"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must rise within"),
        ({"crop_scale": (0.9, 0.5)}, "crop_scale must rise within"),
        ({"crop_ratio": (1.1, 2.0)}, "crop_ratio must reach from"),
        ({"cutmix_probability": 1.5}, "cutmix_probability must be within"),
        ({"cutmix_beta": 0.0}, "cutmix_beta must be positive, got 0.0"),
    ],
)
def test_a_recipe_out_of_range_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ViewRecipe(**{"resolution": 8, **changes})


def test_images_that_are_not_there_or_not_square_are_refused():
    with pytest.raises(InputError, match=r"views are asked of images \[4\], the set has 4"):
        draw(ViewRecipe(8), seed=0, epoch=0, indices=torch.tensor([4]), num_images=4)
    with pytest.raises(InputError, match="square images"):
        crop(torch.zeros(1, 1, 4, 6), boxes_of(torch.zeros(1), [0, 0, 1, 1]), resolution=4)
