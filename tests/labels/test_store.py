"""What encodings lose, and a store that is damaged, continued, killed or somebody else's."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from geodm_lightning.labels.encodings import Encoding, bytes_estimate, error_of
from geodm_lightning.labels.store import LabelStore
from geodm_lightning.types import InputError

KINDS = [("fp16", None), ("int8", None), ("topk", 5)]
IDENTITY = {"teachers": "abc", "views": {"flip": True, "crop_scale": (0.5, 1.0)}, "seed": 0}


@pytest.fixture
def logits():
    return 4 * torch.randn(30, 20, generator=torch.Generator().manual_seed(0))


def open_store(folder, kind="fp16", top_k=None, **changes):
    options = {"num_views": 30, "num_classes": 20, "num_epochs": 4, "identity": IDENTITY}
    return LabelStore.open(folder, kind=kind, top_k=top_k, **options | changes)


@pytest.mark.parametrize(("kind", "top_k"), KINDS)
def test_rows_come_back_as_encoded(tmp_path, logits, kind, top_k):
    open_store(tmp_path / "labels", kind, top_k).write(2, logits)
    store = open_store(tmp_path / "labels", kind, top_k)
    encoding = Encoding(kind, 20, top_k)
    rows = torch.tensor([7, 0, 7, 29])
    expected = encoding.decode(encoding.encode(logits))[rows]
    assert torch.equal(store.logits(2, rows), expected)
    assert expected.dtype == torch.float32


def test_half_precision_is_kept_exactly(logits):
    encoding = Encoding("fp16", 20)
    half = logits.half()
    assert torch.equal(encoding.decode(encoding.encode(half)), half.float())


def test_eight_bits_err_by_half_a_step_at_most(logits):
    encoding = Encoding("int8", 20)
    error = (encoding.decode(encoding.encode(logits)) - logits).abs()
    low, high = logits.aminmax(dim=1)
    assert (error <= ((high - low) / 254 / 2 * (1 + 1e-4))[:, None]).all()
    constant = torch.full((2, 20), 3.5)
    assert torch.equal(encoding.decode(encoding.encode(constant)), constant)


def test_the_largest_few_are_kept_and_the_others_are_their_mean(logits):
    encoding = Encoding("topk", 20, 5)
    read = encoding.decode(encoding.encode(logits))
    for row, original in zip(read, logits, strict=True):
        largest = original.argsort(descending=True)
        torch.testing.assert_close(row[largest[:5]], original[largest[:5]].half().float())
        expected = original[largest[5:]].mean().expand(15)
        torch.testing.assert_close(row[largest[5:]], expected, rtol=1e-3, atol=1e-3)
    whole = Encoding("topk", 20, 20)
    assert torch.equal(whole.decode(whole.encode(logits)), logits.half().float())


def test_many_classes_keep_their_numbers():
    encoding = Encoding("topk", 40_000, 1)
    logits = torch.zeros(1, 40_000)
    logits[0, 39_999] = 8.0
    assert encoding.decode(encoding.encode(logits)).argmax() == 39_999


def test_measured_errors_are_those_of_a_plain_computation(logits):
    for kind, top_k in KINDS:
        encoding = Encoding(kind, 20, top_k)
        read = encoding.decode(encoding.encode(logits)).double()
        found = error_of(kind, logits, top_k=top_k)
        p, q = logits.double().softmax(1), read.softmax(1)
        assert found.divergence == pytest.approx((p * (p / q).log()).sum(1).mean().item(), abs=1e-9)
        assert found.max_error == pytest.approx((read - logits).abs().max().item())
        assert found.mean_error == pytest.approx((read - logits).abs().mean().item())
        assert found.agreement == 1
    assert error_of("fp16", logits.half()).max_error == 0


@pytest.mark.parametrize(("kind", "top_k"), KINDS)
def test_the_estimate_is_the_size_on_disk(tmp_path, logits, kind, top_k):
    store = open_store(tmp_path / "labels", kind, top_k)
    size = store.write(0, logits).stat().st_size
    estimate = bytes_estimate(kind, num_views=30, num_classes=20, num_epochs=1, top_k=top_k)
    assert 0 < size - estimate < 1024
    assert store.bytes_estimate(3) == 3 * estimate


def test_missing_epochs_are_those_not_written_also_when_more_are_asked_for(tmp_path, logits):
    store = open_store(tmp_path / "labels")
    assert store.missing_epochs() == [0, 1, 2, 3]
    store.write(1, logits)
    assert store.missing_epochs() == [0, 2, 3]
    assert open_store(tmp_path / "labels", num_epochs=6).missing_epochs() == [0, 2, 3, 4, 5]
    assert [path.name for path in store.folder.glob("epoch*")] == ["epoch_00001.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": {**IDENTITY, "teachers": "xyz"}}, r"another teachers \(there abc, now xyz\)"),
        (
            {"identity": {**IDENTITY, "views": {"flip": False, "crop_scale": (0.5, 1.0)}}},
            r"another views.flip \(there True, now False\)",
        ),
        ({"num_views": 31}, r"another num_views \(there 30, now 31\)"),
        ({"kind": "int8"}, r"another kind \(there fp16, now int8\)"),
        ({"identity": {**IDENTITY, "extra": 1}}, r"another extra \(there None, now 1\)"),
    ],
)
def test_a_store_of_another_identity_is_refused(tmp_path, changes, message):
    open_store(tmp_path / "labels")
    with pytest.raises(InputError, match=message + "; delete it or choose another folder"):
        open_store(tmp_path / "labels", **changes)


@pytest.mark.parametrize("position", [0, 30, 400, -1])
def test_a_flipped_bit_is_found(tmp_path, logits, position):
    path = open_store(tmp_path / "labels").write(0, logits)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged label store: .*epoch_00000.safetensors"):
        open_store(tmp_path / "labels").logits(0, torch.arange(3))


def test_a_part_cut_short_or_of_another_place_is_found(tmp_path, logits):
    store = open_store(tmp_path / "labels")
    path = store.write(0, logits)
    store.part(1).write_bytes(path.read_bytes())
    store.part(2).write_bytes(path.read_bytes()[:-7])
    other = open_store(tmp_path / "other", identity={**IDENTITY, "seed": 1})
    other.part(3).write_bytes(path.read_bytes())
    for damaged, epoch, reason in [
        (store, 1, "is of another store or epoch"),
        (store, 2, "cannot be read"),
        (other, 3, "is of another store or epoch"),
    ]:
        with pytest.raises(InputError, match=rf"{damaged.part(epoch)} {reason}"):
            damaged.logits(epoch, torch.arange(3))
    with pytest.raises(InputError, match="has no labels of epoch 3; run relabel first"):
        store.logits(3, torch.arange(3))


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    store = open_store(tmp_path / "labels")
    (store.folder / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"damaged label store: .*manifest.json"):
        open_store(tmp_path / "labels")


def test_parts_are_readable_without_the_package(tmp_path, logits):
    path = open_store(tmp_path / "labels").write(0, logits)
    assert torch.equal(load_file(path)["logits"], logits.half())
    manifest = json.loads((tmp_path / "labels" / "manifest.json").read_text())
    assert manifest["identity"]["views"] == {"flip": True, "crop_scale": [0.5, 1.0]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_logits_that_cannot_be_kept_are_refused(tmp_path, logits, value):
    store = open_store(tmp_path / "labels")
    logits[3, 4] = value
    with pytest.raises(InputError, match="teachers answered a logit of"):
        store.write(0, logits)
    assert store.missing_epochs() == [0, 1, 2, 3]


def test_wrong_shapes_and_kinds_are_refused(tmp_path, logits):
    store = open_store(tmp_path / "labels")
    with pytest.raises(InputError, match="an epoch has 30 views, got 29"):
        store.write(0, logits[:29])
    with pytest.raises(InputError, match="logits of 20 classes"):
        store.write(0, logits[:, :19])
    with pytest.raises(InputError, match="unknown kind of labels 'fp8': fp16, int8, topk"):
        Encoding("fp8", 20)
    for top_k in (None, 0, 21):
        with pytest.raises(InputError, match=f"top_k must be within 1 and 20, got {top_k}"):
            Encoding("topk", 20, top_k)


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path):
    store = open_store(tmp_path / "labels", num_views=10**12, num_classes=1000)
    with pytest.raises(InputError, match=r"labels of 4 epochs need 8000000.0 GB"):
        store.require_space()
    assert store.missing_epochs() == [0, 1, 2, 3]


WRITER = """
import sys, torch
from pathlib import Path
from geodm_lightning.labels.store import LabelStore
store = LabelStore.open(Path(sys.argv[1]), identity={"teachers": "abc"}, kind="fp16",
                        num_views=8000, num_classes=1000, num_epochs=10_000)
for epoch in store.missing_epochs():
    store.write(epoch, torch.full((8000, 1000), float(epoch)))
"""


def test_killed_at_any_moment_a_store_has_whole_parts_only(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "labels")]
    folder = tmp_path / "labels"
    with subprocess.Popen(command) as writer:
        # The manifest, two parts and the beginning of a third.
        while writer.poll() is None and len(list(folder.glob("*"))) < 4:
            time.sleep(0.0005)
        os.kill(writer.pid, signal.SIGKILL)
    store = LabelStore.open(
        tmp_path / "labels",
        identity={"teachers": "abc"},
        kind="fp16",
        num_views=8000,
        num_classes=1000,
        num_epochs=10_000,
    )
    missing = store.missing_epochs()
    written = range(missing[0])
    assert len(written) >= 2
    assert missing == list(range(missing[0], 10_000))
    for epoch in written:
        assert (store.logits(epoch, torch.arange(8000)) == epoch).all()
