"""The family of losses: cross-entropy at its start, stable everywhere, and wide enough for the known losses."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from components.loss.chart import loss_curves
from components.loss.family import (
    CLASS_FACTOR,
    KNOWN,
    SearchedLoss,
    closest,
    decode,
    fit_knots,
    increments,
    read_loss,
    representation_error,
    sup_error,
)
from components.training.loop import Criterion

KNOTS = 10
ROOT = Path(__file__).resolve().parents[2]
CROSS_ENTROPY = np.zeros(2 * KNOTS)

Problem = tuple[Float[Tensor, "b d"], Float[Tensor, "k d"], Int64[Tensor, " b"]]


def problem(b: int, d: int, k: int, size: float = 1.0, seed: int = 0) -> Problem:
    """Features, weight and labels with logits of about size^2 sqrt(d)."""
    rng = torch.Generator().manual_seed(seed)
    features, weight = (size * torch.randn(n, d, generator=rng) for n in (b, k))
    return features.requires_grad_(), weight.requires_grad_(), torch.randint(k, (b,), generator=rng)


def gradients(loss: Criterion, data: Problem) -> list[Tensor]:
    return list(torch.autograd.grad(loss(*data), data[:2]))


def smoothed_cross_entropy(smoothing: float) -> Criterion:
    return lambda x, w, y: F.cross_entropy(x @ w.T, y, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [1e-4, 1.0, 10.0, 300.0])
@pytest.mark.parametrize(("b", "d", "k"), [(1, 1, 2), (64, 32, 10), (7, 128, 100), (300, 3, 5)])
def test_theta_zero_is_cross_entropy_with_its_gradient(b: int, d: int, k: int, size: float, smoothing: float) -> None:
    data = problem(b, d, k, size)
    loss, reference = decode(CROSS_ENTROPY, smoothing), smoothed_cross_entropy(smoothing)
    torch.testing.assert_close(loss(*data), reference(*data), rtol=1e-6, atol=2e-7)
    for got, wanted in zip(gradients(loss, data), gradients(reference, data), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * wanted.abs().max().item() + 1e-12)


@pytest.mark.parametrize("theta", [CROSS_ENTROPY, np.full(2 * KNOTS, 0.5)], ids=["cross_entropy", "another"])
def test_zero_features_give_finite_gradients(theta: np.ndarray) -> None:
    features, weight, labels = problem(8, 4, 3)
    data = (torch.zeros_like(features).requires_grad_(), weight, labels)
    assert all(gradient.isfinite().all() for gradient in gradients(decode(theta), data))


def test_every_theta_gives_rising_positive_curves_that_end_at_one() -> None:
    rng = np.random.default_rng(0)
    for spread in (0.2, 1.0, 10.0, 100.0):
        for _ in range(300):
            curves = decode(spread * rng.standard_normal(2 * KNOTS)).knots
            assert (np.diff(curves["t"]) > 0).all()
            assert (np.diff(curves["tau"]) > 0).all()
            assert curves["tau"][0] >= 0
            assert curves["tau"][-1] == 1


def test_no_theta_and_no_input_gives_nan() -> None:
    rng = np.random.default_rng(0)
    x, w, y = problem(64, 16, 10, seed=1)
    extremes = [1e-6, 1.0, 30.0, 3e3]  # logits up to about 1e8
    rows = torch.tensor(extremes).repeat_interleave(16)[:, None]
    data = ((x.detach() * rows).requires_grad_(), w, y)
    for trial in range(1_000):
        loss = decode(10 ** rng.uniform(-1, 2) * rng.standard_normal(2 * KNOTS), 0.1 * (trial % 2))
        value = loss(*data)
        assert value.isfinite(), trial
        if trial % 4 == 0:
            assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, data[:2])), trial


def test_t_slope_is_the_gradient_ratio_of_equation_10() -> None:
    """The pull towards the label's class over the push from all others, both across the label's weight, is t'(c)."""
    loss = decode(np.random.default_rng(3).standard_normal(2 * KNOTS))
    x, w, _ = problem(40, 3, 5)
    for i in range(40):
        label = torch.tensor([i % 5])
        (gradient,) = torch.autograd.grad(loss(x[i : i + 1], w, label), [w])
        unit = F.normalize(w[i % 5], dim=0).detach()
        across = x[i].detach() - (x[i].detach() @ unit) * unit
        pull = -gradient @ across
        ratio = pull[i % 5] / -(pull.sum() - pull[i % 5])
        cosine = F.cosine_similarity(x[i], w[i % 5], dim=0).item()
        slopes = np.diff(loss.knots["t"]) / (2 / (KNOTS - 1))
        slope = slopes[int((cosine + 1) / 2 * (KNOTS - 1))]
        assert ratio.item() == pytest.approx(slope, rel=2e-3), (i, cosine)


def test_hopeless_images_keep_the_gradient_of_cross_entropy_or_lose_it_as_tau_0_says() -> None:
    x = torch.tensor([[200.0, 0.0]], requires_grad=True)  # the label's logit is 200 below the other's
    data = (x, torch.eye(2).requires_grad_(), torch.tensor([1]))
    kept = decode(CROSS_ENTROPY)
    lost = SearchedLoss(t=[-1.0, 1.0], tau=[0.1, 1.0])
    assert kept(*data).item() == pytest.approx(200)
    assert lost(*data).item() == pytest.approx(-np.log(0.1))
    assert gradients(kept, data)[0].abs().max() == pytest.approx(1)
    assert gradients(lost, data)[0].abs().max() == 0


def test_tau_is_continuous_at_its_knots() -> None:
    loss = decode(np.random.default_rng(5).standard_normal(2 * KNOTS))
    for knot, value in list(enumerate(loss.knots["tau"]))[1:-1]:
        around = torch.tensor([np.nextafter(knot / 9, 0), knot / 9, np.nextafter(knot / 9, 1)]).float().log()
        torch.testing.assert_close(loss.log_tau(around).exp(), torch.full((3,), value).float(), rtol=1e-5, atol=1e-6)


def test_values_by_hand() -> None:
    """Lengths 1, image and class at 60 degrees, the other class across: t(.5) = .25, p = 1 / (1 + e^-.25)."""
    loss = SearchedLoss(t=[-1.0, 0.0, 0.5], tau=[0.0, 0.25, 1.0], scale=3.0)
    x = torch.tensor([[0.5, 0.75**0.5, 0.0]])
    w = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    p = 1 / (1 + np.exp(-0.25))
    tau = 0.25 + 1.5 * (p - 0.5)
    assert loss(x, w, torch.tensor([0])).item() == pytest.approx(-3 * np.log(tau), rel=1e-6)


BOUNDS = {  # largest difference at 10 knots: of t, of tau
    "softmax": (1e-12, 1e-12),
    "a_softmax": (0.19, 1e-12),  # of a range of 8
    "l_softmax": (0.0125, 1e-12),  # of a range of 4
    "am_softmax": (1e-12, 1e-12),
    "arcface": (0.0613, 1e-12),  # half of what ArcFace falls by near cos = -1: no rising curve is closer
    "focal": (1e-12, 0.0088),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_losses_lie_in_the_family_within_these_bounds(name: str) -> None:
    error_of_t, error_of_tau = representation_error(KNOWN[name], KNOTS)
    assert error_of_t <= BOUNDS[name][0]
    assert error_of_tau <= BOUNDS[name][1]
    finer = representation_error(KNOWN[name], 37)
    assert finer[0] <= error_of_t + 1e-12
    assert finer[1] <= error_of_tau + 1e-12


def test_the_fit_equioscillates_where_the_best_one_is_known() -> None:
    """x^2 by one line on [0, 1]: the best has error 1/8, chords have 1/4."""
    values = fit_knots(np.square, 0.0, 1.0, [(None, None)] * 2)
    assert sup_error(np.square, values.tolist(), 0.0, 1.0) == pytest.approx(1 / 8, rel=1e-3)


def test_am_softmax_member_is_am_softmax() -> None:
    x, w, y = problem(32, 8, 10)
    norms = x.norm(dim=1) * w.norm(dim=1)[y]
    logits = x @ w.T - 0.35 * norms[:, None] * F.one_hot(y, 10)
    torch.testing.assert_close(closest(KNOWN["am_softmax"], KNOTS)(x, w, y), F.cross_entropy(logits, y))


def test_focal_member_has_focal_loss_values() -> None:
    x, w, y = problem(500, 8, 10)
    log_p = (x @ w.T).log_softmax(1).gather(1, y[:, None]).squeeze(1)
    focal = (-((1 - log_p.exp()) ** 2) * log_p).mean()
    assert closest(KNOWN["focal"], KNOTS)(x, w, y).item() == pytest.approx(focal.item(), rel=0.1)


def test_increments_are_one_at_zero_and_never_vanish() -> None:
    np.testing.assert_allclose(increments(np.array([0.0, -1e3])), [1.0, 1e-4], rtol=1e-15)


def test_json_and_pickle_give_the_same_loss(tmp_path: Path) -> None:
    loss = decode(np.random.default_rng(1).standard_normal(2 * KNOTS), 0.1).at_scale(1.7)
    path = tmp_path / "loss.json"
    path.write_text(json.dumps(loss.to_json()))
    data = problem(16, 8, 4)
    for copy in (read_loss(path), pickle.loads(pickle.dumps(loss)), SearchedLoss(**json.loads(path.read_text()))):
        assert copy.to_json() == loss.to_json()
        assert torch.equal(copy(*data), loss(*data))
    assert isinstance(read_loss(path), torch.nn.Module)


def test_longer_features_alone_are_no_way_to_a_lower_loss() -> None:
    """At cosine 0 to every class nothing is known of the image; a label whose logit t lifts by a share of the norm
    would be right all the same. A training of a found loss ended so, its logits 14 times cross-entropy's."""
    rng = np.random.default_rng(7)
    weight, labels = torch.eye(5, 8), torch.arange(5)
    nowhere = torch.zeros(5, 8)
    nowhere[:, 7] = 1.0
    for spread in (0.1, 0.3, 1.0, 3.0):
        for _ in range(50):
            loss = decode(spread * rng.standard_normal(2 * KNOTS))
            places = np.linspace(-1, 1, KNOTS)
            assert (np.array(loss.knots["t"]) <= places + 1e-9).all()
            short, long = (loss(size * nowhere, weight, labels).item() for size in (1.0, 1000.0))
            assert long >= short - 1e-4


@pytest.mark.parametrize(
    ("t", "tau", "said"),
    [
        ([0.0], [0.0, 1.0], "at least 2 knots"),
        ([1.0, 0.0], [0.0, 1.0], "must not fall"),
        ([0.0, 1.0], [0.0, 0.5, 0.4, 1.0], "must not fall"),
        ([0.0, 1.0], [0.0, 0.9], "exactly 1"),
        ([0.0, 1.0], [0.0, 0.0, 1.0], "positive from its second knot"),
        ([0.0, float("nan")], [0.0, 1.0], "finite"),
    ],
)
def test_values_outside_the_family_are_refused(t: list[float], tau: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SearchedLoss(t=t, tau=tau)


def test_the_chart_has_the_same_bytes_every_time_and_shows_every_curve() -> None:
    loss = decode(np.full(2 * KNOTS, 0.3))
    drawn = loss_curves(loss)
    assert drawn == loss_curves(loss)
    assert drawn != loss_curves(decode(CROSS_ENTROPY))
    for label in ("found", "cross-entropy", "ArcFace", "AM-softmax", "focal"):
        assert f">{label}</text>" in drawn


# --- class margins


COUNTS = np.array([100, 30, 10, 3, 1])


def with_margins(a: float, b: float) -> SearchedLoss:
    return decode(np.append(CROSS_ENTROPY, [a, b / CLASS_FACTOR]), counts=COUNTS)


def test_b_of_1_is_balanced_softmax_and_0_is_cross_entropy() -> None:
    x, w, y = problem(64, 8, 5)
    balanced = F.cross_entropy(x @ w.T + torch.from_numpy(np.log(COUNTS)).float(), y)
    torch.testing.assert_close(with_margins(0.0, 1.0)(x, w, y), balanced)
    torch.testing.assert_close(with_margins(0.0, 0.0)(x, w, y), F.cross_entropy(x @ w.T, y))


def test_a_joins_the_logit_of_the_label_alone() -> None:
    x, w, y = problem(64, 8, 5)
    wanted = F.cross_entropy(x @ w.T - 0.7 * F.one_hot(y, 5), y)
    torch.testing.assert_close(with_margins(-0.7, 0.0)(x, w, y), wanted)


def test_a_class_without_images_has_a_finite_margin() -> None:
    loss = decode(np.append(CROSS_ENTROPY, [0.0, 1.0]), counts=np.array([5, 0, 1]))
    assert loss.class_logits is not None
    assert loss.class_logits.isfinite().all()
    assert loss.class_logits[1] == loss.class_logits[2]


def test_a_training_begins_under_cross_entropy_with_the_class_margins_of_the_found_loss() -> None:
    x, w, y = problem(64, 8, 5)
    beginning = with_margins(-0.7, 1.0).at_scale(0.3).beginning()
    torch.testing.assert_close(beginning(x, w, y), with_margins(0.0, 1.0)(x, w, y))
    assert not torch.allclose(beginning(x, w, y), F.cross_entropy(x @ w.T, y))
    bounded = decode(np.full(12, 0.5), label_smoothing=0.1).beginning()
    torch.testing.assert_close(bounded(x, w, y), F.cross_entropy(x @ w.T, y, label_smoothing=0.1))


def test_margins_survive_json_and_another_scale(tmp_path: Path) -> None:
    loss = with_margins(-0.2, 0.8).at_scale(1.5)
    path = tmp_path / "loss.json"
    path.write_text(json.dumps(loss.to_json()))
    data = problem(16, 8, 5)
    assert torch.equal(read_loss(str(path))(*data), loss(*data))
    torch.testing.assert_close(loss(*data), 1.5 * with_margins(-0.2, 0.8)(*data))


def test_the_artifact_needs_neither_the_flows_nor_their_libraries(tmp_path: Path) -> None:
    """One line in another project: a fresh process that trains a network of its own under the loss."""
    path = tmp_path / "loss.json"
    path.write_text(json.dumps(with_margins(0.1, 0.5).to_json()))
    code = f"""
import sys, torch
from components.loss.family import read_loss
loss = read_loss({str(path)!r})
head = torch.nn.Linear(8, 5, bias=False)
loss(torch.randn(4, 8), head.weight, torch.tensor([0, 1, 2, 3])).backward()
assert head.weight.grad.isfinite().all() and isinstance(loss, torch.nn.Module)
assert not {{"flows", "mlflow", "prefect", "dvc", "pydantic"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
