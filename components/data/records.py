"""Records of labelled images, as a source offers them and after they are found sound, and the rules of refusal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath, PureWindowsPath
from typing import NoReturn


class Rule(StrEnum):
    """The reason why an image is not accepted; validation.json counts images by these words."""

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
    """Raised when one image is refused; the others go on."""

    def __init__(self, rule: Rule, reason: str) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule, self.reason = rule, reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One image as a source offers it."""

    path: str
    """Its path relative to the source, with forward slashes, fit for a report that others read."""
    label: str | None
    """Its class; None if the source itself cannot tell (`read` then refuses)."""
    split: str | None = None
    """The source's own split, `train` or `test`; None if it has none."""
    read: Callable[[], bytes]
    """Reads the encoded bytes when it is called; raises `Refused`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A sound image without its bytes."""

    path: str
    """Path relative to the source."""
    label: str
    split: str | None
    """The source's own split; None if it has none."""
    content: str
    """Its content hash (components.data.images)."""
    channels: int
    start: int
    """Offset of its bytes in the spill file of its bucket (components.data.raw)."""
    length: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened source, before its first image is read."""

    name: str
    """The setting data.source."""
    classes: tuple[str, ...] | None
    """Class names in label order; None if labels are bare numbers, which then name the classes."""
    count: int
    """Number of records that will come, refused ones included."""
    records: Iterator[Record]
    notes: tuple[str, ...] = ()
    """Decisions about how the source was read, a sentence each."""


def refuse(rule: Rule, reason: str) -> NoReturn:
    """Raise `Refused`: the `read` of a record that its source refuses already (bind the arguments with `partial`)."""
    raise Refused(rule, reason)


def relative(path: str) -> str:
    """Return a path fit for a report: forward slashes, valid UTF-8, and of an absolute path the name alone."""
    slashed = path.replace("\\", "/")
    readable = slashed.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    pure = PurePosixPath(readable)
    leaves = pure.is_absolute() or ".." in pure.parts or PureWindowsPath(readable).drive != ""
    return pure.name if leaves else str(pure)
