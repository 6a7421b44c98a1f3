"""Read params.yaml strictly into `Params`; every mistake becomes one sentence that says what to do."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from components.settings.params import Params
from components.settings.planned import PLANNED
from flows.checkout import paths
from flows.checkout.files import read_json

EXPONENT = re.compile(r"([+-]?\d+)(\.\d*)?e([+-]?)(\d+)", re.IGNORECASE)
"""A number that YAML 1.1 (PyYAML) reads as text unless it has both a point and a signed exponent."""

CONFLICT = ("<<<<<<< ", "=======", ">>>>>>> ")
"""Beginnings of the lines that git writes around a merge conflict."""

Key = tuple[str | int, ...]

KINDS = ("float", "tuple[float, ...]")
"""Parts that pydantic adds to the key of a setting that may be a number or a list of numbers."""


MOVED: Mapping[str, str] = {
    "architecture.latency_ms": "budget.latency_ms",
    "evaluate.budgets": "train.variants",
}
"""Key that an older params.yaml has -> the key that took its place."""


class SettingsError(ValueError):
    """A person's mistake in params.yaml, in one sentence: the key, the value, what to do."""


class StrictLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice in a mapping, where PyYAML would silently use the later one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_params(path: Path = paths.PARAMS, *, planned: bool = True) -> Params:
    """Read and validate the whole file. Raises SettingsError for the first mistake.

    What the file leaves open is as the plan beside it says (`complete`), unless `planned` is False.
    """
    values = read_yaml(path)
    for key, value in leaves(values):
        require_json_value(path, key, value)
    unstated = fill_assumed(values)
    adapter = TypeAdapter(Params)
    try:
        # Validated as JSON, where a list is a tuple and a whole number is a float, though the mode is strict.
        params = adapter.validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        raise SettingsError(f"{path}: {sentence(min(error.errors(), key=precedence))}") from None
    require_model_name(path, params.publish.model)
    params = left_open(params, unstated)
    return complete(params, path.parent / paths.PLAN) if planned else params


def fill_assumed(values: dict[str, Any]) -> frozenset[str]:
    """Put the assumed value in the place of every null that the plan can choose; return their keys."""
    unstated = set()
    for key, assumed in chain.from_iterable(own.items() for own in PLANNED.values()):
        *sections, name = key.split(".")
        place: Any = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if isinstance(place, dict) and name in place and place[name] is None:
            place[name] = assumed
            unstated.add(key)
    return frozenset(unstated)


def left_open(params: Params, unstated: frozenset[str]) -> Params:
    """Return the same settings with these keys noted as left to the plan."""
    noted = dataclasses.replace(params)
    object.__setattr__(noted, "unstated", unstated)
    return noted


def complete(params: Params, plan: Path = paths.PLAN) -> Params:
    """Return the settings with what the plan in that folder chose for those left open; without a plan, as they are."""
    whole = params
    for part, own in PLANNED.items():
        file = plan / f"{part}.json"
        chosen = read_json(file) if file.exists() else {}
        for key in own:
            if key in params.unstated and key in chosen:
                whole = with_setting(whole, key.split("."), chosen[key])
    return left_open(whole, params.unstated)


def with_setting(section: Any, key: Sequence[str], value: Any) -> Any:
    """Return the section with another value of one setting; lists become tuples."""
    name, *rest = key
    inner = with_setting(getattr(section, name), rest, value) if rest else as_tuple(value)
    return dataclasses.replace(section, **{name: inner})


def as_tuple(value: Any) -> Any:
    return tuple(as_tuple(one) for one in value) if isinstance(value, list) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the file's mapping. Raises SettingsError if the file is missing, is not YAML, or holds no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            if line.startswith(CONFLICT):
                raise SettingsError(f"{path}, line {number}: git could not merge it; keep one side there")
        values = yaml.load(text, Loader=StrictLoader)
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing; write it with `python -m flows.settings apply digits`") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); make it a readable file") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line}: {error.problem}; correct the YAML there") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: {str(error).splitlines()[0]}; correct the YAML there") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no settings; write it with `python -m flows.settings apply digits --force`")
    return values


def leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield the key and value of everything that is neither a mapping nor a list."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*key, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*key, index))
    else:
        yield key, value


def require_json_value(path: Path, key: Key, value: Any) -> None:
    """Refuse what YAML knows and JSON does not: dates, .nan and .inf, keys that are no text."""
    if odd := [part for part in key if not isinstance(part, str | int) or isinstance(part, bool)]:
        raise SettingsError(f"{path}: the key {odd[0]} is no text; put it in quotes or remove it")
    if not isinstance(value, str | int | float | None):
        raise SettingsError(
            f"{path}: {key_text(key)} is {value}, which YAML reads as a {type(value).__name__}; quote it"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{path}: {key_text(key)} is {value}; use a finite number")


def require_model_name(path: Path, name: str) -> None:
    """Raise SettingsError, before hours of work, unless MLflow's registry accepts the name everywhere (no / : or .)."""
    if not re.fullmatch(r"\w[\w -]*", name):
        raise SettingsError(f"{path}: publish.model is {name!r}; use letters, digits, spaces and _ - only")


def key_text(key: Key) -> str:
    """Return the key as a person writes it: `architecture.stages[0][2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def precedence(error: ErrorDetails) -> tuple[bool, bool]:
    """Return a sort key that puts the most helpful of pydantic's errors first.

    A misspelt key is also reported as a missing one, and a list with a wrong entry also as "not a number".
    """
    return error["type"] != "unexpected_keyword_argument", isinstance(error["input"], list)


def sentence(error: ErrorDetails) -> str:
    """Turn one pydantic error into a sentence that says what is wrong and what to do."""
    key = tuple(part for part in error["loc"] if part not in KINDS)
    return SENTENCES.get(error["type"], say_other)(key_text(key), error)


def say_unknown(key: str, error: ErrorDetails) -> str:
    if key in MOVED:
        return f"{key} is no setting; it is now {MOVED[key]}"
    known = [field.name for field in dataclasses.fields(section_at(error["loc"][:-1])) if field.init]
    close = get_close_matches(str(error["loc"][-1]), known, n=1)
    return f"{key} is no setting; " + (f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}")


def say_missing(key: str, error: ErrorDetails) -> str:
    return f"{key} is missing; add it"


def say_section(key: str, error: ErrorDetails) -> str:
    if error["input"] is None:
        return f"{key} is empty; give its settings, or {{}} for the defaults"
    return f"{key} is {value_text(error['input'])}; give its settings as indented `name: value` lines"


def say_choice(key: str, error: ErrorDetails) -> str:
    return f"{key} is {value_text(error['input'])}; use {error['ctx']['expected']}"


def say_number(kind: str) -> Callable[[str, ErrorDetails], str]:
    def say(key: str, error: ErrorDetails) -> str:
        value = error["input"]
        exponent = EXPONENT.fullmatch(value) if isinstance(value, str) else None
        if exponent and kind == "a number":
            whole, fraction, sign, power = exponent.groups()
            written = f"{whole}{fraction if fraction and fraction != '.' else '.0'}e{sign or '+'}{power}"
            return f"{key} is {value_text(value)}, which YAML reads as text; write {written}"
        quoted = " without quotes" if isinstance(value, str) else ""
        return f"{key} is {value_text(value)}; use {kind}{quoted}"

    return say


def say_list(key: str, error: ErrorDetails) -> str:
    return f"{key} is {value_text(error['input'])}; use a list in [brackets]"


def say_too_long(key: str, error: ErrorDetails) -> str:
    return f"{key} is {value_text(error['input'])}; use {error['ctx']['max_length']} values"


def say_impossible(key: str, error: ErrorDetails) -> str:
    """Say why a class of `components.settings.params` refused a value, and add the section if it does not name it."""
    message = str(error["ctx"]["error"])
    return message if not key or message.startswith(key) else f"{key}.{message}"


def say_other(key: str, error: ErrorDetails) -> str:
    return f"{key} is {value_text(error['input'])}; {error['msg'][0].lower()}{error['msg'][1:]}"


SENTENCES: Mapping[str, Callable[[str, ErrorDetails], str]] = {
    "unexpected_keyword_argument": say_unknown,
    "missing": say_missing,
    "dataclass_type": say_section,
    "literal_error": say_choice,
    "int_type": say_number("a whole number"),
    "float_type": say_number("a number"),
    "bool_type": say_number("true or false"),
    "string_type": say_number("text"),
    "tuple_type": say_list,
    "too_long": say_too_long,
    "value_error": say_impossible,
}
"""pydantic's error type -> the function that writes the sentence for a person."""


def value_text(value: Any) -> str:
    """Return a value about as a person wrote it, shortened to 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def section_at(key: Key) -> type[Any]:
    """Return the dataclass that the mapping at `key` is read into."""
    section: type[Any] = Params
    for name in key:
        section = get_type_hints(section)[str(name)]
    return section
