"""Which images a registered model was trained on: it is judged on none of them, although they may be test images now.

A change of data.val or data.test moves images out of train, and a split of the source's own may come or go.
"""

import io
import json

from components.data.store import CONTENTS, read_contents
from flows.checkout import paths, versions
from flows.tracking import runs

READ = (paths.TRAIN, paths.VAL)
"""The splits that a training reads."""


def trained_on(md5: str) -> set[bytes] | None:
    """The content hashes, from what the run that wrote the model's file read; None where no record of it is left.

    `md5`: of the model's file. Raises one of `tracking.ERRORS`.
    """
    run = runs.find_run(f"dvc.out.{paths.MODEL.as_posix()}", md5)
    if run is None:
        return None
    tags, objects = runs.run_tags(run), versions.Objects()
    held = [contents_of(objects, tags.get(f"dvc.dep.{folder.as_posix()}", "")) for folder in READ]
    if any(contents is None for contents in held):
        return None
    return {content for contents in held if contents is not None for content in contents}


def contents_of(objects: versions.Objects, folder: str) -> list[bytes] | None:
    """The content hashes of a split. `folder`: DVC's md5 of it; None if its bytes are gone, or have no hashes."""
    listing = objects.intact(folder) if folder else None
    md5 = next((entry["md5"] for entry in json.loads(listing or b"[]") if entry["relpath"] == CONTENTS), None)
    contents = objects.intact(md5) if md5 else None
    return None if contents is None else read_contents(io.BytesIO(contents))
