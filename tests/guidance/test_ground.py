import torch
from torch import Tensor

from geodm_lightning.guidance import AbsoluteGround


def test_ground_gradient_is_that_of_its_cost(draw, ground):
    x, y, weights = draw(2, 7), draw(2, 5, 7), draw(2, 5).abs()

    def value(x: Tensor) -> Tensor:
        return (weights * ground.cost(x[:, None], y)[:, 0]).sum(-1)

    actual, step = ground.gradient(x, y, weights), 1e-6
    direction = draw(2, 7)
    slope = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    torch.testing.assert_close((actual * direction).sum(-1), slope, rtol=1e-5, atol=1e-7)


def test_absolute_gradient_does_not_depend_on_its_chunks(draw, monkeypatch):
    x, y, weights = draw(3, 7), draw(3, 11, 7), draw(3, 11)
    whole = AbsoluteGround().gradient(x, y, weights)
    expected = (weights[..., None] * (x[:, None] - y).sign()).sum(1)
    monkeypatch.setattr("geodm_lightning.guidance.ground._ELEMENTS_AT_ONCE", 50)
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(AbsoluteGround().gradient(x, y, weights), expected)


def test_unit_is_one_or_follows_the_scale_of_real_latents(draw, ground):
    """Curvatures are given at mean norm 1, whatever the scale of the latents."""
    real = draw(2, 5, 7)
    if isinstance(ground, AbsoluteGround):
        assert torch.equal(ground.unit(real), torch.ones_like(real[:, 0, 0]))
    else:
        unit = ground.unit(real)
        torch.testing.assert_close(unit, real.norm(dim=-1).mean(-1))
        torch.testing.assert_close(ground.unit(300 * real), 300 * unit)
