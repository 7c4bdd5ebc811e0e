"""What is not declared is inferred with a warning, or asked for; never taken silently."""

import ast
import importlib.util
from pathlib import Path

import pytest
import torch

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.normalise import normalise
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.label_kinds import MTT_ORDER, mtt_order
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.types import InputError

WHOLE = Declaration(factor=1)


def said(imported, start):
    return [line for line in imported.warnings if line.startswith(start)]


def test_a_mosaic_cannot_be_seen_so_the_default_is_said(keep, made, spec):
    imported = read_set(keep(*made()[:2]), spec=spec)
    assert imported.distilled.manifest["factor"] == 2
    assert "the file cannot tell" in said(imported, "inferred factor=2")[0]
    assert not said(read_set(keep(*made()[:2]), spec=spec, declared=WHOLE), "inferred factor")
    with pytest.raises(InputError, match="factor=3 does not divide images of 8 pixels"):
        read_set(keep(*made()[:2]), spec=spec, declared=Declaration(factor=3))


def test_probabilities_become_the_logits_that_give_them(keep, made, spec):
    shares = made(soft=True).soft_labels.softmax(1)
    imported = read_set(keep(made().images, shares), spec=spec, declared=WHOLE)
    torch.testing.assert_close(imported.distilled.soft_labels.softmax(1), shares)
    assert said(imported, "inferred labels=probabilities: rows sum to 1")
    assert torch.equal(imported.distilled.labels, made().labels)


def test_probabilities_of_none_stay_finite(keep, made, spec):
    hot = torch.nn.functional.one_hot(made().labels, 10).float()
    imported = read_set(keep(made().images, hot), spec=spec, declared=WHOLE)
    torch.testing.assert_close(imported.distilled.soft_labels.softmax(1), hot)


@pytest.mark.parametrize(
    ("labels", "kind", "reason"),
    [
        (torch.randn(20, 10), "probabilities", "rows are not shares"),
        (torch.randn(20, 10), "classes", "there is a row of values"),
        (torch.arange(10).repeat(2), "logits", "there is one value per image"),
    ],
)
def test_labels_that_are_not_as_declared_are_refused(keep, made, spec, labels, kind, reason):
    declared = WHOLE._replace(labels=kind)
    with pytest.raises(InputError, match=reason):
        read_set(keep(made().images, labels), spec=spec, declared=declared)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.arange(20), "labels from 0 to 19 do not fit the 10 classes"),
        (torch.arange(20) // 2 - 1, "labels from -1 to 8"),
        (torch.arange(10), "20 images and 10 labels"),
        (torch.zeros(20), "9 of the 10 classes of cifar10 have no image: automobile"),
        (torch.arange(20) / 2, "no whole numbers"),
        (torch.randn(20, 100), "do not fit the 10 classes"),
        (torch.full((20, 10), float("inf")), "not finite"),
    ],
)
def test_labels_that_do_not_fit_are_refused(keep, made, spec, labels, reason):
    with pytest.raises(InputError, match=reason) as error:
        read_set(keep(made().images, labels), spec=spec, declared=WHOLE)
    assert "\n" not in str(error.value)


def test_soft_labels_that_moved_keep_the_class_of_their_place(keep, made, spec):
    """DATM learns its labels: the class of an image is that of its place in the file."""
    logits = made(soft=True).soft_labels.clone()
    logits[0] = logits[0].roll(1)
    imported = read_set(keep(made().images, logits), spec=spec, declared=WHOLE)
    assert torch.equal(imported.distilled.labels, made().labels)
    assert any("of another class for 1 of 20 images" in line for line in imported.warnings)


def test_uneven_classes_are_allowed_and_said(keep, made, spec):
    imported = read_set(keep(made().images[:-1], made().labels[:-1]), spec=spec, declared=WHOLE)
    assert said(imported, "classes have 1 to 2 images")
    assert imported.distilled.manifest["ipc"] == 2


def test_a_declared_order_renumbers_classes(keep, made, spec):
    names = ("truck", *spec.class_names[:-1])
    made_set = made(soft=True)
    declared = WHOLE._replace(order=names)
    imported = read_set(keep(*made_set[:2]), spec=spec, declared=declared)
    first = imported.distilled.images[imported.distilled.labels == 9]
    assert torch.equal(first, made_set.images[:2])
    soft = read_set(keep(made_set.images, made_set.soft_labels), spec=spec, declared=declared)
    assert torch.equal(soft.distilled.soft_labels[-2:, 9], made_set.soft_labels[:2, 0])
    wrong = WHOLE._replace(order=("lorry", *names[1:]))
    with pytest.raises(InputError, match="order= names 'lorry', which is no class of cifar10"):
        read_set(keep(*made_set[:2]), spec=spec, declared=wrong)


def test_the_order_of_an_imagenet_subset_is_never_silent(keep, made):
    spec = dataset_spec("imagewoof")._replace(resolution=8)
    imported = read_set(keep(*made(of=spec)[:2]), spec=spec, declared=WHOLE)
    assert said(imported, "inferred order: labels number the classes of imagewoof by WordNet")


def test_orders_of_mtt_list_each_class_once():
    for name, indices in MTT_ORDER.items():
        assert len(set(indices)) == dataset_spec(name).num_classes
        ranks = mtt_order(name)
        assert ranks is None or sorted(ranks) == list(range(10))


def test_orders_of_mtt_are_those_of_the_installed_ddranking():
    package = importlib.util.find_spec("ddranking")
    if package is None:
        pytest.skip("ddranking is not installed")
    source = (Path(package.origin).parent / "utils/data.py").read_text()
    tree = ast.parse(source)
    (subsets,) = (node for node in tree.body if getattr(node, "name", "") == "ImageNetSubsets")
    theirs = {
        entry.targets[0].id: tuple(ast.literal_eval(entry.value))
        for entry in subsets.body
        if isinstance(entry.value, ast.List)
    }
    assert theirs == MTT_ORDER


def test_an_experiment_of_several_is_chosen(tmp_path, made, spec):
    first, last = made(), made(eight_bits=True).unit_images()
    sets = [[normalise(images, spec), first.labels] for images in (first.images, last)]
    torch.save({"data": sets}, tmp_path / "res.pt")
    imported = read_set(tmp_path / "res.pt", spec=spec)
    torch.testing.assert_close(imported.distilled.images, last, rtol=0, atol=1e-6)
    assert said(imported, "took set 1 of 2")
    declared = Declaration(experiment=0)
    imported = read_set(tmp_path / "res.pt", spec=spec, declared=declared)
    torch.testing.assert_close(imported.distilled.images, first.images, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="holds 2 sets, there is no experiment=2"):
        read_set(tmp_path / "res.pt", spec=spec, declared=Declaration(experiment=2))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.rand(20, 3, 16, 16), r"of shape \(3, 16, 16\), those of cifar10 of \(3, 8, 8\)"),
        (torch.rand(20, 8, 8, 3), r"channels first"),
        (torch.rand(20, 192), r"not \(N, channels, h, w\)"),
        ([torch.rand(3, 8, 8), torch.rand(3, 9, 8)], "of mixed shapes"),
        ("nonsense", "are no tensor but str"),
    ],
)
def test_images_of_other_shapes_are_refused(keep, spec, images, reason):
    with pytest.raises(InputError, match=reason):
        read_set(keep(images, torch.arange(20) // 2), spec=spec, declared=WHOLE)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (Declaration(format="npz"), "unknown format=npz; choose one of native"),
        (Declaration(space="yuv"), "unknown space=yuv; choose one of unit"),
        (Declaration(labels="names"), "unknown labels=names"),
        (Declaration(factor=0), "factor must be positive"),
    ],
)
def test_declarations_that_no_set_could_have_are_refused(keep, made, spec, declared, reason):
    with pytest.raises(InputError, match=reason):
        read_set(keep(*made()[:2]), spec=spec, declared=declared)


@pytest.mark.parametrize(
    ("content", "reason"),
    [({"state_dict": {}}, "keys .'state_dict'."), (torch.zeros(3), "no pair"), (7, "no pair")],
)
def test_a_file_of_no_known_structure_is_refused(tmp_path, spec, content, reason):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(InputError, match=reason):
        read_set(tmp_path / "file.pt", spec=spec)


def test_a_set_tells_where_it_is_from(keep, made, spec):
    path = keep(*made()[:2])
    manifest = read_set(path, spec=spec, declared=WHOLE).distilled.manifest
    source = manifest["source"]
    assert source["format"] == "idc"
    assert list(source["sha256"]) == ["data.pt"]
    assert len(source["sha256"]["data.pt"]) == 64
    assert source["declared"] == {"factor": 1}
    format, space = source["warnings"]
    assert format.startswith("inferred format=idc (IDC, M3D, DANCE, DSDM, NCFM")
    assert space == "inferred space=unit: pixels 0 to 1"
    assert manifest["dataset"]["name"] == "cifar10"


@pytest.mark.parametrize(
    "content",
    [
        {"data": [[torch.tensor(1.0), torch.arange(3)]]},
        {"data": [[torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.complex64)]]},
        {"data": [[torch.zeros(0, 3, 8, 8), torch.arange(0)]]},
        {"data": [[torch.zeros(2, 3, 8, 8)]]},
        {"image_tensor": torch.zeros(20, 3, 8, 8), "syn_lr": torch.arange(2)},
        {"image_tensor": torch.zeros(20, 3, 8, 8), "soft_labels": {"a": 1}},
        [torch.zeros(2, 3, 8, 8), [[1], [2, 3]]],
        [None, None],
    ],
)
def test_content_of_no_sense_is_one_line(tmp_path, spec, content):
    path = tmp_path / "file.pt"
    torch.save(content, path)
    with pytest.raises(InputError) as error:
        read_set(path, spec=spec)
    assert "\n" not in str(error.value)
