"""Right, reordered, untrained, constant and weak teachers, on digits and on known answers."""

import pytest
import torch
from torch import nn

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.labels.agreement import check_agreement, measure_agreement
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.labels.teachers import Teacher
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.types import InputError

NAMED = {"what": "real", "num_classes": 10}


class Oracle(nn.Module):
    """Answers the class that is written in the first pixel of an image."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), self.num_classes).float()


def verdict_of(answers, labels, num_classes, what="real"):
    spec = dataset_spec("digits")._replace(num_classes=num_classes)
    pool = TeacherPool([Teacher(Oracle(num_classes), spec, name="oracle")])
    images = answers.float()[:, None, None, None]
    options = {"what": what, "num_classes": num_classes}
    return measure_agreement(pool, images, labels, **options).teachers[0]


def guessed(labels, num_classes, accuracy, generator):
    """Answers that are right with some probability and guessed otherwise."""
    right = torch.rand(len(labels), generator=generator) < accuracy
    return torch.where(right, labels, torch.randint(num_classes, labels.shape, generator=generator))


def reordered(network, order):
    return nn.Sequential(network, Columns(order))


class Columns(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order

    def forward(self, logits):
        return logits[:, self.order]


def single(network, tables, name="odd", **options):
    return TeacherPool([Teacher(network, tables.spec, name=name, **options)])


def test_right_teachers_pass_and_their_accuracy_is_told(pool, digits):
    _, _, images, labels = digits
    agreement = check_agreement(pool, images, labels, **NAMED)
    assert agreement.num_images == len(labels)
    assert [verdict.name for verdict in agreement.teachers] == ["fitted", "shrunk"]
    for verdict, answers in zip(agreement.teachers, pool.answers(images), strict=True):
        assert verdict.accuracy == pytest.approx((answers.argmax(1) == labels).double().mean())
        assert verdict.accuracy > 0.8
    assert agreement.mean.accuracy > 0.8
    assert agreement.problems == ()


def test_another_class_order_is_named_with_an_example(networks, tables, digits):
    order = torch.tensor([3, 7, 1, 0, 9, 2, 4, 8, 6, 5])
    pool = single(reordered(networks[0], order), tables)
    with pytest.raises(InputError) as caught:
        check_agreement(pool, *digits[2:], **NAMED)
    message = str(caught.value)
    assert "wrong class order: for example class" in message
    label, answer = _example(message)
    assert order.tolist().index(label) == answer
    assert "\n" not in message


def _example(message):
    words = message.partition("for example class ")[2].split()
    return int(words[0]), int(words[4].rstrip(","))


def test_two_classes_swapped_are_found_though_the_others_agree(networks, tables, digits):
    order = torch.arange(10)
    order[[3, 7]] = torch.tensor([7, 3])
    pool = single(reordered(networks[0], order), tables)
    agreement = measure_agreement(pool, *digits[2:], **NAMED)
    assert agreement.teachers[0].accuracy > 0.6
    assert _example(agreement.problems[0]) in [(3, 7), (7, 3)]


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_network_has_wrong_weights(tables, digits, seed):
    shape = {"num_classes": 10, "channels": 1, "resolution": 8}
    network = build_network("convnet", **shape, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(InputError, match="wrong weights or wrong normalisation"):
        check_agreement(single(network, tables), *digits[2:], **NAMED)


def test_constant_answers_are_named(networks, tables, digits):
    """Pixels in units of 1/1000 instead of 1: all images look like the brightest one."""
    with pytest.raises(InputError, match=r"is its answer to .*wrong normalisation"):
        check_agreement(
            single(networks[0], tables, mean=(-1000.0,), std=tables.spec.std), *digits[2:], **NAMED
        )


def test_generated_images_of_nothing_are_blamed(pool, digits):
    labels = digits[3]
    noise = torch.randn(digits[2].shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"generated images as labelled.*look at them"):
        check_agreement(pool, noise, labels, what="generated", num_classes=10)


def test_generated_images_of_other_classes_are_named(pool, digits):
    with pytest.raises(InputError, match="correct the classes the generator is asked for"):
        check_agreement(pool, digits[2], (digits[3] + 1) % 10, what="generated", num_classes=10)


@pytest.mark.parametrize(("num_classes", "per_class"), [(10, 10), (10, 100), (1000, 4)])
@pytest.mark.parametrize("accuracy", [1.0, 0.7])
def test_every_order_but_the_right_one_is_found(num_classes, per_class, accuracy):
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    for _ in range(5):
        answers = guessed(labels, num_classes, accuracy, rng)
        assert verdict_of(answers, labels, num_classes).problem is None
        order = torch.randperm(num_classes, generator=rng)
        found = verdict_of(order[answers], labels, num_classes)
        assert "wrong class order" in found.problem
        label, answer = _example(found.problem)
        assert order[label] == answer


@pytest.mark.parametrize(("num_classes", "per_class"), [(10, 20), (100, 10)])
def test_weak_teachers_are_let_through_and_guessing_ones_are_not(num_classes, per_class):
    """A stop for nothing is rarer than 1 in 50: the level is 1 in 1000, twice."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    weak = [
        verdict_of(guessed(labels, num_classes, 0.3, rng), labels, num_classes) for _ in range(100)
    ]
    assert sum(verdict.problem is not None for verdict in weak) < 2
    blind = [
        verdict_of(guessed(labels, num_classes, 0.0, rng), labels, num_classes) for _ in range(100)
    ]
    assert sum(verdict.problem is None for verdict in blind) < 3
    assert not any("class order:" in (verdict.problem or "") for verdict in blind)


def test_a_class_mostly_taken_for_another_is_no_other_order():
    """All threes are called eights, but eights are called eights too: weak, not reordered."""
    labels = torch.arange(10).repeat_interleave(50)
    assert verdict_of(torch.where(labels == 3, 8, labels), labels, 10).problem is None


def test_unequal_classes_raise_what_guessing_gives():
    labels = torch.tensor([0] * 90 + [1] * 10)
    found = verdict_of(torch.zeros(100), labels, 2)
    assert found.accuracy == pytest.approx(0.9)
    assert "is its answer to 100.0%" in found.problem


@pytest.mark.parametrize("num_images", [0, 2])
def test_too_few_images_are_refused(num_images):
    labels = torch.arange(num_images)
    with pytest.raises(InputError, match=f"{num_images} real images are too few"):
        verdict_of(labels, labels, 10)
