import torch

from geodm_lightning.randomness import keyed_generator, keyed_seed


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
