"""Check that a registered model matches its records: `python -m flows.audit models:/NAME@champion [--reproduce]`.

From the file in the registry through train, loss, augmentation, architecture and latency to the images, every link is
an md5 (flows/lineage). Everything that can be reached is read and hashed again: the registry's file, the objects in
DVC's cache or remote, the dvc.lock and params.yaml stored with the decision's run, the code in git. `--reproduce` also
computes the model again, in a temporary checkout with only the images and the recorded latencies, and compares its md5.
"""

from flows import commands

if __name__ == "__main__":
    commands.parse("audit")  # before the slow imports, so that --help answers at once

import re
from collections.abc import Sequence

from flows.checkout import versions
from flows.lineage.records import Records
from flows.lineage.reproduce import reproduce
from flows.lineage.tree import to_text
from flows.lineage.walk import Finding, Step
from flows.release.registry import registry_errors
from flows.report.page import lineage_page
from flows.runtime import signals
from flows.runtime.exits import ends_in_a_sentence
from flows.tracking import connection, models, runs


def audit(uri: str, *, again: bool = False) -> tuple[Step, list[Finding]]:
    """Return the tree, and every finding that is not ok; with `again`, also compute the model again.

    Raises ValueError if there is no such model, RegistryError if MLflow fails.
    """
    with registry_errors():
        name, version = resolve(uri)
        records = Records(name, int(version), versions.Objects())
        tree = records.root()
        if again:
            anew = reproduce(records)
            tree = Step(title=tree.title, findings=(*tree.findings, anew), sources=tree.sources)
        keep(records, tree)
    return tree, [finding for finding in tree.all_findings() if finding.verdict != "ok"]


def resolve(uri: str) -> tuple[str, str]:
    """Turn `models:/NAME@ALIAS` or `models:/NAME/VERSION` into (name, version). Raises ValueError if it is neither."""
    found = re.fullmatch(r"models:/([^@/]+)(?:@([^@/]+)|/(\d+))", uri)
    if found is None:
        raise ValueError(f"{uri} names no model; write models:/NAME@champion or models:/NAME/3")
    name, alias, version = found.groups()
    version = version if alias is None else models.alias_version(name, alias)
    if version is None or int(version) not in models.version_numbers(name):
        raise ValueError(f"the registry has no {uri}; `python -m flows.publish` makes one")
    return name, version


def keep(records: Records, tree: Step) -> None:
    """Store lineage.html with the decision's run."""
    run = records.tags.get("gate.run")
    if run:
        with connection.failure_as_warning("lineage.html"):
            runs.log_text(run, lineage_page(tree), "lineage.html")


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    chosen = commands.parse("audit", arguments)
    signals.heed_signals()  # otherwise SIGTERM leaves the temporary checkout behind
    tree, bad = audit(chosen.model, again=chosen.reproduce)
    print("\n".join(to_text(tree)))
    checks = sum(1 for _ in tree.all_findings())
    print(f"{checks} checks, {len(bad)} failed" if bad else f"{checks} checks: everything is as recorded")
    return 1 if bad else 0


if __name__ == "__main__":
    commands.run(main)
