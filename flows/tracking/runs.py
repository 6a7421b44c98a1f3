"""Create, find and read MLflow's runs, and keep files, tags and numbers with them."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from components.settings.params import Params
from flows.checkout import commits, paths, pipeline
from flows.checkout.files import read_json
from flows.runtime import processes
from flows.runtime.cost import CORE_MINUTES
from flows.tracking import connection
from flows.tracking.connection import ERRORS, NOTE, PASSWORD

T = TypeVar("T")
Status = Literal["FINISHED", "FAILED", "KILLED"]
UI_AT = "http://127.0.0.1:5000"
"""Address at which `mlflow/serve` starts the UI."""
TRAINING_VIEW = "?workflowType=machine_learning"
"""Query that selects the UI's pages for training; a new browser would show those for language models."""
PARAMS_PER_BATCH = 100


def create_run(
    client: MlflowClient, name: str, tags: Mapping[str, str], parent: str | None = None, started: int | None = None
) -> str:
    """Create a run and return its id. The tags leave out user, host and path, which MLflow would record by default."""
    own = {"mlflow.source.name": f"assembly line: {name}", "mlflow.source.type": "JOB"}
    if tags.get("git.commit", commits.UNKNOWN) != commits.UNKNOWN:
        own["mlflow.source.git.commit"] = tags["git.commit"]
    if parent is not None:
        own["mlflow.parentRunId"] = parent
    run = client.create_run(
        connection.experiment_id(client), start_time=started or connection.now(), tags=own | dict(tags), run_name=name
    )
    return str(run.info.run_id)


def parts_of(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn `{"loss": {"knots": 10}}` into `{"loss.knots": "10"}`, lists into JSON, absolute paths into last names."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = without_folder(value) if isinstance(value, str) else json.dumps(value)
    return flat


def without_folder(text: str) -> str:
    """Shorten an absolute path to its last name, because the rest may tell whose machine this is."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return kind(text).name
    return text


@contextmanager
def parent_run(name: str, tags: Mapping[str, str]) -> Iterator[str | None]:
    """Open a run for stage runs to nest in, yield its id (None if MLflow fails), and close it as the block ended."""
    run_id = open_parent(name, tags)
    status: Status = "FAILED"
    try:
        yield run_id
        status = "FINISHED"
    except Exception:
        raise
    except BaseException:  # Ctrl-C, a cancelled flow
        status = "KILLED"
        raise
    finally:
        close_run(run_id, status)


def open_parent(name: str, tags: Mapping[str, str]) -> str | None:
    with connection.failure_as_warning(f"the run {name}"):
        return create_run(connection.connect(), name, {**tags, **processes.tags()})
    return None


def close_run(run_id: str | None, status: Status) -> None:
    if run_id is not None:
        with connection.failure_as_warning("the end of the run"):
            connection.connect().set_terminated(run_id, status, connection.now())


def archive(run_id: str | None, files: Iterable[Path]) -> None:
    """Store files (params.yaml, dvc.yaml, dvc.lock) with the run; missing files are left out."""
    for file in files if run_id is not None else ():
        with connection.failure_as_warning(file.name), suppress(FileNotFoundError):
            connection.connect().log_artifact(run_id, str(file))


def run_page(run_id: str, artifact: str = "") -> str:
    """Return the link to the run's page, or to one of its artifacts, inside MLflow's UI."""
    within = f"/artifacts/{quote(artifact)}" if artifact else ""
    folder = f"#/experiments/{connection.connect().get_run(run_id).info.experiment_id}/runs"
    return f"{folder}/{run_id}{within}{TRAINING_VIEW}"


def address_of(page: str) -> str:
    """Return the full address of a page of the UI, on the tracking server or on the one that `mlflow/serve` starts."""
    uri = connection.tracking_uri()
    server = PASSWORD.sub("//", uri).rstrip("/") if uri.startswith(("http://", "https://")) else UI_AT
    return f"{server}/{page}"


def find_stage_run(stage_key: str) -> str | None:
    """Return the newest FINISHED run of a stage with exactly these inputs, or None."""
    return find_run("stage_key", stage_key)


def find_run(tag: str, value: str) -> str | None:
    """Return the newest FINISHED run with this tag, such as `dvc.out.<path>` with an output's md5, or None."""
    client = connection.connect()
    runs = client.search_runs(
        [connection.experiment_id(client)],
        f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        max_results=1,
    )
    return str(runs[0].info.run_id) if runs else None


def core_minutes(stage_key: str) -> float | None:
    """Return the core minutes of the newest results with these inputs, including the interrupted runs before them.

    Returns None if they were not recorded. A run that was killed by force records nothing, so its share is missing."""
    client = connection.connect()
    where = f"tags.stage_key = '{stage_key}'"
    runs = client.search_runs([connection.experiment_id(client)], where, order_by=["attributes.start_time DESC"])
    ended = next((place for place, run in enumerate(runs) if run.info.status == "FINISHED"), None)
    if ended is None or CORE_MINUTES not in runs[ended].data.metrics:
        return None
    earlier = takewhile(lambda run: run.info.status != "FINISHED", runs[ended + 1 :])
    return sum(float(run.data.metrics.get(CORE_MINUTES, 0.0)) for run in (runs[ended], *earlier))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that ended well."""

    run_id: str
    name: str
    tags: Mapping[str, str]


def finished_runs(tag: str, value: str) -> list[Finished]:
    """Return every FINISHED run with this tag, the newest first."""
    client = connection.connect()
    where = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
    found = client.search_runs([connection.experiment_id(client)], where, order_by=["attributes.end_time DESC"])
    return [Finished(run_id=run.info.run_id, name=run.info.run_name, tags=run.data.tags) for run in found]


def artifact(run_id: str, name: str) -> bytes | None:
    """Return the content of a file stored with the run, or None if the file or the run is missing."""
    with tempfile.TemporaryDirectory() as folder, suppress(*ERRORS):
        return Path(connection.connect().download_artifacts(run_id, name, folder)).read_bytes()
    return None


def data_digests(run_id: str) -> list[str]:
    """Return DVC's md5 of each data set that is recorded as an input of the run."""
    with suppress(*ERRORS):
        inputs = connection.connect().get_run(run_id).inputs
        return [str(one.dataset.digest) for one in inputs.dataset_inputs] if inputs else []
    return []


def link_stage(parent: str | None, name: str, lock: pipeline.Lock | None) -> None:
    """Tag the parent with the run that made a stage's results: one of its own, or an earlier one that DVC reused."""
    if parent is None or lock is None:
        return
    with connection.failure_as_warning(f"the link to {name}"):
        client = connection.connect()
        run_id = find_stage_run(pipeline.stage_key(lock))
        executed = run_id is not None and client.get_run(run_id).data.tags.get("mlflow.parentRunId") == parent
        key = f"stage.{name.replace('@', '.')}"  # MLflow takes no @ in a tag's name
        tag_run(parent, {key: "executed" if executed else "cached", f"{key}.run": run_id or "none"})


def log_data(run_id: str | None, params: Params, digest: str) -> None:
    """Record the data version as the run's input: DVC's md5, its source, and the number of images in each class."""
    if run_id is None:
        return
    source = without_folder(params.data.path) if params.data.path else params.data.source
    with connection.failure_as_warning("the data set"):
        classes = read_json(paths.VALIDATION)["classes"]
        counts = {name: parts["kept"] for name, parts in classes.items()}
        log_data_input(
            connection.connect(), run_id, name=params.publish.model, digest=digest, source=source, counts=counts
        )


def log_data_input(
    client: MlflowClient, run_id: str, *, name: str, digest: str, source: str, counts: Mapping[str, int]
) -> None:
    """Record a data set as an input of the run.

    `digest` is DVC's md5 (MLflow takes at most 36 characters); `source` must not be an absolute path.
    """
    dataset = Dataset(
        name=name,
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"images": sum(counts.values()), "classes": counts}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def tag_run(run_id: str, tags: Mapping[str, str]) -> None:
    connection.connect().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def run_tags(run_id: str) -> dict[str, str]:
    return dict(connection.connect().get_run(run_id).data.tags)


def linked_stages(run_id: str) -> dict[str, tuple[str, str]]:
    """Read the tags of `link_stage`: stage -> "executed" or "cached", and the run that made its results."""
    tags = run_tags(run_id)
    stages = [key.removesuffix(".run") for key in tags if re.fullmatch(r"stage\..+\.run", key)]
    made = {key: (tags[key], tags[f"{key}.run"]) for key in stages if tags[f"{key}.run"] != "none"}
    return {key.removeprefix("stage.").replace(".", "@", 1): of for key, of in made.items()}


def describe(run_id: str, text: str) -> None:
    """Set the Markdown text that the UI shows on top of the run."""
    connection.connect().set_tag(run_id, NOTE, text)


def log_metrics(run_id: str, values: Mapping[str, float]) -> None:
    """Record numbers that describe the whole run, all at step 0."""
    made = connection.now()
    connection.connect().log_batch(run_id, metrics=[Metric(name, value, made, 0) for name, value in values.items()])


def log_settings(run_id: str | None, values: Mapping[str, Any]) -> None:
    """Record params.yaml as the run's parameters, so that runs can be compared by them."""
    if run_id is None:
        return
    with connection.failure_as_warning("the settings"):
        for part in parts_of(list(flatten(values).items()), PARAMS_PER_BATCH):
            connection.connect().log_batch(run_id, params=[Param(*one) for one in part])


def log_text(run_id: str, text: str, name: str) -> None:
    """Store text as an artifact of the run."""
    connection.connect().log_text(run_id, text, name)


def log_bytes(run_id: str, content: bytes, name: str) -> None:
    """Store bytes as an artifact of the run; `name` may include folders."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PurePosixPath(name).name
        file.write_bytes(content)
        connection.connect().log_artifact(run_id, str(file), str(PurePosixPath(name).parent))


def log_json(run_id: str, value: Any, name: str) -> None:
    """Store a value as a JSON artifact of the run."""
    connection.connect().log_dict(run_id, value, name)
