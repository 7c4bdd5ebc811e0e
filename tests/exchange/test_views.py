"""FKD labels as SRe2L's scripts make them: an independent maker, and a loader that replays."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.views import ViewRecipe, draw
from geodm_lightning.exchange.conversion import convert_set
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.formats import format_of
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.exchange.views import import_views
from geodm_lightning.exchange.writing import write_set
from geodm_lightning.labels.given import GivenViews
from geodm_lightning.labels.store import LabelStore
from geodm_lightning.types import InputError

EPOCHS, BATCH, SEED = 3, 8, 42


def loader_of(images, seed=SEED):
    """The loader that makes the labels and the one that trains on them, batch for batch."""
    data = ImageFolder(str(images), transform=pil_to_tensor)
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(data, BATCH, sampler=RandomSampler(data, generator=generator))


def teacher(images, labels):
    """Logits that know each image: its class, and its pixels."""
    logits = torch.zeros(len(images), 10)
    logits[torch.arange(len(images)), labels] = 30
    return (logits + images.float().flatten(1).mean(1, keepdim=True) / 255).half()


@pytest.fixture
def source(tmp_path, made):
    """Pictures with FKD labels of CutMix beside them."""
    write_set(tmp_path / "fkd/images", made(eight_bits=True), format="images")
    loader = loader_of(tmp_path / "fkd/images")
    generator = torch.Generator().manual_seed(1)
    for epoch in range(EPOCHS):
        folder = tmp_path / "fkd/labels" / f"epoch_{epoch}"
        folder.mkdir(parents=True)
        for number, (images, labels) in enumerate(loader):
            crops = torch.rand(len(images), 4, generator=generator) / 2 + 0.01
            flips = torch.rand(len(images), generator=generator) < 0.5
            partners = torch.randperm(len(images), generator=generator)
            box = [np.int64(1), np.int64(2), np.int64(5), np.int64(8)]
            content = [crops, flips, partners, np.float64(0.7), box, teacher(images, labels)]
            torch.save(content, folder / f"batch_{number}.tar")
    return tmp_path / "fkd"


def test_views_belong_to_the_images_they_were_made_of(source, tmp_path, spec):
    assert format_of(source) == "fkd"
    imported = read_set(source, spec=spec)
    given = import_views(imported, tmp_path / "given")
    assert (given.epochs, given.num_images, given.num_classes) == (EPOCHS, 20, 10)
    assert (given.mix, given.resolution) == ("cutmix", 8)
    for epoch in range(EPOCHS):
        batches = list(given.batches(epoch))
        assert [len(batch.indices) for batch in batches] == [8, 8, 4]
        indices = torch.cat([batch.indices for batch in batches])
        assert indices.sort().values.tolist() == list(range(20))
        distilled = imported.distilled
        for number, batch in enumerate(batches):
            expected = teacher(distilled.images[batch.indices], distilled.labels[batch.indices])
            assert torch.equal(batch.logits, expected)
            kept = torch.load(
                source / f"labels/epoch_{epoch}/batch_{number}.tar", weights_only=False
            )
            assert torch.equal(batch.crops, kept[0].double())
            assert torch.equal(batch.flips, kept[1])
            assert torch.equal(batch.partners, kept[2])
            assert batch.shares.unique().tolist() == pytest.approx([0.7])
            assert batch.boxes.unique(dim=0).tolist() == [[1, 2, 5, 8]]


def test_views_follow_images_whose_folders_sort_otherwise_than_their_classes(tmp_path, made):
    """ImageFolder lists 0, 1, 10, 11, 2 …: the positions of FKD are not those of the classes."""
    names = tuple(f"class {number}" for number in range(12))
    spec = dataset_spec("cifar10")._replace(resolution=8, num_classes=12, class_names=names)
    folder = write_set(tmp_path / "fkd/images", made(of=spec, eight_bits=True), format="images")
    for child in list(folder.iterdir()):
        child.rename(folder / f"new{int(child.name)}")
    labels = tmp_path / "fkd/labels/epoch_0"
    labels.mkdir(parents=True)
    for number, (images, _) in enumerate(loader_of(folder)):
        logits = images.float().flatten(1)[:, :12].half()  # tells the image
        own = torch.arange(len(images))
        crops = torch.tensor([0.0, 0, 1, 1]).expand(len(images), 4)
        content = [crops.clone(), own > 99, None, None, None, logits]
        torch.save(content, labels / f"batch_{number}.tar")
    imported = read_set(tmp_path / "fkd", spec=spec)
    distilled = imported.distilled
    expected = distilled.images.float().flatten(1)[:, :12].half()
    agreeing = distilled._replace(labels=expected.argmax(1))  # what these logits say
    given = import_views(imported._replace(distilled=agreeing), tmp_path / "given")
    for batch in given.batches(0):
        assert torch.equal(batch.logits, expected[batch.indices])
    assert given.mix == "none"


def test_every_epoch_has_an_order_of_its_own(source, tmp_path, spec):
    given = import_views(read_set(source, spec=spec), tmp_path / "given")
    orders = [torch.cat([b.indices for b in given.batches(e)]).tolist() for e in range(EPOCHS)]
    assert len({tuple(order) for order in orders}) == EPOCHS


def test_the_default_seed_is_said(source, spec):
    imported = read_set(source, spec=spec)
    assert any("inferred fkd_seed=42" in line for line in imported.warnings)


def test_labels_of_another_order_are_refused(source, tmp_path, spec):
    imported = read_set(source, spec=spec)
    with pytest.raises(InputError, match="no more than by chance: with seed=7"):
        import_views(imported, tmp_path / "given", seed=7)
    assert not (tmp_path / "given").exists()


def test_views_written_for_their_loader_are_replayed_as_made(source, tmp_path, spec):
    convert_set(source, tmp_path / "native", to="native", spec=spec, declared=Declaration())
    convert_set(
        tmp_path / "native", tmp_path / "again", to="fkd", spec=None, declared=Declaration()
    )
    loader = loader_of(tmp_path / "again/images")
    for epoch in range(EPOCHS):
        for number, (images, labels) in enumerate(loader):
            name = f"labels/epoch_{epoch}/batch_{number}.tar"
            again = torch.load(tmp_path / "again" / name, weights_only=True)
            before = torch.load(source / name, weights_only=False)
            for ours, theirs in zip(again[:3], before[:3], strict=True):
                assert torch.equal(ours, theirs)
            assert again[3] == pytest.approx(before[3])
            assert again[4] == [int(value) for value in before[4]]
            assert torch.equal(again[5], before[5])
            assert torch.equal(again[5], teacher(images, labels))


def test_a_conversion_that_fails_leaves_nothing(source, tmp_path, spec):
    convert_set(source, tmp_path / "native", to="native", spec=spec, declared=Declaration())
    before = sorted(tmp_path.iterdir())
    other = Declaration(seed=1)
    with pytest.raises(InputError, match="with seed=1 they belong to other images"):
        convert_set(source, tmp_path / "new", to="native", spec=spec, declared=other)
    with pytest.raises(InputError, match="not in the order of a sampler with seed=1"):
        convert_set(tmp_path / "native", tmp_path / "new", to="fkd", spec=None, declared=other)
    assert sorted(tmp_path.iterdir()) == before


def test_labels_of_a_run_are_written_where_fkd_can_express_them(tmp_path, made, spec):
    distilled = made(eight_bits=True)
    recipe = ViewRecipe(resolution=8, cutmix_probability=0)
    identity = {"images": distilled.digest(), "views": recipe.__dict__, "seed": 5}
    options = {"kind": "fp16", "num_views": 20, "num_classes": 10, "num_epochs": 2}
    store = LabelStore.open(tmp_path / "store", identity=identity, **options)
    for epoch in range(2):
        store.write(epoch, teacher(distilled.images, distilled.labels) + epoch)
    write_set(tmp_path / "fkd", distilled, format="fkd", views=tmp_path / "store")
    with pytest.raises(InputError, match="were made for another set"):
        write_set(tmp_path / "other", made(), format="fkd", views=tmp_path / "store")
    imported = read_set(tmp_path / "fkd", spec=spec)
    given = import_views(imported, tmp_path / "given")
    assert given.mix == "none"
    for epoch in range(2):
        (batch,) = given.batches(epoch)
        views = draw(recipe, seed=5, epoch=epoch, indices=batch.indices, num_images=20)
        torch.testing.assert_close(batch.crops, views.crops.boxes, rtol=0, atol=1e-7)
        assert torch.equal(batch.flips, views.crops.mirrored)
        assert torch.equal(batch.logits.float(), store.logits(epoch, batch.indices))


def test_views_that_fkd_cannot_express_are_refused(tmp_path, made):
    recipe = ViewRecipe(resolution=8)
    identity = {"images": "x", "teachers": "y", "views": recipe.__dict__, "seed": 5}
    options = {"kind": "fp16", "num_views": 20, "num_classes": 10, "num_epochs": 1}
    LabelStore.open(tmp_path / "store", identity=identity, **options)
    with pytest.raises(InputError, match="which FKD cannot express; relabel with cutmix"):
        write_set(tmp_path / "fkd", made(), format="fkd", views=tmp_path / "store")
    assert not (tmp_path / "fkd").exists()


def rewritten(path, position, value):
    content = torch.load(path, weights_only=False)
    content[position] = value
    torch.save(content, path)


@pytest.mark.parametrize(
    ("position", "value", "reason"),
    [
        (0, torch.full((8, 4), 2.0), "crops that leave the image"),
        (2, torch.full((8,), 8), "partners from 8 to 8, not below 8"),
        (3, 1.5, r"shares outside \[0, 1\]"),
        (4, [0, 0, 224, 224], "boxes from 0 to 224, not below 9"),
        (5, torch.zeros(8, 7).half(), "7 logits, 10 before"),
        (5, torch.full((8, 10), float("nan")).half(), "logits that are not finite"),
        (1, None, "no tensor of flips"),
        (4, "box", "holds no FKD labels"),
    ],
)
def test_damaged_labels_are_named(source, tmp_path, spec, position, value, reason):
    rewritten(source / "labels/epoch_1/batch_1.tar", position, value)
    with pytest.raises(InputError, match=reason) as error:
        import_views(read_set(source, spec=spec), tmp_path / "given")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no given views in"):
        GivenViews(tmp_path / "given")


def test_labels_of_another_set_are_refused(source, tmp_path, spec):
    (source / "labels/epoch_0/batch_2.tar").replace(source / "labels/epoch_0/batch_3.tar")
    with pytest.raises(InputError, match=r"there is no file .*epoch_0/batch_2.tar"):
        import_views(read_set(source, spec=spec), tmp_path / "given")
    (source / "labels/epoch_1").rename(source / "labels/epoch_7")
    with pytest.raises(InputError, match="lacks epoch_1"):
        import_views(read_set(source, spec=spec), tmp_path / "given")


def test_a_set_without_views_has_none_to_import(tmp_path, made, spec):
    imported = read_set(write_set(tmp_path / "set", made(), format="native"), spec=spec)
    with pytest.raises(InputError, match="came without FKD labels"):
        import_views(imported, tmp_path / "given")
