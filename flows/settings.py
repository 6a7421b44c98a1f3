"""Replace params.yaml by a preset: `python -m flows.settings apply digits|cifar10 [--force]`."""

from flows import commands

if __name__ == "__main__":
    commands.parse("settings")  # before the slow imports, so that --help answers at once

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from flows.checkout import paths, settings
from flows.checkout.files import write_bytes, write_text
from flows.checkout.settings import SettingsError
from flows.runtime.exits import ends_in_a_sentence

PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, Path]:
    """Return name -> file of every preset."""
    return {file.stem: file for file in sorted(PRESETS.glob("*.yaml"))}


def apply(name: str, *, force: bool = False, path: Path = paths.PARAMS) -> Path | None:
    """Replace `path` by the preset; return the copy of a person's edits that it held, or None if there were none.

    Raises SettingsError if there are such edits and `force` is not given, or if the file is a link or a folder.
    """
    known = presets()
    if name not in known:
        raise SettingsError(f"there is no preset {name!r}; use {' or '.join(known)}")
    settings.load_params(known[name])
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise SettingsError(f"{path} is a link or a folder, which would be replaced; move it away, then repeat this")
    edited = path.exists() and path.read_bytes() not in [file.read_bytes() for file in known.values()]
    if edited and not force:
        raise SettingsError(f"{path} differs from every preset; copy what you need from it, then repeat with --force")
    kept = keep(path) if edited else None
    write_text(path, known[name].read_text(encoding="utf-8"))
    return kept


def keep(path: Path) -> Path:
    """Copy the file beside itself, under the first free number, and return the copy."""
    free = next(number for number in count(1) if not os.path.lexists(f"{path}.{number}"))
    kept = path.with_name(f"{path.name}.{free}")
    write_bytes(kept, path.read_bytes())
    return kept


@ends_in_a_sentence
def main(arguments: Sequence[str] | None = None) -> int:
    chosen = commands.parse("settings", arguments)
    kept = apply(chosen.preset, force=chosen.force)
    before = f"; what it held is in {kept}" if kept else ""
    print(f"{paths.PARAMS} now holds the {chosen.preset} preset{before}")
    return 0


if __name__ == "__main__":
    commands.run(main)
