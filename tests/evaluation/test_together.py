"""Students at once: the batches, the weights and the scores each of them has alone."""

from dataclasses import replace

import pytest
import torch
from torch.utils import _pytree as pytree

from geodm_lightning.audit.calibration import confidence_sums, expected_calibration_error
from geodm_lightning.evaluation.student import StudentModule
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.evaluation.together import Course
from geodm_lightning.labels.own import OwnLabels
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import InputError

# lightning 2.6 on torch 2.15

SITE = Site(torch.device("cpu"))
INDICES = (0, 2, 5)
LAST = "classifier.weight"
SOFT = Supervision(
    "soft", "Soft", ce=0.1, mse=1.0, kl=0.5, kl_temperature=2.0, transport=0.01, teachers="all"
)
OWN = Supervision("own", "Own", ce=0.0, kl=1.0, kl_temperature=1.0, teachers="own")
COURSES = ("A", "C", "views", "taught views", "own labels")


class Online:
    """A labeller of one teacher that is asked at every step."""

    num_classes = 10

    def __init__(self) -> None:
        self.teacher = build_network(
            "convnet", num_classes=10, channels=1, resolution=8, width=4, depth=3,
            generator=keyed_generator(7, "teacher"),
        ).eval()  # fmt: skip

    def logits(self, epoch, indices, images):
        with torch.no_grad():
            return self.teacher(images)

    def identity(self):
        return "online"


@pytest.fixture(params=COURSES)
def course(request, digits, candidate, tiny_a, tiny_c, tiny_views) -> Course:
    """Every optimiser, schedule, average and supervision there is; last batches are short."""
    protocol = {"A": tiny_a, "C": tiny_c, "own labels": tiny_c}.get(request.param, tiny_views)
    course = Course(candidate, digits.test, protocol, seed=0)
    if request.param == "taught views":
        return course._replace(supervision=SOFT, labeller=Online())
    if request.param == "own labels":
        table = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
        return course._replace(supervision=OWN, labeller=OwnLabels(table))
    return course


def trained(course: Course, indices, *, site: Site = SITE) -> StudentModule:
    students = course.students(indices)
    trainer = site.trainer(max_epochs=1, max_steps=course.num_steps)
    trainer.fit(students, course.batches(indices))
    trainer.test(students, course.batches(indices), verbose=False)
    return students


def test_batches_are_those_of_each_alone(course):
    """Order, augmentation, CutMix and answers of teachers, in every step and number."""
    alone = [list(course.batches([index]).train_dataloader()) for index in INDICES]
    steps = 0
    for step, batches in enumerate(course.batches(INDICES).train_dataloader()):
        for own, expected in zip(batches, alone, strict=True):
            found, wanted = (pytree.tree_leaves(part) for part in (own, expected[step][0]))
            assert len(found) == len(wanted)
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        steps += 1
    assert steps == course.num_steps
    sizes = {len(batches[0][0]) for batches in course.batches(INDICES).train_dataloader()}
    assert len(sizes) == 2  # the last batch of an epoch is a short one


def test_students_become_what_they_become_alone(course):
    """In double precision, as Adam blows up the rounding of gradients that are zero."""
    exact = Site(torch.device("cpu"), precision="64-true")
    together = trained(course, INDICES, site=exact)
    untrained = course.students(INDICES).network
    for position, index in enumerate(INDICES):
        alone = trained(course, [index], site=exact)
        weights = together.network.weights_of(position)
        for name, parameter in alone.network.named_parameters():
            assert parameter.dtype == torch.float64
            torch.testing.assert_close(weights[name], parameter, rtol=1e-8, atol=1e-9)
        moved = (weights[LAST] - untrained.weights_of(position)[LAST]).abs().max()
        assert moved > 1e-4  # far more than they differ by
        assert together.scores[position] == pytest.approx(alone.scores[0], rel=1e-6)


def test_scores_are_those_of_each_alone_but_for_rounding(course):
    together = trained(course, INDICES)
    assert len({score.loss for score in together.scores}) == len(INDICES)
    for index, found in zip(INDICES, together.scores, strict=True):
        expected = trained(course, [index]).scores[0]
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
        assert found.accuracy == pytest.approx(expected.accuracy, abs=2 / 360)
        assert found.train_accuracy == pytest.approx(expected.train_accuracy, abs=2 / 100)


@pytest.mark.parametrize("indices", [[1], [1, 3]])
def test_scores_by_hand(digits, candidate, tiny_a, indices):
    course = Course(candidate, digits.test, tiny_a, seed=0)
    students, batches = course.students(indices), course.batches(indices)
    SITE.trainer().test(students, batches, verbose=False)
    images, labels = (torch.cat(part) for part in zip(*batches.test_dataloader()[0], strict=True))
    for index, score in zip(indices, students.scores, strict=True):
        logits = course.students([index]).network.eval()(images).detach()
        assert score.accuracy == (logits.argmax(1) == labels).sum().item() / len(labels)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert score.loss == pytest.approx(loss, rel=1e-5)
        expected = expected_calibration_error(confidence_sums(logits, labels))
        assert score.calibration_error == pytest.approx(expected, abs=1e-6)


def test_the_student_whose_loss_is_not_finite_is_named(digits, candidate, tiny_a):
    course = Course(candidate, digits.test, replace(tiny_a, epochs=1), seed=0)
    students = course.students([4, 6, 9])
    students.network.weights_of(1)["classifier.bias"].fill_(torch.nan)
    trainer = SITE.trainer(max_epochs=1, max_steps=course.num_steps)
    with pytest.raises(InputError, match="loss of student 6 is nan at step 0"):
        trainer.fit(students, course.batches([4, 6, 9]))
