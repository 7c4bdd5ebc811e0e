"""Soft labels of images: they follow the image and the patch through every augmentation."""

from dataclasses import replace

import pytest
import torch

from geodm_lightning.evaluation.candidate import candidate_from_set
from geodm_lightning.evaluation.datamodule import EvaluationDataModule
from geodm_lightning.labels.own import OwnLabels

CPU = torch.device("cpu")


@pytest.fixture
def labelled(digits, make_set):
    """Real digits whose soft labels are all different."""
    table = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
    return candidate_from_set(make_set()._replace(soft_labels=table), spec=digits.spec, device=CPU)


def batches_of(candidate, digits, protocol, labeller):
    module = EvaluationDataModule(
        candidate, test=digits.test, protocol=protocol, seed=0, index=0, labeller=labeller
    )
    return list(module.train_dataloader())


def test_images_and_patches_bring_their_labels(labelled, digits, tiny_c):
    """The images are those of hard labels, bit by bit, and every label is that of its image."""
    own = batches_of(labelled, digits, tiny_c, OwnLabels(labelled.soft_labels))
    hard = batches_of(labelled, digits, tiny_c, None)
    assert len(own) == len(hard) == tiny_c.num_steps(100)
    mixed = 0
    for taught, plain in zip(own, hard, strict=True):
        assert torch.equal(taught.images, plain[0])
        assert torch.equal(taught.labels, plain[1])
        assert torch.equal(taught.partner_labels, plain[2])
        assert taught.shares.tolist() == pytest.approx([plain[3]] * len(plain[0]))
        mixed += plain[3] < 1
        for logits, classes in (
            (taught.logits, taught.labels),
            (taught.partner_logits, taught.partner_labels),
        ):
            positions = (logits[:, None] == labelled.soft_labels).all(2).int().argmax(1)
            assert torch.equal(labelled.soft_labels[positions], logits)
            assert torch.equal(labelled.labels[positions], classes)
    assert 0 < mixed < len(own)


def test_every_image_is_seen_once_an_epoch(labelled, digits, tiny_a):
    own = batches_of(labelled, digits, tiny_a, OwnLabels(labelled.soft_labels))
    epoch = torch.cat([batch.logits for batch in own[: tiny_a.num_steps(100) // tiny_a.epochs]])
    assert sorted(epoch[:, 0].tolist()) == sorted(labelled.soft_labels[:, 0].tolist())
    assert all(batch.shares.eq(1).all() for batch in own)


def test_views_bring_the_labels_of_both_images(labelled, digits, tiny_views):
    protocol = replace(tiny_views, views={"cutmix_probability": 1.0})
    for batch in batches_of(labelled, digits, protocol, OwnLabels(labelled.soft_labels))[:3]:
        for logits, classes in (
            (batch.logits, batch.labels),
            (batch.partner_logits, batch.partner_labels),
        ):
            positions = (logits[:, None] == labelled.soft_labels).all(2).int().argmax(1)
            assert torch.equal(labelled.labels[positions], classes)


def test_mosaics_hand_their_label_to_every_tile(digits, make_set):
    table = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
    mosaics = make_set(factor=2)._replace(soft_labels=table)
    candidate = candidate_from_set(mosaics, spec=digits.spec, device=CPU)
    assert torch.equal(candidate.soft_labels, table.repeat_interleave(4, 0))


def test_identity_follows_the_labels(labelled):
    table = labelled.soft_labels
    assert OwnLabels(table).identity() == OwnLabels(table.clone()).identity()
    assert OwnLabels(table).identity() != OwnLabels(table + 1).identity()
