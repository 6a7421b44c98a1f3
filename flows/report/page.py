"""Write the report's page: its sections in order, drawn by page.html; charts follow its light or dark colours."""

import re
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from components.settings.params import Params
from flows.checkout import files, paths
from flows.lineage.walk import Step
from flows.report import architecture, augmentation, data, evaluation, headline, lineage, loss, race, training
from flows.report.parts import Maker, Note, Part, Section, Tree
from flows.report.searched import NOT_SEARCHED, not_searched

SECTIONS = (
    Section(
        anchor="headline",
        title="What was found",
        lead="What ships beside the baseline: the strongest plain rival, trained without any search for as long as "
        "searches, race and final training took together. Accuracy is on images that nothing before the evaluation "
        "saw.",
        makers=headline.MAKERS,
    ),
    Section(
        anchor="race",
        title="What each search brought on your data",
        lead="What could ship was trained side by side for a short time and judged on val.",
        makers=race.RACE_MAKERS,
    ),
    Section(
        anchor="plan",
        title="How the minutes were spent",
        lead="What was decided before anything was trained, from the budget, the images and this machine.",
        makers=race.PLAN_MAKERS,
    ),
    Section(
        anchor="architecture",
        title="Architecture search",
        lead="Which block each layer is, so that the network is accurate within the latency budget.",
        makers=architecture.MAKERS,
    ),
    Section(
        anchor="augmentation",
        title="Augmentation search",
        lead="Which operations on training images help on images that were not trained on.",
        makers=augmentation.MAKERS,
    ),
    Section(
        anchor="loss",
        title="Loss search",
        lead="How hard and easy images weigh in training, compared with cross-entropy.",
        makers=loss.MAKERS,
    ),
    Section(
        anchor="training",
        title="Training",
        lead="The final training of each variant, on train and val together.",
        makers=training.MAKERS,
    ),
    Section(
        anchor="classes",
        title="Classes and mistakes",
        lead="The searched network on the test split.",
        makers=evaluation.MAKERS,
    ),
    Section(
        anchor="data",
        title="Data",
        lead="What the line was given.",
        makers=data.MAKERS,
    ),
    Section(
        anchor="lineage",
        title="Lineage",
        lead="Which files the model was made of, each known by its content.",
        makers=lineage.MAKERS,
    ),
)

COLOURS = {
    "#000000": "var(--ink)",
    "#ffffff": "var(--page)",
    "#c0c0c0": "var(--faint)",
    "#d62728": "var(--red)",
    "#1f77b4": "var(--blue)",
    "#ff7f0e": "var(--orange)",
    "#2ca02c": "var(--green)",
    "#9467bd": "var(--purple)",
}
"""matplotlib's colour -> the page's colour."""
DAMAGED = (KeyError, ValueError, TypeError, IndexError, AttributeError)
"""Exceptions that reading a result file raises if a person edited it or an older version wrote it."""


Made = list[tuple[Section, dict[str, list[Part]]]]
"""Each section with the parts that its makers made, by what the parts show."""


def make(params: Params) -> Made:
    """Make every part of the page from the results in this folder. Raises ValueError if there are none yet."""
    if not any(folder.exists() for folder in (paths.LATENCY_TABLE, paths.EVALUATE, paths.STATISTICS)):
        raise ValueError("there are no results to report on; run `dvc repro` or `python -m flows.retrain` first")
    return [(section, make_section(section, params)) for section in SECTIONS]


def make_section(section: Section, params: Params) -> dict[str, list[Part]]:
    """Make the section's parts; that of a search that did not run says so."""
    if section.anchor in not_searched(params):
        return {"the search": [Note(text=f"{NOT_SEARCHED} The plan says why.")]}
    return {what: parts_or_note(what, maker, params) for what, maker in section.makers.items()}


def write(params: Params, made: Made) -> Path:
    """Write results/report.html."""
    files.write_text(paths.REPORT, render(params.publish.model, f"{params.publish.model}: report", made))
    return paths.REPORT


def lineage_page(root: Step) -> str:
    """Return a page that shows a lineage alone, which an audit keeps."""
    verdict = "everything is as recorded" if root.whole() else "not everything is as recorded"
    tree = Tree(root=root, caption=f"{sum(1 for _ in root.all_findings())} checks: {verdict}.")
    alone = Section(anchor="lineage", title="Lineage", lead="Every file that the model was made of.", makers={})
    return render(root.title, f"Lineage of {root.title}", [(alone, {"lineage": [tree]})])


def render(heading: str, title: str, made: Made) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "inline": inline}
    sections = [(section, list(chain.from_iterable(parts.values()))) for section, parts in made]
    return environment.get_template("page.html").render(heading=heading, title=title, sections=sections)


def parts_or_note(what: str, maker: Maker, params: Params) -> list[Part]:
    """Return the maker's parts or, if a file is missing or damaged, a note that says why they are not shown."""
    try:
        return list(maker(params))
    except FileNotFoundError as missing:
        place = Path(missing.filename)
        return [Note(text=f"Not shown: {what}. {place} is missing; `{writer_of(place)}` writes it.")]
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        return [
            Note(text=f"Not shown: {what}. A result file is not as this version writes it ({reason}); run `dvc repro`.")
        ]


def writer_of(place: Path) -> str:
    if paths.RAW in place.parents or place in (paths.SPLIT, *paths.DATA.values()):
        return "python -m flows.ingest"
    return "dvc repro"


def prose(text: str) -> Markup:
    """Return text as HTML in which `...` becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def inline(svg: str, name: str) -> Markup:
    """Turn an SVG file into an element of the page: drop what only a file needs, and make its ids unique."""
    root = ElementTree.fromstring(svg)
    referred = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    for parent in list(root.iter()):
        for child in list(parent):
            if local_name(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = local_name(element.tag)
        attributes = {local_name(key): value for key, value in element.attrib.items()}
        if attributes.get("id") not in referred:
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({key: adapt_attribute(key, value, name) for key, value in attributes.items()})
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.attrib.pop("version", None)
    root.set("style", f"--width: {width / 72 * 96:.0f}px")
    root.set("aria-hidden", "true")  # the figure's label speaks for it
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def local_name(name: str) -> str:
    """Return a name without its namespace, because HTML has only one."""
    return name.rpartition("}")[2]


def adapt_attribute(key: str, value: str, name: str) -> str:
    """Return an attribute's value with this figure's ids and the page's colours."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: COLOURS.get(found[0], found[0]), value) if key == "style" else value
