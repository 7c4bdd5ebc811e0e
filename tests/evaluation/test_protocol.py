"""Protocols: the schedule at every step, the share of a shortened one, the identity."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from geodm_lightning.assembly import build_protocol
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.evaluation.protocol import OPTIONAL, Protocol
from geodm_lightning.types import InputError
from tests.experiment import compose_settings


def rates(protocol: Protocol, num_steps: int) -> list[float]:
    """Learning rate of each step of a training of ``num_steps``."""
    optimizer = protocol.build_optimizer(nn.Linear(1, 1).parameters())
    scheduler = protocol.build_scheduler(optimizer, num_steps=num_steps)
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_a_cuts_the_rate_tenfold_at_half(tiny_a):
    expected = [0.01] * 20 + [0.001] * 20
    assert rates(tiny_a, 40) == pytest.approx(expected, rel=1e-12)


def test_c_halves_the_rate_at_every_fifth(tiny_c):
    expected = [1e-3 * 0.5 ** (step // 8) for step in range(40)]
    assert rates(tiny_c, 40) == pytest.approx(expected, rel=1e-12)


def test_smoothed_cosine_ends_where_its_closed_form_does(tiny_a):
    cosine = dataclasses.replace(tiny_a, milestones=(), schedule="cosine")
    slow = dataclasses.replace(cosine, smoothing=2.0)
    ended = dataclasses.replace(cosine, smoothing=1.0)
    expected = [0.01 * 0.5 * (1 + math.cos(math.pi * step / 80)) for step in range(40)]
    assert rates(slow, 40) == pytest.approx(expected, rel=1e-12)
    assert rates(slow, 4000)[-1] == pytest.approx(0.005, rel=1e-3)  # half of it at the end
    assert rates(ended, 4000)[-1] == pytest.approx(0.0, abs=1e-7)


def test_vectors_are_spared_from_decay_where_the_protocol_says_so(tiny_c):
    """With no gradient AdamW only decays: ``w (1 − lr · decay)``."""
    for spared in (True, False):
        layer = nn.Linear(3, 2)
        for parameter in layer.parameters():
            nn.init.constant_(parameter, 1.0)
            parameter.grad = torch.zeros_like(parameter)
        protocol = dataclasses.replace(tiny_c, decay_vectors=not spared, weight_decay=100.0)
        protocol.build_optimizer(layer.parameters()).step()
        decayed = 1 - protocol.lr * protocol.weight_decay
        torch.testing.assert_close(layer.weight, torch.full((2, 3), decayed))
        torch.testing.assert_close(layer.bias, torch.full((2,), 1.0 if spared else decayed))


def test_schedule_shorter_than_its_milestones_makes_every_cut(tiny_a):
    protocol = dataclasses.replace(tiny_a, milestones=(0.2, 0.4, 0.6, 0.8))
    # round(share · 2) is 0, 1, 1, 2: one cut before the first step, two before the second
    assert rates(protocol, 2) == pytest.approx([0.01 * 0.1, 0.01 * 0.1**3], rel=1e-12)


def test_optimisers_take_the_numbers_of_the_protocol(protocol):
    group = protocol.build_optimizer(nn.Linear(1, 1).parameters()).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (protocol.lr, protocol.weight_decay)
    if protocol.name == "A":
        assert group["momentum"] == 0.9
    else:
        assert group["betas"] == (0.9, 0.999)


def test_num_steps_counts_the_smaller_last_batch(tiny_a):
    assert tiny_a.num_steps(100) == 4 * 4
    assert tiny_a.num_steps(96) == 4 * 3


def test_shortening_keeps_shares_and_remembers_the_source(tiny_a):
    published = dataclasses.replace(tiny_a, epochs=1000, whole_steps=20000)
    short = published.shortened(25)
    assert (published.fraction, short.fraction) == (1.0, 0.025)
    assert (short.epochs, short.whole_steps) == (25, 500)
    assert short.milestones == published.milestones
    assert short.shortened(10).fraction == 0.01
    assert published.shortened(5000) == published


def test_digest_changes_with_every_number_but_the_count_of_students(tiny_a):
    changes = {
        "name": "B", "epochs": 5, "published_epochs": 5, "batch_size": 5, "optimizer": "adamw",
        "lr": 0.1, "weight_decay": 0.1, "milestones": (0.1,), "gamma": 0.2, "augmentation": "crop",
        "augmentation_mode": "compound", "network": "resnet18", "whole_steps": 7,
        "momentum": 0.0, "cutmix_probability": 0.5, "network_options": {"width": 8},
        "schedule": "cosine", "smoothing": 2.0, "ema_decay": 0.99, "decay_vectors": False,
        "views": {"crop_scale": [0.5, 1.0]}, "resolution": 6,
    }  # fmt: skip
    assert set(changes) | {"num_students"} == {f.name for f in dataclasses.fields(Protocol)}
    digests = {tiny_a.digest()}
    for name, value in changes.items():
        extra = {"optimizer": {"momentum": 0.0}, "schedule": {"milestones": ()}}.get(name, {})
        digests.add(dataclasses.replace(tiny_a, **{name: value}, **extra).digest())
    assert len(digests) == len(changes) + 1
    assert dataclasses.replace(tiny_a, num_students=9).digest() == tiny_a.digest()


def test_digest_of_a_protocol_is_what_it_was(tiny_a):
    """Committed results carry it, so options that are not used must not enter it."""
    values = tiny_a.to_dict()
    assert set(OPTIONAL) & set(values) == set()
    assert tiny_a.digest() == "2d78075367b60c82"


def test_comparison_ignores_the_whole_set_budget_only(tiny_a):
    assert dataclasses.replace(tiny_a, whole_steps=9).comparison_digest() == (
        tiny_a.comparison_digest()
    )
    assert dataclasses.replace(tiny_a, epochs=9).comparison_digest() != tiny_a.comparison_digest()


@pytest.mark.parametrize(
    "options",
    [{}, {"views": {"flip": False, "crop_scale": (0.5, 1.0)}, "resolution": 6, "ema_decay": 0.9}],
)
def test_json_keeps_a_protocol(protocol, options):
    options = {"cutmix_probability": 0.0, **options} if options else {}
    protocol = dataclasses.replace(protocol, **options)
    restored = Protocol.from_dict(json.loads(json.dumps(protocol.to_dict())))
    assert restored == protocol
    assert restored.digest() == protocol.digest()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 0}, "protocol.epochs"),
        ({"num_students": 2.0}, "protocol.num_students"),
        ({"optimizer": "adam"}, "'adam'"),
        ({"augmentation_mode": "single"}, "'single'"),
        ({"lr": float("nan")}, "protocol.lr"),
        ({"lr": 0.0}, "protocol.lr"),
        ({"optimizer": "adamw"}, "protocol.momentum"),
        ({"cutmix_probability": 1.5}, "protocol.cutmix_probability"),
        ({"milestones": (0.5, 0.5)}, "protocol.milestones"),
        ({"milestones": (1.0,)}, "protocol.milestones"),
        ({"schedule": "linear"}, "'linear'; use one of milestones, cosine"),
        ({"schedule": "cosine"}, r"protocol.milestones must be \[\]"),
        ({"smoothing": 0.5}, "protocol.smoothing must be a number from 1, got 0.5"),
        ({"ema_decay": 1.0}, r"protocol.ema_decay must lie in \[0, 1\), got 1.0"),
        ({"resolution": 0}, "protocol.resolution must be pixels or null, got 0"),
        ({"views": {"zoom": 2}}, "protocol.views does not fit .*'zoom'"),
        ({"views": {"crop_scale": (0.0, 1.0)}}, "crop_scale"),
        ({"views": {}, "cutmix_probability": 0.5}, "set protocol.views.cutmix_probability"),
    ],
)
def test_refuses_what_cannot_be_run(tiny_a, changes, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(tiny_a, **changes)


def test_refuses_unknown_and_missing_fields(tiny_a):
    values = tiny_a.to_dict()
    with pytest.raises(InputError, match="warmup"):
        Protocol.from_dict({**values, "warmup": 3})
    del values["lr"]
    with pytest.raises(InputError, match="lr"):
        Protocol.from_dict(values)


def test_shortening_to_nothing_is_refused(tiny_a):
    with pytest.raises(InputError, match="max_epochs"):
        tiny_a.shortened(0)


def test_optimiser_steps_the_given_parameters(protocol):
    layer = nn.Linear(1, 1)
    before = layer.weight.detach().clone()
    layer(torch.ones(1, 1)).sum().backward()
    protocol.build_optimizer(layer.parameters()).step()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("option", "numbers"),
    [
        ("protocol_rded", ("RDED", 300, 100, 2.0, 0.0, (0.5, 1.0), "resnet18")),
        ("protocol_rded_subset", ("RDED subset", 300, 50, 2.0, 0.0, (0.5, 1.0), "resnet18")),
        ("protocol_sre2l", ("SRe2L", 300, 1024, 1.0, 0.0, (0.08, 1.0), "resnet18")),
        ("protocol_edc", ("EDC", 300, 100, 2.0, 0.99, (0.5, 1.0), "resnet18")),
        ("hard_label_convnet6", ("hard label", 2000, 64, 1.0, 0.0, (0.5, 1.0), "convnet_d6")),
        ("hard_label_resnet_ap10", ("hard label", 2000, 64, 1.0, 0.0, (0.5, 1.0), "resnet_ap10")),
    ],
)
def test_published_protocols_are_uncut_by_one_word(option, numbers):
    """Epochs, batch, schedule, average and crops of the papers, at the full schedule."""
    settings = compose_settings(
        f"evaluation={option}", "data=imagenette", "network=resnet18", "schedule=full"
    )
    p = build_protocol(settings, dataset_spec("imagenette"))
    crop = tuple(p.views["crop_scale"])
    found = (p.name, p.epochs, p.batch_size, p.smoothing, p.ema_decay, crop, p.network)
    assert found == numbers
    assert (p.optimizer, p.lr, p.weight_decay, p.fraction) == ("adamw", 1e-3, 0.01, 1.0)
    assert p.digest() != p.shortened(5).digest()


def test_a_recipe_is_the_protocol_whatever_the_network(tiny_a):
    other = dataclasses.replace(tiny_a, network="vit", network_options={}, whole_steps=9)
    assert other.recipe_digest() == tiny_a.recipe_digest()
    assert other.comparison_digest() != tiny_a.comparison_digest()
    assert dataclasses.replace(other, lr=0.5).recipe_digest() != tiny_a.recipe_digest()
