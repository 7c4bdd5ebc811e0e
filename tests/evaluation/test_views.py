"""What students see: sizes, views of every epoch, and the labels that belong to them."""

from dataclasses import replace

import pytest
import torch

from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import TensorTable
from geodm_lightning.data.views import ViewRecipe, draw, render
from geodm_lightning.evaluation.datamodule import EvaluationDataModule
from geodm_lightning.evaluation.views import ViewBatches, input_spec, view_recipe
from geodm_lightning.types import InputError, LabelledImages


class Echo:
    """Answers with what it was asked: epoch and image, so that labels can be recognised."""

    num_classes = 10

    def logits(self, epoch, indices, images):
        answers = torch.zeros(len(images), 10)
        answers[:, 0], answers[:, 1] = epoch, indices
        answers[:, 2] = images.sum((1, 2, 3))
        return answers

    def identity(self):
        return "echo"


@pytest.fixture
def viewed(tiny_c):
    return replace(tiny_c, augmentation="none", cutmix_probability=0.0, views={}, epochs=3)


def batches_of(candidate, digits, protocol, *, index=0, seed=0, **options):
    module = EvaluationDataModule(
        candidate, test=digits.test, protocol=protocol, seed=seed, index=index, **options
    )
    return module.train_dataloader()


def test_every_epoch_shows_every_image_once_with_its_own_label(digits, candidate, viewed):
    batches = list(batches_of(candidate, digits, viewed, labeller=Echo()))
    assert [len(batch.images) for batch in batches] == [40, 40, 20] * 3
    orders = []
    for epoch in range(3):
        part = batches[3 * epoch : 3 * epoch + 3]
        answers = torch.cat([batch.logits for batch in part])
        assert answers[:, 0].eq(epoch).all()
        order = answers[:, 1].long()
        assert order.sort().values.tolist() == list(range(100))
        assert torch.equal(torch.cat([batch.labels for batch in part]), candidate.labels[order])
        sums = torch.cat([batch.images.sum((1, 2, 3)) for batch in part])
        assert torch.equal(answers[:, 2], sums)
        orders.append(order.tolist())
    assert orders[0] != orders[1]


def test_views_are_those_of_the_seed_and_the_epoch(digits, candidate, viewed):
    """Teachers draw them again from these alone: neither order, batch nor student matters."""
    recipe = ViewRecipe(resolution=8, flip=False)
    assert view_recipe(viewed, digits.spec) == recipe
    for index, batch_size in ((0, 40), (3, 7)):
        protocol = replace(viewed, batch_size=batch_size)
        echo = {"index": index, "seed": 5, "labeller": Echo()}
        for batch in batches_of(candidate, digits, protocol, **echo):
            epoch, indices = int(batch.logits[0, 0]), batch.logits[:, 1].long()
            views = draw(recipe, seed=5, epoch=epoch, indices=indices, num_images=100)
            assert torch.equal(batch.images, render(candidate.fetch, indices, views, recipe))
            assert torch.equal(batch.partner_labels, candidate.labels[views.partners])
            torch.testing.assert_close(batch.shares, views.shares.float())


def test_students_of_one_seed_see_one_epoch_in_orders_of_their_own(digits, candidate, viewed):
    first, second = (
        torch.cat([batch.logits[:, 1] for batch in batches_of(
            candidate, digits, viewed, index=index, labeller=Echo())])
        for index in (0, 1)
    )  # fmt: skip
    assert first[:100].tolist() != second[:100].tolist()


def test_augmentation_comes_after_the_labels_and_changes_images_alone(digits, candidate, viewed):
    plain = next(iter(batches_of(candidate, digits, viewed, labeller=Echo())))
    coloured = replace(viewed, augmentation="color")
    batch = next(iter(batches_of(candidate, digits, coloured, labeller=Echo())))
    assert torch.equal(batch.logits, plain.logits)
    assert torch.equal(batch.shares, plain.shares)
    assert not torch.equal(batch.images, plain.images)


def test_mirrored_only_where_data_set_and_protocol_agree(digits, viewed):
    mirrored = digits.spec._replace(flip=True)
    assert view_recipe(viewed, mirrored).flip
    assert not view_recipe(viewed, digits.spec).flip
    assert not view_recipe(replace(viewed, views={"flip": False}), mirrored).flip


@pytest.mark.parametrize("views", [None, {}])
def test_smaller_input_is_the_centre_of_the_images(digits, candidate, viewed, views):
    protocol = replace(viewed, views=views, resolution=6)
    assert input_spec(protocol, digits.spec).resolution == 6
    module = EvaluationDataModule(
        candidate, test=digits.test, protocol=protocol, seed=0, index=0
    )  # fmt: skip
    test, training = (torch.cat([batch[0] for batch in part]) for part in module.test_dataloader())
    everything = normalise(digits.test.gather(torch.arange(len(digits.test))), digits.spec)
    assert torch.equal(test, everything[..., 1:7, 1:7])
    assert torch.equal(training, candidate.fetch(torch.arange(100))[..., 1:7, 1:7])
    for batch in module.train_dataloader():
        assert batch[0].shape[1:] == (1, 6, 6)


def test_large_test_images_come_in_smaller_batches(digits, candidate, viewed):
    big = digits.spec._replace(resolution=128)
    data = LabelledImages(torch.zeros(300, 1, 128, 128, dtype=torch.uint8), torch.arange(300) % 10)
    module = EvaluationDataModule(
        candidate, test=TensorTable(data, big), protocol=viewed, seed=0, index=0
    )  # fmt: skip
    sizes = [len(images) for images, _ in module.test_dataloader()[0]]
    assert sum(sizes) == 300
    assert max(sizes) * 128**2 <= 2**22
    assert len(module.test_dataloader()[0]) == len(sizes)


def test_refusals(digits, viewed):
    with pytest.raises(InputError, match="resolution is 16, images of digits have 8 pixels"):
        input_spec(replace(viewed, resolution=16), digits.spec)
    with pytest.raises(InputError, match="protocol C has no views"):
        view_recipe(replace(viewed, views=None), digits.spec)


def test_stream_ends_with_its_steps(candidate, viewed, digits):
    recipe = view_recipe(viewed, digits.spec)
    batches = ViewBatches(candidate, recipe=recipe, batch_size=40, num_steps=5, seed=0, index=0)
    assert len(batches) == len(list(batches)) == 5
    assert next(iter(batches)).logits is None
