"""Image folders in every accepted layout, and what is said about the others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.folders import scan_folders
from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.types import InputError

WOOF = list(IMAGENET_SUBSETS["imagewoof"])


def write_jpegs(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(np.full((10, 12, 3), index, dtype=np.uint8)).save(
            folder / f"{folder.name}_{index}.JPEG"
        )


def write_tree(root: Path, classes: list[str], test: str = "val") -> Path:
    for index, name in enumerate(classes):
        write_jpegs(root / "train" / name, 2 + index)
        write_jpegs(root / test / name, 1)
    return root


@pytest.mark.parametrize("test", ["val", "validation", "test"])
@pytest.mark.parametrize("place", ["", "image_folder"])
def test_any_folders_in_sorted_order(tmp_path, test, place):
    write_tree(tmp_path / place, ["pear", "apple", "fig"], test)
    splits = scan_folders(dataset_spec("image_folder"), tmp_path)
    assert splits.class_folders == ("apple", "fig", "pear")
    assert splits.train.labels.bincount().tolist() == [3, 4, 2]
    assert [path.parent.name for path in splits.test.paths] == ["apple", "fig", "pear"]
    assert len(splits.train.paths) == len(splits.train.labels)


@pytest.mark.parametrize("place", ["", "imagewoof", "imagewoof2-320", "imagenet1k"])
def test_subset_is_found_within_a_larger_set(tmp_path, place):
    write_tree(tmp_path / place, ["n99999999", *WOOF])
    splits = scan_folders(dataset_spec("imagewoof"), tmp_path)
    assert list(splits.class_folders) == WOOF
    assert {path.parent.name for path in splits.train.paths} == set(WOOF)


def write_tiny(root: Path, num_classes: int = 3) -> list[str]:
    names = [f"n{index:08d}" for index in range(num_classes)]
    for name in names:
        write_jpegs(root / "train" / name / "images", 2)
        (root / "train" / name / f"{name}_boxes.txt").write_text("not an image")
    return names


@pytest.mark.parametrize("official", [True, False], ids=["as published", "re-arranged"])
def test_tiny_imagenet_layouts(tmp_path, official):
    root = tmp_path / "tiny-imagenet-200"
    names = write_tiny(root)
    if official:
        write_jpegs(root / "val" / "images", 6)
        lines = [f"images_{i}.JPEG\t{names[i % 3]}\t0\t0\t62\t62" for i in range(6)]
        (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    else:
        for name in names:
            write_jpegs(root / "val" / name, 2)
    spec = dataset_spec("tiny_imagenet")._replace(num_classes=3)
    splits = scan_folders(spec, tmp_path)
    assert list(splits.class_folders) == names
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    if official:
        assert [path.name for path in splits.test.paths[:2]] == ["images_0.JPEG", "images_3.JPEG"]


def refusal(name: str, root: Path) -> str:
    with pytest.raises(InputError, match=r"set data\.root=PATH") as caught:
        scan_folders(dataset_spec(name), root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["imagewoof", "tiny_imagenet", "imagenet1k", "image_folder"])
def test_missing_folder_is_refused(tmp_path, name):
    assert "looked for" in refusal(name, tmp_path)


def test_missing_class_is_named(tmp_path):
    write_tree(tmp_path, WOOF[1:])
    assert WOOF[0] in refusal("imagewoof", tmp_path)


def test_wrong_number_of_classes_is_refused(tmp_path):
    write_tree(tmp_path, ["a", "b"])
    assert "has 2 class folders" in refusal("tiny_imagenet", tmp_path)


def test_missing_test_split_is_refused(tmp_path):
    write_jpegs(tmp_path / "train" / "a", 1)
    assert "has no folder val" in refusal("image_folder", tmp_path)


def test_empty_class_is_named(tmp_path):
    write_tree(tmp_path, ["a", "b"])
    for path in (tmp_path / "val" / "b").iterdir():
        path.unlink()
    assert "no images of class b" in refusal("image_folder", tmp_path)


def test_annotation_of_a_missing_file_is_named(tmp_path):
    write_tiny(tmp_path, 200)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_annotations.txt").write_text("gone.JPEG\tn00000000\n")
    assert "gone.JPEG" in refusal("tiny_imagenet", tmp_path)
