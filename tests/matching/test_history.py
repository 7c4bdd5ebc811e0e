import pytest
import torch

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import PrototypeHistory, scale_features
from geodm_lightning.types import InputError

ALL = slice(0, 3)
RTOL = {torch.float32: 1e-5, torch.float64: 1e-10}


def iterate(history, geometry, real, synthetic, share=1.0):
    """One iteration on all classes at once; the term it had."""
    scaled = scale_features(real, synthetic)
    term = history(scaled, geometry, classes=ALL)
    history.remember(scaled, geometry, classes=ALL)
    history.advance_(share)
    return term


def allocated(**options):
    history = PrototypeHistory(**options)
    history.allocate(3)
    return history


def test_flat_geometry_is_the_published_history(features, flat, dtype):
    history, past, decay, weight = allocated(start_share=0.4), {}, 0.99, 0.2
    for i in range(5):
        real, synthetic = (x * (1 + i) for x in features(dtype))  # a new network every time
        expected = torch.zeros_like(real[:, 0, 0])
        for c in range(3):
            prototype = synthetic[c].mean(0)
            if i >= 2:
                expected[c] = weight * (prototype - past[c]).square().sum() / 8
            past[c] = decay * past[c] + (1 - decay) * prototype if c in past else prototype
        term = iterate(history, flat, real, synthetic, share=(i + 1) / 5)
        torch.testing.assert_close(term, expected, rtol=RTOL[dtype], atol=0)


def test_product_measures_geodesics_at_the_scale_of_the_network(features, device):
    geometry = build_product(
        ["hyperbolic", "spherical"], curvature=0.8, weights=[0.75, 0.25], learn_weights=False
    ).to(device)
    history = allocated(weight=2.0, decay=0.5, start_share=0.0)
    past = {}
    for scale in (1.0, 3.0, 0.5):
        real, synthetic = (scale * x for x in features(torch.float64))
        scaled = scale_features(real, synthetic)
        m, expected = scaled.norm[:, None], 0
        for name, factor, share in geometry.active_factors():
            centroid = factor.centroid(scaled.synthetic)
            if name in past:
                squared = factor.dist(centroid, past[name] / m).square()
                expected = expected + 2.0 / 8 * m[:, 0] ** 2 * share * squared
            now = (m * centroid).detach()
            past[name] = 0.5 * past[name] + 0.5 * now if name in past else now
        term = iterate(history, geometry, real, synthetic)
        torch.testing.assert_close(term, expected + torch.zeros_like(term))


@pytest.mark.parametrize("geometry", ["flat", "learned"])
def test_gradient_leads_back_to_the_past(features, geometry, request, dtype):
    geometry = request.getfixturevalue(geometry)
    history = allocated()
    real, synthetic = features(dtype)
    iterate(history, geometry, real, synthetic)
    moved = (synthetic + 0.3).requires_grad_()
    scaled = scale_features(real, moved)
    term = history(scaled, geometry, classes=ALL)
    (gradient,) = torch.autograd.grad(term.sum(), moved)
    back = synthetic.mean(1) - moved.detach().mean(1)
    cosine = torch.cosine_similarity(-gradient.mean(1), back)
    assert (cosine > 0.9).all()
    nearer = scale_features(real, moved.detach() - gradient)
    assert (history(nearer, geometry, classes=ALL) < term).all()


def test_networks_fluctuate_less_with_a_history(features, flat):
    """Descending noisy targets, the damped centroid wanders less than the undamped one."""
    real, synthetic = features(torch.float64)
    source, spread = torch.Generator(real.device).manual_seed(0), []
    targets = torch.randn(60, 3, 1, 8, generator=source, device=real.device, dtype=real.dtype)
    for weight in (0.0, 8.0):
        history, x, path = allocated(weight=weight, start_share=0.0), synthetic.clone(), []
        for target in targets:
            x = x.detach().requires_grad_()
            scaled = scale_features(real, x)
            term = history(scaled, flat, classes=ALL)
            matching = (x.mean(1) - real.mean(1) - target[:, 0]).square().sum(-1)
            (gradient,) = torch.autograd.grad((matching + term).sum(), x)
            history.remember(scaled, flat, classes=ALL)
            history.advance_(1.0)
            x = x - 0.5 * gradient
            path.append(x.detach().mean(1))
        spread.append(torch.stack(path[20:]).std(0).mean())
    assert spread[1] < 0.8 * spread[0]


def test_nothing_is_updated_before_the_iteration_ends(features, learned):
    history = allocated()
    real, synthetic = features(torch.float64)
    iterate(history, learned, real, synthetic)
    before = history.state()
    scaled = scale_features(real, 2 * synthetic)
    terms = [history(scaled, learned, classes=ALL) for _ in range(2)]
    history.remember(scaled, learned, classes=ALL)
    terms.append(history(scaled, learned, classes=ALL))
    assert all(torch.equal(term, terms[0]) for term in terms)
    assert all(torch.equal(value, before[name]) for name, value in history.state().items())
    assert not any(value.requires_grad for value in before.values())


def test_acts_from_its_start_on_and_remembers_before(features, flat):
    history = allocated(start_share=0.5)
    terms = [iterate(history, flat, *features(torch.float64), share=i / 4) for i in range(1, 5)]
    assert [bool((term > 0).all()) for term in terms] == [False, False, True, True]
    assert all((term == 0).all() for term in terms[:2])


def test_chunks_of_classes_are_the_whole(features, learned, dtype):
    real, synthetic = features(dtype)
    whole, chunked = allocated(), allocated()
    for scale in (1.0, 2.0):
        scaled = scale_features(scale * real, scale * synthetic)
        expected = whole(scaled, learned, classes=ALL)
        whole.remember(scaled, learned, classes=ALL)
        terms = []
        for classes in (slice(0, 2), slice(2, 3)):
            part = scale_features(scale * real[classes], scale * synthetic[classes])
            terms.append(chunked(part, learned, classes=classes))
            chunked.remember(part, learned, classes=classes)
        whole.advance_(1.0)
        chunked.advance_(1.0)
        torch.testing.assert_close(torch.cat(terms), expected)
    for name, value in chunked.state().items():
        torch.testing.assert_close(value, whole.state()[name])


def test_classes_that_were_left_out_keep_their_memory(features, flat):
    history = allocated(start_share=0.0)
    real, synthetic = features(torch.float64)
    scaled = scale_features(real, synthetic)
    part = scale_features(real[:1], synthetic[:1])
    history.remember(part, flat, classes=slice(0, 1))
    history.advance_(0.1)
    moved = scale_features(real, synthetic + 1)
    assert (history(moved, flat, classes=ALL) > 0).tolist() == [True, False, False]
    history.remember(scale_features(real[1:], synthetic[1:]), flat, classes=slice(1, 3))
    history.advance_(0.2)
    prototypes = history.state()["prototype/euclidean"]
    torch.testing.assert_close(prototypes, synthetic.mean(1))
    assert (history(scaled, flat, classes=ALL) < 1e-20).all()


def test_state_goes_on_as_if_never_interrupted(features, learned):
    history, draws = allocated(), [features(torch.float64) for _ in range(3)]
    for real, synthetic in draws[:2]:
        iterate(history, learned, real, synthetic, share=0.3)
    state = {name: value.clone() for name, value in history.state().items()}
    assert all(len(value) == 3 for value in state.values())
    parts = [PrototypeHistory(), PrototypeHistory()]  # two processes, two classes and one
    terms = []
    for part, owned in zip(parts, (slice(0, 2), slice(2, 3)), strict=True):
        part.load_state({name: value[owned] for name, value in state.items()})
        scaled = scale_features(draws[2][0][owned], draws[2][1][owned])
        terms.append(part(scaled, learned, classes=slice(0, owned.stop - owned.start)))
    expected = iterate(history, learned, *draws[2])
    assert (expected > 0).all()
    torch.testing.assert_close(torch.cat(terms), expected)


def test_factors_left_out_later_do_not_count(features, learned, flat):
    history, (real, synthetic) = allocated(start_share=0.0), features(torch.float64)
    iterate(history, learned, real, synthetic)
    moved = scale_features(real, synthetic + 1)
    expected = 0.2 / 8 * torch.full_like(moved.norm, 8.0)  # every coordinate moved by 1
    torch.testing.assert_close(history(moved, flat, classes=ALL), expected)


def test_refusals(features, flat):
    for name, value in (("decay", 1.5), ("start_share", -0.1)):
        with pytest.raises(InputError, match=rf"history {name} must lie in \[0, 1\], got {value}"):
            PrototypeHistory(**{name: value})
    with pytest.raises(InputError, match="history weight must not be negative, got -1"):
        PrototypeHistory(weight=-1.0)
    with pytest.raises(InputError, match="a history of 0 classes"):
        PrototypeHistory()(scale_features(*features(torch.float32)), flat, classes=ALL)
    with pytest.raises(InputError, match="a history holds 'seen' and 'active'"):
        PrototypeHistory().load_state({"seen": torch.zeros(3)})
