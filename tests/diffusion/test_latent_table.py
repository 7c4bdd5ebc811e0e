import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.types import InputError

IDENTITY = {"autoencoder": "a" * 64, "data": {"name": "digits", "images": [1, 2]}}
SHAPE = (3, 4)
LATENT = (2, 4, 4)


def opened(folder, **changed):
    arguments = {"rows_shape": SHAPE, "latent_shape": LATENT, "dtype": torch.float32}
    identity = {**IDENTITY, **changed.pop("identity", {})}
    return LatentTable.open(folder, **{**arguments, **changed}, identity=identity)


def latents_of(classes, images, dtype=torch.float32):
    """Values that tell which row they belong to."""
    number = (classes * SHAPE[1] + images).to(dtype)
    return number[..., None, None, None] + torch.linspace(0, 1, 32, dtype=dtype).reshape(LATENT)


@pytest.fixture
def full(tmp_path):
    table = opened(tmp_path / "table")
    classes, images = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    table.write(classes, images, latents_of(classes, images))
    return table


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_come_back_in_the_order_asked_for(tmp_path, dtype):
    table = opened(tmp_path, dtype=dtype)
    classes, images = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0])
    table.write(classes, images, latents_of(classes, images))
    found = opened(tmp_path, dtype=dtype).read(classes.flip(0), images.flip(0))
    assert found.dtype == torch.float32
    expected = latents_of(classes, images).to(dtype).float().flip(0)
    assert torch.equal(found, expected)
    assert table.missing().sum() == 9
    assert not table.missing()[classes, images].any()


def test_indices_broadcast_and_may_be_empty(full):
    classes = torch.tensor([2, 0])
    found = full.read(classes[:, None], torch.arange(4)[None])
    assert torch.equal(found, latents_of(classes[:, None], torch.arange(4)[None]))
    assert full.read(classes[:, None], torch.arange(0)[None]).shape == (2, 0, *LATENT)
    assert not full.missing().any()


@pytest.mark.parametrize("row", [0, 5, 11])
def test_a_flipped_bit_is_found_and_the_row_made_again(full, row):
    path = full.folder / "latents.bin"
    content = bytearray(path.read_bytes())
    content[row * 128 + 77] ^= 1
    path.write_bytes(content)
    where = f"image {row % 4} of class {row // 4} is damaged; run the stage again"
    with pytest.raises(InputError, match=where):
        full.read(torch.tensor([row // 4]), torch.tensor([row % 4]))
    assert full.missing().nonzero().tolist() == [[row // 4, row % 4]]
    classes, images = torch.tensor([row // 4]), torch.tensor([row % 4])
    full.write(classes, images, latents_of(classes, images))
    assert not opened(full.folder).missing().any()


def test_rows_that_changed_places_are_found(full):
    values = np.fromfile(full.folder / "latents.bin", np.uint8).reshape(12, -1)
    checksums = np.fromfile(full.folder / "checksums.bin", np.uint8).reshape(12, -1)
    order = [1, 0, *range(2, 12)]
    values[order].tofile(full.folder / "latents.bin")
    checksums[order].tofile(full.folder / "checksums.bin")
    assert full.missing().nonzero().tolist() == [[0, 0], [0, 1]]


def test_rows_never_written_are_named(tmp_path):
    table = opened(tmp_path)
    with pytest.raises(InputError, match="image 1 of class 2 was never written"):
        table.read(torch.tensor([2]), torch.tensor([1]))
    assert table.missing().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"identity": {"autoencoder": "b" * 64}}, 'another autoencoder .there "aaa.*, now "bbb'),
        ({"identity": {"seed": 1}}, "another seed .there null, now 1"),
        ({"dtype": torch.float16}, 'another dtype .there "float32", now "float16"'),
        ({"rows_shape": (3, 5)}, r"another rows_shape .there \[3, 4\], now \[3, 5\]"),
        ({"latent_shape": (2, 4, 8)}, "another latent_shape"),
    ],
)
def test_another_identity_is_refused_and_nothing_is_lost(full, changed, message):
    with pytest.raises(InputError, match=message):
        opened(full.folder, **changed)
    assert not opened(full.folder).missing().any()


def test_tables_without_their_manifest_are_refused(full):
    manifest = full.folder / "manifest.json"
    for content in ("{", "[1]"):
        manifest.write_text(content)
        with pytest.raises(InputError, match=r"damaged latents in .*manifest.json is not"):
            opened(full.folder)
    manifest.unlink()
    with pytest.raises(InputError, match=r"manifest.json is missing; delete the folder"):
        opened(full.folder)


def test_a_cut_file_costs_its_rows_only(full):
    with (full.folder / "latents.bin").open("rb+") as handle:
        handle.truncate(128 * 10 + 5)
    with pytest.raises(InputError, match=r"latents.bin is missing or cut short"):
        full.read(torch.tensor([0]), torch.tensor([0]))
    assert opened(full.folder).missing().nonzero().tolist() == [[2, 2], [2, 3]]


def test_wrong_rows_values_and_types_are_refused(tmp_path):
    table = opened(tmp_path / "half", dtype=torch.float16)
    one = torch.tensor([0])
    with pytest.raises(IndexError, match="row 3 to 3"):
        table.read(one + 3, one)
    with pytest.raises(IndexError, match="row -1 to -1"):
        table.write(one, one - 1, torch.zeros(1, *LATENT))
    with pytest.raises(ValueError, match=r"values of shape \(2, 4, 4\), expected \(1, 2, 4, 4\)"):
        table.write(one, one, torch.zeros(LATENT))
    for value in (torch.nan, 1e5):
        with pytest.raises(InputError, match=r"are not finite in torch.float16"):
            table.write(one, one, torch.full((1, *LATENT), value))
    assert table.missing().all()
    with pytest.raises(InputError, match="choose float16 or float32"):
        opened(tmp_path / "double", dtype=torch.float64)


def test_a_full_disk_is_one_line(full, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", no_space)
    with pytest.raises(InputError, match=r"cannot write latents in .*: No space left on device"):
        full.write(torch.tensor([0]), torch.tensor([0]), torch.zeros(1, *LATENT))


WRITER = """
import sys, torch
from pathlib import Path
from geodm_lightning.diffusion.latent_table import LatentTable

folder, first = Path(sys.argv[1]), int(sys.argv[2])
table = LatentTable.open(folder, (4, 500), (4, 64, 64), torch.float32, {"vae": "x"})
for image in range(500):
    for owned in (first, first + 1):
        row = torch.tensor([owned]), torch.tensor([image])
        table.write(*row, torch.full((1, 4, 64, 64), owned + image / 1000))
        print(owned, image, flush=True)
"""


def test_processes_share_a_table_and_a_killed_one_loses_one_row_at_most(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "table"), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 2)
    ]
    finished = []
    for writer in writers:
        finished += [writer.stdout.readline().split() for _ in range(50)]
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        finished += [line.split() for line in writer.stdout if line.endswith("\n")]
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()

    table = LatentTable.open(tmp_path / "table", (4, 500), (4, 64, 64), torch.float32, {"vae": "x"})
    missing = table.missing()
    owners, images = torch.tensor([[int(part) for part in row] for row in finished]).T
    assert not missing[owners, images].any()
    assert len(finished) <= (~missing).sum() <= len(finished) + 2  # written, not yet announced
    expected = (owners + images / 1000)[:, None, None, None].expand(-1, 4, 64, 64)
    torch.testing.assert_close(table.read(owners, images), expected, rtol=0, atol=1e-6)
