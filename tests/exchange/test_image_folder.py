"""The export for Hugging Face, read by the installed `datasets` without a network."""

import json

import numpy as np
import pytest
import torch

from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.exchange.writing import write_set
from geodm_lightning.types import InputError


@pytest.fixture
def folder(tmp_path, made):
    results = "| Made | 71.0 |"
    distilled = made(eight_bits=True, soft=True)
    return write_set(tmp_path / "set", distilled, format="hf", results=results)


def test_datasets_reads_the_export(folder, tmp_path, made, spec, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    distilled = made(eight_bits=True, soft=True)
    for arguments in (("imagefolder",), (str(folder),)):
        options = {"data_dir": str(folder)} if arguments == ("imagefolder",) else {}
        cache = tmp_path / "cache"
        rows = datasets.load_dataset(*arguments, split="train", cache_dir=str(cache), **options)
        assert rows["label"] == distilled.labels.tolist()
        assert rows[2]["class"] == spec.class_names[1]
        assert rows[2]["soft_label"] == pytest.approx(distilled.soft_labels[2].tolist())
        pixels = torch.from_numpy(np.array(rows[2]["image"])).permute(2, 0, 1)
        assert torch.equal(pixels, distilled.images[2])


def test_the_card_tells_licence_rounding_results_and_provenance(folder, tmp_path, made):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n")
    for text in ("not stated by the authors", "8 bits, as in the set itself", "| Made | 71.0 |"):
        assert text in card
    assert json.loads(card.partition("```json")[2].partition("```")[0])["label"] == "Made"
    rounded = write_set(tmp_path / "rounded", made(), format="hf")
    assert "were rounded to 8 bits" in (rounded / "README.md").read_text()


@pytest.mark.parametrize("declared", [False, True])
def test_classes_numbered_otherwise_are_put_in_our_order(folder, spec, made, declared):
    """By the names that stand beside the numbers or, without any, by a declared order."""
    order = tuple(sorted(spec.class_names, reverse=True))
    metadata = folder / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    for row in rows:
        row["label"] = order.index(row["class"])
        del row["soft_label"]
        if declared:
            del row["class"]
    metadata.write_text("\n".join(map(json.dumps, rows)))
    imported = read_set(folder, spec=spec, declared=Declaration(order=order if declared else None))
    distilled = made(eight_bits=True)
    assert torch.equal(imported.distilled.labels, distilled.labels)
    assert torch.equal(imported.distilled.images, distilled.images)
    said = "inferred order: labels number the classes of cifar10 as hf does"
    assert (said in imported.warnings) == (not declared)
    rows[0]["class"] = "cat"
    metadata.write_text("\n".join(map(json.dumps, rows)))
    if not declared:
        with pytest.raises(InputError, match="calls label 9 both 'cat' and 'airplane'"):
            read_set(folder, spec=spec)


def test_mosaics_are_cut(tmp_path, made, spec):
    folder = write_set(tmp_path / "set", made(factor=2), format="hf")
    imported = read_set(folder, spec=spec)
    assert len(imported.distilled.images) == 80
    assert imported.distilled.manifest["factor"] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file_name": "../../out.png", "label": 0}', "leads out of"),
        ('{"file_name": "none.png", "label": 0}', "which does not exist"),
        ('{"file_name": "000000.png", "label": "cat"}', "labels that are no numbers"),
        ('{"file_name": "000000.png"}', "line 1 lacks file_name or label"),
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 lacks file_name or label"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(folder, spec, line, reason):
    (folder / "train/metadata.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=reason):
        read_set(folder, spec=spec)
