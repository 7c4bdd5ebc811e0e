"""Tables: sorted by class, uniform draws without replacement, faithful pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.table import FolderTable, TensorTable, decode_image
from geodm_lightning.types import DatasetSpec, InputError, LabelledImages

SIZES = (3, 7, 5)


def small_spec(channels: int = 1, resolution: int = 2) -> DatasetSpec:
    return dataset_spec("mnist")._replace(
        num_classes=len(SIZES), channels=channels, resolution=resolution
    )


@pytest.fixture
def table() -> TensorTable:
    """Image ``i`` is filled with the value ``i``; labels come shuffled."""
    labels = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    table = TensorTable(LabelledImages(images, labels), small_spec(), max_value=255)
    table.original = labels
    return table


def test_images_keep_their_labels_when_sorted(table, device):
    table.to(device)
    assert (table.labels.diff() >= 0).all()
    assert table.class_counts.tolist() == list(SIZES)
    identity = (table.gather(torch.arange(len(table)))[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(table.original[identity.cpu()], table.labels.cpu())
    assert identity.unique().numel() == len(table)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 2)])
def test_gather_takes_indices_of_any_shape(table, device, shape):
    table.to(device)
    indices = torch.arange(np.prod(shape)).reshape(shape)
    images = table.gather(indices)
    assert images.shape == (*shape, 1, 2, 2)
    assert images.device.type == device.type
    flat = torch.stack([table.gather(index) for index in indices.flatten()])
    assert torch.equal(images.flatten(0, len(shape) - 1), flat)


def test_unit_range_is_set_by_the_largest_pixel_value():
    images = torch.tensor([0, 8, 16], dtype=torch.uint8)[:, None, None, None]
    spec = small_spec(resolution=1)
    table = TensorTable(LabelledImages(images, torch.arange(3)), spec, max_value=16)
    assert table.gather(torch.arange(3)).flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("num_per_class", [1, 2, 3, 100])
def test_draw_is_without_replacement_and_in_class(table, num_per_class):
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        drawn = table.draw(num_per_class, generator=rng)
        assert drawn.shape == (3, min(num_per_class, 3))
        assert (table.labels[drawn] == torch.arange(3)[:, None]).all()
        assert all(len(set(row)) == len(row) for row in drawn.tolist())


def test_draw_of_unequal_classes_is_uniform(table):
    rng = torch.Generator().manual_seed(0)
    num_draws, num_per_class = 4000, 2
    drawn = torch.stack([table.draw(num_per_class, generator=rng) for _ in range(num_draws)])
    for position in range(num_per_class):  # every place of the draw is uniform
        counts = torch.bincount(drawn[:, :, position].flatten(), minlength=len(table))
        expected = (num_draws / table.class_counts).repeat_interleave(table.class_counts)
        # χ² of 2 + 6 + 4 = 12 degrees of freedom, p ≈ 1e-3 at 33
        assert ((counts - expected).square() / expected).sum() < 33


def test_draw_depends_on_the_generator_only(table):
    first = table.draw(3, generator=torch.Generator().manual_seed(5))
    again = table.draw(3, generator=torch.Generator().manual_seed(5))
    other = table.draw(3, generator=torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draw_of_nothing_is_refused(table):
    with pytest.raises(InputError, match="must be positive, got 0"):
        table.draw(0, generator=torch.Generator())


def write_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_decoding_keeps_pixels_of_the_right_size(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = write_image(tmp_path / "image.png", pixels)
    assert np.array_equal(decode_image(path, 3, 8).permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (20, 60)])
def test_decoding_crops_the_centre(tmp_path, height, width):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    middle = (
        slice((height - 20) // 2, (height + 20) // 2),
        slice((width - 20) // 2, (width + 20) // 2),
    )
    pixels[middle] = 255
    decoded = decode_image(write_image(tmp_path / "image.png", pixels), 3, 20).float()
    assert decoded.shape == (3, 20, 20)
    assert decoded[:, 10, 10].min() > 200
    torch.testing.assert_close(decoded, decoded.flip(-1), atol=60, rtol=0)
    torch.testing.assert_close(decoded, decoded.flip(-2), atol=60, rtol=0)


def test_grey_files_become_the_channels_asked_for(tmp_path):
    path = write_image(tmp_path / "grey.png", np.full((8, 8), 100, dtype=np.uint8))
    assert decode_image(path, 1, 8).unique().tolist() == [100]
    assert decode_image(path, 3, 8).shape == (3, 8, 8)


@pytest.mark.parametrize("cache_bytes", [0, 5 * 12, 2**20])
def test_folder_table_equals_tensor_table(tmp_path, device, cache_bytes):
    rng = np.random.default_rng(0)
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 2])
    pixels = rng.integers(0, 256, (len(labels), 2, 2, 3), dtype=np.uint8)
    paths = [write_image(tmp_path / f"{i}.png", image) for i, image in enumerate(pixels)]
    spec = small_spec(channels=3)
    folder_table = FolderTable(paths, labels, spec, cache_bytes=cache_bytes).to(device)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    tensor_table = TensorTable(LabelledImages(images, labels), spec).to(device)
    assert torch.equal(folder_table.labels, tensor_table.labels)
    indices = torch.tensor([[0, 6, 6], [3, 1, 0]])
    for _ in range(2):  # decoded, then from the cache
        torch.testing.assert_close(folder_table.gather(indices), tensor_table.gather(indices))
    draws = [
        t.draw(2, generator=torch.Generator().manual_seed(0)) for t in (folder_table, tensor_table)
    ]
    assert torch.equal(*draws)


def test_damaged_image_is_named(tmp_path):
    path = write_image(tmp_path / "image.png", np.zeros((64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=f"cannot read image {path}"):
        decode_image(path, 3, 8)


def test_head_keeps_the_first_images_of_every_class(table):
    whole = table.gather(torch.arange(len(table)))
    head = table.head(4)
    assert head.class_counts.tolist() == [3, 4, 4]
    assert head.labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    assert torch.equal(head.gather(torch.arange(11)), whole[[0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13]])
    drawn = head.draw(3, generator=torch.Generator().manual_seed(0))
    assert (head.labels[drawn] == torch.arange(3)[:, None]).all()
    assert torch.equal(table.gather(torch.arange(len(table))), whole)


def test_head_of_a_folder_reads_the_same_files(tmp_path):
    paths = []
    for value in range(6):
        paths.append(tmp_path / f"{value}.png")
        Image.fromarray(np.full((4, 4), 40 * value, dtype=np.uint8)).save(paths[-1])
    spec = small_spec(resolution=4)._replace(num_classes=2)
    table = FolderTable(paths, torch.tensor([0, 0, 0, 1, 1, 1]), spec)
    table.gather(torch.arange(6))
    values = (table.head(2).gather(torch.arange(4))[:, 0, 0, 0] * 255).round().tolist()
    assert values == [0, 40, 120, 160]
