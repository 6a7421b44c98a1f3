"""What two augmentation elements an image cost: ours against PIL in a DataLoader, torchvision v2 and kornia.

Every implementation gets the same uint8 images in memory and the same two elements an image, drawn uniformly from our
table with sign and place, and ends in a float batch between 0 and 1; drawing is not measured. One thread, CPU time of
the process. The implementations take turns for `ROUNDS` rounds in one process, and of each the best round counts.

    torchvision v2, grouped   one call for the images of one element and sign (its magnitudes are one number a call);
                              the covered squares of a group are at one place, for `erase` takes one
    kornia                    one call for the images of one operation, a magnitude an image; the covered squares lie
                              where kornia draws them, and are grey
    ResNet-8                  a training step of the plain network of width 16, without augmentation: the yardstick
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import functional as F

from components.architecture.network import build_network
from components.architecture.space import Layer, Space
from components.augmentation.operations import ELEMENTS, OPERATIONS, apply_elements
from components.settings.recipe import Recipe
from components.training.crop_flip import compose
from components.training.loop import cross_entropy, initial_state, train_steps
from tests.benchmarks.harness import ROOT, Row, markdown, spread
from tests.components.test_augmentation_operations import PIL

SEEDS = (1, 2, 3)
ROUNDS = 7
IMAGES = 4096
SIDE = 32
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10" / "train.parquet"

Step = tuple[str, float, tuple[float, float]]
"""An operation, its magnitude with its sign, and the two numbers that place it."""


# --- the work


@dataclass(frozen=True, kw_only=True)
class Work:
    """Images and what was drawn for each: two elements, and three uniform numbers an element (sign and place)."""

    images: Tensor  # b h w c, uint8 (torchvision's and kornia's: b c h w)
    chosen: Tensor  # b 2, int64
    uniforms: Tensor  # b 2 3, float64

    def batches(self, size: int) -> Iterator["Work"]:
        for images, chosen, uniforms in zip(
            self.images.split(size), self.chosen.split(size), self.uniforms.split(size), strict=True
        ):
            yield Work(images=images, chosen=chosen, uniforms=uniforms)

    def steps(self, n: int) -> list[Step]:
        """What happens to image n."""
        return [
            (ELEMENTS[k].operation, signed(k, draws[0]), (draws[1], draws[2]))
            for k, draws in zip(self.chosen[n].tolist(), self.uniforms[n].tolist(), strict=True)
        ]


def signed(element: int, draw: float) -> float:
    negative = OPERATIONS[ELEMENTS[element].operation].signed and draw < 0.5
    return -ELEMENTS[element].magnitude if negative else ELEMENTS[element].magnitude


def draw_work(images: Tensor, seed: int) -> Work:
    rng = torch.Generator().manual_seed(seed)
    return Work(
        images=images,
        chosen=torch.randint(len(ELEMENTS), (len(images), 2), generator=rng),
        uniforms=torch.rand(len(images), 2, 3, dtype=torch.float64, generator=rng),
    )


def some_images(count: int) -> tuple[str, Tensor]:
    """The first images of CIFAR-10 where its file is beside the checkout, else smooth random ones; and which."""
    if CIFAR10.exists():
        rows = next(pq.ParquetFile(CIFAR10).iter_batches(batch_size=count, columns=["image"])).column(0).to_pylist()
        decoded = [np.asarray(Image.open(BytesIO(row["bytes"])).convert("RGB")) for row in rows]
        return "CIFAR-10", torch.from_numpy(np.stack(decoded))
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    fine = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in coarse]
    return "smooth noise", torch.from_numpy(np.stack(fine))


# --- one image after the other


class OneByOne(Dataset):
    def __init__(self, images: Sequence, steps: Sequence[list[Step]], transform: Callable) -> None:
        self.images, self.steps, self.transform = images, steps, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> Tensor:
        return self.transform(self.images[n], self.steps[n])


def pil_image(array: np.ndarray, steps: list[Step]) -> Tensor:
    image = Image.fromarray(array)
    for operation, m, place in steps:
        image = PIL[operation](image, m, place)
    return to_tensor(image)


def torchvision_image(image: Tensor, steps: list[Step]) -> Tensor:
    for operation, m, place in steps:
        image = TORCHVISION[operation](image, m, place)
    return image


def pil(work: Work) -> Callable[[int], Iterable[Tensor]]:
    data = OneByOne(list(work.images.numpy()), [work.steps(n) for n in range(len(work.images))], pil_image)
    return lambda batch: DataLoader(data, batch_size=batch)


def torchvision(work: Work) -> Callable[[int], Iterable[Tensor]]:
    images = list(work.images.permute(0, 3, 1, 2).contiguous())
    data = OneByOne(images, [work.steps(n) for n in range(len(images))], torchvision_image)
    return lambda batch: map(to_float, DataLoader(data, batch_size=batch))


def to_float(images: Tensor) -> Tensor:
    return images.float().div_(255)


def move(images: Tensor, *, right: float = 0, down: float = 0, lean: tuple[float, float] = (0, 0)) -> Tensor:
    """By whole pixels and slopes, about the upper left corner."""
    return F.affine(
        images,
        angle=0.0,
        translate=[round(right), round(down)],
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in lean],
        interpolation=InterpolationMode.NEAREST,
        center=[0.0, 0.0],
    )


def erase(images: Tensor, share: float, place: tuple[float, float]) -> Tensor:
    height, width = images.shape[-2:]
    side = round(share * width)
    top, left = (math.floor(u * length) - side // 2 for u, length in zip(place, (height, width), strict=True))
    mean = images.float().mean(dim=(-2, -1), keepdim=True).round_().to(torch.uint8)
    up, across = max(top, 0), max(left, 0)
    return F.erase(images, up, across, min(top + side, height) - up, min(left + side, width) - across, mean)


TORCHVISION: dict[str, Callable[[Tensor, float, tuple[float, float]], Tensor]] = {
    "Identity": lambda images, m, place: images,
    "ShearX": lambda images, m, place: move(images, lean=(m, 0)),
    "ShearY": lambda images, m, place: move(images, lean=(0, m)),
    "TranslateX": lambda images, m, place: move(images, right=-m * images.shape[-1]),
    "TranslateY": lambda images, m, place: move(images, down=-m * images.shape[-2]),
    "Rotate": lambda images, m, place: F.rotate(images, m, interpolation=InterpolationMode.NEAREST),
    "Color": lambda images, m, place: F.adjust_saturation(images, 1 + m),
    "Contrast": lambda images, m, place: F.adjust_contrast(images, 1 + m),
    "Sharpness": lambda images, m, place: F.adjust_sharpness(images, 1 + m),
    "Brightness": lambda images, m, place: F.adjust_brightness(images, 1 + m),
    "Posterize": lambda images, m, place: F.posterize(images, int(m)),
    "Solarize": lambda images, m, place: F.solarize(images, m),
    "AutoContrast": lambda images, m, place: F.autocontrast(images),
    "Equalize": lambda images, m, place: F.equalize(images),
    "Invert": lambda images, m, place: F.invert(images),
    "Cutout": erase,
}


# --- in groups


def torchvision_grouped(work: Work) -> Callable[[int], Iterable[Tensor]]:
    planes = replace(work, images=work.images.permute(0, 3, 1, 2).contiguous())
    return lambda batch: (to_float(torchvision_groups(part)) for part in planes.batches(batch))


def torchvision_groups(work: Work) -> Tensor:
    images = work.images.clone()
    for chosen, uniforms in zip(work.chosen.unbind(1), work.uniforms.unbind(1), strict=True):
        group = 2 * chosen + (uniforms[:, 0] < 0.5)
        for value in group.unique().tolist():
            members = torch.nonzero(group == value).squeeze(1)
            _, down, across = uniforms[members[0]].tolist()
            m = signed(value // 2, 0.25 if value % 2 else 0.75)
            images[members] = TORCHVISION[ELEMENTS[value // 2].operation](images[members], m, (down, across))
    return images


def kornia(work: Work) -> Callable[[int], Iterable[Tensor]]:
    planes = replace(work, images=work.images.permute(0, 3, 1, 2).contiguous())
    names = list(OPERATIONS)
    operation = torch.tensor([names.index(element.operation) for element in ELEMENTS])
    magnitude = torch.tensor([[signed(k, 0.75), signed(k, 0.25)] for k in range(len(ELEMENTS))])
    return lambda batch: (kornia_groups(part, operation, magnitude) for part in planes.batches(batch))


def kornia_groups(work: Work, operation: Tensor, magnitude: Tensor) -> Tensor:
    images = to_float(work.images)
    for chosen, uniforms in zip(work.chosen.unbind(1), work.uniforms.unbind(1), strict=True):
        group = operation[chosen]
        m = magnitude[chosen, (uniforms[:, 0] < 0.5).long()]
        for value in group.unique().tolist():
            members = torch.nonzero(group == value).squeeze(1)
            images[members] = kornia_table()[list(OPERATIONS)[value]](images[members], m[members])
    return images


@cache
def kornia_table() -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    from kornia import enhance, geometry
    from kornia.augmentation import RandomErasing

    nearest = {"mode": "nearest", "align_corners": True}
    cover = RandomErasing(scale=(0.25, 0.25), ratio=(1.0, 1.0), value=0.5, p=1.0)

    def beside(first: Tensor | float, second: Tensor | float, like: Tensor) -> Tensor:
        return torch.stack([torch.as_tensor(value).expand(len(like)) for value in (first, second)], dim=1)

    return {
        "Identity": lambda images, m: images,
        "ShearX": lambda images, m: geometry.shear(images, beside(-m, 0.0, images), **nearest),
        "ShearY": lambda images, m: geometry.shear(images, beside(0.0, -m, images), **nearest),
        "TranslateX": lambda images, m: geometry.translate(images, beside(-m * SIDE, 0.0, images), **nearest),
        "TranslateY": lambda images, m: geometry.translate(images, beside(0.0, -m * SIDE, images), **nearest),
        "Rotate": lambda images, m: geometry.rotate(images, m, **nearest),
        "Color": lambda images, m: enhance.adjust_saturation_with_gray_subtraction(images, 1 + m),
        "Contrast": lambda images, m: enhance.adjust_contrast_with_mean_subtraction(images, 1 + m),
        "Sharpness": lambda images, m: enhance.sharpness(images, 1 + m),
        "Brightness": lambda images, m: enhance.adjust_brightness_accumulative(images, 1 + m),
        "Posterize": lambda images, m: enhance.posterize(images, m.int()),
        "Solarize": lambda images, m: enhance.solarize(images, m / 255),
        "AutoContrast": lambda images, m: enhance.normalize_min_max(images),
        "Equalize": lambda images, m: enhance.equalize(images),
        "Invert": lambda images, m: enhance.invert(images),
        "Cutout": lambda images, m: cover(images),
    }


def ours(work: Work) -> Callable[[int], Iterable[Tensor]]:
    return lambda batch: (to_float(our_batch(part)) for part in work.batches(batch))


def our_batch(work: Work) -> Tensor:
    images = work.images.permute(0, 3, 1, 2)  # the layout of `components.training.inference.split_tensors`
    for chosen, uniforms in zip(work.chosen.unbind(1), work.uniforms.unbind(1), strict=True):
        images = apply_elements(images, ELEMENTS, chosen, uniforms)
    return images


# --- the yardstick


def resnet(work: Work) -> Callable[[int], Iterable[object]]:
    """Whole training steps, from uint8 images."""
    layers = (Layer(16, 16, 1, 32), Layer(16, 32, 2, 32), Layer(32, 64, 2, 16))
    space = Space(size=SIDE, channels=3, classes=10, stem=16, stem_stride=1, layers=layers, blocks=("res_k3",))
    network = build_network(space, ("res_k3",) * 3, mean=(0.5,) * 3, std=(0.25,) * 3)
    step = partial(
        train_steps,
        network,
        initial_state(network),
        work.images.permute(0, 3, 1, 2),
        torch.arange(len(work.images)) % 10,
        rate=lambda step: 0.01,
        first_step=0,
        augment=compose(),
        criterion=cross_entropy(),
        recipe=Recipe(),
        rng=torch.Generator().manual_seed(0),
    )
    return lambda batch: [step(batches=torch.arange(len(work.images)).split(batch))]


# --- the measurement


@dataclass(frozen=True, kw_only=True)
class Implementation:
    prepare: Callable[[Work], Callable[[int], Iterable[object]]]
    """From the work to what does it in batches of a size; only the latter is measured."""
    images: int = IMAGES
    """Of a round."""
    batches: tuple[int, ...] = (256, 4096)


REFERENCE, OURS, YARDSTICK = "PIL + ToTensor, DataLoader", "ours", "ResNet-8 training step"
IMPLEMENTATIONS: dict[str, Implementation] = {
    REFERENCE: Implementation(prepare=pil, images=1024, batches=(256,)),
    "torchvision v2, an image a call": Implementation(prepare=torchvision, images=1024, batches=(256,)),
    "torchvision v2, grouped": Implementation(prepare=torchvision_grouped),
    "kornia": Implementation(prepare=kornia),
    OURS: Implementation(prepare=ours, batches=(64, 256, 4096)),
    YARDSTICK: Implementation(prepare=resnet, images=512, batches=(256,)),
}


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    data, images = some_images(IMAGES)
    for seed in SEEDS:
        for (name, batch), rate in measure(draw_work(images, seed), ROUNDS).items():
            yield {
                "implementation": name,
                "batch": batch,
                "data": data,
                "seed": seed,
                "images_per_cpu_second": round(rate),
            }


def measure(work: Work, rounds: int) -> dict[tuple[str, int], float]:
    """Images per CPU-second of each implementation and batch: its best round, after one to warm up."""
    contest = {}
    for name, entry in IMPLEMENTATIONS.items():
        part = next(work.batches(entry.images))
        run = entry.prepare(part)
        contest |= {(name, batch): (run, len(part.images)) for batch in entry.batches}
    best = dict.fromkeys(contest, 0.0)
    for round_ in range(rounds + 1):
        for (name, batch), (run, count) in contest.items():
            start = time.process_time()
            for _ in run(batch):
                pass
            rate = count / (time.process_time() - start)
            best[name, batch] = max(best[name, batch], rate if round_ > 0 else 0.0)
    return best


def table(rows: Sequence[Row]) -> str:
    rates: dict[tuple[str, int], list[float]] = {}  # one a seed
    for row in rows:
        key = str(row["implementation"]), int(str(row["batch"]))
        rates.setdefault(key, []).append(float(str(row["images_per_cpu_second"])))
    (data,) = {str(row["data"]) for row in rows}
    reference, yardstick = rates[REFERENCE, 256], rates.pop((YARDSTICK, 256))
    lines: list[list[object]] = []
    for (name, batch), own in rates.items():
        ratio = spread([rate / pil for rate, pil in zip(own, reference, strict=True)])
        share = spread([100 * step / rate for rate, step in zip(own, yardstick, strict=True)])
        lines.append([name, batch, spread(own, 0), ratio, share])
    lines.append([YARDSTICK, 256, spread(yardstick, 0), "", ""])
    header = ["two elements an image", "batch", "images / CPU-second", "times PIL", "of a ResNet-8 step, %"]
    return f"{markdown(header, lines)}\n\n{data}, {SIDE} x {SIDE} pixels, colour; the best of {ROUNDS} rounds."
