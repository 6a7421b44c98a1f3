"""A walked lineage as text and as a page."""

from collections.abc import Iterator
from html import escape

from flows.lineage.walk import MARKS, Step


def to_text(step: Step, prefix: str = "", branch: str = "") -> Iterator[str]:
    """The tree, a line a step and a line for whatever is not right."""
    yield f"{prefix}{branch}{step.title}: {summary(step)}"
    below = prefix + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
    for finding in step.findings:
        if finding.verdict != "ok":
            yield f"{below}   {finding}"
    for index, source in enumerate(step.sources):
        yield from to_text(source, below, "└─ " if index == len(step.sources) - 1 else "├─ ")


def summary(step: Step) -> str:
    if step.repeated:
        return "see above"
    bad = sum(finding.verdict != "ok" for finding in step.findings)
    run = f", run {step.run}" if step.run else ""
    return f"{len(step.findings)} checks, {bad or 'none'} failed{run}"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
details { border-left: 2px solid #ccc; margin: .4rem 0 .4rem .5rem; padding-left: 1rem }
summary { cursor: pointer } table { border-collapse: collapse; font-size: 13px }
td { padding: .1rem .8rem .1rem 0; vertical-align: top; overflow-wrap: anywhere }
.ok { color: #18794e } .mismatch, .gap { color: #c4320a; font-weight: 600 }
"""


def to_html(step: Step) -> str:
    """A page that needs nothing else."""
    verdict = "everything is as recorded" if step.whole() else "not everything is as recorded"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(step.title)}</title>'
        f"<style>{STYLE}</style></head><body>\n<h1>Lineage of {escape(step.title)}</h1>\n"
        f"<p>{sum(1 for _ in step.all_findings())} checks; {verdict}.</p>\n{node(step)}</body></html>\n"
    )


def node(step: Step) -> str:
    """A step and, inside it, where it came from."""
    rows = "".join(
        f'<tr><td class="{finding.verdict}">{MARKS[finding.verdict]}</td><td>{escape(finding.subject)}</td>'
        f"<td>{escape(finding.said)}</td></tr>\n"
        for finding in step.findings
    )
    state = "ok" if step.whole() else "mismatch"
    opened = "" if all(finding.verdict == "ok" for finding in step.findings) else " open"
    checks = f"<details{opened}><summary>checks</summary><table>\n{rows}</table></details>\n" if rows else ""
    inner = "".join(node(source) for source in step.sources)
    title = f'<summary class="{state}">{escape(step.title)}: {escape(summary(step))}</summary>'
    return f"<details open>{title}\n{checks}{inner}</details>\n"
