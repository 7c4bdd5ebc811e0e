"""Stacked networks answer, learn and keep statistics as each of them does alone."""

import pytest
import torch

from geodm_lightning.networks.backbones import build_network
from geodm_lightning.networks.stack import NetworkStack
from geodm_lightning.randomness import keyed_generator
from geodm_lightning.types import InputError

# name, channels, resolution, options, whether channels run in groups
ARCHITECTURES = [
    ("convnet", 1, 8, {"width": 3, "depth": 3}, True),
    ("convnet", 3, 16, {"width": 3, "depth": 3}, True),
    ("resnet_ap10", 3, 16, {"width": 2}, True),
    ("resnet18_in", 3, 16, {"width": 2}, True),
    ("resnet10t", 3, 32, {}, False),  # batch norm
]


def networks(name, channels, resolution, options, *, count=3, first=0):
    return [
        build_network(
            name, num_classes=5, channels=channels, resolution=resolution,
            generator=keyed_generator(index, "test"), **options,
        ).double()
        for index in range(first, first + count)
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "channels", "resolution", "options", "grouped"), ARCHITECTURES)
def test_every_network_answers_and_learns_as_it_does_alone(
    name, channels, resolution, options, grouped
):
    alone = networks(name, channels, resolution, options)
    stack = NetworkStack(alone)
    assert stack.is_grouped == grouped
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(
        3, 4, channels, resolution, resolution, generator=generator, dtype=torch.float64
    )
    towards = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    answers = stack(images)
    (answers * towards).sum().backward()
    gradients = {k: p.grad.view(3, *stack.shapes[k]) for k, p in stack.merged.named_parameters()}
    buffers = dict(stack.merged.named_buffers())
    for index, network in enumerate(alone):
        own = network(images[index])
        torch.testing.assert_close(answers[index], own, rtol=1e-9, atol=1e-9)
        (own * towards[index]).sum().backward()
        for key, parameter in network.named_parameters():
            torch.testing.assert_close(gradients[key][index], parameter.grad, rtol=1e-7, atol=1e-8)
        for key, buffer in network.named_buffers():
            torch.testing.assert_close(buffers[key][index], buffer, rtol=1e-9, atol=1e-9)
    if not grouped:
        assert any("running_mean" in key for key in buffers)
        stack.eval()
        pairs = zip(alone, images, strict=True)
        expected = torch.stack([network.eval()(own) for network, own in pairs])
        torch.testing.assert_close(stack(images), expected, rtol=1e-9, atol=1e-9)


def test_parameters_have_the_axes_of_a_single_network_and_are_copies():
    """What decays vectors less than matrices, by their axes, does so in a stack too."""
    alone = networks("convnet", 1, 8, {"width": 4, "depth": 3})
    stack = NetworkStack(alone)
    axes = [parameter.dim() for parameter in stack.parameters()]
    assert axes == [parameter.dim() for parameter in alone[0].parameters()]
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.zero_()
    assert all(p.any() for n in alone for k, p in n.named_parameters() if "weight" in k)


def test_weights_of_one_network_are_its_own():
    alone = networks("resnet_ap10", 3, 16, {"width": 2})
    stack = NetworkStack(alone)
    for index, network in enumerate(alone):
        for key, value in stack.weights_of(index).items():
            assert torch.equal(value, network.get_parameter(key))


def test_networks_of_other_shapes_are_refused():
    narrow, wide = (networks("convnet", 1, 8, {"width": w, "depth": 3}, count=1)[0] for w in (2, 3))
    with pytest.raises(InputError, match="same parameters and buffers"):
        NetworkStack([narrow, wide])
