"""The batched operations against a plain loop over images, and their laws."""

import math

import pytest
import torch
from torch import Tensor

from geodm_lightning.data.operations import OPERATIONS


def reference_color(image: Tensor, draws: list[float]) -> Tensor:
    image = image + (draws[0] - 0.5)
    grey = image.mean(0, keepdim=True)
    image = (image - grey) * (draws[1] * 2) + grey
    return (image - image.mean()) * (draws[2] + 0.5) + image.mean()


def reference_crop(image: Tensor, draws: list[float]) -> Tensor:
    side = image.shape[-1]
    reach = round(side * 0.125)
    down, right = (int(draw * (2 * reach + 1)) - reach for draw in draws)
    result = torch.zeros_like(image)
    for row in range(side):
        for column in range(side):
            if 0 <= row + down < side and 0 <= column + right < side:
                result[:, row, column] = image[:, row + down, column + right]
    return result


def reference_cutout(image: Tensor, draws: list[float]) -> Tensor:
    side = image.shape[-1]
    length = side // 2
    centres = [int(draw * (side + (length % 2 == 0))) for draw in draws]
    top, left = (centre - length // 2 for centre in centres)
    result = image.clone()
    result[:, max(top, 0) : top + length, max(left, 0) : left + length] = 0
    return result


def reference_flip(image: Tensor, draws: list[float]) -> Tensor:
    return image.flip(-1) if draws[0] < 0.5 else image


def reference_resample(image: Tensor, matrix: list[list[float]]) -> Tensor:
    """Bilinear reading at mapped pixel centres, one pixel at a time."""
    side = image.shape[-1]
    result = torch.zeros_like(image)
    centres = [(2 * i + 1) / side - 1 for i in range(side)]
    for row, y in enumerate(centres):
        for column, x in enumerate(centres):
            source_x = ((matrix[0][0] * x + matrix[0][1] * y + 1) * side - 1) / 2
            source_y = ((matrix[1][0] * x + matrix[1][1] * y + 1) * side - 1) / 2
            left, top = math.floor(source_x), math.floor(source_y)
            for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                weight = (1 - abs(source_y - i)) * (1 - abs(source_x - j))
                if 0 <= i < side and 0 <= j < side:
                    result[:, row, column] += weight * image[:, i, j]
    return result


def reference_scale(image: Tensor, draws: list[float]) -> Tensor:
    factors = [1 / 1.2 + draw * (1.2 - 1 / 1.2) for draw in draws]
    return reference_resample(image, [[factors[0], 0], [0, factors[1]]])


def reference_rotate(image: Tensor, draws: list[float]) -> Tensor:
    angle = math.radians((draws[0] - 0.5) * 30)
    cos, sin = math.cos(angle), math.sin(angle)
    return reference_resample(image, [[cos, -sin], [sin, cos]])


REFERENCES = {
    "color": reference_color,
    "crop": reference_crop,
    "cutout": reference_cutout,
    "flip": reference_flip,
    "scale": reference_scale,
    "rotate": reference_rotate,
}


def draws_for(name: str, num_groups: int, generator: torch.Generator) -> Tensor:
    shape = (num_groups, OPERATIONS[name].num_draws)
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("side", [8, 12])
def test_operation_equals_a_loop_over_images(device, rng, name, side):
    images = torch.rand(5, 2, 3, side, side, generator=rng, dtype=torch.float64, device=device)
    draws = draws_for(name, 5, rng)
    expected = torch.stack(
        [
            torch.stack([REFERENCES[name](image, row) for image in group])
            for group, row in zip(images.cpu(), draws.tolist(), strict=True)
        ]
    )
    result = OPERATIONS[name].apply(images, draws)
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_matches_finite_differences(device, rng, name):
    images = torch.rand(2, 2, 3, 4, 4, generator=rng, dtype=torch.float64, device=device)
    draws = draws_for(name, 2, rng)
    apply = OPERATIONS[name].apply
    assert torch.autograd.gradcheck(lambda x: apply(x, draws), (images.requires_grad_(),))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_group_is_treated_alike_alone_and_among_others(device, rng, name):
    """Alone on a CPU its draw is read, and pixels are moved instead of gathered."""
    images = torch.rand(9, 4, 3, 12, 12, generator=rng, device=device, requires_grad=True)
    draws = draws_for(name, 9, rng).float()
    apply = OPERATIONS[name].apply
    together = apply(images, draws)
    alone = torch.cat([apply(*own) for own in zip(images.split(1), draws.split(1), strict=True)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    pushes = torch.rand(together.shape, generator=rng, device=device)
    gradients = [torch.autograd.grad(result, images, pushes)[0] for result in (alone, together)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


def test_color_is_within_rounding_of_its_three_steps(device, rng):
    """As one product and one sum it rounds otherwise: by less than 2e-6 of normalised pixels."""
    images = torch.randn(20, 8, 3, 32, 32, generator=rng, device=device)
    draws = torch.rand(20, 3, generator=rng, device=device)
    expected = torch.stack(
        [
            torch.stack([reference_color(image, row) for image in group])
            for group, row in zip(images.double(), draws.tolist(), strict=True)
        ]
    )
    result = OPERATIONS["color"].apply(images, draws)
    assert (result - expected).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("name", "neutral"),
    [
        ("color", [0.5, 0.5, 0.5]),
        ("crop", [0.5, 0.5]),
        ("flip", [0.5]),
        ("rotate", [0.5]),
        ("scale", [(1 - 1 / 1.2) / (1.2 - 1 / 1.2)] * 2),
    ],
)
def test_neutral_draw_changes_nothing(device, rng, name, neutral):
    images = torch.rand(1, 3, 3, 16, 16, generator=rng, device=device)
    draws = torch.tensor([neutral], device=device)
    result = OPERATIONS[name].apply(images, draws)
    torch.testing.assert_close(result, images, rtol=1e-4, atol=1e-5)


def test_flip_twice_is_the_identity(device, rng):
    images = torch.rand(2, 3, 1, 8, 8, generator=rng, device=device)
    draws = torch.tensor([[0.1], [0.9]], device=device)
    flip = OPERATIONS["flip"].apply
    once = flip(images, draws)
    assert torch.equal(once[0], images[0].flip(-1))
    assert torch.equal(once[1], images[1])
    assert torch.equal(flip(once, draws), images)


def test_crop_reaches_every_shift_equally_often(rng):
    side, num_groups = 32, 9000
    positions = torch.arange(1.0, side + 1, device=rng.device).expand(num_groups, 1, 1, side, side)
    draws = torch.rand(num_groups, 2, generator=rng, device=rng.device)
    shifts = OPERATIONS["crop"].apply(positions, draws)[:, 0, 0, side // 2, side // 2]
    counts = torch.bincount((shifts - 1 - side // 2 + 4).long().cpu(), minlength=9)
    assert len(counts) == 9  # −4 … 4 pixels
    expected = num_groups / 9
    assert ((counts - expected).square() / expected).sum() < 30  # χ² of 8 degrees, p ≈ 2e-4


def test_cutout_blanks_a_quarter_where_it_is_not_clipped(device):
    images = torch.ones(1, 1, 3, 32, 32, device=device)
    result = OPERATIONS["cutout"].apply(images, torch.full((1, 2), 0.5, device=device))
    assert (result == 0).sum() == 3 * 16 * 16
