"""Make the section on the loss search: the found curves beside known ones, the Gaussian's mean, the rewards."""

from collections.abc import Iterator

import numpy as np

from components.loss.chart import loss_curves
from components.loss.family import read_loss
from components.settings.loss import Loss
from components.settings.params import Params
from flows.checkout import paths
from flows.report import figures, searched
from flows.report.parts import Figure, Maker, Note, Part
from flows.report.reading import group_rows, read_rows


def method(params: Params) -> Iterator[Part]:
    yield from searched.frozen_note("loss")
    yield Note(text=f"AM-LFS (ICCV 2019), monotone curves: {searched.how(params.loss.online)}")
    yield searched.control(params.loss.online)


def curves(params: Params) -> Iterator[Part]:
    found = read_loss(paths.FOUND_LOSS)
    yield Figure(
        svg=figures.with_open_axes(lambda: loss_curves(found)),
        label="the found t and tau, and those of cross-entropy, AM-softmax, ArcFace and focal loss",
        caption="The loss is -log τ(p), where p is the label's probability once t has bent its cosine. On the line of "
        "cross-entropy, nothing was found that serves val better.",
    )
    if found.class_logits is not None:
        lowest, highest = float(found.class_logits.min()), float(found.class_logits.max())
        yield Note(
            text=f"Margins: the label's logit gets {found.settings['label_logit']:+.3f}, the classes' "
            f"{lowest:+.3f} to {highest:+.3f}, by how many images they have."
        )


def mean(params: Params) -> Iterator[Part]:
    trunks = group_rows(read_rows(paths.LOSS_TRUNKS), lambda row: int(row["trunk"]))
    columns = [[float(rows[0][f"theta_{k}"]) for k in range(size(rows[0]))] for rows in trunks.values()]
    theta = np.array(columns).T
    moved = float(np.linalg.norm(theta[:, -1]))
    yield Figure(
        svg=figures.mean_by_trunk(component_names(params.loss, len(theta)), theta),
        label=f"the mean moved {moved:.3g} from cross-entropy",
        caption=f"The Gaussian's mean after each trunk; 0 is cross-entropy, from which it ended {moved:.3g} away.",
    )


def size(row: dict[str, str]) -> int:
    """Return the number of components of theta."""
    return sum(name.startswith("theta_") for name in row)


def component_names(settings: Loss, count: int) -> list[str]:
    """Name the components: t's, then tau's, then the margins a and b. Raises ValueError if they are not `count`."""
    margins = ["margin a", "margin b"] if settings.class_margins else []
    half = (count - len(margins)) // 2
    names = [f"{part} {place}" for part in ("t", "τ") for place in range(half)] + margins
    if len(names) != count:
        raise ValueError(f"it has {count} components, the settings {len(names)}")
    return names


def rewards(params: Params) -> Iterator[Part]:
    yield from searched.rewards(read_rows(paths.LOSS_TRUNKS), params.loss.online)


MAKERS: dict[str, Maker] = {
    "how it was searched": method,
    "the curves": curves,
    "the mean by trunk": mean,
    "the rewards": rewards,
}
