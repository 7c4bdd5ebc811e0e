import pytest
import torch
from scipy.stats import chi2

from geodm_lightning.randomness import counter_uniform, keyed_generator, keyed_seed


def test_a_key_fixes_the_draw():
    draws = [torch.rand(5, generator=keyed_generator(3, "real", 7)) for _ in range(2)]
    assert torch.equal(*draws)


def test_keys_differ_in_every_part():
    keys = [(0, "real", 1), (1, "real", 1), (0, "augment", 1), (0, "real", 2), (0, "real", 1, 0)]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)


def test_parts_do_not_run_together():
    assert keyed_seed(1, "a", 12) != keyed_seed(1, "a", 1, 2)
    assert keyed_seed(11, "a") != keyed_seed(1, 1, "a")


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=keyed_generator(0, "x"))
    assert torch.equal(torch.get_rng_state(), before)


GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state):
    """The published generator, one word after the other, in plain integers."""
    while True:
        state = (state + GOLDEN) % 2**64
        word = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        yield word ^ (word >> 31)


def uniform(key, counters, num):
    return counter_uniform(0, *key, counters=torch.as_tensor(counters), num=num)


def assert_even(first, second=None, bins=16):
    """χ² of the joint histogram of two columns, or of one; fails for 1 in 10,000 streams."""
    cells = (first * bins).long()
    if second is not None:
        cells = cells * bins + (second * bins).long()
    num_cells = bins if second is None else bins**2
    counts = torch.bincount(cells, minlength=num_cells).double()
    assert len(counts) == num_cells
    expected = len(cells) / num_cells
    statistic = ((counts - expected).square() / expected).sum().item()
    assert chi2.sf(statistic, num_cells - 1) > 1e-4


def test_the_reference_gives_the_published_words():
    stream = splitmix64(0)
    assert [next(stream) for _ in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@pytest.mark.parametrize("counter", [0, 1, 12345, 2**62])
def test_a_row_is_a_stream_of_splitmix64(counter):
    start = next(splitmix64((keyed_seed(0, "crop", 3) + counter * GOLDEN) % 2**64))
    stream = splitmix64(start)
    expected = [(next(stream) >> 11) / 2**53 for _ in range(5)]
    assert uniform(("crop", 3), [counter], 5)[0].tolist() == expected


def test_a_row_does_not_know_its_neighbours():
    whole = uniform(("crop", 3), range(100), 6)
    some = torch.tensor([70, 3, 3, 99])
    assert torch.equal(uniform(("crop", 3), some, 6), whole[some])
    assert torch.equal(uniform(("crop", 3), some, 2), whole[some, :2])
    assert uniform(("crop", 3), [], 2).shape == (0, 2)


def test_numbers_are_in_the_unit_interval_and_even():
    draws = uniform(("crop",), range(100_000), 4)
    assert draws.dtype == torch.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        assert_even(column, bins=1000)


def test_columns_counters_keys_and_seeds_are_independent():
    draws = uniform(("crop", 0), range(100_000), 2)
    assert_even(draws[:, 0], draws[:, 1])
    assert_even(draws[:-1, 0], draws[1:, 0])
    assert_even(draws[:-1, 1], draws[1:, 0])
    assert_even(draws[:, 0], uniform(("crop", 1), range(100_000), 1)[:, 0])
    other = counter_uniform(1, "crop", 0, counters=torch.arange(100_000), num=1)
    assert_even(draws[:, 0], other[:, 0])
