"""Students: fresh weights, the schedule as it is stepped, and a plain loop as the reference."""

import math
from dataclasses import replace

import pytest
import torch
from lightning import Callback
from torch.nn import functional as F

from geodm_lightning.evaluation.datamodule import EvaluationDataModule
from geodm_lightning.evaluation.student import StudentModule
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.evaluation.together import JointDataModule
from geodm_lightning.matching.logits import logit_transport
from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.classifier import classification_loss
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import InputError

# lightning 2.6 on torch 2.15

SITE = Site(torch.device("cpu"))


def weights(student: StudentModule) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(student.network.parameters()).detach().clone()


def build(digits, protocol, *, seed=0, index=1, num_steps=16) -> StudentModule:
    return StudentModule(protocol, digits.spec, seed=seed, indices=[index], num_steps=num_steps)


def fit(student, digits, candidate, protocol, *callbacks) -> None:
    module = EvaluationDataModule(candidate, test=digits.test, protocol=protocol, seed=0, index=1)
    batches = JointDataModule([module])
    steps = len(batches.train_dataloader())
    site_trainer = SITE.trainer(max_epochs=1, max_steps=steps, callbacks=list(callbacks))
    site_trainer.fit(student, batches)


def test_weights_depend_on_seed_and_index_only(digits, tiny_a):
    first = weights(build(digits, tiny_a))
    torch.manual_seed(123)  # nothing global is read
    assert torch.equal(first, weights(build(digits, tiny_a)))
    assert not torch.equal(first, weights(build(digits, tiny_a, index=2)))
    assert not torch.equal(first, weights(build(digits, tiny_a, seed=1)))


def test_weights_are_those_of_an_untrained_network(digits, candidate, tiny_a):
    trained = build(digits, tiny_a)
    untouched = weights(trained)
    fit(trained, digits, candidate, tiny_a)
    after = build(digits, tiny_a)
    assert not torch.equal(weights(trained), untouched)
    assert torch.equal(weights(after), untouched)
    fresh = build_network(
        "convnet", num_classes=10, channels=1, resolution=8, width=4, depth=3,
        generator=keyed_generator(0, "student", 1),
    )  # fmt: skip
    expected = torch.nn.utils.parameters_to_vector(fresh.parameters())
    assert torch.equal(weights(after), expected)


class Rates(Callback):
    """Collects the learning rate each batch is trained with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def closed_form_rate(protocol, step: int, num_steps: int) -> float:
    cuts = sum(step >= share * num_steps for share in protocol.milestones)
    return protocol.lr * protocol.gamma**cuts


def test_schedule_is_stepped_with_every_batch(digits, candidate, protocol):
    num_steps = protocol.num_steps(100)
    student, rates = build(digits, protocol, num_steps=num_steps), Rates()
    fit(student, digits, candidate, protocol, rates)
    expected = [closed_form_rate(protocol, step, num_steps) for step in range(num_steps)]
    assert rates.seen == pytest.approx(expected, rel=1e-12)


def test_equals_a_plain_loop(digits, candidate, protocol):
    num_steps = protocol.num_steps(100)
    student = build(digits, protocol, num_steps=num_steps)
    fit(student, digits, candidate, protocol)

    network = build_network(
        "convnet", num_classes=10, channels=1, resolution=8, width=4, depth=3,
        generator=keyed_generator(0, "student", 1),
    )  # fmt: skip
    if protocol.name == "A":
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    batches = EvaluationDataModule(candidate, test=digits.test, protocol=protocol, seed=0, index=1)
    for step, batch in enumerate(batches.train_dataloader()):
        for group in optimizer.param_groups:
            group["lr"] = closed_form_rate(protocol, step, num_steps)
        optimizer.zero_grad()
        classification_loss(network, batch).backward()
        optimizer.step()
    expected = torch.nn.utils.parameters_to_vector(network.parameters())
    torch.testing.assert_close(weights(student), expected, rtol=1e-5, atol=1e-7)


def test_views_are_learned_as_a_plain_loop_learns_them(digits, candidate, tiny_views):
    """Smoothed cosine, decay of matrices alone, soft labels, and the average in the end."""
    teacher = build_network(
        "convnet", num_classes=10, channels=1, resolution=8, width=4, depth=3,
        generator=keyed_generator(7, "teacher"),
    ).eval()  # fmt: skip

    class Online:
        num_classes = 10

        def logits(self, epoch, indices, images):
            with torch.no_grad():
                return teacher(images)

        def identity(self):
            return "online"

    supervision = Supervision("otm", "OTM", ce=0.1, mse=1.0, transport=0.01, teachers="all")
    num_steps = tiny_views.num_steps(100)
    student = StudentModule(
        tiny_views, digits.spec, seed=0, indices=[1], num_steps=num_steps, supervision=supervision
    )
    module = EvaluationDataModule(
        candidate, test=digits.test, protocol=tiny_views, seed=0, index=1, labeller=Online()
    )
    SITE.trainer(max_epochs=1, max_steps=num_steps).fit(student, JointDataModule([module]))

    network = build_network(
        "convnet", num_classes=10, channels=1, resolution=8, width=4, depth=3,
        generator=keyed_generator(0, "student", 1),
    )  # fmt: skip
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    )
    average = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    for step, batch in enumerate(module.train_dataloader()):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / (2 * num_steps)))
        optimizer.zero_grad()
        answers, wanted = network(batch.images), teacher(batch.images).detach()
        loss = 0.1 * F.cross_entropy(answers, batch.labels) + F.mse_loss(answers, wanted)
        (loss + 0.01 * logit_transport(answers, wanted)).backward()
        optimizer.step()
        kept = min(0.9, (1 + step) / (10 + step))
        now = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
        average = kept * average + (1 - kept) * now
    assert step + 1 == num_steps
    torch.testing.assert_close(weights(student), average, rtol=1e-5, atol=1e-7)


def test_scores_by_hand(digits, candidate, tiny_a):
    student = build(digits, tiny_a)
    batches = EvaluationDataModule(candidate, test=digits.test, protocol=tiny_a, seed=0, index=1)
    SITE.trainer().test(student, batches, verbose=False)
    student.eval()
    images, labels = zip(*batches.test_dataloader()[0], strict=True)
    logits, labels = student(torch.cat(images)), torch.cat(labels)
    score = student.scores[0]
    assert score.accuracy == (logits.argmax(1) == labels).sum().item() / len(labels)
    assert score.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_loss_that_is_not_finite_names_the_student(digits, candidate, tiny_a):
    def broken(indices):
        return candidate.fetch(indices) * torch.nan

    with pytest.raises(InputError, match="student 1 is nan at step 0"):
        fit(build(digits, tiny_a), digits, candidate._replace(fetch=broken), tiny_a)


def test_divergence_between_looks_is_seen_by_the_test(digits, candidate, tiny_a):
    wild = replace(tiny_a, lr=1e30)
    student = build(digits, wild)
    fit(student, digits, candidate, wild)
    batches = EvaluationDataModule(candidate, test=digits.test, protocol=wild, seed=0, index=1)
    with pytest.raises(InputError, match="student 1"):
        SITE.trainer().test(student, batches, verbose=False)
