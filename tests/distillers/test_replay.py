"""What is recorded and replayed gives what the operations give one by one.

A CPU has no graphs. A tape stands in for one and keeps its laws: the operations of a run are
made again on the same tensors, their results are written to the same places, and no line of Python
is run a second time.
"""

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from geodm_lightning import assembly
from geodm_lightning.assembly.matching import build_matching
from geodm_lightning.distillers import replay
from geodm_lightning.distillers.replay import ReplayedGradients, gradients_of
from geodm_lightning.processes import Processes, say_once
from geodm_lightning.site import Site
from tests.experiment import TINY, compose_settings

CPU = torch.device("cpu")
ABLE = {
    "dm": ("strategy=dm",),
    "dsdm": ("strategy=dsdm", "pool.count=2"),
    "m3d": ("strategy=m3d",),
    "ot": ("strategy=ot",),
    "adversarial": ("geometry=adversarial",),
    "split": ("geometry=split",),
    "fixed": ("geometry=fixed",),
}


class Tape(TorchDispatchMode):
    """Makes the operations of a run again."""

    def __init__(self, run):
        super().__init__()
        self.steps = []
        with self:
            run()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def __call__(self):
        for func, args, kwargs, result in self.steps:
            again = func(*args, **kwargs)
            for place, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


@pytest.fixture(scope="module")
def data():
    return assembly.build_data(compose_settings(*TINY), CPU)


@pytest.fixture
def loss(data):
    """Build the matching loss of some overrides."""

    def build(*overrides):
        return build_matching(compose_settings(*TINY, *overrides), data.spec)

    return build


@pytest.fixture
def features():
    """Draw real and synthetic features of three classes."""

    def draw(seed, num_synthetic=4):
        generator = torch.Generator().manual_seed(seed)
        sizes = ((3, 20, 8), (3, num_synthetic, 8))
        return [torch.randn(size, generator=generator).abs() * (seed + 1) for size in sizes]

    return draw


@pytest.fixture(autouse=True)
def untold():
    say_once.cache_clear()


def tensors_of(gradients):
    return [tensor.clone() for tensor in replay._tensors(gradients)]


@pytest.mark.parametrize("name", ABLE)
def test_a_replay_is_the_operations_one_by_one(loss, features, name):
    matching = loss(*ABLE[name])
    matching.history = None
    assert replay.randomness(matching) is None
    replayed = ReplayedGradients(matching, Tape)
    for seed in (0, 1, 2):
        real, synthetic = features(seed)
        found = tensors_of(replayed(real, synthetic))
        for ours, theirs in zip(
            found, tensors_of(gradients_of(matching, real, synthetic)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        with torch.no_grad():  # as an optimiser changes what is learned
            for parameter in replayed.learned:
                parameter.add_(0.1)
    assert not replayed.is_refused


def test_every_shape_and_set_of_factors_is_recorded_once(loss, features):
    taped = []
    replayed = ReplayedGradients(loss(), lambda run: taped.append(1) or Tape(run))
    for seed, count in ((0, 4), (1, 2), (2, 4), (3, 2)):
        assert replayed(*features(seed, count)) is not None
    assert len(taped) == 2
    geometry = replayed.matching.geometry
    with torch.no_grad():
        geometry.weight_logits.copy_(torch.tensor([5.0, 5.0, -30.0]))
    geometry.skip_vanished_()
    assert replayed(*features(4)) is not None
    assert len(taped) == 3


def fails(_):
    raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")


def does_nothing(run):
    run()
    return lambda: None


def is_wrong(run):
    tape = Tape(run)

    def again():
        tape()
        tape.steps[-1][3].mul_(2)

    return again


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (fails, "the loss cannot be recorded (CUDA error: operation not permitted)"),
        (does_nothing, "a replay does not agree with the operations one by one"),
        (is_wrong, "a replay does not agree with the operations one by one"),
    ],
)
def test_what_cannot_be_recorded_is_left_alone_and_said_once(loss, features, caplog, record, words):
    replayed = ReplayedGradients(loss(), record)
    with caplog.at_level(logging.WARNING):
        assert replayed(*features(0)) is None
        assert replayed(*features(1)) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{replay.ONE_BY_ONE}: {words}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("strategy=ncfm", "pool.count=2"), "its frequencies are drawn anew every iteration"),
        (("transport=sliced",), "its transport is not Sinkhorn's"),
        (("transport.solver=exact",), "its transport is not Sinkhorn's"),
        (("strategy=dsdm", "pool.count=2"), "it remembers what it saw"),
    ],
)
def test_losses_that_change_by_themselves_are_not_recorded(loss, overrides, words):
    assert replay.randomness(loss(*overrides)) == words


def test_a_cpu_has_no_graphs(loss, caplog):
    with caplog.at_level(logging.WARNING):
        assert replay.replayed(loss(), CPU) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{replay.ONE_BY_ONE}: cpu has no graphs"


@pytest.mark.parametrize("classes_per_step", [10, 4])
def test_a_run_with_replays_learns_the_same(data, tmp_path, classes_per_step):
    settings = compose_settings(
        *TINY, f"cache_dir={tmp_path}", f"distiller.classes_per_step={classes_per_step}"
    )
    learned = []
    for replays in (False, True):
        site = Site(CPU, processes=Processes())
        real = assembly.build_real_features(settings, data, site)
        distiller = assembly.build_distiller(settings, data, site, real)
        distiller.manual_backward = torch.Tensor.backward
        distiller.log_rows = lambda own=distiller: own.terms.check_finite(own.iteration)
        distiller.ledger.device = torch.device("meta")  # which is measured as an accelerator is
        distiller.ledger.measure_every = 4
        if replays:
            distiller.replay = ReplayedGradients(distiller.matching, Tape)
        for iteration in range(6):
            distiller.training_step(iteration)
        if replays:
            assert distiller.replay._recordings
            assert not distiller.replay.is_refused
        geometry = distiller.matching.geometry.state()
        learned.append((distiller.synthetic.pixels.detach(), geometry, distiller.terms.sums))
    (pixels, geometry, sums), (replayed, replayed_geometry, replayed_sums) = learned
    torch.testing.assert_close(replayed, pixels, rtol=1e-4, atol=1e-5)
    assert replayed_geometry == pytest.approx(geometry, rel=1e-4)
    assert {k: float(v) for k, v in replayed_sums.items()} == pytest.approx(
        {k: float(v) for k, v in sums.items()}, rel=1e-4
    )
