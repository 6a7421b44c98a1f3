"""Stage `train`: train what the race decided, the model that ships or its strongest plain rival, with the same code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from safetensors.torch import load_file, save
from torch import Tensor

from components.architecture.network import make_network
from components.architecture.space import parse_architecture, space_of
from components.data.batch import require_batch
from components.data.store import Classes, Split, open_split, read_classes, read_statistics
from components.loss.family import Member
from components.planning.speeds import Speeds
from components.race.choices import augment_of, criterion_of
from components.settings.export import Export
from components.settings.require import require
from components.settings.space import SearchSpace
from components.settings.train import Train
from components.settings.variants import BASELINE, SEARCHED, budget_number
from components.shipping.export import export_network
from components.shipping.quantisation import convert
from components.streams import stream
from components.training.fit import fit
from components.training.inference import split_tensors
from components.training.loop import Augment, Criterion, State, load_state
from flows.checkout import files, paths
from flows.resume.training import finished_epochs, resume_training
from flows.runtime.devices import devices_of
from flows.runtime.observer import Observer


@dataclass(frozen=True, kw_only=True)
class Reads:
    """The settings that the stage reads; dvc.yaml lists the same."""

    seed: int
    threads: int
    device: str
    train: Train
    export: Export
    space: SearchSpace


def run(params: Reads, observe: Observer, variant: str, checkpoint: Path) -> None:
    """Train on train and val together, and write weights, the float and the shipped ONNX file, and the curve."""
    device, *_ = devices_of(params.device)
    classes, statistics = read_classes(paths.CLASSES), read_statistics(paths.STATISTICS)
    require_batch(statistics.counts, params.train.recipe.batch_size)
    images, labels = training_images()
    recipe = recipe_of(params, classes, variant, len(labels))
    network = make_network(params.space, classes, statistics, recipe.architecture, params.seed).to(device)
    training = partial(
        fit,
        network,
        images,
        labels,
        settings=replace(params.train, epochs=recipe.epochs),
        augment=recipe.augment,
        criterion=recipe.criterion,
        beginning=recipe.beginning,
        seed=params.seed,
        begun=recipe.begun,
    )
    curve = []
    done, epochs = finished_epochs(checkpoint), resume_training(training, checkpoint)
    for epoch in observe.progress(epochs, recipe.epochs, f"train {variant} epochs", done=done):
        curve.append({"epoch": epoch.index, "loss": epoch.loss, "learning_rate": epoch.learning_rate})
        observe.metrics({"train/loss": epoch.loss, "train/learning_rate": epoch.learning_rate}, step=epoch.index)
    load_state(network, epoch.state)
    network.cpu()  # the export runs on the CPU
    folder = paths.TRAINED / variant
    files.write_csv(folder / paths.CURVE, curve)
    files.write_bytes(folder / paths.WEIGHTS, save({k: v.contiguous() for k, v in network.state_dict().items()}))
    exported = export_network(network, classes, recipe.architecture)
    shipped = convert(exported, calibration_images(params), params.export)
    files.write_bytes(folder / paths.FLOAT, exported.SerializeToString(deterministic=True))
    files.write_bytes(folder / paths.SHIPPED, shipped.SerializeToString(deterministic=True))
    observe.file(folder / paths.CURVE)
    observe.file(folder / paths.SHIPPED)


def training_images() -> tuple[Tensor, Tensor]:
    """Return images and labels of train and val together: after the searches, val is training data for all variants."""
    train, val = open_split(paths.TRAIN), open_split(paths.VAL)
    both = Split(images=np.concatenate([train.images, val.images]), labels=np.concatenate([train.labels, val.labels]))
    return split_tensors(both)


def calibration_images(params: Reads) -> UInt8[np.ndarray, "n h w c"]:
    """Return train images, drawn without repetition, from which quantisation takes its ranges."""
    images = open_split(paths.TRAIN).images
    count = min(params.export.calibration_images, len(images))
    chosen = stream(params.seed, "calibration images").choice(len(images), size=count, replace=False)
    return np.asarray(images[np.sort(chosen)])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a variant trains, and with which augmentation and loss."""

    architecture: str
    augment: Augment
    criterion: Criterion
    beginning: Criterion | None
    """The loss while the learning rate rises, if it is another one."""
    epochs: int
    begun: State | None
    """The weights and momentum from which the training goes on; None: it starts from first weights."""


def recipe_of(params: Reads, classes: Classes, variant: str, images: int) -> Recipe:
    """Return what the race decided for `searched` and `baseline`; `budget_<n>` is `searched` with the network that was
    found for the n-th budget, from first weights."""
    decided, number = files.read_json(paths.DECIDED)["variants"], budget_number(variant)
    chosen = decided[SEARCHED if number > 1 else variant]
    architecture, begun = chosen["architecture"], chosen["begun"]
    if number > 1:
        architecture = network_of(files.read_json(paths.FOUND_ARCHITECTURE)["budgets"], number)["architecture"]
        begun = False
    criterion = criterion_of(chosen["loss"], params.train.recipe, paths.FOUND_LOSS)
    device = devices_of(params.device)[0]
    if isinstance(criterion, Member):
        criterion = criterion.to(device)
    return Recipe(
        architecture=architecture,
        augment=augment_of(chosen["augmentation"], params.train.recipe, classes.size, paths.FOUND_AUGMENTATION),
        criterion=criterion,
        beginning=criterion.beginning() if isinstance(criterion, Member) else None,
        epochs=epochs_of(params, classes, variant, architecture, images),
        begun=load_file(paths.BEGUN, device=str(device)) if begun else None,
    )


def epochs_of(params: Reads, classes: Classes, variant: str, architecture: str, images: int) -> int:
    """Return the number of epochs over so many images, from the recorded speeds or, if a person states it, from that.

    The baseline's training is as long as searches, race and final training together.
    """
    speeds = Speeds.from_json(files.read_json(paths.SPEEDS))
    alone = variant == BASELINE
    seconds = speeds.seconds.total if alone else speeds.seconds.final
    if params.train.epochs is not None:
        return max(1, round(params.train.epochs * seconds / speeds.seconds.final))
    return speeds.epochs(parse_architecture(space_of(params.space, classes), architecture), seconds, images)


def network_of(budgets: Sequence[Mapping[str, Any]], number: int) -> Mapping[str, Any]:
    """Return what was found for the n-th budget. Raises ValueError if nothing was."""
    require(
        number <= len(budgets),
        f"the search found networks for {len(budgets)} budgets, budget_{number} needs one more; search anew (`dvc "
        "repro`), or take it out of train.variants",
    )
    return budgets[number - 1]
