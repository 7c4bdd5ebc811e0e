"""The published DM and its evaluation loop in plain torch: one set, one accuracy, two programs."""

import math
import statistics
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from geodm_lightning import assembly
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.evaluation.candidate import candidate_from_set
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.processes import Processes
from geodm_lightning.site import open_site
from tests.experiment import compose_settings

WIDTH, IPC, EPOCHS, STUDENTS = 32, 10, 150, 12
MARGIN = 0.03  # two programs are called equal where the difference is surely below this
CONFIDENCE = 0.99
OPERATIONS = ("color", "crop", "cutout", "scale", "rotate")  # DSA without mirrors, as for digits


def plain_network(generator):
    """The ConvNet-3 of the literature for grey images, with torch's default weights."""
    layers = []
    for inputs, padding in ((1, 3), (WIDTH, 1), (WIDTH, 1)):
        layers += [
            nn.Conv2d(inputs, WIDTH, 3, padding=padding),
            nn.GroupNorm(WIDTH, WIDTH),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTH, 10))
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return network


def augmented(images, generator, *, shared):
    """One operation of DSA, drawn; its parameters are of every image, or shared by all."""
    name = OPERATIONS[torch.randint(len(OPERATIONS), (), generator=generator)]
    count, side = (1 if shared else len(images)), images.shape[-1]

    def draw(low, high):
        values = low + (high - low) * torch.rand(count, generator=generator)
        return values.expand(len(images)).view(-1, 1, 1, 1)

    if name == "color":
        images = images + draw(-0.5, 0.5)
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * draw(0, 2) + grey
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * draw(0.5, 1.5) + mean
    if name == "crop":
        reach = int(side * 0.125 + 0.5)
        padded = F.pad(images, (reach,) * 4)
        rows, columns = (
            torch.randint(2 * reach + 1, (count,), generator=generator).expand(len(images)).tolist()
            for _ in "xy"
        )
        places = zip(padded, rows, columns, strict=True)
        return torch.stack([image[:, y : y + side, x : x + side] for image, y, x in places])
    if name == "cutout":
        size = int(side * 0.5 + 0.5)
        mask = torch.ones_like(images)
        tops, lefts = (
            torch.randint(side + 1, (count,), generator=generator).expand(len(images)).tolist()
            for _ in "xy"
        )
        for image, top, left in zip(mask, tops, lefts, strict=True):
            y, x = top - size // 2, left - size // 2
            image[:, max(y, 0) : max(y + size, 0), max(x, 0) : max(x + size, 0)] = 0
        return images * mask
    matrix = torch.zeros(len(images), 2, 3)
    if name == "scale":
        matrix[:, 0, 0] = draw(1 / 1.2, 1.2).flatten()
        matrix[:, 1, 1] = draw(1 / 1.2, 1.2).flatten()
    else:
        angle = draw(-math.pi / 12, math.pi / 12).flatten()
        matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos(), -angle.sin()
        matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin(), angle.cos()
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def distilled_by_dm(real, labels, *, iterations=100, real_batch=64):
    """Mean features of every class in turn, under one random network per iteration; SGD."""
    generator = torch.Generator().manual_seed(0)
    by_class = [(labels == c).nonzero().flatten() for c in range(10)]
    chosen = [own[torch.randperm(len(own), generator=generator)[:IPC]] for own in by_class]
    synthetic = real[torch.cat(chosen)].clone().requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=80.0, momentum=0.5)  # as configs/distiller says
    for _ in range(iterations):
        embed = plain_network(generator)[:-1]
        loss = torch.zeros(())
        for c, own in enumerate(by_class):
            batch = real[own[torch.randperm(len(own), generator=generator)[:real_batch]]]
            images = synthetic[c * IPC : (c + 1) * IPC]
            pair = augmented(torch.cat([batch, images]), generator, shared=True)
            features = embed(pair)
            means = features[: len(batch)].mean(0).detach(), features[len(batch) :].mean(0)
            loss = loss + (means[0] - means[1]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return synthetic.detach()


def accuracy_by_reference(images, labels, test, index):
    """Protocol A: SGD at 0.01, a tenth after half, one DSA operation per batch, last epoch."""
    generator = torch.Generator().manual_seed(1000 + index)
    network = plain_network(generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for epoch in range(EPOCHS):
        if epoch == EPOCHS // 2:
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
        for indices in torch.randperm(len(images), generator=generator).split(256):
            batch = augmented(images[indices], generator, shared=False)
            loss = F.cross_entropy(network(batch), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return (network(test[0]).argmax(1) == test[1]).float().mean().item()


def normalised_digits(table):
    spec = table.spec
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    images = table.gather(torch.arange(len(table.labels)))
    return (images - mean) / std, table.labels, mean, std


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_set_of_plain_dm_reaches_what_the_original_loop_gives_it(tmp_path: Path, digits, capsys):
    """The difference of the mean accuracies lies within 3 points of 0, at 99 % confidence.

    Two programs with random numbers of their own train 12 students each on one set; that the
    whole interval of the difference (Welch) lies inside the margin states their equality.
    """
    real, labels, mean, std = normalised_digits(digits.train)
    synthetic = distilled_by_dm(real, labels)
    classes = class_major_labels(10, IPC)
    test = normalised_digits(digits.test)[:2]
    theirs = [accuracy_by_reference(synthetic, classes, test, i) for i in range(STUDENTS)]
    settings = compose_settings(
        "evaluation=protocol_a", "schedule=full", f"network.width={WIDTH}",
        f"evaluation.num_students={STUDENTS}", f"schedule.max_student_epochs={EPOCHS}",
    )  # fmt: skip
    manifest = {"method": "dm", "label": "DM", "ipc": IPC, "factor": 1}
    manifest["dataset"] = digits.spec._asdict()
    site = open_site("cpu", precision="32-true", threads=1, processes=Processes())
    distilled = DistilledSet(synthetic * std + mean, classes, manifest)
    result = evaluate_students(
        candidate_from_set(distilled, spec=digits.spec, device=site.device),
        test=digits.test,
        protocol=assembly.build_protocol(settings, digits.spec),
        seed=0,
        folder=tmp_path,
        site=site,
    )
    found = stats.ttest_ind(result.accuracies, theirs, equal_var=False)
    low, high = found.confidence_interval(CONFIDENCE)
    with capsys.disabled():
        print(
            f"\nours {100 * result.mean:.2f} ± {100 * result.std:.2f}, reference "
            f"{100 * statistics.fmean(theirs):.2f} ± {100 * statistics.stdev(theirs):.2f} "
            f"({STUDENTS} students each); difference {100 * (low + high) / 2:+.2f}, "
            f"{CONFIDENCE:.0%} interval {100 * low:+.2f} to {100 * high:+.2f} points, p = "
            f"{found.pvalue:.2f}"
        )
    assert -MARGIN < low <= high < MARGIN
