"""What a section of the report is made of; page.html draws each kind."""

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
    """A number that matters, what it is, and what it must be read beside."""

    name: str
    value: str
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    kind: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`svg` as components.charts writes it; `label` is what somebody hears who does not see it."""

    kind: ClassVar[str] = "figure"
    svg: str
    label: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text, the first column a name; `fold`: what to click to see it, empty where it is seen at once."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    fold: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """`address`: a data URI."""

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
    """One member of a chain; `skipped`: there, but nothing is computed in it."""

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
        """Of each name, once."""
        return {link.name: link.meaning for link in self.links if link.meaning}


@dataclass(frozen=True, kw_only=True)
class Tree:
    kind: ClassVar[str] = "tree"
    root: Step
    caption: str


Part = Note | Facts | Figure | Table | Pictures | Chain | Tree
Maker = Callable[[Params], Iterator[Part]]
"""Reads result files and makes parts; raises what reading raises where a file is missing or damaged."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """`makers`: what each shows -> how; what cannot be shown is said in one sentence, and the others are."""

    anchor: str
    title: str
    lead: str
    makers: dict[str, Maker]
