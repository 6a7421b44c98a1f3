"""Controllers by hand, on planted effects, and on noise."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from jaxtyping import Float64

from components.augmentation.distribution import first_distribution
from components.online.controllers import RIDGE, Bandit, Distribution, GradientGram, Matching, Reinforce, nonnegative
from components.online.rewards import cosines
from components.settings.augmentation import Augmentation
from components.settings.online import Online
from components.training.adam import advantages, standardised
from tests.components.test_online import KINDS, Choice


def test_no_update_when_all_rewards_tie_even_with_momentum() -> None:
    controller, distribution = Reinforce(rate=0.2), Choice(theta=np.zeros(KINDS))
    controller, moved = controller.update(distribution, (0, 1, 2), np.array([1.0, 0.0, 0.5]))
    assert moved.theta.any()
    assert controller.update(moved, (0, 1, 2), np.array([0.5, 0.5, 0.5])) == (controller, moved)
    assert controller.update(moved, (0, 1, 2), np.array([0.5, np.nan, np.nan])) == (controller, moved)


def test_the_first_update_is_one_adam_step_by_hand() -> None:
    """Adam's first step is the sign of the gradient times the rate, where the gradient is far from 0."""
    distribution = Choice(theta=np.zeros(2))
    _, moved = Reinforce(rate=0.1).update(distribution, (0, 1), np.array([1.0, 0.0]))
    assert moved.theta == pytest.approx([0.1, -0.1], abs=1e-6)


def test_two_updates_agree_with_torchs_adam() -> None:
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([theta], lr=0.2, betas=(0.5, 0.999), maximize=True)
    controller, ours = Reinforce(rate=0.2), Choice(theta=np.zeros(3))
    for rewards in ([1.0, 0.0, 0.0, 2.0, -1.0], [0.0, 3.0, 1.0, 1.0, 0.0]):
        samples = (0, 1, 2, 0, 1)
        gradients = np.stack([ours.score_gradient(sample) for sample in samples])
        r = np.array(rewards)
        theta.grad = torch.from_numpy((r - r.mean()) / r.std() @ gradients / len(r))
        adam.step()
        controller, ours = controller.update(ours, samples, r)
        assert ours.theta == pytest.approx(theta.detach().numpy(), abs=1e-6)


def test_advantages_have_mean_zero_and_for_few_copies_leave_their_own_reward_out() -> None:
    assert advantages(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).sum() == pytest.approx(0)
    two = np.array([3.0, 1.0])
    assert advantages(two) == pytest.approx([(3 - 1) / two.std(), (1 - 3) / two.std()])


def played(
    controller: Bandit | Reinforce, effect: Float64[np.ndarray, " p"], trunks: int, seed: int, copies: int = 8
) -> Choice:
    """The distribution after so many trunks; a reward is the drawn kind's effect and standard normal noise."""
    rng = np.random.default_rng(seed)
    distribution: Distribution[int] = Choice(theta=np.zeros(len(effect)))
    for _ in range(trunks):
        samples = distribution.sample(copies, rng)
        controller, distribution = controller.update(
            distribution, samples, effect[list(samples)] + rng.standard_normal(copies)
        )
    assert isinstance(distribution, Choice)
    return distribution


@pytest.mark.parametrize("copies", [2, 4, 8])
@pytest.mark.parametrize("trunks", [10, 100])
def test_rewards_of_noise_leave_the_bandits_theta_at_most_standard_normal(trunks: int, copies: int) -> None:
    theta = np.stack([played(Bandit(rate=1.0), np.zeros(KINDS), trunks, seed, copies).theta for seed in range(20)])
    assert 0.1 < theta.std() < 1.1
    assert abs(theta.mean()) < 0.2


def test_on_noise_reinforce_drifts_with_the_number_of_trunks() -> None:
    """Adam normalises the gradient: the reason for the bandit."""
    few, many = (
        np.std([played(Reinforce(rate=0.2), np.zeros(KINDS), trunks, seed).theta for seed in range(20)])
        for trunks in (20, 200)
    )
    assert many > 1.5 * few


def test_both_controllers_find_a_planted_kind() -> None:
    effect = 0.8 * np.eye(KINDS)[7]
    for controller in (Bandit(rate=2.0), Reinforce(rate=0.2)):
        assert np.mean([played(controller, effect, 40, seed).shares()[7] for seed in range(5)]) > 5 / KINDS


def test_the_bandits_certainty_is_ridge_regression_by_hand() -> None:
    """Prior I, noise 1: covariance (I + X'X)^-1, mean covariance X'R."""
    rng = np.random.default_rng(0)
    distribution, samples = Choice(theta=np.zeros(3)), (0, 1, 2, 0, 1)
    rewards = rng.standard_normal((2, 5))
    controller = Bandit(rate=0.5)
    moved: Distribution[int] = distribution
    for row in rewards:
        controller, moved = controller.update(moved, samples, row)
    x = np.tile(np.eye(3)[list(samples)] - np.eye(3)[list(samples)].mean(axis=0), (2, 1))
    covariance = np.linalg.inv(np.eye(3) + x.T @ x)
    z = covariance @ x.T @ np.concatenate([standardised(row) for row in rewards]) / np.sqrt(np.diag(covariance))
    assert moved.theta == pytest.approx(0.5 * z, abs=1e-12)


def test_what_is_alike_by_the_prior_is_learned_together() -> None:
    settings = Augmentation(online=Online(trunks=1, images=1, warmup_trunks=0))
    distribution = first_distribution(settings)
    names = [str(element) for element in distribution.elements]
    row = {name: names.index(name) for name in ("Rotate 10", "Rotate 30", "ShearX 0.1")}
    pairs = [((row[name], row[name]),) for name in ("Rotate 10", "ShearX 0.1")]
    _, moved = Bandit(rate=1.0).update(distribution, pairs, np.array([1.0, 0.0]))
    assert moved.theta[row["Rotate 10"]] > moved.theta[row["Rotate 30"]] > 0 > moved.theta[row["ShearX 0.1"]]


Trunk = tuple[Float64[np.ndarray, " n"], GradientGram]


def directions(
    *rows: list[float], target: list[float], noise: float = 0.0, room: float = 0.0, val_loss: float = 1.0
) -> Trunk:
    """Cosines and Gram matrix of samples that add these rows. The halves' targets have such noise in a direction
    of its own, which cancels in their mean. `room`: the share of val's loss that training is rid of."""
    halves = [*target, noise], [*target, -noise]
    every = np.array([*([*row, 0.0] for row in rows), *halves], dtype=np.float64)
    gradient_gram = GradientGram(products=every @ every.T, train_loss=(1 - room) * val_loss, val_loss=val_loss)
    return cosines(gradient_gram), gradient_gram


def matched(*trunks: Trunk) -> Float64[np.ndarray, " n"]:
    controller, distribution = Matching(rate=1.0), Choice(theta=np.zeros(len(trunks[0][0])))
    for rewards, gradient_gram in trunks:
        controller, _ = controller.update(distribution, range(len(rewards)), rewards, gradient_gram)
    return controller.shares(slots=2)


def test_matching_gives_a_direction_its_share_whether_one_sample_or_three_point_along_it() -> None:
    """The target has two equal directions; the first has three samples. By rewards alone it gets three quarters."""
    one = matched(directions([1, 0, 0], [0, 1, 0], [0, 0, 1], target=[1, 1, 0]))
    three = matched(directions([1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], target=[1, 1, 0]))
    assert one[:2] == pytest.approx([one[0]] * 2)
    assert one[2] == 0
    assert three[:3].sum() / three.sum() < 0.57


def test_matching_never_uses_a_sample_that_points_away_even_where_it_would_help_to_undo_another() -> None:
    shares = matched(directions([1.0, 0.5], [0.0, -1.0], [-1.0, 0.0], target=[1.0, 0.0]))
    assert shares[2] == 0
    assert (shares[:2] > 0).all()


def test_the_augmentation_strength_is_what_the_mixture_lacks_in_length_and_at_most_all_slots() -> None:
    assert matched(directions([2.0, 0.0], [0.0, 1.0], target=[1.0, 0.0])).sum() == pytest.approx(0.5)
    assert matched(directions([0.1, 0.0], [0.0, 1.0], target=[1.0, 0.0])).sum() == pytest.approx(2.0)


def test_a_target_that_only_one_half_of_val_has_is_no_length() -> None:
    rows = [2.0, 0.0], [0.0, 1.0]
    noisy = matched(directions(*rows, target=[1.0, 0.0], noise=0.6))
    assert noisy.sum() == pytest.approx(0.5 * 0.64)  # the halves' inner product is 1 - 0.36
    assert matched(directions(*rows, target=[1.0, 0.0], noise=1.5)).sum() == 0


def test_a_network_that_has_learned_its_training_images_takes_the_mixture_in_all_slots() -> None:
    rows = [2.0, 0.0], [0.0, 1.0]
    assert matched(directions(*rows, target=[1.0, 0.0], room=1.0)).sum() == pytest.approx(2.0)
    assert matched(directions(*rows, target=[1.0, 0.0], room=0.5)).sum() == pytest.approx((0.5 + 2.0) / 2)


def test_the_room_is_one_over_all_trunks_and_none_where_val_is_the_easier() -> None:
    rows = [2.0, 0.0], [0.0, 1.0]
    hard = directions(*rows, target=[1.0, 0.0], room=1.0, val_loss=3.0)
    easy = directions(*rows, target=[1.0, 0.0], room=-1.0)
    assert matched(easy).sum() == pytest.approx(0.5)
    assert matched(hard, easy).sum() == pytest.approx(0.5 * 0.5 + 0.5 * 2.0)  # losses 0 + 2 of 3 + 1


def test_the_augmentation_strength_counts_as_far_as_the_mixture_fits_the_target() -> None:
    rows = [2.0, 0.0], [0.0, -1.0]
    assert matched(directions(*rows, target=[0.6, 0.8], room=1.0)).sum() == pytest.approx(0.6 * 2.0)
    assert matched(directions(*rows, target=[0.6, 0.8])).sum() == pytest.approx(0.6 * 0.5)
    assert matched(directions(*rows, target=[-1.0, 0.0], room=1.0)).sum() == 0


def test_a_trunk_counts_by_the_length_of_its_target() -> None:
    """Added 2 and 4, targets 1 and 8: sqrt((1 + 64) / (4 + 16))."""
    small, large = directions([2.0, 0.0], target=[1.0, 0.0]), directions([4.0, 0.0], target=[8.0, 0.0])
    assert matched(small).sum() == pytest.approx(0.5)
    assert matched(small, small, large).sum() == pytest.approx(np.sqrt(66 / 24))


def test_a_sample_lost_in_a_trunk_counts_in_the_others() -> None:
    rewards, gradient_gram = directions([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], target=[1.0, 1.0])
    lost = rewards.copy()
    lost[0] = np.nan
    gram = gradient_gram.products.copy()
    gram[0], gram[:, 0] = np.nan, np.nan
    broken = replace(gradient_gram, products=gram)
    assert matched((rewards, gradient_gram), (lost, broken)) == pytest.approx(matched((rewards, gradient_gram)))


def test_nothing_that_points_along_is_no_mixture() -> None:
    assert not matched(directions([-1.0, 0.0], [0.0, -1.0], target=[1.0, 1.0])).any()


@pytest.mark.parametrize("seed", range(5))
def test_nonnegative_is_scipys_nnls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    basis, target = rng.standard_normal((40, 12)), rng.standard_normal(40)
    ours = nonnegative(basis.T @ basis, basis.T @ target)
    ridge = np.vstack([basis, np.sqrt(RIDGE) * np.eye(12)])
    theirs, _ = scipy.optimize.nnls(ridge, np.append(target, np.zeros(12)))
    assert ours == pytest.approx(theirs, abs=1e-8)
