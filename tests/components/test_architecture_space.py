"""The space: what shapes its layers have, what may stand where, and which networks are one."""

import itertools

import pytest

from components.architecture.space import (
    Space,
    candidates,
    canonical,
    default_architecture,
    format_architecture,
    parse_architecture,
    parse_block,
    space_of,
)
from components.data.store import Classes
from components.settings.architecture import Architecture

CLASSES = Classes(names=("a", "b", "c"), size=9, channels=1)


def space(
    blocks: tuple[str, ...] = ("mb_k3_e3", "res_k3", "identity"),
    stages: tuple[tuple[int, int, int], ...] = ((8, 2, 1), (12, 3, 2)),
) -> Space:
    settings = Architecture(stem=8, stem_stride=2, stages=stages, blocks=blocks, warmup_epochs=0.0, stage_epochs=0.0)
    return space_of(settings, CLASSES)


def test_layers_have_the_shapes_of_the_stages() -> None:
    assert [str(layer) for layer in space().layers] == [
        "8x5x5->8/1",
        "8x5x5->8/1",
        "8x5x5->12/2",
        "12x3x3->12/1",
        "12x3x3->12/1",
    ]
    assert space().features == 12


def test_identity_stands_only_where_the_shape_is_kept() -> None:
    legal = [layer for layer in range(5) if "identity" in candidates(space(), layer)]
    assert legal == [0, 1, 3, 4]


def test_pooling_stands_only_where_the_image_is_made_smaller() -> None:
    mixed = space(("pool_k3", "res_k3"))
    assert [layer for layer in range(5) if "pool_k3" in candidates(mixed, layer)] == [2]
    assert default_architecture(mixed) == ("res_k3", "res_k3", "pool_k3", "res_k3", "res_k3")
    with pytest.raises(ValueError, match=r"no block that layer 0 .* can be: .* pool_k3 one of stride 2"):
        space(("pool_k3",))


def test_the_default_network_is_the_first_legal_block_everywhere() -> None:
    assert default_architecture(space(("identity", "res_k3"))) == (
        "identity",
        "identity",
        "res_k3",
        "identity",
        "identity",
    )


@pytest.mark.parametrize(
    "name", ["mb_k4_e3", "mb_k3_e7", "mb_k3", "res_k5", "res_k3_e1", "res_k3_e5", "mb_k3_e3_see", "pool", "pool_k5", ""]
)
def test_an_unknown_block_is_named_together_with_the_known_forms(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}'; known are mb_k"):
        space((name, "res_k3"))


def test_block_names_say_kernel_expansion_and_gate() -> None:
    block = parse_block("mb_k5_e6_se")
    assert (block.family, block.kernel, block.expansion, block.squeeze) == ("mb", 5, 6, True)
    wide = parse_block("res_k3_e2")
    assert (wide.family, wide.kernel, wide.expansion, wide.squeeze) == ("res", 3, 2, False)
    pooled = parse_block("pool_k3_e4")
    assert (pooled.family, pooled.kernel, pooled.expansion, pooled.squeeze) == ("pool", 3, 4, False)


def test_a_layer_that_nothing_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no block that layer 2 .* can be: identity needs"):
        space(("identity",))


def test_a_space_in_which_nothing_computes_is_refused() -> None:
    with pytest.raises(ValueError, match="holds only identity: no network would compute anything"):
        space(("identity",), stages=((8, 2, 1),))


def test_text_and_architecture_are_inverse() -> None:
    architecture = ("identity", "res_k3", "mb_k3_e3", "res_k3", "identity")
    assert parse_architecture(space(), format_architecture(architecture)) == architecture


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("res_k3|res_k3", "none of this space: it has 2 layers, the space 5; name a legal block a layer"),
        ("res_k3|res_k3|identity|res_k3|res_k3", "its layer 2 is 'identity', the space allows mb_k3_e3, res_k3 there"),
        ("res_k3|res_k3|mb_k7_e1|res_k3|res_k3", "'mb_k7_e1'"),
    ],
)
def test_a_text_of_another_space_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_architecture(space(), text)


def test_where_a_layer_is_skipped_does_not_matter_within_layers_of_one_shape() -> None:
    first = ("identity", "res_k3", "res_k3", "identity", "mb_k3_e3")
    assert canonical(space(), first) == ("res_k3", "identity", "res_k3", "mb_k3_e3", "identity")
    assert canonical(space(), first[:1]) == ("identity",)
    assert canonical(space(), first[:4]) == ("res_k3", "identity", "res_k3", "identity")


def test_order_of_computing_blocks_and_skips_of_other_shapes_do_matter() -> None:
    these = list(itertools.product(*(candidates(space(), layer) for layer in range(5))))
    classes = {canonical(space(), a) for a in these}
    # two runs of two layers: 9 pairs, of which (identity, x) = (x, identity) for two x leaves 7; 2 blocks between
    assert len(these) == 9 * 2 * 9
    assert len(classes) == 7 * 2 * 7
    assert canonical(space(), ("res_k3", "mb_k3_e3")) != canonical(space(), ("mb_k3_e3", "res_k3"))
