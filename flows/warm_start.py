"""What a version's searches ended with, placed where the next ones start (flows/starts.py reads it there).

A search that starts where another ended is worth its time on other images only. So a version's own start stays in place
while the images are those that it was made of: nothing is searched twice, and no version follows from itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.checkout import commits, files, paths, pipeline, versions

EMPTY = files.json_bytes(files.NOTHING)
"""Of a start that says nothing: the search starts anew."""


def place(revision: str, digest: str) -> str:
    """Put where the searches of a commit's version ended, or, if its images have the digest too, where they started,
    into `paths.STARTS`; returns what was done, in words.

    Raises VersionsError, before anything is written, if the commit records no version or its bytes are gone.
    """
    lock, pointer = (recorded(revision, path) for path in (versions.LOCK, paths.RAW_DVC))
    if pipeline.hashes(pointer, "outs").get(paths.RAW.name) == digest:
        found = {word: kept(revision, word) for word in paths.STARTS}
        said = f"no image is new since {revision}; the searches start where its own started"
    else:
        objects = versions.Objects()
        found = {word: ended(objects, revision, word, lock["stages"].get(word, {})) for word in paths.ENDS}
        anew = [word for word, content in found.items() if content == EMPTY]
        said = f"the searches start where those of {revision} ended"
        said += f", but for {' and '.join(anew)}, which left no record there" if anew else ""
    for word, content in found.items():
        files.write_bytes(paths.STARTS[word], content)
    return said


def recorded(revision: str, path: Path) -> Mapping[str, Any]:
    """A file of a version's commit."""
    content = commits.blob(revision, path.as_posix())
    if content is None:
        raise commits.VersionsError(
            f"{revision} has no {path}; name a commit in which a version is recorded, such as a tag retrain/..."
        )
    record: Mapping[str, Any] = yaml.safe_load(content)
    return record


def kept(revision: str, word: str) -> bytes:
    """Where the version's own search started; before there were starts, anew."""
    return commits.blob(revision, paths.STARTS[word].as_posix()) or EMPTY


def ended(objects: versions.Objects, revision: str, word: str, lock: pipeline.Lock) -> bytes:
    """What the version's search left, if it did."""
    path = paths.ENDS[word].as_posix()
    md5 = pipeline.hashes(lock, "outs").get(path)
    if md5 is None:
        return EMPTY
    content = objects.intact(md5)
    if content is None:
        raise commits.VersionsError(
            f"{path} of {revision} is not in {objects.places()}; bring it back with `dvc fetch --all-tags`, or set "
            "retrain.search to fresh"
        )
    return content
