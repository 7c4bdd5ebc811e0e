"""Views made elsewhere are shown as they were made, whatever the student."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from geodm_lightning.evaluation.datamodule import EvaluationDataModule
from geodm_lightning.evaluation.playback import PlayedBatches, check_fits
from geodm_lightning.labels.given import GivenBatch, GivenViews
from geodm_lightning.labels.own import PlayedLabels
from geodm_lightning.types import InputError

SIDE = 8


def draw_batch(indices, generator, *, whole=False):
    size = len(indices)
    crops = torch.tensor([[0.25, 0.0, 0.5, 0.75]]).expand(size, 4)
    if whole:
        crops = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(size, 4)
    return GivenBatch(
        indices=indices,
        crops=crops,
        flips=torch.rand(size, generator=generator) < 0.5,
        partners=torch.randperm(size, generator=generator),
        boxes=torch.tensor([[2, 1, 5, 7]]).expand(size, 4),
        shares=torch.full((size,), 1 - 18 / 64),
        logits=torch.randn(size, 10, generator=generator).half(),
    )


@pytest.fixture
def give(tmp_path):
    def write(mix="cutmix", *, epochs=3, batch_size=40, whole=False):
        generator = torch.Generator().manual_seed(0)
        made = [
            [
                draw_batch(indices, generator, whole=whole)
                for indices in torch.randperm(100, generator=generator).split(batch_size)
            ]
            for _ in range(epochs)
        ]
        options = {"num_images": 100, "resolution": SIDE, "source": {}}
        return made, GivenViews.write(tmp_path / mix, made, mix=mix, **options)

    return write


def by_hand(candidate, batch, mix):
    """Views one by one: cut with torch's own resampling, mirror, mix."""
    views = []
    for index, (top, left, height, width), mirrored in zip(
        batch.indices, (SIDE * batch.crops).int().tolist(), batch.flips, strict=True
    ):
        image = candidate.fetch(index[None])[:, :, top : top + height, left : left + width]
        image = F.interpolate(image, size=(SIDE, SIDE), mode="nearest")
        views.append(image.flip(-1) if mirrored else image)
    views = torch.cat(views)
    partners = views[batch.partners]
    if mix == "mixup":
        share = batch.shares[:, None, None, None]
        return share * views + (1 - share) * partners
    if mix == "cutmix":
        mixed = views.clone()
        for image, partner, box in zip(mixed, partners, batch.boxes.tolist(), strict=True):
            rows, columns = slice(box[0], box[2]), slice(box[1], box[3])
            image[:, rows, columns] = partner[:, rows, columns]
        return mixed
    return views


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_batches_are_what_was_given(candidate, give, mix):
    made, views = give(mix, whole=True)
    given = [batch for epoch in made for batch in epoch]
    shown = list(PlayedBatches(candidate, views, num_steps=len(given)))
    assert len(shown) == len(given) == 9
    for batch, expected in zip(shown, given, strict=True):
        torch.testing.assert_close(batch.images, by_hand(candidate, expected, mix))
        assert torch.equal(batch.logits, expected.logits.float())
        assert torch.equal(batch.labels, candidate.labels[expected.indices])
        partners = expected.indices[expected.partners]
        assert torch.equal(batch.partner_labels, candidate.labels[partners])
        assert batch.partner_logits is None  # the labels are of the mixed views


def test_a_crop_is_read_where_it_was_taken(candidate, give):
    """Enlarged pixels lie between their neighbours: the middle of a flat crop is exact."""
    made, views = give("none")
    batch = made[0][0]
    flat = candidate._replace(fetch=lambda indices: ramp().expand(len(indices), 1, SIDE, SIDE))
    shown = next(iter(PlayedBatches(flat, views, num_steps=1))).images
    rows = shown.mean((1, 3))
    # rows 2 to 6 of the ramp 0 … 7, in eight steps of half a row
    expected = 2.0 + 0.5 * (torch.arange(8) + 0.5) - 0.5
    torch.testing.assert_close(rows, expected.expand(len(batch.indices), 8))


def ramp():
    return torch.arange(float(SIDE)).view(1, 1, SIDE, 1).expand(1, 1, SIDE, SIDE)


def test_every_student_is_shown_the_same(candidate, digits, give, tiny_views):
    _, views = give()
    protocol = replace(tiny_views, epochs=2, batch_size=40)
    shown = [
        list(
            EvaluationDataModule(
                candidate, test=digits.test, protocol=protocol, seed=seed, index=index,
                labeller=PlayedLabels(views),
            ).train_dataloader()
        )
        for seed, index in ((0, 0), (3, 1))
    ]  # fmt: skip
    assert len(shown[0]) == 6  # two of three epochs
    for first, second in zip(*shown, strict=True):
        assert torch.equal(first.images, second.images)


def test_labels_are_found_by_epoch_and_image(give):
    made, views = give()
    labels = PlayedLabels(views)
    batch = made[2][1]
    found = labels.logits(2, batch.indices, torch.zeros(1))
    assert torch.equal(found, batch.logits.float())
    assert (labels.num_classes, labels.identity()[:6]) == (10, "given ")


def test_other_batches_than_the_protocols_are_refused(give, tiny_views):
    _, views = give()
    protocol = replace(tiny_views, epochs=3, batch_size=40)
    check_fits(views, protocol, num_images=100, resolution=SIDE)
    for changes, fits, message in (
        ({}, {"num_images": 400}, "of 100 images, protocol E has 400; import the set again"),
        ({}, {"resolution": 6}, "8 px wide, protocol E shows 6; set evaluation.protocol.resol"),
        ({"batch_size": 50}, {}, "in 3 batches of 40, protocol E makes 2 of 50; set evaluation"),
        ({"epochs": 4}, {}, "of 3 epochs, protocol E makes 4; set evaluation.protocol.epochs=3"),
    ):
        known = {"num_images": 100, "resolution": SIDE, **fits}
        other = replace(protocol, **changes)
        with pytest.raises(InputError, match=message):
            check_fits(views, other, **known)
