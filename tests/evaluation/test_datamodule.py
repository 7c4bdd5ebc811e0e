"""Batches of a student: how many, in what order, augmented how."""

from dataclasses import replace

import torch

from geodm_lightning.data.augment import augmentation_for
from geodm_lightning.data.normalise import normalise
from geodm_lightning.evaluation.candidate import candidate_from_table
from geodm_lightning.evaluation.datamodule import (
    EvaluationDataModule,
    num_training_steps,
)
from geodm_lightning.randomness import keyed_generator


def module(candidate, digits, protocol, *, seed=0, index=1):
    return EvaluationDataModule(
        candidate, test=digits.test, protocol=protocol, seed=seed, index=index
    )


def test_every_epoch_shows_every_image_once(digits, candidate, tiny_a):
    plain = replace(tiny_a, augmentation="none")
    batches = list(module(candidate, digits, plain).train_dataloader())
    assert len(batches) == len(module(candidate, digits, plain).train_dataloader()) == 16
    assert [len(images) for images, _ in batches] == [32, 32, 32, 4] * 4
    everything = candidate.fetch(torch.arange(100)).flatten(1).sort(dim=0).values
    for epoch in range(4):
        seen = torch.cat([images for images, _ in batches[4 * epoch : 4 * epoch + 4]])
        assert torch.equal(seen.flatten(1).sort(dim=0).values, everything)
    assert not torch.equal(batches[0][1], batches[4][1])


def test_batches_depend_on_seed_and_index_only(digits, candidate, protocol):
    def images(**key):
        return [batch[0] for batch in module(candidate, digits, protocol, **key).train_dataloader()]

    first = images()
    assert all(torch.equal(a, b) for a, b in zip(first, images(), strict=True))
    assert not torch.equal(first[0], images(index=2)[0])
    assert not torch.equal(first[0], images(seed=1)[0])


def test_one_operation_per_batch_with_parameters_per_image(digits, candidate, tiny_a):
    images = candidate.fetch(torch.zeros(8, dtype=torch.int64))[:, None]
    augmentation = augmentation_for(digits.spec, strategy="scale_rotate", mode="one")
    draw = augmentation.draw(8, generator=keyed_generator(0, "test"), shared_op=True)
    augmented = augmentation(images, draw).flatten(1)
    distinct = {tuple(row) for row in augmented.tolist()}
    assert len(distinct) == 8
    assert len(set(draw.operation.tolist())) == 1


def test_mirroring_is_left_out_for_digits_only(digits):
    image = torch.arange(64.0).reshape(1, 1, 1, 8, 8).expand(64, 1, 1, 8, 8)
    digit = augmentation_for(digits.spec, strategy="flip", mode="one")
    mirrored = augmentation_for(digits.spec._replace(flip=True), strategy="flip", mode="one")
    draw = mirrored.draw(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(digit(image, draw=digit.draw(64, generator=torch.Generator())), image)
    changed = (mirrored(image, draw) != image).flatten(1).any(dim=1)
    assert 0 < int(changed.sum()) < 64


def test_cutmix_mixes_about_half_of_the_batches(digits, candidate, tiny_c):
    long = replace(tiny_c, epochs=70)
    batches = list(module(candidate, digits, long).train_dataloader())
    mixed = sum(len(batch) == 4 and batch[3] < 1 for batch in batches)
    assert len(batches) == 210
    # 210 draws of probability 1/2: six deviations are 43
    assert abs(mixed - 105) < 43


def test_whole_set_has_its_own_budget(digits, candidate, tiny_a):
    whole = candidate_from_table(digits.train, method="whole", label="Whole set")
    assert num_training_steps(whole, tiny_a) == 6
    assert num_training_steps(candidate, tiny_a) == 16
    batches = list(module(whole, digits, tiny_a).train_dataloader())
    assert [len(batch[0]) for batch in batches] == [32] * 6


def test_tests_see_each_image_once_in_order(digits, candidate, tiny_a):
    test, training = module(candidate, digits, tiny_a).test_dataloader()
    images = torch.cat([images for images, _ in test])
    expected = normalise(digits.test.gather(torch.arange(len(digits.test))), digits.spec)
    assert torch.equal(images, expected)
    assert torch.equal(torch.cat([labels for _, labels in test]), digits.test.labels)
    assert torch.equal(torch.cat([labels for _, labels in training]), candidate.labels)
    assert (len(test), len(training)) == (len(list(test)), len(list(training)))
