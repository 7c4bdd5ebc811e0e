"""Classifier: the loss it descends, and the accuracy it reports."""

import lightning
import pytest
import torch
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.classifier import Classifier, classification_loss
from geodm_lightning.networks.network import Network

# lightning 2.6 on torch 2.15


def small_network(num_classes: int = 3) -> Network:
    return build_network(
        "convnet",
        num_classes=num_classes,
        channels=1,
        resolution=8,
        generator=torch.Generator().manual_seed(0),
        width=4,
    )


def batch(size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(size) % 3


class Batches:
    """A loader of given batches."""

    def __init__(self, *batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def trainer(**options) -> lightning.Trainer:
    noisy = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet = dict.fromkeys(noisy, False)
    return lightning.Trainer(accelerator="cpu", max_epochs=1, **quiet, **options)


def sgd(parameters) -> SGD:
    return SGD(parameters, lr=0.1)


def test_plain_loss_is_the_cross_entropy():
    network, (images, labels) = small_network(), batch()
    chance = F.log_softmax(network(images), -1)[torch.arange(12), labels]
    torch.testing.assert_close(classification_loss(network, (images, labels)), -chance.mean())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_loss_is_the_loss_of_the_mixed_label(share):
    network, (images, labels) = small_network(), batch()
    other = labels.roll(1)
    soft = share * F.one_hot(labels, 3) + (1 - share) * F.one_hot(other, 3)
    expected = F.cross_entropy(network(images), soft.float())
    result = classification_loss(network, (images, labels, other, share))
    torch.testing.assert_close(result, expected)


def test_training_equals_the_loop_written_out():
    network, reference = small_network(), small_network()
    classifier = Classifier(
        network,
        optimizer=sgd,
        scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 0.5**step),
    )
    trainer().fit(classifier, Batches(*[batch()] * 3))
    for step in range(3):  # the schedule is stepped after every training step
        loss = F.cross_entropy(reference(batch()[0]), batch()[1])
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(reference.parameters(), gradients, strict=True):
                parameter -= 0.1 * 0.5**step * gradient
    for trained, expected in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(trained, expected)


def test_augmentation_sees_every_step_and_may_mix_labels():
    steps = []

    def augment(images, labels, step):
        steps.append(step)
        return images, labels, labels.roll(1), 0.5

    classifier = Classifier(small_network(), optimizer=sgd, augment=augment)
    trainer().fit(classifier, Batches(*[batch()] * 4))
    assert steps == [0, 1, 2, 3]


def test_accuracy_is_the_fraction_of_right_answers():
    network = small_network()
    images, _ = batch(20)
    answers = network(images).argmax(-1)
    labels = torch.where(torch.arange(20) < 15, answers, (answers + 1) % 3)
    loader = Batches((images[:8], labels[:8]), (images[8:], labels[8:]))  # batches of unequal size
    (result,) = trainer().test(Classifier(network, optimizer=sgd), loader, verbose=False)
    assert result["accuracy"] == pytest.approx(0.75)


def test_loss_is_logged_only_when_asked_for():
    for log_loss in (False, True):
        classifier = Classifier(small_network(), optimizer=sgd, log_loss=log_loss)
        fitted = trainer()
        fitted.fit(classifier, Batches(batch()))
        assert ("loss" in fitted.callback_metrics) == log_loss
