"""Planted production shifts: train images as they are, val and test moved in a way that only val can tell.

    n  images   h w  pixels   c  channels   C  compute of a method, in training images processed

Every method gets the same C and ends with a network trained from scratch on train and val together. One that searches
takes its gradients from train and its rewards from val with some of C (a scored image counts a third), and trains the
network with what is left, under what it found; one that does not search trains with all of it.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor, nn

from components.augmentation.operations import ELEMENTS, OPERATIONS, Element
from components.data.store import Split
from components.settings.recipe import Recipe
from components.training.crop_flip import base_augment, compose
from components.training.inference import predict, split_tensors
from components.training.loop import (
    Augment,
    State,
    batches_of,
    cross_entropy,
    initial_state,
    load_state,
    schedule,
    train_steps,
)
from components.training.metrics import accuracy
from tests.benchmarks.harness import ROOT

PARQUET = ROOT / ".." / "shared" / "data" / "cifar10" / "train.parquet"

Images = UInt8[Tensor, "n h w c"]
Uniform = Callable[[float], Float64[Tensor, " n"]]
"""n numbers, evenly from -bound to bound."""


# --- the shifts

Shift = Callable[[Images, Uniform], Images]


def moved(name: str, bound: float) -> Shift:
    """The operation at an even magnitude up to the bound, either way."""

    def apply(images: Images, uniform: Uniform) -> Images:
        operation, m = OPERATIONS[name], uniform(bound)
        return operation.kernel(images, m, operation.parameters(images, m, torch.zeros(len(m), 2).double()))

    return apply


def inverted(images: Images, uniform: Uniform) -> Images:
    """Half of the time."""
    return torch.where((uniform(1.0) < 0)[:, None, None, None], 255 - images, images)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What production does to an image, and which operations undo its surprise."""

    shifts: tuple[Shift, ...] = ()
    planted: tuple[Element, ...] = ()
    """The elements that undo the shift; of a task without a shift the one that must fall below uniform."""
    elements: tuple[Element, ...] = ELEMENTS


def elements_of(*operations: str) -> tuple[Element, ...]:
    """All elements of these operations."""
    return tuple(element for element in ELEMENTS if element.operation in operations)


HARM = Element("Posterize", 0.0)
"""Keeps no bit: a black image, whatever its label."""

TASKS = {
    "rotated": Task(shifts=(moved("Rotate", 60.0),), planted=elements_of("Rotate")),
    "inverted, rotated": Task(shifts=(inverted, moved("Rotate", 45.0)), planted=elements_of("Invert", "Rotate")),
    "translated": Task(
        shifts=(moved("TranslateX", 0.4), moved("TranslateY", 0.4)), planted=elements_of("TranslateX", "TranslateY")
    ),
    "translated, sheared": Task(
        shifts=(moved("TranslateX", 0.25), moved("TranslateY", 0.25), moved("ShearX", 0.5), moved("ShearY", 0.5)),
        planted=elements_of("TranslateX", "TranslateY", "ShearX", "ShearY"),
    ),
    "inverted": Task(shifts=(inverted,), planted=elements_of("Invert")),
    "none": Task(),
    "none, harm": Task(elements=(*ELEMENTS, HARM), planted=(HARM,)),
}
"""The geometric shifts reach so far that fixed policies, which see the 120 shifted val images too, leave a gap."""


def shifted(task: Task, images: UInt8[np.ndarray, "n h w c"], rng: np.random.Generator) -> UInt8[np.ndarray, "n h w c"]:
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    for shift in task.shifts:
        tensor = shift(tensor, lambda bound: torch.from_numpy(rng.uniform(-bound, bound, len(images))))
    return tensor.numpy()


# --- the data sets


def read_digits() -> Split:
    """scikit-learn's 1,797 digits at 16 pixels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    larger = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)) for image in grey]
    return Split(images=np.stack(larger)[..., None], labels=digits.target.astype(np.int64))


def read_cifar10(count: int = 10_000) -> Split:
    """The first images of the CIFAR-10 parquet."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(PARQUET)
    batch = next(table.iter_batches(batch_size=count))
    image, label = (batch.column(name) for name in batch.schema.names[:2])
    images = [np.asarray(Image.open(io.BytesIO(each["bytes"])).convert("RGB")) for each in image.to_pylist()]
    return Split(images=np.stack(images), labels=np.array(label.to_pylist(), dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class DataSet:
    read: Callable[[], Split]
    train: int
    val: int
    """Images of each split; the rest is test."""
    widths: tuple[int, int, int]
    strides: tuple[int, int, int]
    recipe: Recipe
    aligned: dict[str, int]
    copies: dict[str, int]
    """Sizes of a search by gradients of one model, and of one by copies."""
    compute: int
    """C."""


DATA = {
    "digits": DataSet(
        read=read_digits, train=600, val=120, widths=(16, 32, 64), strides=(2, 2, 1),
        recipe=Recipe(batch_size=128, crop=1),
        aligned={"head_start": 4096, "trunks": 3, "images": 1024, "probe_images": 64},
        copies={"trunks": 12, "images": 512}, compute=128_000,
    ),
    "cifar10": DataSet(
        read=read_cifar10, train=5000, val=500, widths=(16, 32, 64), strides=(2, 2, 2),
        recipe=Recipe(batch_size=128, crop=4, flip=True),
        aligned={"head_start": 8192, "trunks": 2, "images": 1024, "probe_images": 64},
        copies={"trunks": 12, "images": 512}, compute=400_000,
    ),
}  # fmt: skip
COPIES = 8


@cache
def whole(data: str) -> Split:
    return DATA[data].read()


@dataclass(frozen=True, kw_only=True)
class World:
    """One data set, task and seed."""

    data: DataSet
    task: Task
    seed: int
    train: Split
    val: Split
    test: Split

    @property
    def both(self) -> Split:
        """Train and val together."""
        return Split(
            images=np.concatenate([self.train.images, self.val.images]),
            labels=np.concatenate([self.train.labels, self.val.labels]),
        )

    @property
    def raced(self) -> int:
        """Training images of the copies of a search by copies."""
        return COPIES * self.data.copies["trunks"] * self.data.copies["images"]


def world_of(data: str, task: str, seed: int) -> World:
    """The split and the shift depend on the seed alone, so that all methods of a seed are compared on the same."""
    every, settings, chosen = whole(data), DATA[data], TASKS[task]
    rng = np.random.default_rng((seed, 1))
    rows = np.split(rng.permutation(len(every.labels)), [settings.train, settings.train + settings.val])
    train, val, test = (every.at(row) for row in rows)
    val, test = (Split(images=shifted(chosen, each.images, rng), labels=each.labels) for each in (val, test))
    return World(data=settings, task=chosen, seed=seed, train=train, val=val, test=test)


# --- the network and its training


class Net(nn.Module):
    """Three 3x3 convolutions with batch norm, mean over the image, a linear classifier: a `Classifier`."""

    def __init__(self, channels: int, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip((channels, *widths), widths, strides, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], 10, bias=False)

    def features(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return self.body((images.float() - 100) / 80).mean(dim=(2, 3))

    def forward(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.classifier(self.features(images))


def build(world: World) -> nn.Module:
    """The same first weights for all methods of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(world.seed)
        net = Net(world.train.images.shape[-1], world.data.widths, world.data.strides)
    return net.to(memory_format=torch.channels_last)


def make_of(world: World) -> Callable[[], nn.Module]:
    return partial(build, world)


def train_network(world: World, split: Split, augment: Augment, images: int) -> State:
    """From scratch on the split for so many images, under the recipe's crop and flip, then `augment`."""
    recipe = world.data.recipe
    pixels, labels = split_tensors(split)
    network, steps = build(world), images // recipe.batch_size
    rng = np.random.default_rng((world.seed, 2))
    return train_steps(
        network, initial_state(network), pixels, labels,
        batches=batches_of(len(labels), recipe.batch_size, steps, rng), rate=schedule(recipe, steps), first_step=0,
        augment=compose(base_augment(recipe), augment), criterion=cross_entropy(), recipe=recipe,
        rng=torch.Generator().manual_seed(world.seed),
    )  # fmt: skip


def accuracy_of(world: World, state: State, split: Split) -> float:
    network = build(world)
    load_state(network, state)
    images, labels = split_tensors(split)
    return accuracy(predict(network, images), labels)
