import math

import pytest
import torch

from geodm_lightning.diffusion.schedule import NoiseSchedule
from geodm_lightning.types import InputError


def plainly(num_steps):
    """The tables of the respaced process, number by number."""
    kept, product = [], 1.0
    for step in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        kept.append(product)
    timesteps = [round(index * 999 / (num_steps - 1)) for index in range(num_steps)]
    rows, before = [], 1.0
    for timestep in timesteps:
        now = kept[timestep]
        beta = 1 - now / before
        rows.append(
            (
                beta,
                beta * (1 - before) / (1 - now),
                beta * math.sqrt(before) / (1 - now),
                math.sqrt(1 - beta) * (1 - before) / (1 - now),
            )
        )
        before = now
    return timesteps, rows


@pytest.mark.parametrize("num_steps", [2, 50, 250, 1000])
def test_tables_are_those_of_a_plain_computation(num_steps):
    schedule = NoiseSchedule().respaced(num_steps)
    timesteps, rows = plainly(num_steps)
    assert schedule.timesteps == tuple(timesteps)
    betas, variances, clean, latents = torch.tensor(rows, dtype=torch.float64).T
    torch.testing.assert_close(schedule.betas, betas, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.posterior_variances, variances, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(schedule.clean_coefficients, clean, rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.latent_coefficients, latents, rtol=1e-9, atol=1e-15)


def test_fifty_steps_lie_where_published_guidance_windows_expect_them():
    schedule = NoiseSchedule().respaced(50)
    assert [schedule.timesteps[index] for index in (0, 30, 35, 40, 45, 49)] == [
        *(0, 612, 714, 816, 917, 999)
    ]
    kept = [schedule.alphas_cumprod[index].item() for index in (30, 35, 40, 45)]
    assert kept == pytest.approx([0.0221, 0.0056, 0.0012, 0.0002], abs=5e-5)
    deviations = [schedule.deviation(None, index) for index in (30, 35, 40, 45)]
    assert deviations == pytest.approx([0.473, 0.508, 0.538, 0.554], abs=5e-4)


def test_a_clean_sample_is_recovered_from_its_own_noise(rng, device):
    clean, noise = torch.randn(2, 3, 1, 4, 4, generator=rng, device=device, dtype=torch.float64)
    schedule = NoiseSchedule().respaced(50)
    kept = schedule.alphas_cumprod[35].item()
    latents = kept**0.5 * clean + (1 - kept) ** 0.5 * noise
    torch.testing.assert_close(schedule.clean(latents, noise, 35), clean, rtol=1e-9, atol=1e-9)


def test_learned_variances_lie_between_posterior_and_step():
    schedule = NoiseSchedule().respaced(50)
    for index in (1, 20, 49):
        least, greatest = schedule.posterior_variances[index], schedule.betas[index]
        found = schedule.deviation(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), index)
        middle = (least * greatest).sqrt()
        expected = torch.stack([least, middle, greatest]).sqrt()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        assert schedule.deviation(None, index) == pytest.approx(least.sqrt().item(), rel=1e-9)
    least, _ = schedule.log_variance_range
    assert least[0] == least[1]


@pytest.mark.parametrize("num_steps", [1, 0, -3, 1001])
def test_a_number_of_steps_out_of_range_is_refused(num_steps):
    with pytest.raises(InputError, match=f"num_steps={num_steps} is not between 2 and 1000"):
        NoiseSchedule().respaced(num_steps)


@pytest.mark.parametrize("betas", [(0.0, 0.02), (0.03, 0.02), (0.1, 1.0), (math.nan, 0.02)])
def test_variances_that_do_not_rise_within_one_are_refused(betas):
    with pytest.raises(InputError, match="no noise schedule"):
        NoiseSchedule(1000, *betas)
