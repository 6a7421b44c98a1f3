"""Turn the report's charts into separate files for MLflow's artifact browser."""

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass

from components.settings.variants import SEARCHED
from flows.checkout.roster import ROSTER
from flows.report.images import sheet
from flows.report.page import Made
from flows.report.parts import Figure, Part, Pictures


def stage_of(section: str) -> str | None:
    """Return the stage that a section's charts are about (the variant that ships), or None for the whole line."""
    for word, stage in ROSTER.items():
        if stage.section == section:
            return f"{word}@{SEARCHED}" if stage.variants else word
    return None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart's file: `stage` is None if it is about the whole line, `name` is its path in the folder `charts`."""

    stage: str | None
    name: str
    content: bytes


def charts(made: Made) -> Iterator[Chart]:
    """Yield figures as SVG, and rows of images that need no words as one PNG."""
    for section, parts in made:
        for what, own in parts.items():
            name = what.removeprefix("the ").replace(" ", "_")
            for part in own:
                if file := as_file(part):
                    ending, content = file
                    yield Chart(stage=stage_of(section.anchor), name=f"charts/{name}.{ending}", content=content)


def as_file(part: Part) -> tuple[str, bytes] | None:
    """Return the file's ending and content, or None if the part is no picture by itself."""
    if isinstance(part, Figure):
        return "svg", part.svg.encode()
    if isinstance(part, Pictures) and len(part.rows) > 1:
        return "png", sheet([[b64decode(one.address.partition(",")[2]) for one in row] for row in part.rows])
    return None
