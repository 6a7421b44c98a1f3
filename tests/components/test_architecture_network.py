"""The stand-alone network: shapes, raw images in, weights that depend on the seed alone."""

import pytest
import torch

from components.architecture.network import build_block, build_network
from components.architecture.space import Layer, Space, space_of
from components.data.store import Classes
from components.settings.architecture import Architecture

BLOCKS = ("mb_k3_e2", "res_k3", "mb_k5_e1_se", "identity")
ARCHITECTURE = ("identity", "mb_k3_e2", "res_k3", "mb_k5_e1_se")


def space(channels: int = 3) -> Space:
    settings = Architecture(
        stem=8,
        stem_stride=1,
        stages=((8, 2, 1), (12, 2, 2)),
        blocks=BLOCKS,
        warmup_epochs=0.0,
        stage_epochs=0.0,
    )
    return space_of(settings, Classes(names=("a", "b", "c", "d", "e"), size=8, channels=channels))


def images(count: int = 4, channels: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    nhwc = torch.randint(0, 256, (count, 8, 8, channels), dtype=torch.uint8, generator=rng)
    return nhwc.permute(0, 3, 1, 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "name", ["mb_k3_e1", "mb_k5_e3", "mb_k7_e6", "mb_k3_e2_se", "res_k3", "res_k3_e3", "pool_k3", "pool_k3_e2"]
)
@pytest.mark.parametrize("outputs", [6, 10])
def test_every_block_maps_its_layers_shape(name: str, stride: int, outputs: int) -> None:
    block = build_block(name, Layer(6, outputs, stride, 7))
    assert block(torch.rand(2, 6, 7, 7)).shape == (2, outputs, -(-7 // stride), -(-7 // stride))


def test_blocks_that_keep_the_shape_have_a_shortcut() -> None:
    x = torch.rand(2, 6, 7, 7)
    for name in ("mb_k3_e2", "res_k3"):
        block = build_block(name, Layer(6, 6, 1, 7)).eval()
        norms = [module for module in block.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        torch.nn.init.zeros_(norms[-1].weight)
        assert torch.equal(block(x), x), name


def test_pooling_keeps_the_strongest_answer_wherever_it_stands() -> None:
    block = build_block("pool_k3", Layer(1, 1, 2, 8)).eval()
    first, second = (module for module in block.modules() if isinstance(module, torch.nn.Conv2d))
    for convolution in (first, second):
        torch.nn.init.dirac_(convolution.weight)  # passes the image on
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 2, 4], images[1, 0, 3, 5] = 1.0, 1.0  # in the same four pixels
    answers = block(images)
    assert torch.equal(answers[0], answers[1])
    assert answers[0, 0].nonzero().tolist() == [[1, 2]]


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(ValueError, match="'conv_k3'"):
        build_block("conv_k3", Layer(6, 6, 1, 7))


def test_logits_are_the_features_times_the_bare_classifier() -> None:
    network = build_network(space(), ARCHITECTURE, (0.4,) * 3, (0.2,) * 3).eval()
    features = network.features(images())
    assert features.shape == (4, 12)
    assert network.classifier.bias is None
    assert torch.allclose(network(images()), features @ network.classifier.weight.T)


def test_raw_images_are_normalised_inside() -> None:
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.25)
    network = build_network(space(), ARCHITECTURE, mean, std).eval()
    shape = (1, 3, 1, 1)
    normalised = (images() / 255 - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
    assert torch.allclose(network.stem(images()), network.stem.body(normalised), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_activations_stay_in_channels_last_layout(channels: int) -> None:
    network = build_network(space(channels), ARCHITECTURE, (0.4,) * channels, (0.2,) * channels)
    x = network.stem(images(channels=channels))
    for layer in network.layers:
        x = layer(x)
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_weights_depend_on_the_seed_alone_and_global_random_numbers_go_on_undisturbed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_network(space(), ARCHITECTURE, (0.4,) * 3, (0.2,) * 3, seed=1)
    assert torch.equal(torch.rand(3), expected)
    same = build_network(space(), ARCHITECTURE, (0.4,) * 3, (0.2,) * 3, seed=1)
    other = build_network(space(), ARCHITECTURE, (0.4,) * 3, (0.2,) * 3, seed=2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
