"""Laws of one distillation step, on the digits."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.data.normalise import normalise
from geodm_lightning.distillers.matching import warn_of_uniform_plan
from geodm_lightning.distillers.state import capture, restore
from geodm_lightning.methods import flattened
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.site import Site
from geodm_lightning.types import InputError
from tests.experiment import TINY, compose_settings

CPU = torch.device("cpu")
KEPT = tuple(item for item in TINY if item.startswith("distiller"))
TRAINED = ("pool.count=2", "matching.base.num_frequencies=16")
STRATEGIES = {
    "dm": ("strategy=dm",),
    "dsdm": ("strategy=dsdm", "pool.count=2"),
    "m3d": ("strategy=m3d", "pool.hold=2"),
    "hdd": ("strategy=hdd",),
    "ot": ("strategy=ot",),
    "ncfm": ("strategy=ncfm", *TRAINED),
    "ncfm_sampler": ("strategy=ncfm_sampler", *TRAINED),
    "adversarial": ("geometry=adversarial",),
    "from_real": ("geometry=from_real",),
    "split": ("geometry=split",),
    "heads": ("geometry=heads", "geometry.dims=[4,4,4]"),
    "stereographic": ("geometry=stereographic",),
    "sliced": ("transport=sliced",),
    "calibrated": ("pool=trained", "pool.count=2", "distiller.calibration_weight=1"),
}


@pytest.fixture(scope="module")
def data():
    return assembly.build_data(compose_settings(*TINY), CPU)


@pytest.fixture
def make(data, tmp_path):
    """Build a distiller from overrides that steps without a trainer."""

    def build(*overrides, euclidean=False, processes=None, real=None):
        settings = compose_settings(*TINY, f"cache_dir={tmp_path}", *overrides)
        if euclidean:
            settings = flattened(settings)
        site = Site(CPU, processes=processes or Processes())
        real = real or assembly.build_real_features(settings, data, site)
        distiller = assembly.build_distiller(settings, data, site, real)
        distiller.manual_backward = torch.Tensor.backward
        distiller.log_rows = lambda: distiller.terms.check_finite(distiller.iteration)
        return distiller

    return build


def run(distiller, num_iterations, start=0):
    for iteration in range(start, start + num_iterations):
        distiller.training_step(iteration)
    return distiller.synthetic.pixels.detach().clone()


def reference_dm(distiller, data, num_iterations, *, lr=1.0, momentum=0.5):
    """Distribution matching as published: one class after the other, plain tensors."""
    pixels = distiller.synthetic.pixels.detach().clone().requires_grad_()
    velocity = torch.zeros_like(pixels)
    for iteration in range(num_iterations):
        indices = data.train.draw(8, generator=keyed_generator(0, "real", iteration))
        draw = distiller.real.augmentation.draw(
            10, generator=keyed_generator(0, "augment", iteration)
        )
        network = distiller.real.pool.network(iteration)
        loss = torch.zeros(())
        for label in range(10):
            one = slice(label, label + 1)
            real = normalise(data.train.gather(indices[one]), data.spec)
            real_mean = network.embed(distiller.real.augmentation(real, draw.select(one))[0]).mean(
                0
            )
            own = distiller.real.augmentation(pixels[one], draw.select(one))[0]
            loss = loss + (real_mean.detach() - network.embed(own).mean(0)).square().sum()
        (gradient,) = torch.autograd.grad(loss, pixels)
        velocity = momentum * velocity + gradient
        pixels = (pixels - lr * velocity).detach().requires_grad_()
    return pixels.detach()


def test_flat_geometry_without_transport_is_published_dm(make, data):
    distiller = make("distiller.image_optimizer.lr=1.0", euclidean=True)
    expected = reference_dm(distiller, data, 3)
    torch.testing.assert_close(run(distiller, 3), expected, rtol=1e-4, atol=1e-5)


def test_weights_one_zero_zero_are_the_base_strategy(make):
    overrides = (
        "geometry.weights=[1,0,0]",
        "geometry.learn_weights=false",
        "geometry.learn_curvature=false",
        "matching.transport_weight=0",
    )
    torch.testing.assert_close(run(make(*overrides), 3), run(make(euclidean=True), 3))


@pytest.mark.parametrize("name", STRATEGIES)
def test_chunks_of_classes_change_memory_only(make, name):
    overrides = (*STRATEGIES[name], *KEPT, "distiller.image_optimizer.lr=0.01")
    whole = run(make(*overrides, "distiller.classes_per_step=10"), 2)
    chunks = run(make(*overrides, "distiller.classes_per_step=3"), 2)
    torch.testing.assert_close(chunks, whole, rtol=1e-3, atol=1e-4)


def test_two_shards_are_one_process(make):
    """Each process owns half of the classes; with fixed geometry nothing else is shared."""
    fixed = ("geometry=fixed",)
    whole = run(make(*fixed), 2)
    for rank in range(2):
        distiller = make(*fixed, processes=Processes(rank=rank, world_size=2))
        torch.testing.assert_close(
            run_without_logging(distiller, 2), whole[5 * rank : 5 * rank + 5], rtol=1e-4, atol=1e-5
        )


def run_without_logging(distiller, num_iterations):
    distiller.log_rows = lambda: None
    return run(distiller, num_iterations)


def test_geometry_is_learned_and_stays_in_its_range(make):
    distiller = make("distiller.geometry_optimizer.lr=0.05")
    before = distiller.matching.geometry.state()
    run(distiller, 20)
    after = distiller.matching.geometry.state()
    assert all(abs(after[key] - before[key]) > 1e-3 for key in before)
    assert 0.1 <= -after["curvature/hyperbolic"] <= 5
    assert 0.1 <= after["curvature/spherical"] <= 5


def test_a_fixed_geometry_has_nothing_to_learn(make):
    distiller = make("geometry=fixed")
    assert list(distiller.loss_optimizers) == []
    before = distiller.matching.geometry.state()
    run(distiller, 2)
    assert distiller.matching.geometry.state() == before


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_restored_run_continues_bit_for_bit(make, name):
    overrides = (*STRATEGIES[name], *KEPT)
    whole = make(*overrides)
    first = make(*overrides)
    run(whole, 3)
    run(first, 1)
    state = copy.deepcopy(capture(first))
    second = make(*overrides)
    restore(second, state)
    assert second.iteration == 1
    assert torch.equal(run(second, 2, start=1), whole.synthetic.pixels)
    assert second.matching.geometry.state() == whole.matching.geometry.state()
    for key, value in whole.terms.sums.items():
        assert torch.equal(second.terms.sums[key], value)


def test_a_plateau_halves_the_rate_and_survives_a_restore(make):
    patience = (*STRATEGIES["ncfm"], *KEPT, "distiller.image_scheduler.patience=0")
    distiller = make(*patience)
    distiller.image_scheduler.schedule.best = -1e9  # nothing is better
    run(distiller, 1)
    assert capture(distiller)["image_lr"] == pytest.approx(5e-4)
    restored = make(*patience)
    restore(restored, capture(distiller))
    run(restored, 1, start=1)
    assert capture(restored)["image_lr"] == pytest.approx(2.5e-4)


def test_a_schedule_sees_the_loss_of_every_iteration(make):
    distiller = make(*STRATEGIES["ncfm"], *KEPT)
    run(distiller, 3)
    assert capture(distiller)["image_scheduler"]["last_epoch"] == 3


def test_a_state_of_another_shape_is_refused(make):
    state = capture(make())
    with pytest.raises(InputError, match=r"the checkpoint holds images of shape"):
        restore(make("ipc=3"), state)


def test_seeds_change_the_run(make):
    assert not torch.equal(run(make("seed=1"), 2), run(make("seed=0"), 2))


def test_unit_pixels_stay_in_range(make):
    distiller = make(*STRATEGIES["ncfm"], *KEPT, "distiller.image_optimizer.lr=1.0")
    pixels = run(distiller, 2)
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0


def test_a_loss_that_is_not_finite_is_named(make):
    distiller = make("distiller.log_every=100")
    with torch.no_grad():
        distiller.synthetic.pixels[3, 0] = math.nan
    run(distiller, 1)
    with pytest.raises(InputError, match=r"distill/loss/matching.* not finite at iteration 1"):
        distiller.terms.check_finite(distiller.iteration)


def test_rows_in_lockstep_end_as_if_alone(make):
    """Shared real features are computed once and change nothing, not even the last bit."""
    variants = ("geometry=product", "geometry=fixed", "geometry=euclidean")
    alone = {name: run(make(name), 4) for name in variants}
    real = make().real
    real.num_users = len(variants)
    together = {name: make(name, real=real) for name in variants}
    calls = count_calls(real)
    for iteration in range(4):
        for distiller in together.values():
            distiller.training_step(iteration)
    assert len(calls) == 4
    for name, distiller in together.items():
        assert torch.equal(distiller.synthetic.pixels, alone[name]), name


def count_calls(real):
    calls, compute = [], real._compute

    def counted(*arguments):
        calls.append(arguments)
        return compute(*arguments)

    real._compute = counted
    return calls


def test_shared_work_is_charged_to_all_as_if_alone(make):
    real = make().real
    real.num_users = 2
    first, second = make(real=real), make("geometry=fixed", real=real)
    for iteration in range(3):
        first.training_step(iteration)
        second.training_step(iteration)
    for distiller in (first, second):
        ledger = distiller.ledger
        assert ledger.num_measured == 2  # all but the one whose memory was traced
        assert all(seconds > 0 for seconds in ledger.seconds.values())
        assert distiller.seconds >= sum(ledger.seconds.values())
        features = 10 * 8 * distiller.real.pool.network(0).num_features * 4
        assert ledger.bytes["network"] > features
        assert ledger.bytes["geometry"] > features


def test_the_ledger_survives_a_restore(make):
    first = make()
    run(first, 3)
    second = make()
    restore(second, copy.deepcopy(capture(first)))
    assert second.ledger.state() == first.ledger.state()


def test_a_uniform_plan_is_told_once(make, caplog):
    """One synthetic image per class leaves transport nothing to choose."""
    warn_of_uniform_plan.cache_clear()
    for overrides in (("ipc=1",), ("ipc=2",), ("ipc=1",)):
        distiller = make(*overrides)
        del distiller.log_rows
        distiller.trainer = SimpleNamespace(progress_bar_metrics={})
        run(distiller, 2)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("a transport plan is uniform to within 1 %")


def test_a_vanished_factor_is_left_out_from_a_row_on_and_the_saving_told(make):
    distiller = make("geometry.skip_below=0.3", "distiller.geometry_optimizer.lr=0.5")
    distiller.trainer = SimpleNamespace(progress_bar_metrics={})
    del distiller.log_rows
    run(distiller, 6)
    state = distiller.matching.geometry.state()
    gone = {key.removeprefix("weight/") for key, value in state.items() if value == 0.0}
    start, *others = distiller.ledger.stretches()
    assert start["from"] == "start"
    assert gone == {stretch["from"].split("without ")[1] for stretch in others}
    assert gone
    restored = make("geometry.skip_below=0.3", "distiller.geometry_optimizer.lr=0.5")
    restore(restored, copy.deepcopy(capture(distiller)))
    assert restored.matching.geometry.state() == state
    assert restored.ledger.stretches() == distiller.ledger.stretches()
