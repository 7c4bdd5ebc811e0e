"""Reading small data sets: the good files, and every kind of bad one."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.idx import read_idx
from geodm_lightning.data.sources import CIFARS, load_pixels
from geodm_lightning.types import InputError

WAY_OUT = r"data\.root=PATH"


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def write_mnist(root: Path, folder: str = "FashionMNIST", side: int = 28) -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return raw


def refusal(name: str, root: Path) -> str:
    with pytest.raises(InputError, match=WAY_OUT) as caught:
        load_pixels(dataset_spec(name), root)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


def test_digits_split_is_fixed_and_stated():
    train, test, max_value = load_pixels(dataset_spec("digits"), Path("nowhere"))
    assert (len(train.labels), len(test.labels), max_value) == (1437, 360, 16)
    assert torch.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    unit = train.images.double() / max_value
    spec = dataset_spec("digits")
    assert unit.mean().item() == pytest.approx(spec.mean[0], abs=5e-5)
    assert unit.std(unbiased=False).item() == pytest.approx(spec.std[0], abs=5e-5)


def test_digits_are_those_of_scikit_learn():
    bundle = load_digits()
    parts = train_test_split(range(1797), test_size=360, random_state=0, stratify=bundle.target)
    for split, part in zip(
        load_pixels(dataset_spec("digits"), Path("nowhere")), parts, strict=False
    ):
        assert np.array_equal(split.images[:, 0].numpy(), bundle.images[part])
        assert np.array_equal(split.labels.numpy(), bundle.target[part])


def test_idx_round_trip(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "file").write_bytes(idx_bytes(array))
    assert np.array_equal(read_idx(tmp_path / "file").numpy(), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an idx file"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "is not an idx file"),
        (bytes([0, 0, 13, 1]) + bytes(8), "is not an idx file"),
        (bytes([0, 0, 8, 3]), "header says"),
        (idx_bytes(np.zeros((4, 2), np.uint8))[:-1], "has 19 bytes where its header says 20"),
        (idx_bytes(np.zeros((4, 2), np.uint8)) + b"x", "has 21 bytes where its header says 20"),
    ],
)
def test_idx_refuses_other_bytes(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "file")


def test_mnist_family_is_read(tmp_path):
    write_mnist(tmp_path)
    train, test, max_value = load_pixels(dataset_spec("fashion_mnist"), tmp_path)
    assert train.images.shape == (40, 1, 28, 28)
    assert test.labels.tolist() == [i % 10 for i in range(20)]
    assert max_value == 255


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"])
def test_missing_data_is_refused(tmp_path, name):
    message = refusal(name, tmp_path)
    assert "not found" in message
    assert "data.download=true" in message


def test_truncated_idx_is_refused(tmp_path):
    path = write_mnist(tmp_path) / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    message = refusal("fashion_mnist", tmp_path)
    assert str(path) in message
    assert "has 5000 bytes where its header says 15696" in message


def test_images_of_another_size_are_refused(tmp_path):
    write_mnist(tmp_path, side=32)
    assert "(40, 1, 32, 32)" in refusal("fashion_mnist", tmp_path)


def test_missing_labels_and_classes_are_refused(tmp_path):
    path = write_mnist(tmp_path) / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.zeros(39, np.uint8)))
    assert "with 39 labels" in refusal("fashion_mnist", tmp_path)
    path.write_bytes(idx_bytes(np.zeros(40, np.uint8)))
    assert "not the classes 0 to 9" in refusal("fashion_mnist", tmp_path)
    path.write_bytes(idx_bytes(np.arange(40, dtype=np.uint8)))
    assert "not the classes 0 to 9" in refusal("fashion_mnist", tmp_path)


class Bomb:
    """A pickle that would leave a file behind if it were opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("layout", ["", "CIFAR10"])
def test_damaged_cifar_is_refused_before_it_is_unpickled(tmp_path, layout):
    folder = tmp_path / layout / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    trap = tmp_path / "opened"
    for file, _ in CIFARS["cifar10"].train_list + CIFARS["cifar10"].test_list:
        (folder / file).write_bytes(pickle.dumps(Bomb(trap)))
    message = refusal("cifar10", tmp_path)
    assert str(folder / "data_batch_1") in message
    assert "MD5" in message
    assert not trap.exists()


def test_damaged_svhn_is_refused(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}_32x32.mat").write_bytes(b"MATLAB 5.0")
    assert "MD5" in refusal("svhn", tmp_path)


def real_root(*candidates: str) -> Path:
    root = os.environ.get("GEODM_DATA")
    if root is None or not any((Path(root) / path).exists() for path in candidates):
        pytest.skip(f"set GEODM_DATA to a folder that holds {' or '.join(candidates)}")
    return Path(root)


def test_real_fashion_mnist():
    root = real_root("FashionMNIST/raw")
    spec = dataset_spec("fashion_mnist")
    train, test, _ = load_pixels(spec, root)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    unit = train.images.float() / 255
    assert unit.mean().item() == pytest.approx(spec.mean[0], abs=1e-3)
    assert unit.std().item() == pytest.approx(spec.std[0], abs=1e-3)


def test_real_cifar10():
    root = real_root("cifar-10-batches-py", "CIFAR10/cifar-10-batches-py")
    spec = dataset_spec("cifar10")
    train, test, _ = load_pixels(spec, root)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    mean = (train.images.float() / 255).mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor(spec.mean), atol=1e-3, rtol=0)
