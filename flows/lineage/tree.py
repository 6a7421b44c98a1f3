"""Write a lineage as text; flows/report/page.py draws it as a page."""

from collections.abc import Iterator

from flows.lineage.walk import Step


def to_text(step: Step, prefix: str = "", branch: str = "") -> Iterator[str]:
    """Yield the tree's lines: one for each step, and one for each finding that is not ok."""
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
