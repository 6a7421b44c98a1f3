"""Make the section on the final trainings."""

from collections.abc import Iterator

from components.settings.params import Params
from flows.checkout import paths
from flows.report import figures
from flows.report.parts import Figure, Maker, Part
from flows.report.reading import read_rows


def curves(params: Params) -> Iterator[Part]:
    losses = {}
    for variant in params.train.variants:
        rows = read_rows(paths.TRAINED / variant / paths.CURVE)
        losses[variant] = [int(row["epoch"]) for row in rows], [float(row["loss"]) for row in rows]
    yield Figure(
        svg=figures.training_curves(losses),
        label="; ".join(f"{variant} ends at {loss[-1]:.4g}" for variant, (_, loss) in losses.items()),
        caption="Variants train with losses and augmentations of their own, so heights are not to be compared; "
        "what counts is whether each has settled. `searched` goes on from the race, the others start from first "
        "weights.",
    )


MAKERS: dict[str, Maker] = {"the training curves": curves}
