"""Is the chosen network better than one that people design, at equal measured latency?

10,000 images of CIFAR-10: a search on 8,000 with 2,000 for its scores (the preset's space and recipe), once a seed;
then every network trains on all 10,000 with the same recipe and is tested on 5,000 others. The rivals are

    resnet8, resnet20   He et al., CVPR 2016: a stem of w channels, one (three) residual blocks each of w, 2w and 4w
    mobilenetv2         Sandler et al., CVPR 2018: inverted bottlenecks of w (once, expansion 1), then of 3/2 w, 3w and
                        5w (twice each, expansion 6), each stage but the first at half the side

The latency of ResNet-8 at its usual width of 16 is the search's limit. The other rivals are as large as they can be to
take at most a tenth longer: ONNX Runtime computes 18 channels in twice the time of 16, so that no width takes exactly
as long. The null is `drawn`: a network of the search's own space, drawn evenly from those within the limit, once a
seed. All are built from the same operators, exported by the same exporter, and timed in turns.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import mean

import joblib
import numpy as np
import onnx
import torch

from components.architecture.budget import budget_of
from components.architecture.costs import costs_of
from components.architecture.measurement import measure
from components.architecture.network import Network, build_network
from components.architecture.rivals import draw_networks
from components.architecture.space import Architecture, Space, format_architecture, space_of
from components.architecture.strategies import search
from components.architecture.supernet import SharedWeights, build_supernet
from components.architecture.timing import REFERENCE, medians, time_models
from components.data.store import Classes, Split
from components.settings.architecture import Architecture as Settings
from components.settings.params import Params
from components.settings.train import Train
from components.shipping.export import export_network
from components.training.crop_flip import base_augment
from components.training.fit import fit
from components.training.inference import predict, split_tensors
from components.training.loop import cross_entropy, load_state
from components.training.metrics import accuracy
from flows.checkout.settings import load_params
from flows.settings import PRESETS
from tests.benchmarks.cifar_networks import MEAN, STD
from tests.benchmarks.harness import Row, markdown, spread
from tests.benchmarks.shift import read_cifar10

SEEDS = (1, 2, 3)
WORKERS = 2
USUAL = 16
"""Width of the ResNet-8 whose latency is the limit."""
WIDTHS = tuple(range(4, 33, 2))
GRACE = 1.1
"""How many times the limit a rival may take."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything."""

    train: int = 8000
    val: int = 2000
    test: int = 5000
    epochs: int = 10
    """Of the training that is compared."""
    search: tuple[tuple[str, object], ...] = (("completions", 2), ("max_images", None), ("margin", 0.0))
    """What the search's settings differ in from the preset's, besides the limit."""
    widths: tuple[int, ...] = WIDTHS
    """Those that rivals may have."""

    @property
    def images(self) -> int:
        return self.train + self.val + self.test


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A network by its space and blocks."""

    space: Space
    architecture: Architecture
    form: str
    """What a reader is told of it."""

    def build(self, seed: int) -> Network:
        return build_network(self.space, self.architecture, MEAN, STD, seed)

    def model(self) -> onnx.ModelProto:
        return export_network(self.build(0), classes(), format_architecture(self.architecture))


def rows() -> Iterator[Row]:
    yield from compare(Scale(), SEEDS)


def compare(scale: Scale, seeds: Sequence[int]) -> Iterator[Row]:
    """Latencies on an otherwise idle machine, then searches, latencies of what they chose, and trainings."""
    run = joblib.Parallel(n_jobs=WORKERS, batch_size=1)
    rivals, limit = rivals_of(scale)
    settings = replace(preset().architecture, **dict(scale.search))  # type: ignore[arg-type]
    table = measure(space_of(settings, classes()), preset().latency, preset().export, np.random.default_rng(0))
    chosen: list[Shape] = run(joblib.delayed(searched)(scale, settings, table.predict, limit, seed) for seed in seeds)
    null = [drawn(settings, table.predict, limit, seed) for seed in seeds]
    networks = [{"chosen": each, "drawn": other} | rivals for each, other in zip(chosen, null, strict=True)]
    latencies = [in_turns({name: shape.model() for name, shape in each.items()}) for each in networks]
    places = [(seed, name) for seed in range(len(seeds)) for name in networks[seed]]
    trained = run(joblib.delayed(train)(scale, networks[place][name], seeds[place]) for place, name in places)
    for (place, name), (test_accuracy, seconds) in zip(places, trained, strict=True):
        yield {
            "network": name,
            "form": networks[place][name].form,
            "seed": seeds[place],
            "test_accuracy": round(test_accuracy, 5),
            "latency_ms": round(latencies[place][name], 5),
            "train_cpu_seconds": round(seconds, 1),
        }


# --- the data


@cache
def preset() -> Params:
    return load_params(PRESETS / "cifar10.yaml")


def classes() -> Classes:
    return Classes(tuple("0123456789"), 32, 3)


@cache
def parts(scale: Scale) -> tuple[Split, Split, Split]:
    """Train, val, test: the same for all."""
    every = read_cifar10(scale.images)
    bounds = np.cumsum([scale.train, scale.val, scale.test])
    order = np.random.default_rng(0).permutation(len(every.labels))[: bounds[-1]]
    train, val, test = (every.at(place) for place in np.split(order, bounds[:-1]))
    return train, val, test


# --- the networks


def searched(
    scale: Scale, settings: Settings, latency: Callable[[Architecture], float], limit: float, seed: int
) -> Shape:
    """What the search chooses."""
    torch.set_num_threads(1)
    space = space_of(settings, classes())
    train, val, _ = parts(scale)
    weights = SharedWeights(
        build_supernet(space, MEAN, STD, seed), settings, preset().train.recipe, split_tensors(train),
        split_tensors(val), seed,
    )  # fmt: skip
    *_, last = search(space, weights.world(latency), settings, limit, seed)
    architecture = last.pool[0].architecture
    return Shape(space=space, architecture=architecture, form=format_architecture(architecture))


def drawn(settings: Settings, latency: Callable[[Architecture], float], limit: float, seed: int) -> Shape:
    """Evenly from the networks within the limit."""
    space = space_of(settings, classes())
    architecture = next(draw_networks(budget_of(space, latency, settings, limit), np.random.default_rng((seed, 1))))
    return Shape(space=space, architecture=architecture, form=format_architecture(architecture))


def resnet(blocks: int, width: int) -> Shape:
    stages = ((width, blocks, 1), (2 * width, blocks, 2), (4 * width, blocks, 2))
    return designed(width, stages, ("res_k3",), ("res_k3",) * (3 * blocks))


def mobilenetv2(width: int) -> Shape:
    stages = ((width, 1, 1), (3 * width // 2, 2, 2), (3 * width, 2, 2), (5 * width, 2, 2))
    return designed(width, stages, ("mb_k3_e6", "mb_k3_e1"), ("mb_k3_e1", *("mb_k3_e6",) * 6))


DESIGNED: dict[str, Callable[[int], Shape]] = {
    "resnet8": partial(resnet, 1),
    "resnet20": partial(resnet, 3),
    "mobilenetv2": mobilenetv2,
}


def designed(
    width: int, stages: tuple[tuple[int, int, int], ...], blocks: tuple[str, ...], architecture: Architecture
) -> Shape:
    settings = Settings(
        stem=width,
        stem_stride=1,
        stages=stages,
        blocks=blocks,
        warmup_epochs=0.0,
        stage_epochs=0.0,
    )
    return Shape(space=space_of(settings, classes()), architecture=architecture, form=f"width {width}")


def rivals_of(scale: Scale) -> tuple[dict[str, Shape], float]:
    """Of each family the network of most FLOPs that takes no longer than the limit and the grace; the limit,
    milliseconds."""
    usual = resnet(1, USUAL)
    shapes = {f"{name} {width}": design(width) for name, design in DESIGNED.items() for width in scale.widths}
    times = in_turns({"chosen": usual.model()} | {name: shape.model() for name, shape in shapes.items()})
    limit = times["chosen"]
    fitting = [name for name in shapes if times[name] <= GRACE * limit]

    def flops(name: str) -> int:
        return costs_of(shapes[name].space, shapes[name].architecture).flops

    largest = {name.split()[0]: name for name in sorted(fitting, key=flops)}  # the last one stays
    return {name: shapes[width] for name, width in largest.items()} | {"resnet8": usual}, limit


def in_turns(models: dict[str, onnx.ModelProto]) -> dict[str, float]:
    """Milliseconds of each, on a machine that is disturbed for all alike."""
    return medians(time_models(models | {REFERENCE: models["chosen"]}, preset().latency))


def train(scale: Scale, shape: Shape, seed: int) -> tuple[float, float]:
    """Test accuracy and CPU seconds of the training."""
    torch.set_num_threads(1)
    first, second, test = parts(scale)
    both = Split(
        images=np.concatenate([first.images, second.images]), labels=np.concatenate([first.labels, second.labels])
    )
    recipe = preset().train.recipe
    network = shape.build(seed)
    start = time.process_time()
    *_, last = fit(
        network, *split_tensors(both), settings=Train(epochs=scale.epochs, recipe=recipe),
        augment=base_augment(recipe), criterion=cross_entropy(recipe.label_smoothing), seed=seed,
    )  # fmt: skip
    seconds = time.process_time() - start
    load_state(network, last.state)
    images, labels = split_tensors(test)
    return accuracy(predict(network, images), labels), seconds


# --- the table


def table(rows: Sequence[Row]) -> str:
    """Accuracies in per cent; the chosen network's lead in points, seed by seed."""

    def of(name: str, what: str, scale: float = 1.0) -> list[float]:
        return [scale * float(str(row[what])) for row in rows if row["network"] == name]

    lines = []
    for name in dict.fromkeys(str(row["network"]) for row in rows):
        lead = np.subtract(of("chosen", "test_accuracy", 100), of(name, "test_accuracy", 100)).tolist()
        forms = ", ".join(dict.fromkeys(str(row["form"]).replace("|", " ") for row in rows if row["network"] == name))
        lines.append([
            name,
            spread(of(name, "test_accuracy", 100), 2),
            "" if name == "chosen" else spread(lead, 2),
            f"{mean(of(name, 'latency_ms')):.4f}",
            spread(of(name, "train_cpu_seconds"), 0),
            forms,
        ])  # fmt: skip
    return markdown(["network", "test accuracy, %", "chosen leads by", "latency, ms", "training, CPU s", "form"], lines)
