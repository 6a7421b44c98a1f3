"""Where everything lies, relative to the repository's root: the one list of paths."""

from pathlib import Path

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
RAW_DVC = Path("data/raw.dvc")
VALIDATION = RAW / "validation.json"
TRAIN = Path("data/prepared/train")
VAL = Path("data/prepared/val")
TEST = Path("data/prepared/test")
CLASSES = Path("data/prepared/classes.json")
STATISTICS = Path("data/prepared/statistics.json")
LATENCY = Path("results/latency")
ARCHITECTURE = Path("results/architecture")
AUGMENTATION = Path("results/augmentation")
LOSS = Path("results/loss")
TRAINED = Path("results/train")
MODEL = TRAINED / "searched" / "model.onnx"
"""What ships."""
EVALUATE = Path("results/evaluate")
BUDGET = Path("results/budget")
SEARCHES = {"architecture": ARCHITECTURE, "augmentation": AUGMENTATION, "loss": LOSS}
ENDS = {word: folder / "warm_start.json" for word, folder in SEARCHES.items()}
"""What a later search can start from."""
STARTS = {word: Path("warm_start") / f"{word}_start.json" for word in SEARCHES}
"""What a search starts from: another version's `ENDS`, or nothing."""
DECISION = Path("results/publish/decision.json")
"""What the gate last decided here."""
REPORT = Path("results/report.html")
STORE = Path("mlflow/store")
SPOOL = Path("mlflow/spool")
"""Records that MLflow has not taken yet."""
UNFINISHED = Path(".dvc/tmp/retrain.unfinished")
"""There while a deployment retrains here, and after one that did not come to an end."""
CHECKPOINTS = Path("checkpoints")
"""<stage>/<stage key>/: what a search that was interrupted goes on from; empty when nothing was."""
