"""One labelled image: as a source offers it, as it is once found sound, and the rules by which it is turned away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath, PureWindowsPath
from typing import NoReturn


class Rule(StrEnum):
    """Why an image is not taken in; the word that validation.json counts by."""

    HIDDEN = "hidden"
    SYSTEM = "system file"
    NO_IMAGE = "no image"
    MISPLACED = "misplaced"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not an image"
    TOO_LARGE = "too large"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNSUPPORTED = "unsupported"
    BLANK = "blank"
    UNKNOWN_CLASS = "unknown class"
    TWO_LABELS = "two labels"
    DUPLICATE = "duplicate"


class Refused(ValueError):
    """One image is turned away; the others go on."""

    def __init__(self, rule: Rule, reason: str) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule, self.reason = rule, reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One image of a source."""

    path: str
    """Where it is in the source: relative, with forward slashes, fit for a report that others read."""
    label: str | None
    """Its class; None where the source itself cannot tell (`read` then refuses)."""
    split: str | None = None
    """The source's own split, `train` or `test`; None if it has none."""
    read: Callable[[], bytes]
    """The encoded bytes, read only now; raises `Refused`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is known of a sound image besides its bytes."""

    path: str
    """Source-relative."""
    label: str
    split: str | None
    """The source's own."""
    content: str
    """Its content hash (components.data.images)."""
    channels: int
    start: int
    """Where its bytes lie in the spill file of its bucket (components.data.raw)."""
    length: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that has been opened: what is known before the first image is read."""

    name: str
    """As in data.source."""
    classes: tuple[str, ...] | None
    """In label order; None where labels are bare numbers, which then name the classes."""
    count: int
    """Records that will come, refused ones included."""
    records: Iterator[Record]
    notes: tuple[str, ...] = ()
    """How it was read, where that was to be decided: a sentence each."""


def refuse(rule: Rule, reason: str) -> NoReturn:
    """The `read` of a record that its source already knows to be no good (bind the arguments with `partial`)."""
    raise Refused(rule, reason)


def relative(path: str) -> str:
    """A path fit for a report: forward slashes, valid UTF-8, and never a person's absolute path (the name is kept)."""
    slashed = path.replace("\\", "/")
    readable = slashed.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    pure = PurePosixPath(readable)
    leaves = pure.is_absolute() or ".." in pure.parts or PureWindowsPath(readable).drive != ""
    return pure.name if leaves else str(pure)
