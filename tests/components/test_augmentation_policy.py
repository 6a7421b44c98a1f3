"""The distribution's probabilities and gradients are exact; a policy survives JSON and applies what it says."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor

from components.augmentation.distribution import FactoredPairs, first_distribution, format_pairs, policy_of
from components.augmentation.operations import apply_elements
from components.augmentation.policy import Policy, augment_pairs
from components.online.controllers import Distribution
from components.settings.augmentation import Augmentation
from components.settings.online import Online


def distribution(seed: int = 0, **changes: Any) -> FactoredPairs:
    """With random logits."""
    start = first_distribution(Augmentation(online=Online(trunks=1, images=8, warmup_trunks=0), **changes))
    return start.at(np.random.default_rng(seed).normal(size=start.theta.shape))


def images(count: int = 64) -> UInt8[Tensor, "b c h w"]:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_score_gradient_is_autograds() -> None:
    """The log probability written out again: the mean over the sample's pairs."""
    chosen = distribution(pairs_per_trunk=5)
    theta = torch.from_numpy(chosen.theta.copy()).requires_grad_()
    (sample,) = chosen.sample(1, np.random.default_rng(0))
    kinds, (first, second) = len(chosen.elements), torch.tensor(sample).T
    (theta[:kinds].log_softmax(0)[first] + theta[kinds:].log_softmax(0)[second]).mean().backward()
    assert theta.grad is not None
    assert chosen.score_gradient(sample) == pytest.approx(theta.grad.numpy(), abs=1e-12)


def test_draws_follow_the_joint_distribution() -> None:
    chosen = distribution()
    assert chosen.joint().sum() == pytest.approx(1)
    drawn = np.concatenate([np.array(s) for s in chosen.sample(20_000, np.random.default_rng(0))])
    for axis in (0, 1):
        seen = np.bincount(drawn[:, axis], minlength=len(chosen.elements)) / len(drawn)
        assert seen == pytest.approx(chosen.joint().sum(axis=1 - axis), abs=0.006)


def test_it_is_an_engines_distribution_and_starts_uniform() -> None:
    chosen = distribution()
    assert isinstance(chosen, Distribution)
    start = chosen.at(np.zeros_like(chosen.theta))
    assert start.joint() == pytest.approx(np.full_like(start.joint(), len(start.elements) ** -2))


def test_the_settings_name_the_space() -> None:
    assert distribution().theta.shape == (38 + 38,)
    assert distribution(cutout=False).theta.shape == (37 + 37,)


def test_a_sample_holds_the_committed_pairs_or_one_an_image() -> None:
    rng = np.random.default_rng(0)
    assert {len(s) for s in distribution(pairs_per_trunk=3).sample(4, rng)} == {3}
    assert {len(s) for s in distribution(pairs_per_trunk=None).sample(4, rng)} == {8}


def test_a_policy_survives_json_to_the_last_bit() -> None:
    policy = policy_of(distribution())
    again = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again.elements == policy.elements
    assert np.array_equal(again.joint, policy.joint)


def test_the_record_says_what_matters_first() -> None:
    policy = policy_of(distribution())
    record = policy.to_json()
    shares = [pair["probability"] for pair in record["pairs"]]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 38**2
    assert record["entropy_bits"] < record["entropy_bits_uniform"]
    assert sum(row["share"] for row in record["operations"]) == pytest.approx(1)
    uniform = policy_of(first_distribution(Augmentation(online=Online(trunks=1, images=8, warmup_trunks=0)))).to_json()
    assert uniform["entropy_bits"] == pytest.approx(uniform["entropy_bits_uniform"])


def test_a_record_that_is_no_distribution_is_refused() -> None:
    record = policy_of(distribution()).to_json()
    with pytest.raises(ValueError, match=r"probabilities sum to .*; make them sum to 1"):
        Policy.from_json(record | {"pairs": record["pairs"][:5]})
    first, second, *others = record["pairs"]
    moved = [first | {"probability": 1.5}, second | {"probability": first["probability"] + second["probability"] - 1.5}]
    with pytest.raises(ValueError, match="negative probability; make all 0 or more"):
        Policy.from_json(record | {"pairs": [*moved, *others]})
    with pytest.raises(ValueError, match=r"the policy has no 'Rotate 10.*'"):
        Policy.from_json(
            record | {"elements": [name for name in record["elements"] if not name.startswith("Rotate 10")]}
        )
    with pytest.raises(ValueError, match="the policy has no 'pairs'"):
        Policy.from_json({"elements": record["elements"]})


def certain_policy(first: str, second: str) -> Policy:
    policy = policy_of(distribution())
    names = [str(element) for element in policy.elements]
    joint = np.zeros_like(policy.joint)
    joint[names.index(first), names.index(second)] = 1
    return replace(policy, joint=joint)


def test_the_first_element_is_applied_first() -> None:
    """Solarize 102, then Posterize 4: the other order gives other bytes."""
    policy = certain_policy("Solarize 102", "Posterize 4")
    names = [str(element) for element in policy.elements]
    uniforms = torch.full((64, 3), 0.5, dtype=torch.float64)

    def apply(name: str, batch: Tensor) -> Tensor:
        return apply_elements(batch, policy.elements, torch.full((64,), names.index(name)), uniforms)

    got = policy.augment()(images(), torch.Generator().manual_seed(0))
    assert torch.equal(got, apply("Posterize 4", apply("Solarize 102", images())))
    assert not torch.equal(got, apply("Solarize 102", apply("Posterize 4", images())))


def test_identity_twice_changes_nothing_and_invert_twice_neither() -> None:
    for name in ("Identity", "Invert"):
        got = certain_policy(name, name).augment()(images(), torch.Generator().manual_seed(0))
        assert torch.equal(got, images())


def test_images_draw_their_pairs_by_weight() -> None:
    policy = policy_of(distribution())
    names = [str(element) for element in policy.elements]
    pairs = [(names.index("Identity"),) * 2, (names.index("Invert"), names.index("Identity"))]
    batch = images(4000)
    got = augment_pairs(policy.elements, pairs, np.array([0.7, 0.3]))(batch, torch.Generator().manual_seed(0))
    inverted = (got == 255 - batch).flatten(1).all(1)
    assert ((got == batch).flatten(1).all(1) | inverted).all()
    assert inverted.float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_every_sample_takes_the_same_random_numbers() -> None:
    """Common random numbers: copies with different pairs must leave the generator in the same place."""
    policy = policy_of(distribution())
    ends = set()
    for pair in ((0, 0), (5, 37), (20, 20)):
        rng = torch.Generator().manual_seed(3)
        augment_pairs(policy.elements, [pair])(images(), rng)
        ends.add(torch.rand(1, generator=rng).item())
    assert len(ends) == 1


def test_the_same_generator_gives_the_same_images() -> None:
    augment = policy_of(distribution()).augment()
    first, second, other = (augment(images(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_samples_are_written_as_people_read_them() -> None:
    elements = distribution().elements
    assert format_pairs(elements, ((0, 1), (37, 35))) == "Identity + ShearX 0.1 | Cutout + Equalize"
    assert format_pairs(elements, ((0, 0),) * 3, limit=1) == "Identity + Identity | ... 2 more"


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_identity_starts_with_its_share_and_the_others_with_equal_ones(share: float) -> None:
    settings = Augmentation(identity_share=share, online=Online(trunks=1, images=1, warmup_trunks=0))
    policy = policy_of(first_distribution(settings))
    for shares in policy.element_shares().values():
        identity = [element.operation == "Identity" for element in policy.elements].index(True)
        assert shares[identity] == pytest.approx(share)
        assert np.ptp(np.delete(shares, identity)) < 1e-12


def test_features_are_shares_and_the_prior_is_a_covariance() -> None:
    chosen = distribution(pairs_per_trunk=4)
    sample = chosen.sample(1, np.random.default_rng(0))[0]
    assert chosen.features(sample).sum() == pytest.approx(2)
    prior = chosen.prior()
    assert np.array_equal(prior, prior.T)
    assert np.diag(prior) == pytest.approx(1)
    assert np.linalg.eigvalsh(prior[:50, :50]).min() > 0
