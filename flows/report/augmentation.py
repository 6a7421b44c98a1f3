"""Make the section on the augmentation search: the policy by trunk, its rewards, and its effect on real images."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from components.augmentation.distribution import first_distribution, policy_of
from components.augmentation.policy import Policy
from components.data.store import Split, open_split, read_classes
from components.settings.params import Params
from components.streams import torch_stream
from components.training.inference import split_tensors
from flows.checkout import paths
from flows.checkout.files import read_json
from flows.report import figures, searched
from flows.report.images import picture
from flows.report.parts import Figure, Maker, Note, Part, Picture, Pictures, Table
from flows.report.reading import Row, group_rows, read_rows

STRIP, DRAWS = 8, 4
"""Number of real images shown, and of draws of the policy for each."""
LISTED = 8
"""Number of pairs in the table."""


def method(params: Params) -> Iterator[Part]:
    settings = params.augmentation
    yield from searched.frozen_note("augmentation")
    yield Note(text=f"OHL-Auto-Aug (ICCV 2019), factored distribution: {searched.how(settings.online)}")
    yield searched.control(settings.online)


def distribution(params: Params) -> Iterator[Part]:
    rows = read_rows(paths.DISTRIBUTION)
    first = first_distribution(params.augmentation)
    names, shares = operation_shares(rows, policy_of(first).operation_shares())
    last = sorted(zip(names, shares[:, -1], strict=True), key=lambda pair: -pair[1])[:3]
    yield Figure(
        svg=figures.shares_by_trunk(names, shares),
        label="; ".join(f"{name} {share:.1%}" for name, share in last),
        caption="Share of each operation among the two that an image gets, all magnitudes together, from the "
        f"start to the last trunk. Most likely in the end: {', '.join(f'{n} {s:.1%}' for n, s in last)}.",
    )


def operation_shares(
    rows: list[Row], start: dict[str, float]
) -> tuple[list[str], Float[np.ndarray, "names trunks_and_start"]]:
    """Return the operations, sorted by their last share, and their shares at the start and after every trunk."""
    trunks = group_rows(rows, lambda row: int(row["trunk"]))
    columns = [start, *(shares_of(own) for _, own in sorted(trunks.items()))]
    names = sorted(columns[-1], key=lambda name: -columns[-1][name])
    return names, np.array([[column.get(name, 0.0) for column in columns] for name in names])


def shares_of(rows: list[Row]) -> dict[str, float]:
    """Return each operation's share, averaged over the two places; an element is `<operation> <magnitude>`."""
    shares: dict[str, float] = {}
    for row in rows:
        operation = row["element"].split(" ")[0]
        shares[operation] = shares.get(operation, 0.0) + float(row["probability"]) / 2
    return shares


def pairs(params: Params) -> Iterator[Part]:
    found = read_json(paths.FOUND_AUGMENTATION)
    yield Table(
        header=["first", "second", "probability"],
        rows=[[one["first"], one["second"], f"{one['probability']:.2%}"] for one in found["pairs"][:LISTED]],
        caption=f"The most probable pairs. Entropy {found['entropy_bits']:.2f} bits; the uniform distribution has "
        f"{found['entropy_bits_uniform']:.2f}.",
        fold="The most probable pairs",
    )


def rewards(params: Params) -> Iterator[Part]:
    yield from searched.rewards(read_rows(paths.AUGMENTATION_TRUNKS), params.augmentation.online)


def strip(params: Params) -> Iterator[Part]:
    policy = Policy.from_json(read_json(paths.FOUND_AUGMENTATION))
    names, train = read_classes(paths.CLASSES).names, open_split(paths.TRAIN)
    yield Pictures(
        rows=list(policy_rows(policy, examples(train), names, params.seed)),
        caption=f"Real training images (first row), and each {DRAWS} times under the learned policy.",
    )


def examples(train: Split) -> Split:
    """Return the first image of each of the first STRIP classes, and further images if there are fewer classes."""
    labels = np.asarray(train.labels)
    first = np.unique(labels, return_index=True)[1]
    rest = np.setdiff1d(np.arange(min(len(labels), STRIP + len(first))), first)
    return train.at(np.concatenate([first, rest])[:STRIP])


def policy_rows(policy: Policy, chosen: Split, names: tuple[str, ...], seed: int) -> Iterator[list[Picture]]:
    """Yield a row of the images themselves, then a row for every draw of the policy."""
    images, labels = split_tensors(chosen)
    class_names = [names[label] for label in labels.tolist()]
    yield [
        picture(image, f"training image of {name}", name)
        for image, name in zip(chosen.images, class_names, strict=True)
    ]
    rng, augment = torch_stream(seed, "images of the report"), policy.augment()
    for draw in range(1, DRAWS + 1):
        moved = augment(images, rng).permute(0, 2, 3, 1).numpy()
        yield [picture(image, f"{name}, draw {draw}") for image, name in zip(moved, class_names, strict=True)]


MAKERS: dict[str, Maker] = {
    "how it was searched": method,
    "the distribution by trunk": distribution,
    "the pairs": pairs,
    "images under the policy": strip,
    "the rewards": rewards,
}
