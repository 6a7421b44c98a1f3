"""Where everything lies, relative to the repository's root: the one list of paths."""

from pathlib import Path

from components.settings.variants import SEARCHED

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
RAW_DVC = Path("data/raw.dvc")
INTERRUPTED = (RAW.with_name(".raw.new"), RAW.with_name(".raw.old"))
"""What an ingest writes, and what it replaces, until one takes the other's place."""
SPLIT = Path("data/split.csv")
"""The split of every image that ever arrived."""
SPLIT_DVC = Path("data/split.csv.dvc")
DATA = {RAW: RAW_DVC, SPLIT: SPLIT_DVC}
"""What an ingest writes -> where DVC says which version of it is the current one."""
VALIDATION = RAW / "validation.json"
PREPARED = Path("data/prepared")
TRAIN = PREPARED / "train"
VAL = PREPARED / "val"
TEST = PREPARED / "test"
CLASSES = PREPARED / "classes.json"
STATISTICS = PREPARED / "statistics.json"
RESULTS = Path("results")
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
TRAINED = RESULTS / "train"
WEIGHTS, FLOAT, SHIPPED, CURVE = "weights.safetensors", "float.onnx", "model.onnx", "epochs.csv"
"""What a training leaves in `TRAINED / variant`."""
MODEL = TRAINED / SEARCHED / SHIPPED
"""What ships."""
EVALUATE = RESULTS / "evaluate"
METRICS = EVALUATE / "metrics.json"
MEASURED = EVALUATE / "latency.json"
PER_CLASS = EVALUATE / "per_class.csv"
PREDICTIONS = EVALUATE / "predictions.csv"
BUDGET = RESULTS / "budget"
"""<variant>/: the same four files of a further budget's model."""
DECISION = RESULTS / "publish" / "decision.json"
"""What the gate last decided here."""
REPORT = RESULTS / "report.html"
STORE = Path("mlflow/store")
SPOOL = Path("mlflow/spool")
"""Records that MLflow has not taken yet."""
UNFINISHED = Path(".dvc/tmp/retrain.unfinished")
"""There while a deployment retrains here, and after one that did not come to an end."""
CHECKPOINTS = Path("checkpoints")
"""<stage>/<stage key>/: what a search that was interrupted goes on from; empty when nothing was."""
