"""Find the images that a registered model was trained on, because it must not be judged on them.

They may be test images now: a change of data.val or data.test, or of the source's own split, moves images.
"""

import io
import json

from components.data.store import CONTENTS, read_contents
from flows.checkout import paths, versions
from flows.tracking import runs

READ = (paths.TRAIN, paths.VAL)
"""The splits that a training reads."""


def trained_on(md5: str) -> set[bytes] | None:
    """Return the content hashes of the images that the model with this md5 was trained on.

    They come from the inputs of the run that wrote the model's file. Returns None if these are no longer recorded or
    stored. Raises one of `connection.ERRORS`.
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
    """Return the content hashes of a split, or None if DVC no longer has it or it holds no hashes.

    `folder` is DVC's md5 of the split.
    """
    listing = objects.intact(folder) if folder else None
    md5 = next((entry["md5"] for entry in json.loads(listing or b"[]") if entry["relpath"] == CONTENTS), None)
    contents = objects.intact(md5) if md5 else None
    return None if contents is None else read_contents(io.BytesIO(contents))
