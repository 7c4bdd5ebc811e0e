"""The whole pipeline with other strategies, networks, loggers and data layouts."""

import numpy as np
import pytest
import torch
import wandb
from PIL import Image

from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.pipeline import run
from tests.experiment import compose_config, tiny_overrides


def run_tiny(folder, *overrides):
    tiny = [item for item in tiny_overrides(folder) if item != "network.width=8"]
    width = [] if "network=timm" in overrides else ["network.width=8"]
    run(compose_config(*tiny, *width, *overrides))
    return folder / "runs" / "tiny" / "0"


NCFM = (
    "pool=trained",
    "pool.count=2",
    "matching=ncfm",
    "matching.base.num_frequencies=64",
    "distiller=ncfm",
    "distiller.num_iterations=4",
    "distiller.real_batch=8",
    "distiller.log_every=2",
    "evaluation=protocol_c",
)


def test_ncfm_distils_mosaics_in_unit_range(tmp_path):
    path = run_tiny(tmp_path, *NCFM, "baselines=[random,base,control]")
    distilled = load_set(path / "distilled")
    assert distilled.manifest["label"] == "GeoDM (NCFM)"
    assert distilled.images.min() >= 0
    assert distilled.images.max() <= 1
    assert len(distilled.decode().images) == 4 * len(distilled.images) == 80
    results = {r.method: r for r in load_results(path / "results.json")}
    assert list(results) == ["random", "ncfm", "control", "geodm"]
    assert results["geodm"].num_images == 80
    assert results["random"].num_images == 20
    assert results["geodm"].protocol.cutmix_probability == 0.5


def test_trained_networks_are_shared_by_runs_and_kept(tmp_path):
    run_tiny(tmp_path, *NCFM, "stages=[distill]", "baselines=[]")
    files = sorted((tmp_path / "pools").rglob("*.ckpt"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    run_tiny(tmp_path, *NCFM, "stages=[distill]", "baselines=[]", "name=other", "ipc=1")
    assert sorted((tmp_path / "pools").rglob("*.ckpt")) == files
    assert [file.stat().st_mtime_ns for file in files] == times


def test_any_timm_model_can_be_network_and_student(tmp_path):
    path = run_tiny(
        tmp_path,
        "network=timm",
        "network.name=resnet10t",
        "evaluation.student={name: test_resnet}",
        "baselines=[random]",
        "distiller.num_iterations=2",
        "distiller.real_batch=2",
        "schedule.max_students=1",
    )
    result = load_results(path / "results.json")[0]
    assert result.protocol.network == "test_resnet"
    assert load_set(path / "distilled").images.isfinite().all()


def test_folders_of_images_can_be_distilled(tmp_path):
    noise = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("n01", "n02", "n03"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 255, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.JPEG")
    path = run_tiny(
        tmp_path,
        "data.name=image_folder",
        f"data.root={tmp_path}/images",
        "data.resolution=32",
        "network.depth=3",
        "baselines=[random]",
        "distiller.num_iterations=2",
        "schedule.max_students=1",
    )
    distilled = load_set(path / "distilled")
    assert distilled.images.shape == (6, 3, 32, 32)
    assert distilled.manifest["dataset"]["class_names"] == ["n01", "n02", "n03"]
    assert (path / "report.html").is_file()


def test_wandb_runs_offline_without_an_account(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    path = run_tiny(tmp_path, "logger=wandb", "baselines=[]", "stages=[distill,evaluate]")
    wandb.teardown()  # its process writes the last block of a record after finish has returned
    (record,) = (path / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()
    for key in (b"distill/curvature/hyperbolic", b"distill/loss/transport", b"accuracy/geodm"):
        assert key in content
    assert b"tiny-0" in content
    assert load_set(path / "distilled").manifest["iterations"] == 6


@pytest.mark.parametrize("option", ["geometry=fixed", "geometry=euclidean"])
def test_other_geometries_run_to_the_end(tmp_path, option):
    path = run_tiny(tmp_path, option, "stages=[distill]", "baselines=[]")
    geometry = load_set(path / "distilled").manifest["geometry"]
    assert geometry["weight/euclidean"] == pytest.approx(1 / 3 if "fixed" in option else 1)
    assert torch.isfinite(load_set(path / "distilled").images).all()


@pytest.mark.parametrize("factors", ["[euclidean,hyperbolic]", "[spherical]"])
def test_any_subset_of_factors_can_be_chosen(tmp_path, factors):
    path = run_tiny(tmp_path, f"geometry.factors={factors}", "stages=[distill]", "baselines=[]")
    geometry = load_set(path / "distilled").manifest["geometry"]
    assert {key.split("/")[1] for key in geometry} == set(factors.strip("[]").split(","))
