"""Classify images with a champion that `mlflow models serve` serves: `python -m flows.classify IMAGE ...`.

The server takes and returns numbers. An image becomes numbers as in `prepare`, and the names of the classes come from
the registered file.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("classify")  # before the slow imports, so that --help answers at once

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from components.data.images import decode, to_array
from components.data.records import Refused
from components.shipping.export import read_metadata
from flows.checkout.settings import load_params
from flows.release.registry import CHAMPION, registry_errors
from flows.runtime.exits import Failure, ends_in_a_sentence
from flows.tracking import models

SECONDS = 30.0
"""Seconds to wait for an answer."""


class NoAnswer(Failure):
    """The server cannot be reached, or does not answer with probabilities."""


def ask(url: str, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n k"]:
    """Return the probabilities from MLflow's scoring server. Raises NoAnswer if it gives none."""
    body = json.dumps({"inputs": {"images": images.tolist()}}).encode()
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return np.array(json.load(response)["predictions"]["probabilities"])
    except (OSError, ValueError, KeyError) as error:
        how = "start the server as docs/production.md says"
        raise NoAnswer(f"{url} gives no probabilities ({error}); {how}") from error


def read_images(files: Iterable[Path], size: int, channels: int) -> UInt8[np.ndarray, "n h w c"]:
    """Read image files in the form that the network takes. Raises ValueError if one is no image."""
    arrays = []
    for file in files:
        try:
            arrays.append(to_array(decode(file.read_bytes()), size, channels))
        except (OSError, Refused) as error:
            raise ValueError(f"{file} cannot be read as an image ({error}); give another file") from None
    return np.stack(arrays)


def classify(url: str, files: Sequence[Path], model: bytes) -> list[tuple[str, float]]:
    """Return the class name and its probability for each image, as the server at `url` answers.

    `model` is the registered file that is served; only its class names and image size are read.
    """
    noted = read_metadata(model)
    names = json.loads(noted["classes"])
    probabilities = ask(url, read_images(files, int(noted["size"]), int(noted["channels"])))
    if probabilities.shape[1] != len(names):
        problem = f"{url} knows {probabilities.shape[1]} classes, the registered model {len(names)}"
        raise NoAnswer(f"{problem}; start the server again: it serves the version of its start")
    return [(names[row.argmax()], float(row.max())) for row in probabilities]


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    chosen = commands.parse("classify", arguments)
    name = load_params().publish.model
    with registry_errors():
        champion = models.load_by_alias(name, CHAMPION)
    if champion is None:
        raise ValueError(f"{name} has no champion; `python -m flows.publish` makes one")
    answers = classify(chosen.url, chosen.images, champion.model)
    for file, (label, probability) in zip(chosen.images, answers, strict=True):
        print(f"{file}  {label}  {probability:.1%}")
    return 0


if __name__ == "__main__":
    commands.run(main)
