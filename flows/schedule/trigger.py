"""Whether the source has changed enough to train anew, and why.

n  images of the last version's test split    m  new images    k  classes

New are the images whose content the last retrain did not have. Their distribution is compared through the champion's
eyes: its predicted classes on the new images against its predicted classes on the last version's *test* split, since on
images that it was trained on it is surer and righter than on any new ones. The test is a permutation test with the
chi-square statistic of the 2 x k table: under the null hypothesis the m images are a random sample of all n + m, so the
mix is drawn from the hypergeometric distribution. It holds its level at any m, empty classes included, and asks again
only when there are other new images.
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
from flows.release.registry import registry
from flows.release.trained_on import trained_on
from flows.runtime.terminal import watched
from flows.tracking import models

POLL = Path(".dvc/tmp/poll.lock")
READ = ".poll."
"""How the folder's name begins, beside `data/raw`, that the source's images are read into."""
LEFT = re.compile(rf"{re.escape(READ)}[a-z0-9_]{{8}}")
"""The whole name, as `tempfile` makes it."""
DRAWS = 9_999
"""Permutations: the smallest p-value is 1 / (DRAWS + 1)."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to train, and the sentence that says why or why not."""

    train: bool
    reason: str


def decide(params: Params) -> Decision:
    """Read the source and compare it with `data/raw`, which the last retrain left here; changes nothing.

    Raises ValueError when the source cannot be used, RegistryError.
    """
    if paths.UNFINISHED.exists():
        return Decision(train=True, reason="the last retrain did not come to its end")
    known = read_index(paths.RAW) if paths.RAW.exists() and paths.TEST.exists() else None
    with reading() as folder:
        with watched() as tracker:
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
def reading() -> Iterator[Path]:
    """An empty folder for the source's images, one poll at a time: what lies here of others, a kill left behind."""
    POLL.parent.mkdir(parents=True, exist_ok=True)
    paths.RAW.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(POLL):
        for left in paths.RAW.parent.glob(f"{READ}*"):
            if LEFT.fullmatch(left.name):
                shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=paths.RAW.parent, prefix=READ) as name:
            yield Path(name)


def images_of(folder: Path, contents: Sequence[str], wanted: set[str]) -> UInt8[np.ndarray, "m h w c"]:
    """The wanted images as networks see them."""
    classes = read_classes(paths.CLASSES)
    chosen = [data for content, (_, data) in zip(contents, read_images(folder), strict=True) if content in wanted]
    return np.stack([to_array(decode(data), classes.size, classes.channels) for data in chosen])


def compare(params: Params, count: int, images: UInt8[np.ndarray, "m h w c"] | None) -> Decision:
    """Too few new images: are they of another distribution?"""
    few = f"{count} new images, fewer than {params.retrain.min_new_images}"
    with registry():
        champion = models.load_by_alias(params.publish.model, "champion")
    if images is None or champion is None:
        return Decision(train=champion is None, reason=few if champion else "there is no champion")
    old = predicted(champion.model, unseen(champion.md5), params)
    new = predicted(champion.model, images, params)
    p = mix_p_value(np.bincount(old, minlength=max(old.max(), new.max()) + 1), np.bincount(new), params.seed)
    rule = f"p = {p:.4f} of their mix of classes, shift_alpha is {params.retrain.shift_alpha}"
    if p <= params.retrain.shift_alpha:
        return Decision(train=True, reason=f"{count} new images of another distribution ({rule})")
    return Decision(train=False, reason=f"{few}, and no shift ({rule})")


def unseen(md5: str) -> UInt8[np.ndarray, "n h w c"]:
    """The test images that the champion was not trained on, as far as that is recorded."""
    images = open_split(paths.TEST).images
    with registry():
        known = trained_on(md5)
    if not known:
        return images
    return images[[content not in known for content in read_contents(paths.TEST / CONTENTS)]]


def predicted(model: bytes, images: UInt8[np.ndarray, "n h w c"], params: Params) -> Int64[np.ndarray, " n"]:
    classes: Int64[np.ndarray, " n"] = onnx_logits(model, images, threads=params.threads).argmax(axis=1)
    return classes


def mix_p_value(old: Int64[np.ndarray, " k"], new: Int64[np.ndarray, " j"], seed: int, draws: int = DRAWS) -> float:
    """Of the hypothesis that both counts of classes (`new` may end earlier) are samples of one population."""
    table = np.stack([old, np.pad(new, (0, len(old) - len(new)))])
    permutations = MonteCarloMethod(n_resamples=draws, rng=stream(seed, "shift"))
    seen = table[:, table.any(axis=0)]  # empty classes say nothing
    return float(chi2_contingency(seen, correction=False, method=permutations).pvalue)
