"""Define the parts that make up a section of the report; page.html draws each kind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from components.settings.params import Params
from flows.lineage.walk import Step


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence."""

    kind: ClassVar[str] = "note"
    text: str
    loud: bool = False


@dataclass(frozen=True, kw_only=True)
class Fact:
    """An important number, its name, and the numbers to compare it with."""

    name: str
    value: str
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    kind: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart: `svg` as components.charts writes it; `label` is read aloud to readers who cannot see it."""

    kind: ClassVar[str] = "figure"
    svg: str
    label: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts whose first column is a name; `fold` is the text to click to open it, empty if it is open."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    fold: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image; `address` is a data URI."""

    address: str
    label: str
    below: str = ""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Rows of small images."""

    kind: ClassVar[str] = "pictures"
    rows: Sequence[Sequence[Picture]]
    caption: str


@dataclass(frozen=True, kw_only=True)
class Link:
    """One member of a chain; `skipped` if nothing is computed in it."""

    name: str
    detail: str
    meaning: str = ""
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Chain:
    kind: ClassVar[str] = "chain"
    links: Sequence[Link]
    caption: str

    @property
    def meanings(self) -> Mapping[str, str]:
        """Name -> meaning, each name once."""
        return {link.name: link.meaning for link in self.links if link.meaning}


@dataclass(frozen=True, kw_only=True)
class Tree:
    kind: ClassVar[str] = "tree"
    root: Step
    caption: str


Part = Note | Facts | Figure | Table | Pictures | Chain | Tree
Maker = Callable[[Params], Iterator[Part]]
"""Reads result files and makes parts; if a file is missing or damaged, raises what reading it raises."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page; `makers` maps what is shown to the function that makes it.

    If one maker fails, a sentence takes its place, and the other makers' parts are still shown.
    """

    anchor: str
    title: str
    lead: str
    makers: dict[str, Maker]
