"""params.yaml is taken whole or refused with one sentence."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.settings.params import Params
from components.settings.planned import PLANNED
from flows import settings
from flows.checkout import files, paths
from flows.checkout.settings import SettingsError, load_params
from flows.settings import apply, presets

DIGITS = yaml.safe_load((settings.PRESETS / "digits.yaml").read_text())


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as refused:
        load_params(path)
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


def written(folder: Path, key: str, value: Any) -> Path:
    """The digits preset with one value changed, or removed if it is `...`."""
    values = copy.deepcopy(DIGITS)
    *way, last = key.split(".")
    section = values
    for name in way:
        section = section[name]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid(name: str) -> None:
    assert isinstance(load_params(presets()[name]), Params)


def test_lists_become_tuples_and_whole_numbers_become_floats(tmp_path: Path) -> None:
    params = load_params(written(tmp_path, "architecture.stages", [[24, 2, 2]]))
    assert params.architecture.stages == ((24, 2, 2),)
    assert isinstance(load_params(written(tmp_path, "budget.latency_ms", 2)).budget.latency_ms, float)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("augmentation.online.trunk", 3, ": augmentation.online.trunk is no setting; did you mean trunks?"),
        ("colour", 3, ": colour is no setting; use one of seed, threads, "),
        ("augmentation.online.trunks", ..., ": augmentation.online.trunks is missing; add it"),
        ("publish", ..., ": publish is missing; add it"),
        ("publish", None, ": publish is empty; give its settings"),
        ("publish", 3, ": publish is 3; give its settings as indented"),
        ("device", ..., ": device is missing; add it"),
        ("evaluate.budgets", ["budget_2"], ": evaluate.budgets is no setting; it is now train.variants"),
        ("device", "gpu", ": device is \"gpu\"; use 'cpu' or 'cuda'"),
        ("seed", "1", ': seed is "1"; use a whole number without quotes'),
        ("seed", 1.5, ": seed is 1.5; use a whole number"),
        ("seed", True, ": seed is true; use a whole number"),
        ("augmentation.cutout", "yes", ': augmentation.cutout is "yes"; use true or false'),
        ("data.path", 3, ": data.path is 3; use text"),
        ("latency.provider", "gpu", ": latency.provider is \"gpu\"; use 'cpu' or 'cuda'"),
        ("architecture.blocks", "mb_k3_e3", ': architecture.blocks is "mb_k3_e3"; use a list in [brackets]'),
        ("architecture.stages", [[16, 1]], ": architecture.stages[0][2] is missing; add it"),
        ("architecture.stages", [[16, 1, 1, 1]], ": architecture.stages[0] is [16, 1, 1, 1]; use 3 values"),
        ("architecture.stages", [[16, 1, "a"]], ': architecture.stages[0][2] is "a"; use a whole number'),
        ("budget.latency_ms", "fast", ': budget.latency_ms is "fast"; use a number without quotes'),
        ("budget.latency_ms", [0.2, "x"], ': budget.latency_ms[1] is "x"; use a number without quotes'),
        ("train.recipe.learning_rate", float("inf"), ": train.recipe.learning_rate is inf; use a finite number"),
        ("publish.model", "a/b", ": publish.model is 'a/b'; use letters, digits"),
    ],
)
def test_an_unknown_key_or_wrong_type_is_refused_with_its_path_and_what_to_do(
    tmp_path: Path, key: str, value: Any, said: str
) -> None:
    assert refusal(written(tmp_path, key, value)).startswith(said)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", -1, ": seed is -1; use 0 or more"),
        ("data.size", 2, ": data.size is 2; use 4 to 1024 pixels"),
        ("data.source", "parquet", ": data.source parquet needs data.path: set it"),
        ("budget.latency_ms", 0, ": budget.latency_ms is 0.0; use a positive number"),
        ("budget.latency_ms", [0.2, -1], ": budget.latency_ms is -1.0; use a positive number"),
        ("budget.latency_ms", [0.2, 0.2], ": budget.latency_ms names a budget twice"),
        ("budget.latency_ms", [], ": budget.latency_ms is empty; give at least one budget"),
        ("budget.minutes", 0, ": budget.minutes is 0.0; use a positive number, or null"),
        ("architecture.max_flops", 0, ": architecture.max_flops is 0; use at least 1, or null"),
        ("train.variants", ["searched", "baseline", "budget_2"], ": train.variants names 'budget_2'; with 1 budgets"),
        ("train.variants", ["baseline"], ": train.variants lacks searched, which is the model that ships; add it"),
        ("augmentation.online.trunks", -1, ": augmentation.online.trunks is -1; use 0 (no search) or more"),
        ("loss.online.copies", 3, ": loss.online.copies is 3; samples come in antithetic pairs"),
        ("export.calibration_images", 0, ": export.calibration_images is 0; use at least 1"),
        ("train.recipe.batch_size", 1, ": train.recipe.batch_size is 1; batch norm needs at least 2"),
        ("train.recipe.crop", 32, ": train.recipe.crop is 32 pixels of an image of 32 (data.size); use fewer"),
        ("augmentation.online.head_start", 63, ": augmentation.online.head_start is 63 images, less than a batch (64)"),
        (
            "augmentation.online.score_images",
            1,
            ": augmentation.online.score_images is 1; use at least 1, with reward alignment",
        ),
    ],
)
def test_an_impossible_value_is_refused_with_its_path_and_what_to_do(
    tmp_path: Path, key: str, value: Any, said: str
) -> None:
    assert refusal(written(tmp_path, key, value)).startswith(said)


def test_a_policy_is_not_searched_by_classifiers_on_features(tmp_path: Path) -> None:
    path = written(tmp_path, "augmentation.online.reward", "linear_probe")
    path.write_text(path.read_text().replace("controller: matching", "controller: bandit"))
    assert refusal(path).startswith(
        ": augmentation.online.reward is linear_probe, which trains classifiers on features"
    )


def test_a_variant_of_a_further_budget_needs_that_budget_and_the_baseline_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (settings.PRESETS / "digits.yaml").read_text()
    text = re.sub(r"latency_ms: [\d.]+", "latency_ms: [0.04, 0.03]", text)
    path.write_text(text.replace("variants: [searched, baseline]", "variants: [searched, budget_2]"))
    assert load_params(path).train.variants == ("searched", "budget_2")
    path.write_text(text.replace("variants: [searched, baseline]", "variants: [searched, budget_3]"))
    said = ": train.variants names 'budget_3'; with 2 budgets in budget.latency_ms, known are searched, baseline,"
    assert refusal(path) == f"{said} budget_2"


def test_a_strategy_that_trains_towards_one_budget_is_refused_with_several(tmp_path: Path) -> None:
    path = written(tmp_path, "budget.latency_ms", [0.07, 0.05])
    path.write_text(path.read_text().replace("strategy: null", "strategy: enas"))
    assert refusal(path).startswith(": budget.latency_ms names 2 budgets, but enas steers the training of shared")


def test_an_old_key_is_refused_with_the_key_that_took_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "architecture.latency_ms", 0.07)
    assert refusal(path) == ": architecture.latency_ms is no setting; it is now budget.latency_ms"
    old = yaml.safe_load(path.read_text())
    del old["budget"]
    path.write_text(yaml.safe_dump(old))
    assert refusal(path) == ": architecture.latency_ms is no setting; it is now budget.latency_ms"


def test_an_int8_file_for_a_gpu_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (settings.PRESETS / "digits.yaml").read_text()
    path.write_text(text.replace("provider: cpu", "provider: cuda").replace("quantize: null", "quantize: int8"))
    assert refusal(path).startswith(": export.quantize is int8 and latency.provider cuda: ONNX Runtime computes this")


@pytest.mark.parametrize(
    ("text", "correct"),
    [("1e-3", "1.0e-3"), ("5E-4", "5.0e-4"), ("1.5e3", "1.5e+3"), ("-2e5", "-2.0e+5")],
)
def test_an_exponent_that_yaml_reads_as_text_is_refused_with_the_correct_spelling(
    tmp_path: Path, text: str, correct: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        (settings.PRESETS / "digits.yaml").read_text().replace("weight_decay: 5.0e-4", f"weight_decay: {text}")
    )
    said = refusal(path)
    assert said == f': train.recipe.weight_decay is "{text}", which YAML reads as text; write {correct}'
    assert yaml.safe_load(correct) == float(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2\n", ", line 2: the key seed is given twice; correct the YAML there"),
        ("seed: [1\nx: 2\n", ", line 2: "),
        ("seed: 2020-01-01\n", ": seed is 2020-01-01, which YAML reads as a date; quote it"),
        ("on: 1\n", ": the key True is no text"),
        ("", " holds no settings"),
        ("- 1\n", " holds no settings"),
    ],
)
def test_a_file_that_is_no_mapping_of_settings_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert refusal(path).startswith(said)


def test_a_missing_unreadable_or_garbled_file_is_refused(tmp_path: Path) -> None:
    assert "is missing; write it with `python -m flows.settings apply digits`" in refusal(tmp_path / "params.yaml")
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refusal(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> theirs\n")
    assert "line 1: git could not merge it; keep one side there" in refusal(tmp_path / "params.yaml")


def test_a_preset_replaces_another_preset_but_never_a_persons_edits(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for name, file in presets().items():
        apply(name, path=path)
        assert path.read_bytes() == file.read_bytes()
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(SettingsError, match="differs from every preset"):
        apply("digits", path=path)
    assert path.read_text().endswith("# mine\n")
    assert apply("digits", path=path, force=True) == path.with_name("params.yaml.1")
    assert path.read_bytes() == presets()["digits"].read_bytes()
    assert path.with_name("params.yaml.1").read_text().endswith("# mine\n")


def test_what_is_replaced_by_force_is_kept_each_time_and_a_link_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for number, text in enumerate(("# first\n", "# second\n"), start=1):
        path.write_text(text)
        assert apply("cifar10", path=path, force=True) == path.with_name(f"params.yaml.{number}")
    assert [path.with_name(f"params.yaml.{n}").read_text() for n in (1, 2)] == ["# first\n", "# second\n"]
    path.rename(tmp_path / "shared.yaml")
    path.symlink_to("shared.yaml")
    with pytest.raises(SettingsError, match="is a link or a folder, which would be replaced"):
        apply("digits", path=path, force=True)
    assert path.is_symlink()


def test_the_command_refuses_edits_on_stderr_with_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    root = Path(settings.__file__).parents[1]
    command = [sys.executable, "-m", "flows.settings", "apply", "digits"]
    environment = {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: params.yaml differs from every preset; copy what you need from it, then repeat with --force\n"
    )


# --- what is left to the plan


def test_what_is_null_is_assumed_until_there_is_a_plan_and_named_as_open(tmp_path: Path) -> None:
    params = load_params(written(tmp_path, "architecture.stem", 24))
    assert params.unstated == {key for own in PLANNED.values() for key in own} - {"architecture.stem"}
    assert (params.architecture.stem, params.architecture.stages) == (24, ((32, 2, 2),))
    assert (params.data.size, params.architecture.strategy, params.export.quantize) == (32, "largest", "none")


def test_a_null_becomes_what_the_plan_beside_the_file_chose_and_what_is_stated_stays(tmp_path: Path) -> None:
    path = written(tmp_path, "loss.online.images", 77)
    plan = {
        "data": {"data.size": 16},
        "space": {"architecture.stem": 12, "architecture.stages": [[24, 2, 2], [40, 3, 2]]},
        "loss": {"loss.online.trunks": 4, "loss.online.images": 999},
    }
    for part, chosen in plan.items():
        files.write_json(tmp_path / paths.PLAN / f"{part}.json", chosen)
    params = load_params(path)
    assert (params.data.size, params.architecture.stem, params.loss.online.trunks) == (16, 12, 4)
    assert params.architecture.stages == ((24, 2, 2), (40, 3, 2))
    assert params.loss.online.images == 77  # though an older plan chose another
    assert params.architecture.stem_stride == 1  # which this plan does not name: as assumed
    assert {"data.size", "loss.online.trunks"} < params.unstated
    assert "loss.online.images" not in params.unstated


def test_the_stage_that_plans_sees_no_older_plan(tmp_path: Path) -> None:
    path = written(tmp_path, "seed", 1)
    files.write_json(tmp_path / paths.PLAN / "data.json", {"data.size": 16})
    assert load_params(path, planned=False).data.size == 32
    assert load_params(path).data.size == 16


@pytest.mark.parametrize("name", ["unstated", "unstate"])
def test_nobody_states_what_is_unstated(tmp_path: Path, name: str) -> None:
    said = refusal(written(tmp_path, name, ["data.size"]))
    assert said.startswith(f": {name} is no setting; use one of seed, threads, ")
    assert "unstated" not in said.removeprefix(f": {name} ")


@pytest.mark.parametrize("key", ["architecture.pool", "data.val", "train.recipe.crop"])
def test_what_the_plan_does_not_choose_cannot_be_left_open(tmp_path: Path, key: str) -> None:
    assert refusal(written(tmp_path, key, None)).startswith(f": {key} is null; use a ")


def test_a_preset_leaves_open_exactly_what_the_plan_chooses() -> None:
    for path in presets().values():
        assert load_params(path).unstated == {key for own in PLANNED.values() for key in own}
