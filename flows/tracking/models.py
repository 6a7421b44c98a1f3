"""Read and write MLflow's registered models: versions, aliases, and the files behind them."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import mlflow
import mlflow.artifacts
import mlflow.onnx
import numpy as np
import onnx
from jaxtyping import UInt8
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from flows.checkout import files
from flows.tracking import connection
from flows.tracking.runs import TRAINING_VIEW


def version_page(name: str, version: str) -> str:
    """Return the link to the model version's page inside MLflow's UI."""
    return f"#/models/{quote(name, safe='')}/versions/{version}{TRAINING_VIEW}"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A registered model as the registry returns it."""

    version: str
    md5: str
    """The file's md5 when it was registered."""
    model: bytes
    """The ONNX file."""


def find_version(name: str, md5: str) -> str | None:
    """Return the first registered version that holds exactly this file, or None."""
    found = connection.connect().search_model_versions(f"name = '{name}' and tags.md5 = '{md5}'")
    return min((str(version.version) for version in found), key=int, default=None)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An ONNX file to register, and what the registry shows beside it."""

    model: bytes
    example: UInt8[np.ndarray, "n h w c"]
    """Real images that show how the model is called."""
    requirements: tuple[str, ...]
    """Packages that a server of the model installs; MLflow adds itself."""
    providers: tuple[str, ...]
    """ONNX Runtime's execution providers, the preferred first."""


def register_model(name: str, candidate: Candidate, run_id: str) -> str:
    """Register the file as the next version of `name`, unless it is a version already, and return the version.

    Raises one of ERRORS.
    """
    md5 = files.md5_of(candidate.model)
    if existing := find_version(name, md5):
        return existing
    client = connection.connect()
    model_id = log_model(client, name, candidate, run_id)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model_id}", run_id, tags={"md5": md5}, model_id=model_id)
    return str(version.version)


def log_model(client: MlflowClient, name: str, candidate: Candidate, run_id: str) -> str:
    """Log the file as a model of the run and return the model's id. A crash leaves it PENDING and unregistered."""
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name, run_id, tags={"md5": files.md5_of(candidate.model)})
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        save_model(candidate, target, Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id))
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def save_model(candidate: Candidate, folder: Path, record: Model) -> None:
    """Write MLflow's model folder; the ONNX file in it keeps its exact bytes."""
    proto = onnx.load_from_string(candidate.model)  # fresh: MLflow empties a ModelProto that it saves twice
    mlflow.onnx.save_model(
        proto,
        folder,
        mlflow_model=record,
        signature=ModelSignature(inputs=schema_of(proto.graph.input), outputs=schema_of(proto.graph.output)),
        input_example={proto.graph.input[0].name: np.ascontiguousarray(candidate.example)},
        pip_requirements=list(candidate.requirements),
        onnx_execution_providers=list(candidate.providers),
        save_as_external_data=False,
    )
    (folder / "model.onnx").write_bytes(candidate.model)


def schema_of(values: Iterable[onnx.ValueInfoProto]) -> Schema:
    """Return names, types and shapes of a graph's inputs or outputs; a free dimension is -1."""
    return Schema([tensor_spec(value) for value in values])


def tensor_spec(value: onnx.ValueInfoProto) -> ColSpec | TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim)
    return TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape, value.name)


def alias_version(name: str, alias: str) -> str | None:
    """Return the version that `alias` points at, or None if it points nowhere."""
    models = connection.connect().search_registered_models(f"name = '{name}'")
    version = models[0].aliases.get(alias) if models else None
    return None if version is None else str(version)


def load_by_alias(name: str, alias: str) -> Shipped | None:
    """Return the model that `models:/<name>@<alias>` loads now, or None if the alias points nowhere."""
    version = alias_version(name, alias)
    return None if version is None else load_model(name, version, f"models:/{name}@{alias}")


def load_version(name: str, version: str) -> Shipped:
    """Return the model of a version."""
    return load_model(name, version, f"models:/{name}/{version}")


def load_model(name: str, version: str, uri: str) -> Shipped:
    client = connection.connect()
    tags = client.get_model_version(name, version).tags
    with tempfile.TemporaryDirectory() as folder:
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=connection.tracking_uri())
        flavour = Model.load(folder).flavors["onnx"]
        return Shipped(version=version, md5=tags.get("md5", ""), model=(Path(folder) / flavour["data"]).read_bytes())


def move_alias(name: str, alias: str, version: str) -> None:
    """Point the alias at the version, in one transaction."""
    connection.connect().set_registered_model_alias(name, alias, version)


def drop_alias(name: str, alias: str) -> None:
    """Remove the alias."""
    connection.connect().delete_registered_model_alias(name, alias)


def version_numbers(name: str) -> set[int]:
    """Return the numbers of all versions of the model."""
    return {int(one.version) for one in connection.connect().search_model_versions(f"name = '{name}'")}


def version_tags(name: str, version: str) -> dict[str, str]:
    return dict(connection.connect().get_model_version(name, version).tags)


def tag_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        connection.connect().set_model_version_tag(name, version, key, value)


def retag_version(name: str, version: str, tags: Mapping[str, str], prefix: str) -> None:
    """Set the tags and remove all others that begin with `prefix`, which an earlier decision set."""
    for key in version_tags(name, version):
        if key.startswith(prefix) and key not in tags:
            connection.connect().delete_model_version_tag(name, version, key)
    tag_version(name, version, tags)


def describe_version(name: str, version: str, text: str) -> None:
    """Set the Markdown text that the UI shows on top of the model version."""
    connection.connect().update_model_version(name, version, text)


def describe_model(name: str, text: str) -> None:
    """Set the Markdown text that the UI shows on top of the registered model, unless a person wrote one."""
    client = connection.connect()
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, text)
