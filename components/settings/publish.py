"""Settings of the model registry (section `publish`)."""

from dataclasses import dataclass

from components.settings.require import require


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Settings of the model registry."""

    model: str
    """Name of the registered model in MLflow."""

    def __post_init__(self) -> None:
        require(self.model != "", "publish.model is empty; name the registered model")
