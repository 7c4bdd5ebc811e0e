"""Pictures in class folders: which class a folder is, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.exchange.class_folders import class_of_folders, scan
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.exchange.writing import write_set
from geodm_lightning.types import InputError

NOTHING = Declaration()


def picture(path, value, *, size=(8, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size[::-1], 3) if mode == "RGB" else size[::-1]
    Image.fromarray(np.full(shape, value, dtype=np.uint8), mode=mode).save(path, **options)


def folders_of(tmp_path, names, **options):
    """One picture per folder whose grey is ten times the folder's position."""
    for position, name in enumerate(names):
        picture(tmp_path / "set" / name / "0.png", 10 * position, **options)
    return tmp_path / "set"


def greys(imported):
    """Grey of the picture of each class, in tens."""
    return (imported.distilled.images[:, 0, 0, 0] // 10).tolist()


@pytest.mark.parametrize("pattern", ["new{:03d}", "{:05d}", "{}"])
def test_numbers_of_folders_are_classes(tmp_path, spec, pattern):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    path = folders_of(tmp_path, [pattern.format(number) for number in order])
    imported = read_set(path, spec=spec)
    assert greys(imported) == [order.index(label) for label in range(10)]
    assert not any("order" in line for line in imported.warnings)


def test_names_of_folders_are_classes(tmp_path, spec):
    names = spec.class_names[::-1]
    imported = read_set(folders_of(tmp_path, names), spec=spec)
    assert greys(imported) == list(range(9, -1, -1))
    assert not any("order" in line for line in imported.warnings)


def test_wordnet_folders_are_classes(tmp_path):
    spec = dataset_spec("imagewoof")._replace(resolution=8)
    folders = list(IMAGENET_SUBSETS["imagewoof"])[::-1]
    imported = read_set(folders_of(tmp_path, folders), spec=spec)
    assert greys(imported) == list(range(9, -1, -1))


def test_wordnet_folders_of_another_subset_are_refused(tmp_path):
    spec = dataset_spec("imagenette")._replace(resolution=8)
    path = folders_of(tmp_path, IMAGENET_SUBSETS["imagewoof"])
    with pytest.raises(InputError, match="are not the 10 classes of imagenette; use data=NAME"):
        read_set(path, spec=spec)


def test_names_of_nothing_are_sorted_and_said(tmp_path, spec):
    path = folders_of(tmp_path, [f"kind_{letter}" for letter in "jihgfedcba"])
    imported = read_set(path, spec=spec)
    assert greys(imported) == list(range(9, -1, -1))
    assert any("taken as sorted (kind_a is class 0)" in line for line in imported.warnings)


def test_a_declared_order_of_folders_is_that_of_the_classes(tmp_path, spec):
    names = [f"kind_{letter}" for letter in "jihgfedcba"]
    imported = read_set(
        folders_of(tmp_path, names), spec=spec, declared=Declaration(order=tuple(names))
    )
    assert greys(imported) == list(range(10))
    wrong = Declaration(order=(*names[:-1], "kind_z"))
    with pytest.raises(InputError, match="order= lacks kind_a; list the folder of each"):
        read_set(tmp_path / "set", spec=spec, declared=wrong)


def test_a_number_beyond_the_classes_is_refused(spec):
    with pytest.raises(InputError, match="folder new217 is of class 217, cifar10 has 10"):
        class_of_folders(["new217"], spec, NOTHING)


def test_a_missing_class_is_named(tmp_path, spec):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(9)])
    with pytest.raises(InputError, match="1 of the 10 classes of cifar10 have no image: truck"):
        read_set(path, spec=spec)


def test_files_are_listed_as_torchvision_does(tmp_path):
    for name in ("b/10.png", "b/2.png", "a/z.png", "a/A.png"):
        picture(tmp_path / name, 0)
    theirs = [path for path, _ in ImageFolder(str(tmp_path)).samples]
    assert [str(path) for path in scan(tmp_path).paths] == theirs


def test_jpeg_is_within_the_stated_grey_levels(tmp_path, spec, made):
    """Smooth pictures at quality 95, chroma whole: the coefficients are rounded, no more."""
    ramp = torch.linspace(20, 230, 8).round().to(torch.uint8).expand(8, 8)
    for label in range(10):
        path = tmp_path / "set" / f"{label:05d}" / "0.jpg"
        path.parent.mkdir(parents=True)
        pixels = torch.stack([ramp, ramp.T, ramp], -1).numpy()
        Image.fromarray(pixels).save(path, quality=95, subsampling=0)
    images = read_set(tmp_path / "set", spec=spec).distilled.images[0].int()
    assert (images - torch.stack([ramp, ramp.T, ramp]).int()).abs().max() <= 8


def test_grey_pictures_become_colour_and_back(tmp_path, spec):
    names = [f"{number:05d}" for number in range(10)]
    path = folders_of(tmp_path, names, mode="L")
    assert read_set(path, spec=spec).distilled.images.shape == (10, 3, 8, 8)
    digits = dataset_spec("digits")
    assert read_set(path, spec=digits).distilled.images.shape == (10, 1, 8, 8)
    picture(path / "00003/0.png", 0)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), "uint8")).save(
        path / "00003/0.png"
    )
    with pytest.raises(InputError, match=r"00003/0.png is in colour, the data set is grey"):
        read_set(path, spec=digits)


def test_mixed_sizes_are_named(tmp_path, spec):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(10)])
    picture(path / "00004/1.png", 0, size=(8, 9))
    with pytest.raises(InputError, match=r"mixed shapes: 0.png of 8×8 and 1.png of 8×9 pixels"):
        read_set(path, spec=spec)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nnonsense", b"GIF89a\x01\x00\x01\x00"])
def test_an_unreadable_picture_is_named(tmp_path, spec, content):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(10)])
    (path / "00004/1.png").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the picture .*00004/1.png") as error:
        read_set(path, spec=spec)
    assert "\n" not in str(error.value)


def test_a_cut_picture_is_named(tmp_path, spec):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(10)])
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), "uint8")
    Image.fromarray(noise).save(path / "00004/0.png")
    whole = (path / "00004/0.png").read_bytes()
    (path / "00004/0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot read the picture .*00004/0.png"):
        read_set(path, spec=spec)


@pytest.mark.parametrize("side", [5000, 12_000, 60_000])
def test_a_picture_of_too_many_pixels_is_refused_unread(tmp_path, spec, side):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(10)])
    bodies = [b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)]
    bodies += [b"IDAT" + zlib.compress(bytes(1000))]
    chunks = [
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        for body in bodies
    ]
    (path / "00004/1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(InputError, match=r"00004/1.png.*pixels"):
        read_set(path, spec=spec)


def test_a_link_out_of_the_folder_is_refused(tmp_path, spec):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(10)])
    picture(tmp_path / "elsewhere.png", 0)
    (path / "00004/1.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match=r"refused .*00004/1.png: it is a link out of"):
        read_set(path, spec=spec)


def test_transparency_is_refused(tmp_path, spec):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(10)])
    Image.new("RGBA", (8, 8)).save(path / "00004/0.png")
    with pytest.raises(InputError, match="is of kind RGBA, not 8-bit grey or colour"):
        read_set(path, spec=spec)


def test_other_files_are_left_out_and_said(tmp_path, spec):
    path = folders_of(tmp_path, [f"{number:05d}" for number in range(10)])
    (path / "00004/notes.txt").write_text("")
    imported = read_set(path, spec=spec)
    assert any("left out 1 files" in line and "notes.txt" in line for line in imported.warnings)


def test_a_subset_is_written_as_others_name_its_folders(tmp_path, made):
    spec = dataset_spec("imagewoof")._replace(resolution=8)
    path = write_set(tmp_path / "set", made(of=spec, eight_bits=True), format="images")
    assert sorted(entry.name for entry in path.iterdir()) == sorted(IMAGENET_SUBSETS["imagewoof"])
