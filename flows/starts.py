"""Where a search starts: anew, or where that of another version ended (flows/warm_start.py puts its record there)."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from components.settings.params import OtherSpace
from flows.checkout import files, paths
from flows.runtime.observer import Observer

T = TypeVar("T")

TAG = "warm_start"
"""On the stage's run: what the search started from, in words."""


def started(word: str, read: Callable[[Mapping[str, Any]], T], observe: Observer, effect: str = "") -> T | None:
    """What a record makes of the search's start; None: it starts anew.

    So it does, and says why, where the record is of another space: that somebody changed, and a retrain at night is no
    reason to wait for them. Raises ValueError for what is no record.
    """
    file = paths.STARTS[word]
    start, said = None, "anew"
    try:
        record = files.read_json(file)
        if record != files.NOTHING:
            start, said = read(record), f"where that of another version ended{effect}"
    except OtherSpace as changed:
        said = f"anew, not where that of another version ended: {changed}"
        warnings.warn(f"the {word} search starts {said}", stacklevel=2)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{file} is no record of a search; `git checkout {file.parent}` empties it") from None
    observe.tags({TAG: said})
    return start
