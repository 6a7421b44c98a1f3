"""Stage `plan`: measure this machine, look at the data, and record every decision that a person left open.

Like the latency table it is a recorded input: no later stage reads a clock for anything that decides bytes.
"""

import statistics
from itertools import islice

from components.data.images import open_header
from components.data.raw import Index, read_images, read_index
from components.planning.plan import Facts, make_plan
from components.planning.schedule import Settings
from components.settings.data import Data
from flows.checkout import files, paths
from flows.runtime.devices import devices_of
from flows.runtime.observer import Observer

LOOKED_AT = 512
"""Number of images whose size is read."""

Reads = Settings
"""The settings that the stage reads; dvc.yaml lists the same."""


def run(params: Settings, observe: Observer) -> None:
    """Write the plan, the speeds that later stages compute epochs from, and a file for each part of the settings."""
    plan = make_plan(params, facts_of(params.data), devices_of(params.device)[0])
    for sentence in plan.sentences:
        print(sentence)
    for part, chosen in plan.chosen.items():
        files.write_json(paths.PLAN / f"{part}.json", chosen)
    files.write_json(paths.SPEEDS, plan.speeds.to_json())
    record = {
        "sentences": list(plan.sentences),
        "minutes": plan.minutes,
        "seconds": vars(plan.speeds.seconds),
        "measured": plan.measured,
        "chosen": {key: value for own in plan.chosen.values() for key, value in own.items()},
    }
    files.write_json(paths.PLANNED, record)
    observe.metrics({f"plan/minutes/{part}": value / 60 for part, value in vars(plan.speeds.seconds).items()})
    observe.metrics({"plan/minutes/all": plan.minutes, **{f"plan/{k}": v for k, v in plan.measured.items()}})
    observe.file(paths.PLANNED)


def facts_of(data: Data) -> Facts:
    """Look at the images that `prepare` will split."""
    index = read_index(paths.RAW)
    return Facts(names=index.names, channels=index.channels, images=images_to_train_on(index, data), side=median_side())


def images_to_train_on(index: Index, data: Data) -> int:
    """Return about how many images train and val will have together."""
    own_test = index.splits.count("test")
    return len(index.contents) - own_test if own_test else max(1, round(len(index.contents) * (1 - data.test)))


def median_side() -> int:
    """Return the median of the first originals' shorter sides, in pixels; their order is by content, hence random."""
    headers = (open_header(encoded) for _, encoded in islice(read_images(paths.RAW), LOOKED_AT))
    return round(statistics.median(min(image.size) for image in headers))
