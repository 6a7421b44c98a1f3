"""Decide, for the deployment `new-data`, whether the source has changed enough to retrain, and why.

n  images of the last version's test split    m  new images    k  classes

New images are those whose content the last retrain did not have. Their distribution is compared by the classes that the
champion predicts: those of the new images against those of the last version's *test* split, because on images that it
was trained on it is surer and more often right than on new ones. The test is a permutation test with the chi-square
statistic of the 2 x k table: under the null hypothesis the m images are a random sample of all n + m, so the mix is
drawn from the hypergeometric distribution. It holds its level at any m, empty classes included. The same new images
always give the same answer.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Int64, UInt8
from scipy.stats import MonteCarloMethod, chi2_contingency

from components.data.images import decode, to_array
from components.data.intake import take_in
from components.data.raw import read_images, read_index
from components.data.sources import open_source
from components.data.store import CONTENTS, open_split, read_classes, read_contents
from components.settings.params import Params
from components.shipping.evaluation import onnx_logits
from components.streams import stream
from flows.checkout import paths
from flows.release.registry import registry_errors
from flows.release.trained_on import trained_on
from flows.runtime.terminal import open_tracker
from flows.tracking import models

POLL = Path(".dvc/tmp/poll.lock")
READ = ".poll."
"""Beginning of the name of the folder beside `data/raw` that the source's images are read into."""
LEFT = re.compile(rf"{re.escape(READ)}[a-z0-9_]{{8}}")
"""Matches the folder's whole name, as `tempfile` makes it."""
DRAWS = 9_999
"""Number of permutations; the smallest p-value is 1 / (DRAWS + 1)."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision whether to train, and the sentence that says why or why not."""

    train: bool
    reason: str


def decide(params: Params) -> Decision:
    """Read the source and compare it with `data/raw`, which the last retrain left here; change nothing.

    Raises ValueError if the source cannot be used, RegistryError if MLflow fails.
    """
    if paths.UNFINISHED.exists():
        return Decision(train=True, reason="the last retrain did not come to its end")
    known = read_index(paths.RAW) if paths.RAW.exists() and paths.TEST.exists() else None
    with source_folder() as folder:
        with open_tracker() as tracker:
            take_in(open_source(params.data), folder, params.data, tracker.progress)
        found = read_index(folder)
        if known is None:
            return Decision(train=True, reason=f"the first {len(found.contents)} images")
        if found.names != known.names:
            return Decision(train=True, reason=f"the classes are {', '.join(found.names)} now")
        new = sorted(set(found.contents) - set(known.contents))
        if len(new) >= params.retrain.min_new_images:
            return Decision(train=True, reason=f"{len(new)} new images, at least {params.retrain.min_new_images}")
        return compare(params, len(new), images_of(folder, found.contents, set(new)) if new else None)


@contextmanager
def source_folder() -> Iterator[Path]:
    """Yield an empty folder for the source's images, to one poll at a time; delete what killed polls left behind."""
    POLL.parent.mkdir(parents=True, exist_ok=True)
    paths.RAW.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(POLL):
        for left in paths.RAW.parent.glob(f"{READ}*"):
            if LEFT.fullmatch(left.name):
                shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=paths.RAW.parent, prefix=READ) as name:
            yield Path(name)


def images_of(folder: Path, contents: Sequence[str], wanted: set[str]) -> UInt8[np.ndarray, "m h w c"]:
    """Return the wanted images in the form that networks take."""
    classes = read_classes(paths.CLASSES)
    chosen = [data for content, (_, data) in zip(contents, read_images(folder), strict=True) if content in wanted]
    return np.stack([to_array(decode(data), classes.size, classes.channels) for data in chosen])


def compare(params: Params, count: int, images: UInt8[np.ndarray, "m h w c"] | None) -> Decision:
    """Decide by the distribution of the new images, which are too few to retrain without a shift."""
    few = f"{count} new images, fewer than {params.retrain.min_new_images}"
    with registry_errors():
        champion = models.load_by_alias(params.publish.model, "champion")
    if images is None or champion is None:
        return Decision(train=champion is None, reason=few if champion else "there is no champion")
    old = predicted_classes(champion.model, unseen_images(champion.md5), params)
    new = predicted_classes(champion.model, images, params)
    p = mix_p_value(np.bincount(old, minlength=max(old.max(), new.max()) + 1), np.bincount(new), params.seed)
    rule = f"p = {p:.4f} of their mix of classes, shift_alpha is {params.retrain.shift_alpha}"
    if p <= params.retrain.shift_alpha:
        return Decision(train=True, reason=f"{count} new images of another distribution ({rule})")
    return Decision(train=False, reason=f"{few}, and no shift ({rule})")


def unseen_images(md5: str) -> UInt8[np.ndarray, "n h w c"]:
    """Return the test images that the champion was not trained on, or all of them if that is not recorded."""
    images = open_split(paths.TEST).images
    with registry_errors():
        known = trained_on(md5)
    if not known:
        return images
    return images[[content not in known for content in read_contents(paths.TEST / CONTENTS)]]


def predicted_classes(model: bytes, images: UInt8[np.ndarray, "n h w c"], params: Params) -> Int64[np.ndarray, " n"]:
    classes: Int64[np.ndarray, " n"] = onnx_logits(model, images, threads=params.threads).argmax(axis=1)
    return classes


def mix_p_value(old: Int64[np.ndarray, " k"], new: Int64[np.ndarray, " j"], seed: int, draws: int = DRAWS) -> float:
    """Return the p-value of the hypothesis that both class counts come from one population; `new` may be shorter."""
    table = np.stack([old, np.pad(new, (0, len(old) - len(new)))])
    permutations = MonteCarloMethod(n_resamples=draws, rng=stream(seed, "shift"))
    seen = table[:, table.any(axis=0)]  # empty classes say nothing
    return float(chi2_contingency(seen, correction=False, method=permutations).pvalue)
