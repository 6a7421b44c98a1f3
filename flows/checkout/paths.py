"""List the paths of all files and folders, relative to the repository's root."""

from pathlib import Path

from components.settings.variants import SEARCHED

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
RAW_DVC = Path("data/raw.dvc")
INTERRUPTED = (RAW.with_name(".raw.new"), RAW.with_name(".raw.old"))
"""The folder that an ingest writes, and the old images that it replaces, until the new folder takes their place."""
SPLIT = Path("data/split.csv")
"""The split that each image was assigned to, for every image that ever arrived."""
SPLIT_DVC = Path("data/split.csv.dvc")
DATA = {RAW: RAW_DVC, SPLIT: SPLIT_DVC}
"""What an ingest writes -> the DVC file that holds the hash of its current version."""
VALIDATION = RAW / "validation.json"
PREPARED = Path("data/prepared")
TRAIN = PREPARED / "train"
VAL = PREPARED / "val"
TEST = PREPARED / "test"
CLASSES = PREPARED / "classes.json"
STATISTICS = PREPARED / "statistics.json"
RESULTS = Path("results")
PLAN = RESULTS / "plan"
"""Holds plan.json for readers, the speeds, and `<part>.json` with the settings that the plan chose."""
PLANNED = PLAN / "plan.json"
SPEEDS = PLAN / "speeds.json"
LATENCY_TABLE = RESULTS / "latency" / "table.json"
ARCHITECTURE = RESULTS / "architecture"
FOUND_ARCHITECTURE = ARCHITECTURE / "architecture.json"
POOL = ARCHITECTURE / "pool.csv"
SCORES = ARCHITECTURE / "scores.csv"
AUGMENTATION = RESULTS / "augmentation"
FOUND_AUGMENTATION = AUGMENTATION / "augmentation.json"
AUGMENTATION_TRUNKS = AUGMENTATION / "trunks.csv"
DISTRIBUTION = AUGMENTATION / "distribution.csv"
LOSS = RESULTS / "loss"
FOUND_LOSS = LOSS / "loss.json"
LOSS_TRUNKS = LOSS / "trunks.csv"
RACE = RESULTS / "race"
RUNGS = RACE / "rungs.csv"
DECIDED = RACE / "race.json"
BEGUN = RACE / "begun.safetensors"
"""The winner's weights and momentum, from which its final training goes on."""
TRAINED = RESULTS / "train"
WEIGHTS, FLOAT, SHIPPED, CURVE = "weights.safetensors", "float.onnx", "model.onnx", "epochs.csv"
"""The files that a training writes to `TRAINED / variant`."""
MODEL = TRAINED / SEARCHED / SHIPPED
"""The model file that ships."""
EVALUATE = RESULTS / "evaluate"
"""Holds <variant>/ with the same four files for every variant; those named here are of the model that ships."""
METRICS = EVALUATE / SEARCHED / "metrics.json"
MEASURED = EVALUATE / SEARCHED / "latency.json"
PER_CLASS = EVALUATE / SEARCHED / "per_class.csv"
PREDICTIONS = EVALUATE / SEARCHED / "predictions.csv"
DECISION = RESULTS / "publish" / "decision.json"
"""The gate's last decision in this folder."""
REPORT = RESULTS / "report.html"
STORE = Path("mlflow/store")
SPOOL = Path("mlflow/spool")
"""Holds the records that MLflow has not accepted yet."""
UNFINISHED = Path(".dvc/tmp/retrain.unfinished")
"""Exists while a deployment retrains here, and remains if that retrain did not complete."""
CHECKPOINTS = Path("checkpoints")
"""Holds <stage>/<stage key>/, from which an interrupted stage resumes; empty if no stage was interrupted."""


def of_variant(path: Path, variant: str) -> Path:
    """Return the place of the same file that `evaluate` writes for another variant."""
    return EVALUATE / variant / path.name
