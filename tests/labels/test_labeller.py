"""Stored and online labels of digits say the same, whoever wrote them and in what batches."""

import pytest
import torch

from geodm_lightning.data.views import ViewRecipe, draw, render
from geodm_lightning.labels.labeller import (
    OnlineLabels,
    StoredLabels,
    label_identity,
    relabel,
)
from geodm_lightning.labels.store import LabelStore
from geodm_lightning.processes import Processes
from geodm_lightning.types import InputError

RECIPE = ViewRecipe(8, flip=False)
NUM_VIEWS, NUM_EPOCHS = 100, 5


@pytest.fixture
def images(digits):
    return digits[0][::14][:NUM_VIEWS]


def new_store(folder, pool, kind="fp16", recipe=RECIPE, seed=0, **options):
    return LabelStore.open(
        folder,
        identity=label_identity(pool, recipe, seed=seed, images="set"),
        kind=kind,
        num_views=NUM_VIEWS,
        num_classes=10,
        num_epochs=NUM_EPOCHS,
        **options,
    )


def write_all(store, pool, images, **options):
    return relabel(store, pool, RECIPE, fetch=lambda i: images[i], seed=0, **options)


def everything(store):
    return torch.stack([store.logits(e, torch.arange(NUM_VIEWS)) for e in range(NUM_EPOCHS)])


def test_stored_labels_are_what_online_teachers_say(tmp_path, pool, images):
    store = new_store(tmp_path / "labels", pool)
    assert write_all(store, pool, images) == NUM_EPOCHS
    stored, online = StoredLabels(store), OnlineLabels(pool, num_classes=10)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(NUM_EPOCHS):
        for indices in torch.randperm(NUM_VIEWS, generator=generator).split(17):
            views = draw(RECIPE, seed=0, epoch=epoch, indices=indices, num_images=NUM_VIEWS)
            seen = render(lambda chosen: images[chosen], indices, views, RECIPE)
            expected = online.logits(epoch, indices, seen)
            found = stored.logits(epoch, indices, seen)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert stored.identity() == online.identity() == pool.digest()
    assert stored.num_classes == online.num_classes == 10


def test_labels_do_not_depend_on_batches_or_processes(tmp_path, pool, images):
    alone = new_store(tmp_path / "alone", pool)
    write_all(alone, pool, images)
    shared = new_store(tmp_path / "shared", pool)
    counts = [
        write_all(shared, pool, images, batch_size=7, processes=Processes(rank, 2))
        for rank in (1, 0)
    ]
    assert counts == [2, 3]
    torch.testing.assert_close(everything(shared), everything(alone), rtol=1e-3, atol=1e-3)


def test_only_what_is_missing_is_written_again(tmp_path, pool, images):
    store = new_store(tmp_path / "labels", pool)
    write_all(store, pool, images)
    before = everything(store)
    times = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    store.part(3).unlink()
    told = []
    resumed = new_store(tmp_path / "labels", pool)
    assert write_all(resumed, pool, images, report=lambda *done: told.append(done)) == 1
    assert told == [(1, 1)]
    assert torch.equal(everything(resumed), before)
    kept = [path for path in times if path != store.part(3)]
    assert [path.stat().st_mtime_ns for path in kept] == [times[path] for path in kept]


def test_epochs_have_labels_of_their_own(tmp_path, pool, images):
    store = new_store(tmp_path / "labels", pool)
    write_all(store, pool, images)
    labels = everything(store)
    assert not torch.isclose(labels[0], labels[1]).all(1).any()


def test_a_student_can_learn_from_either(tmp_path, pool, images):
    store = new_store(tmp_path / "labels", pool)
    write_all(store, pool, images)
    for labeller in (StoredLabels(store), OnlineLabels(pool, num_classes=10)):
        weight = torch.zeros(64, 10, requires_grad=True)
        answers = images.flatten(1) @ weight
        target = labeller.logits(0, torch.arange(NUM_VIEWS), images)
        assert not target.requires_grad
        ((answers - target) ** 2).mean().backward()
        expected = -2 * images.flatten(1).T @ target / target.numel()
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_an_encoding_that_loses_more_is_another_labeller(tmp_path, pool):
    identities = [
        StoredLabels(new_store(tmp_path / "int8", pool, "int8")).identity(),
        StoredLabels(new_store(tmp_path / "top3", pool, "topk", top_k=3)).identity(),
        StoredLabels(new_store(tmp_path / "top4", pool, "topk", top_k=4)).identity(),
        OnlineLabels(pool, num_classes=10).identity(),
        OnlineLabels(pool.prefix(1), num_classes=10).identity(),
    ]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"recipe": ViewRecipe(8, flip=False, cutmix_beta=0.5)}, "views.cutmix_beta"),
    ],
)
def test_labels_of_other_views_are_refused(tmp_path, pool, changes, key):
    new_store(tmp_path / "labels", pool)
    with pytest.raises(InputError, match=f"made with another {key}"):
        new_store(tmp_path / "labels", pool, **changes)
    with pytest.raises(InputError, match="made with another teachers"):
        new_store(tmp_path / "labels", pool.prefix(1))
