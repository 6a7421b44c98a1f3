"""What the tests notice: small defects planted one at a time, and the tests nearest to each run until one fails.

A trial copies a checkout, makes one edit, and runs the test files that reach the edited module, most direct first: the
one of its name, then those that import it, nearest first, then those that start processes. `BEFORE` in the environment
names a checkout with an earlier suite, which is tried too, `DEFECTS` a part of the list ("3:9"), `LIMIT` the seconds of
a trial.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grimp

from tests.benchmarks.harness import Row, markdown
from tests.clones import ROOT, environment, fresh_clone

SEEDS = (0,)
"""Nothing is drawn; a test that fails by chance fails in either suite."""
LIMIT = float(os.environ.get("LIMIT", "240"))
STARTS_PROCESSES = ("tests/test_line.py", "tests/flows/test_servers.py", "tests/test_pages.py")
"""They reach code by the command line, most of it; tried last."""
FAILED = re.compile(r"^(?:FAILED|ERROR) \S+?::(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Defect:
    """One edit."""

    file: str
    old: str
    new: str
    why: str
    """It matters."""


DEFECTS = (
    Defect(
        "components/training/averages.py",
        "            average[key].lerp_(value.detach(), 1 - decay)",
        "            average[key].lerp_(value.detach(), decay)",
        "the averaged weights are nearly the last ones",
    ),
    Defect(
        "components/training/loop.py",
        "        if recipe.momentum > 0 or id(parameter) in own:",
        "        if recipe.momentum > 1 or id(parameter) in own:",
        "momentum is lost at every checkpoint and trunk",
    ),
    Defect(
        "components/training/loop.py",
        "    whole = max(1, count // batch_size)",
        "    whole = max(1, count // batch_size - 1)",
        "one batch of each epoch is never trained on",
    ),
    Defect(
        "components/training/loop.py",
        "    if not torch.isfinite(loss):\n        raise Diverged(complaint)",
        "    if torch.isinf(loss):\n        raise Diverged(complaint)",
        "a training whose loss is nan goes on",
    ),
    Defect(
        "components/online/averaging.py",
        "return mean_state(alive, BROADCASTS[rule](rewards[np.isfinite(rewards)]))",
        "return mean_state(alive, BROADCASTS[rule](-rewards[np.isfinite(rewards)]))",
        "the worst copy is handed on",
    ),
    Defect(
        "components/training/adam.py",
        "first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient",
        "first = BETAS[0] * self.first + (1 - BETAS[0]) * -gradient",
        "REINFORCE moves away from what was rewarded",
    ),
    Defect(
        "components/online/controllers.py",
        "            precision=self.precision + x.T @ x,",
        "            precision=x.T @ x,",
        "the bandit forgets what it was sure of",
    ),
    Defect(
        "components/online/rewards.py",
        "    return -scores, scores\n",
        "    return scores, scores\n",
        "leave-one-out rewards the copies that harm",
    ),
    Defect(
        "components/online/rewards.py",
        "if m != n])",
        "if m >= 0])",
        "each copy is judged by the mean that holds it",
    ),
    Defect(
        "components/online/engine.py",
        "    if index >= settings.last_learned:",
        "    if index > settings.last_learned:",
        "one trunk more moves the distribution than the settings say",
    ),
    Defect(
        "components/online/engine.py",
        "    return controller, moved if index >= settings.warmup_trunks else distribution",
        "    return controller, moved",
        "the distribution moves in warm-up",
    ),
    Defect(
        "components/loss/family.py",
        "            loss = (1 - self.label_smoothing) * loss - self.label_smoothing * log_p.mean()",
        "            loss = loss - self.label_smoothing * log_p.mean()",
        "label smoothing adds instead of mixing",
    ),
    Defect(
        "components/loss/family.py",
        "    t = places + excess - max(0.0, float(excess.max()))",
        "    t = places + excess",
        "losses that longer features cheat are searched",
    ),
    Defect(
        "components/loss/search.py",
        "rise(slice(0, None, 2)), rise(slice(1, None, 2))",
        "rise(slice(0, None, 2)), rise(slice(0, None, 2))",
        "one half of val is asked twice: its noise passes for truth",
    ),
    Defect(
        "components/augmentation/distribution.py",
        "    odds = share * (len(elements) - 1) / (1 - share)",
        "    odds = share * len(elements) / (1 - share)",
        "Identity's share is not the one of the settings",
    ),
    Defect(
        "components/augmentation/distribution.py",
        "        return np.outer(*self.marginals())",
        "        return np.outer(*self.marginals()).T",
        "first and second operation change places in the policy",
    ),
    Defect(
        "components/architecture/budget.py",
        "    return latency_ms * (1 - settings.margin)",
        "    return latency_ms * (1 + settings.margin)",
        "networks over the latency budget are searched",
    ),
    Defect(
        "components/architecture/rivals.py",
        "                seen.add(form)\n",
        "",
        "evaluations are spent on networks that are known",
    ),
    Defect(
        "components/architecture/rivals.py",
        "    living = scores[-settings.population :]",
        "    living = scores[: settings.population]",
        "aging evolution breeds from the oldest",
    ),
    Defect(
        "components/data/split.py",
        "seen[split, label] for label, name in enumerate(names)}",
        "seen[split, label] for label, name in enumerate(names, start=1)}",
        "images are counted for the class before theirs",
    ),
    Defect(
        "components/data/validation.py",
        "        if len({copy.label for copy in copies}) > 1:",
        "        if len({copy.label for copy in copies}) > 2:",
        "a picture under two labels is trained on",
    ),
    Defect(
        "components/shipping/evaluation.py",
        "precision_recall_fscore_support(labels, predicted, labels=",
        "precision_recall_fscore_support(predicted, labels, labels=",
        "recall and precision change places",
    ),
    Defect(
        "flows/release/gate.py",
        "    return all(check.passed for check in self.checks)",
        "    return any(check.passed for check in self.checks)",
        "one passed check lets a model through",
    ),
    Defect(
        "flows/release/gate.py",
        "    tail = settings.p99 * budget_ms",
        "    tail = budget_ms / settings.p99",
        "the tail's limit is another one",
    ),
    Defect(
        "flows/release/gate.py",
        "threshold = without_rounding(float(reference.mean()) - settings.margin)",
        "threshold = without_rounding(float(reference.mean()) + settings.margin)",
        "a model as good as the champion is refused",
    ),
    Defect(
        "flows/release/registry.py",
        "        models.move_alias(name, PREVIOUS, before)\n    models.move_alias(name, CHAMPION, version)",
        "        models.move_alias(name, PREVIOUS, version)\n    models.move_alias(name, CHAMPION, version)",
        "there is no way back to the last champion",
    ),
    Defect(
        "flows/release/registry.py",
        "        require_intact(models.load_version(name, target))\n",
        "",
        "a damaged file goes back into service",
    ),
    Defect(
        "flows/checkout/files.py",
        "        temporary.replace(path)",
        "        path.write_bytes(temporary.read_bytes())",
        "a kill leaves half a file under its name",
    ),
    Defect(
        "flows/checkout/files.py",
        "    finally:\n        temporary.unlink(missing_ok=True)",
        "    finally:\n        pass",
        "what failed to be written stays for ever",
    ),
    Defect(
        "flows/tracking/spool.py",
        "                rest = [record for record in rest if record != header]\n",
        "",
        "a header that was written twice counts as a record",
    ),
    Defect(
        "flows/tracking/spool.py",
        "        with suppress(json.JSONDecodeError):\n            records.append(json.loads(line))",
        "        records.append(json.loads(line))",
        "a line that a kill cut off stops every later run",
    ),
    Defect(
        "flows/stage.py",
        "            raise InputsChanged(f\"{', '.join(difference)} changed while the stage ran; run it again\")",
        "            pass",
        "results are recorded of inputs that they were not made of",
    ),
    Defect(
        "flows/stage.py",
        'own = f"{key}-{',
        'own = f"{name}-{',
        "an interrupted stage goes on from what it did with other inputs",
    ),
    Defect(
        "flows/resume/online_search.py",
        "        yield last\n",
        "",
        "the trunks before an interruption are missing from the records",
    ),
    Defect(
        "flows/schedule/trigger.py",
        "    if p <= params.retrain.shift_alpha:",
        "    if p >= params.retrain.shift_alpha:",
        "a retrain starts when nothing has changed",
    ),
    Defect(
        "flows/schedule/trigger.py",
        "method=permutations).pvalue)",
        "method=permutations).pvalue) - 1 / (1 + draws)",
        "a p-value of 0: the level is not held",
    ),
    Defect(
        "flows/checkout/pipeline.py",
        'for part in ("cmd", "deps", "params")}',
        'for part in ("cmd", "deps")}',
        "two settings have one key: results of the other are taken",
    ),
    Defect(
        "flows/schedule/workspace.py",
        '    commits.require_git(workspace, *WITHOUT_HOOKS, "checkout", "--quiet", "--force", "--detach", commit)',
        '    commits.require_git(workspace, *WITHOUT_HOOKS, "checkout", "--quiet", "--detach", commit)',
        "what a killed run left stops the next deployment, or is in it",
    ),
    Defect(
        "flows/retrain.py",
        "        with file_lock(LOCK, Busy(BUSY)), processes.guarded(), tags(",
        "        with processes.guarded(), tags(",
        "two retrains write over each other's files",
    ),
    Defect(
        "flows/retrain.py",
        "            pipeline.restore(name)\n",
        "",
        "a stage that failed has taken the last results away",
    ),
    Defect(
        "flows/tracking/connection.py",
        '    for name in ("mlflow", "alembic"):',
        '    for name in ("mlflow",):',
        "a new store prints a line for every table it creates",
    ),
)


def graph_of(tree: Path) -> grimp.ImportGraph:
    """Of packages and tests, read from the tree's own files."""
    before = list(sys.path)
    sys.path.insert(0, str(tree))
    try:
        return grimp.build_graph("components", "flows", "tests", cache_dir=None)
    finally:
        sys.path[:] = before


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def nearest_tests(graph: grimp.ImportGraph, defect: Defect) -> list[str]:
    """Test files that reach the module, the mirror of its name first, then by the imports between."""
    module = module_of(defect.file)
    words = module.split(".")[1:]
    mirrors = ["_".join(words), words[-1], words[0]]

    def distance(test: str) -> tuple[int, int]:
        name = test.rpartition(".")[2].removeprefix("test_")
        mirror = mirrors.index(name) if name in mirrors else len(mirrors)
        chain = graph.find_shortest_chain(importer=test, imported=module)
        return mirror, len(chain or ())

    reaching = graph.find_downstream_modules(module)
    tests = [test for test in reaching if test.startswith("tests.") and ".test_" in test]
    files = [f"{test.replace('.', '/')}.py" for test in sorted(tests, key=lambda test: (distance(test), test))]
    return [*(file for file in files if file not in STARTS_PROCESSES), *STARTS_PROCESSES]


def first_failure(clone: Path, file: str, seconds: float) -> str | None:
    """The test that fails first, None if none does in time."""
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "--durations=0", "-rfE", file]
    try:
        done = subprocess.run(
            command, cwd=clone, env=environment(clone), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0:
        return None
    found = FAILED.search(done.stdout)
    return found[1] if found else f"pytest ended with {done.returncode}"


def trial(tree: Path, graph: grimp.ImportGraph, defect: Defect) -> Row:
    """Which test notices it, of those that its time allows."""
    with tempfile.TemporaryDirectory() as name:
        clone = fresh_clone(Path(name) / "clone", root=tree)
        edited = clone / defect.file
        text = edited.read_text()
        assert text.count(defect.old) == 1, f"{defect.file}: {defect.old}"
        edited.write_text(text.replace(defect.old, defect.new))
        began, tried, caught = time.monotonic(), 0, None
        for file in nearest_tests(graph, defect):
            if caught is not None or (left := LIMIT - (time.monotonic() - began)) < 1:
                break
            tried += 1
            caught = first_failure(clone, file, left)
            where = file
    seconds = round(time.monotonic() - began, 1)
    return {"file": defect.file, "why": defect.why, "in": where if caught else "", "caught_by": caught or "none",
            "files_tried": tried, "seconds": seconds}  # fmt: skip


def rows() -> Iterator[Row]:
    """A defect and a suite a row: this checkout's, and that of the checkout which the environment names."""
    trees = {"after": ROOT} | ({"before": Path(os.environ["BEFORE"])} if "BEFORE" in os.environ else {})
    graphs = {suite: graph_of(tree) for suite, tree in trees.items()}
    begin, _, end = os.environ.get("DEFECTS", ":").partition(":")
    for number, defect in list(enumerate(DEFECTS))[int(begin or 0) : int(end or len(DEFECTS))]:
        for suite, tree in trees.items():
            yield {"tree": suite, "number": number, **trial(tree, graphs[suite], defect)}


def table(rows: Sequence[Row]) -> str:
    """What was planted, and which test noticed it in either suite."""
    suites = sorted({str(row["tree"]) for row in rows}, reverse=True)
    found = {(row["tree"], row["number"]): row for row in rows}
    lines = []
    for number in sorted({int(str(row["number"])) for row in rows}):
        own = [found.get((suite, number)) for suite in suites]
        first = next(row for row in own if row)
        lines.append([first["file"], first["why"], *(row["caught_by"] if row else "not tried" for row in own)])
    return markdown(["file", "what the defect does", *(f"noticed {suite} by" for suite in suites)], lines)
