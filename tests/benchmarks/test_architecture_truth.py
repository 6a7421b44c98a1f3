"""The parts of the truth benchmark: the ranking's number, the shared weights' memory, the truth itself."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from components.architecture.latency import LatencyTable
from components.architecture.parts import EMPTY, HEAD, STEM, part_name
from components.architecture.search import Pool
from components.architecture.space import IDENTITY, Architecture, canonical, format_architecture
from components.architecture.timing import Device, Entry
from components.settings.recipe import Recipe
from tests.benchmarks import architecture_truth, make_truth, truth
from tests.benchmarks.ranking import kendall
from tests.benchmarks.remembered import UNIFORM, Remembered

TINY = truth.Task(
    data=truth.distorted_digits, stem=4, stem_stride=2, stages=((4, 2, 2), (8, 1, 2)),
    blocks=("res_k3", "mb_k3_e1", "identity"), recipe=Recipe(batch_size=32, crop=1), images=64, supernet_images=4000,
)  # fmt: skip
"""Layers of 2, 3 and 2 candidates."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(truth, "FOLDER", tmp_path)
    monkeypatch.setitem(truth.TASKS, "tiny", TINY)
    yield tmp_path
    truth.data_of.cache_clear()


def test_tau_is_scipys_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(5, size=30), rng.normal(size=30)
        assert kendall(x.tolist(), y.tolist()).tau == pytest.approx(kendalltau(x, y).statistic)


def test_the_interval_holds_the_true_tau_as_often_as_it_says() -> None:
    rng, rho, held = np.random.default_rng(1), 0.6, 0
    for _ in range(300):
        x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=40).T
        tau = kendall(x, y)
        held += tau.low <= 2 / np.pi * np.arcsin(rho) <= tau.high
    assert 0.91 <= held / 300 <= 0.99


def test_what_orders_nothing_has_tau_0_and_says_that_it_knows_nothing() -> None:
    tau = kendall([1, 1, 1, 1], [1, 2, 3, 4])
    assert (tau.tau, tau.low, tau.high) == (0, -1, 1)


def test_every_network_is_there_once(tiny: Path) -> None:
    space = truth.truth_space("tiny")
    every = list(truth.networks(space))
    assert len({canonical(space, a) for a in every}) == len(every) == 2 * 3 * 2
    assert len(list(truth.networks(truth.truth_space("digits")))) == 3**5


def test_an_interrupted_truth_goes_on_where_it_stood(tiny: Path) -> None:
    path = tiny / "tiny.partial"
    first = make_truth.make("tiny", path, seeds=(1,), count=1)
    then = make_truth.make("tiny", path, seeds=(1,), count=2)
    assert then[:1] == first
    assert [json.loads(line) for line in path.read_text().splitlines()] == then
    assert make_truth.make("tiny", path, seeds=(1,), count=2) == then


def test_a_network_alone_is_the_same_network_again(tiny: Path) -> None:
    a = ("mb_k3_e1", IDENTITY, "res_k3")
    assert truth.train_alone("tiny", a, 1) == truth.train_alone("tiny", a, 1)
    assert truth.train_alone("tiny", a, 1) != truth.train_alone("tiny", a, 2)


def test_scores_from_memory_are_those_of_weights_that_were_trained_for_it(tiny: Path) -> None:
    a, b = ("res_k3", IDENTITY, "res_k3"), ("mb_k3_e1", "res_k3", "mb_k3_e1")
    member: Pool = (("mb_k3_e1",),)
    remembered, fresh = (architecture_truth.weights_of("tiny", truth.truth_space("tiny"), 1) for _ in range(2))
    memory = Remembered(remembered)
    for members in (UNIFORM, member, UNIFORM):
        world = memory.world(lambda _: 1.0)
        world.train_stage(0, UNIFORM)
        world.train_stage(1, members)
        scores = [world.score(network, 2) for network in (a, b)]
    assert memory.paid == 0, "the third search does what the first did"
    assert memory.charged > 0
    fresh.train_stage(0, UNIFORM)
    fresh.train_stage(1, UNIFORM)
    assert scores == [fresh.score(network, 2) for network in (a, b)]


def test_scoring_all_at_once_gives_what_scoring_one_does(tiny: Path) -> None:
    space = truth.truth_space("tiny")
    memory = Remembered(architecture_truth.weights_of("tiny", space, 1))
    history = ((0, UNIFORM), (1, UNIFORM))
    every = list(truth.networks(space))
    together = memory.score_all(history, every)
    memory.follow(history)
    last = len(space.layers)
    assert together == pytest.approx({a: memory.score(a, last) for a in every}, abs=0.002)
    assert memory.score_all(history, every, own_statistics=False) != together
    assert memory.score_all(history, every) == together, "shared statistics leave no trace"


def planted(folder: Path, accuracies: Mapping[Architecture, float]) -> truth.Truth:
    """A truth file in which more layers are better, and slower."""
    space = truth.truth_space("tiny")
    layers = tuple(str(layer) for layer in space.layers)
    blocks = {part_name(block, layer): 1.0 for layer in layers for block in ("res_k3", "mb_k3_e1")}
    times = {STEM: 1.0, HEAD: 1.0, EMPTY: 0.0} | blocks
    entries = tuple(
        Entry(name=name, ms=ms, spread_ms=0.0, samples=(), references=()) for name, ms in times.items()
    )  # fmt: skip
    device = Device(
        processor="planted", provider="cpu", threads=1, batch=1, optimisation="none", onnxruntime="none", clock="none"
    )
    table = LatencyTable(
        device=device,
        quantize="none",
        layers=layers,
        overhead_ms=0.0,
        slope=1.0,
        intercept_ms=0.0,
        entries=entries,
        wholes=(),
    )
    networks = [
        {"architecture": format_architecture(a), "accuracies": [one, one], "parameters": 10, "flops": 20}
        for a, one in accuracies.items()
    ]
    record = {"name": "tiny", "protocol": {}, "networks": networks, "latency": table.to_json()}
    (folder / "tiny.json").write_text(json.dumps(record))
    return truth.read_truth("tiny")


def test_a_floor_that_knows_the_truth_has_no_regret(tiny: Path) -> None:
    every = list(truth.networks(truth.truth_space("tiny")))
    layers = {a: sum(block != IDENTITY for block in a) / 10 for a in every}
    known = planted(tiny, layers)
    rows = {row["strategy"]: row for row in architecture_truth.floors("tiny", known, 10.0)}
    assert rows["layers"]["kendall_tau"] == rows["largest that fits"]["kendall_tau"] == 1
    assert rows["layers"]["regret"] == 0
    assert rows["any"]["regret"] == pytest.approx(100 * (0.3 - np.mean(list(layers.values()))), abs=0.001)


def test_a_truth_of_another_space_is_refused(tiny: Path) -> None:
    every = list(truth.networks(truth.truth_space("tiny")))
    with pytest.raises(ValueError, match="another space"):
        planted(tiny, dict.fromkeys(every[1:], 0.5))


def test_every_strategy_is_judged(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = list(truth.networks(truth.truth_space("tiny")))
    planted(tiny, dict(zip(every, np.random.default_rng(0).random(len(every)), strict=True)))
    monkeypatch.setattr(architecture_truth, "SHARES", (0.9,))
    rows = architecture_truth.cell("tiny", 1)
    strategies = {row["strategy"] for row in rows}
    assert strategies >= {*architecture_truth.VARIANTS, "all scored", "shrunk: pc_nas", "shrunk: uniform (pc_nas)"}
    assert len({tuple(row) for row in rows}) == 1
    assert all(0 <= float(str(row["regret"])) <= 100 for row in rows)
    assert len({row["supernet_steps"] for row in rows if row["strategy"] in architecture_truth.VARIANTS}) == 1
    assert architecture_truth.table(rows).count("\n") == len(strategies) + 1


@pytest.mark.parametrize("name", architecture_truth.SPACES)
def test_the_truth_covers_its_space_and_is_more_signal_than_noise(name: str) -> None:
    if not (truth.FOLDER / f"{name}.json").exists():
        pytest.skip(f"{name} is not trained yet")
    known = truth.read_truth(name)
    accuracies = np.array([each.accuracies for each in known.known.values()])
    assert np.corrcoef(accuracies.T)[0, 1] > 0.7
