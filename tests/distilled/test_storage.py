import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import class_hash, is_complete, load_set, save_set
from geodm_lightning.files import sha256_of
from geodm_lightning.types import InputError


@pytest.fixture
def distilled():
    manifest = {
        "method": "geodm",
        "label": "GeoDM",
        "ipc": 2,
        "factor": 1,
        "dataset": {"name": "digits", "num_classes": 3},
    }
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 8, 8, generator=generator)
    return DistilledSet(images, class_major_labels(3, 2), manifest)


@pytest.fixture
def folder(tmp_path, distilled):
    return save_set(tmp_path / "distilled", distilled)


def rewrite_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_saved_comes_back_exactly(folder, distilled):
    loaded = load_set(folder)
    assert torch.equal(loaded.images, distilled.images)
    assert torch.equal(loaded.labels, distilled.labels)
    assert loaded.manifest.items() >= distilled.manifest.items()
    assert loaded.digest() == distilled.digest() == loaded.manifest["digest"]


def test_pixels_are_readable_without_the_package(folder, distilled):
    assert torch.equal(load_file(folder / "images.safetensors")["images"], distilled.images)


def test_saving_again_replaces_the_set(folder, distilled):
    other = distilled._replace(images=distilled.images + 1)
    save_set(folder, other)
    assert torch.equal(load_set(folder).images, other.images)
    assert [path.name for path in folder.parent.iterdir()] == ["distilled"]


@pytest.mark.parametrize("name", ["images.safetensors", "labels.safetensors"])
def test_a_flipped_bit_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"damaged distilled set .*{name} does not have the SHA"):
        load_set(folder)


@pytest.mark.parametrize("name", ["images.safetensors", "manifest.json"])
def test_a_cut_file_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"damaged distilled set .*{name}"):
        load_set(folder)


def test_a_missing_file_is_named(folder):
    (folder / "labels.safetensors").unlink()
    with pytest.raises(InputError, match=r"labels.safetensors is missing"):
        load_set(folder)


def test_a_folder_without_manifest_is_no_set(tmp_path):
    assert not is_complete(tmp_path)
    with pytest.raises(InputError, match="no distilled set in"):
        load_set(tmp_path)


def test_another_format_is_refused(folder):
    rewrite_manifest(folder, format_version=99)
    with pytest.raises(InputError, match="format_version is 99, expected 1"):
        load_set(folder)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.tensor([0, 0, 1, 1, 2, 3]), "class indices below 3"),
        (torch.tensor([0, 0, 1]), "shapes do not fit"),
        (torch.zeros(6), "class indices below 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(folder, labels, reason):
    path = folder / "labels.safetensors"
    save_file({"labels": labels}, path)
    images = sha256_of(folder / "images.safetensors")
    hashes = {"images.safetensors": images, path.name: sha256_of(path)}
    rewrite_manifest(folder, sha256=hashes)
    with pytest.raises(InputError, match=reason):
        load_set(folder)


def test_an_unwritable_place_is_named_and_left_clean(tmp_path, distilled):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(InputError, match=r"cannot write the distilled set .*run_dir=PATH"):
        save_set(blocker / "distilled", distilled)
    assert list(tmp_path.iterdir()) == [blocker]


def test_a_failed_save_leaves_the_old_set_alone(folder, distilled):
    broken = distilled._replace(manifest={**distilled.manifest, "cost": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_set(folder, broken._replace(images=distilled.images + 1))
    assert torch.equal(load_set(folder).images, distilled.images)
    assert list(folder.parent.iterdir()) == [folder]


def test_pixels_of_eight_bits_stay_so(tmp_path, distilled):
    pixels = torch.arange(6 * 64, dtype=torch.int64).remainder(256).to(torch.uint8)
    eight_bits = distilled._replace(images=pixels.reshape(6, 1, 8, 8))
    folder = save_set(tmp_path / "eight", eight_bits)
    loaded = load_set(folder)
    assert torch.equal(loaded.images, eight_bits.images)
    assert loaded.manifest["space"] == "uint8"
    assert loaded.digest() == eight_bits.digest()


def test_pixels_of_another_kind_are_refused(tmp_path, distilled):
    folder = save_set(tmp_path / "half", distilled._replace(images=distilled.images.half()))
    with pytest.raises(InputError, match="neither float32 nor uint8"):
        load_set(folder)


def test_three_lines_read_a_set_without_the_package(folder, distilled, tmp_path):
    code = f"""
import sys; sys.modules["geodm_lightning"] = None  # importing it fails
from safetensors.numpy import load_file
images = load_file("{folder}/images.safetensors")["images"]
labels = load_file("{folder}/labels.safetensors")["labels"]
print(images.shape, images.dtype, labels.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(6, 1, 8, 8) float32 [0, 0, 1, 1, 2, 2]", done.stderr


def with_soft_labels(distilled):
    generator = torch.Generator().manual_seed(1)
    return distilled._replace(soft_labels=torch.randn(6, 3, generator=generator))


def test_soft_labels_are_kept_and_part_of_the_identity(tmp_path, distilled):
    soft = with_soft_labels(distilled)
    loaded = load_set(save_set(tmp_path / "soft", soft))
    assert torch.equal(loaded.soft_labels, soft.soft_labels)
    assert loaded.manifest["soft_labels"] == {"kind": "logits"}
    assert loaded.digest() == soft.digest() != distilled.digest()
    hard = load_set(save_set(tmp_path / "hard", loaded._replace(soft_labels=None)))
    assert hard.soft_labels is None
    assert "soft_labels" not in hard.manifest
    assert hard.digest() == distilled.digest()


@pytest.mark.parametrize(
    ("soft_labels", "reason"),
    [
        (torch.zeros(6, 4), "not one float32 logit per class"),
        (torch.zeros(6, 3).half(), "not one float32 logit per class"),
        (torch.full((6, 3), float("nan")), "soft labels are not finite"),
    ],
)
def test_soft_labels_that_do_not_fit_are_refused(tmp_path, distilled, soft_labels, reason):
    folder = save_set(tmp_path / "soft", distilled._replace(soft_labels=soft_labels))
    with pytest.raises(InputError, match=reason):
        load_set(folder)


def test_soft_labels_that_the_manifest_names_are_not_missing(tmp_path, distilled):
    folder = save_set(tmp_path / "soft", with_soft_labels(distilled))
    (folder / "soft_labels.safetensors").unlink()
    with pytest.raises(InputError, match=r"soft_labels.safetensors is missing"):
        load_set(folder)


def test_a_set_tells_licence_and_classes(tmp_path, distilled):
    dataset = {**distilled.manifest["dataset"], "licence": "CC0", "class_names": ["a", "b", "c"]}
    named = distilled._replace(manifest={**distilled.manifest, "dataset": dataset})
    manifest = load_set(save_set(tmp_path / "named", named)).manifest
    assert manifest["licence"] == "CC0"
    assert manifest["classes"] == {"names": ["a", "b", "c"], "sha256": class_hash("abc")}
    assert class_hash("abc") != class_hash("acb")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": "cifar10"}, "names no data set with its num_classes"),
        ({"dataset": {"num_classes": "3"}}, "names no data set with its num_classes"),
        ({"sha256": []}, "lists no sha256 by file"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(folder, changes, reason):
    rewrite_manifest(folder, **changes)
    with pytest.raises(InputError, match=reason):
        load_set(folder)
