"""What students learn in benchmarks: random pixels under protocol A."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from geodm_lightning.data.normalise import normalise
from geodm_lightning.data.table import TensorTable
from geodm_lightning.evaluation.candidate import Candidate
from geodm_lightning.evaluation.protocol import Protocol
from geodm_lightning.evaluation.together import Course
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import DatasetSpec, LabelledImages

PROTOCOL = Path(__file__).parents[1] / "configs/evaluation/protocol_a.yaml"


def random_course(
    spec: DatasetSpec, num_images: int, device: torch.device, *, steps: int, width: int
) -> Course:
    """Build students' images, random ones, and their protocol, shortened to some steps.

    Args:
        spec: Shape of the images; one test image of each class is drawn besides.
        num_images: Images to train on, classes in turn.
        device: Where they lie.
        steps: Optimiser steps of a student; an epoch is one where all images are one batch.
        width: Channels of the ConvNet, whose depth fits the images.
    """
    settings = yaml.safe_load(PROTOCOL.read_text())
    epochs = -(-steps // -(-num_images // settings["protocol"]["batch_size"]))
    protocol = Protocol(
        **{**settings["protocol"], "epochs": epochs},
        network="convnet",
        network_options={"width": width},
        num_students=settings["num_students"],
    )
    total = num_images + spec.num_classes
    pixels = torch.randint(
        0, 256, (total, spec.channels, spec.resolution, spec.resolution),
        dtype=torch.uint8, generator=keyed_generator(0, "benchmark"),
    )  # fmt: skip
    classes = torch.arange(spec.num_classes)
    test = TensorTable(LabelledImages(pixels[num_images:], classes), spec).to(device)
    images = normalise(pixels[:num_images].to(device).float() / 255, spec)
    labels = torch.arange(num_images, device=device) % spec.num_classes
    ipc = -(-num_images // spec.num_classes)
    candidate = Candidate(
        "random", "Random", ipc, "0", None, lambda indices: images[indices], labels
    )
    return Course(candidate, test, protocol, seed=0)
