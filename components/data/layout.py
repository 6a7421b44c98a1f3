"""The layout of a folder of images: which folders are classes, splits or wrappers, and which are no data at all."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from components.data.records import Rule, relative
from components.settings.require import require

OWN_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "train",
    "valid": "train",
    "validation": "train",
    "dev": "train",
    "test": "test",
    "testing": "test",
}
"""A source's name for a split, in lower case -> our split. The source's val counts as train, because the line draws val
by its own rule, so that it can grow (components.data.split); only `test` is kept apart."""
TRAIN = frozenset({"train", "training"})
VAL = frozenset({"val", "valid", "validation", "dev"})

SYSTEM = frozenset(
    {
        "__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information",
        "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__",
    }
)  # fmt: skip
"""Names, in lower case, of files and folders that systems and programs leave behind."""
DOCUMENTS = frozenset(
    {
        ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".log",
        ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".py", ".ipynb",
    }
)  # fmt: skip
"""Endings of files that are not meant as images: a folder of nothing else is no class."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The places of the class folders."""

    holders: dict[Path, str | None]
    """Folder of class folders -> the source's own split."""
    around: tuple[Path, ...]
    """The folders around these, from the outermost."""
    notes: tuple[str, ...]


def read_layout(root: Path) -> Layout:
    """Find the class folders: in the root, in its one folder, or in folders that are named as splits.

    Folders are splits if two or more have such names and the one called train holds class folders: a class may be
    called train, beside car and bus. Raises ValueError if there are no class folders, or images lie deeper.
    """
    *outer, inner = wrappings(root)
    notes = [f"read from {show(root, inner)}, the one folder that holds class folders"] if outer else []
    splits = {path: OWN_SPLITS[path.name.lower()] for path in image_folders(inner) if path.name.lower() in OWN_SPLITS}
    if len(splits) > 1 and any(path.name.lower() in TRAIN and image_folders(path) for path in splits):
        vals = [show(root, path) for path in splits if path.name.lower() in VAL]
        notes += [f"{', '.join(vals)} taken as train material: the line draws its own val split"] if vals else []
        layout = Layout(holders=dict(splits), around=(*outer, inner), notes=tuple(notes))
    else:
        layout = Layout(holders={inner: None}, around=tuple(outer), notes=tuple(notes))
    require_classes(root, layout)
    return layout


def require_classes(root: Path, layout: Layout) -> None:
    """Raise ValueError unless there are class folders, and images directly in at least one of them."""
    classes = [path for holder in layout.holders for path in image_folders(holder)]
    require(len(classes) > 0, f"data.path {str(root)!r} holds no class folders; put images into <class>/<image>")
    if not any(holds_image(path) for path in classes):
        example = show(root, min(images_below(classes[0])))
        told = (
            f"data.path {str(root)!r} holds images as {example}; the folder source reads <class>/<image>, alone or in "
        )
        asked = "give the folder that holds the class folders, or move each class's images directly into its folder"
        raise ValueError(f"{told}folders called train, val and test: {asked}")


def holds_image(folder: Path) -> bool:
    return next(images_in(folder), None) is not None


def wrappings(root: Path) -> Iterator[Path]:
    """Yield the root, then the one folder in it that holds images, as long as that holds folders of images only."""
    yield root
    inside = image_folders(root)
    if len(inside) == 1 and not inside[0].is_symlink() and image_folders(inside[0]) and not holds_image(inside[0]):
        yield from wrappings(inside[0])


def image_folders(folder: Path) -> list[Path]:
    """Return the folders in it that hold an image at any depth."""
    return [Path(entry.path) for entry in entries(folder) if holds_images(entry)]


def holds_images(entry: os.DirEntry[str]) -> bool:
    return (
        entry.is_dir() and exclusion_of(entry.name) is None and next(images_below(Path(entry.path)), None) is not None
    )


def images_below(folder: Path) -> Iterator[Path]:
    """Yield what may be an image in the folder and its subfolders; links to folders are not followed."""
    yield from images_in(folder)
    for entry in scan_folder(folder):
        if entry.is_dir(follow_symlinks=False) and exclusion_of(entry.name) is None:
            yield from images_below(Path(entry.path))


def images_in(folder: Path) -> Iterator[Path]:
    """Yield what may be an image directly in the folder."""
    for entry in scan_folder(folder):
        document = PurePath(entry.name).suffix.lower() in DOCUMENTS
        if not document and exclusion_of(entry.name) is None and not entry.is_dir():
            yield Path(entry.path)


def exclusion_of(name: str) -> tuple[Rule, str] | None:
    """Return why a file or folder of this name is excluded, whatever it holds; None if it is not."""
    if name.lower() in SYSTEM:
        return Rule.SYSTEM, "its name is one that systems and programs give to what they leave behind"
    return (Rule.HIDDEN, "its name starts with a dot") if name.startswith(".") else None


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the folder's entries, sorted by name; raises ValueError if it cannot be listed."""
    return sorted(scan_folder(folder), key=lambda entry: entry.name)


def scan_folder(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the folder's entries unsorted, so that the first of a million images is found at once."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise ValueError(f"folder {str(folder)!r} cannot be listed ({error.strerror}); make it readable") from None


def show(root: Path, path: Path) -> str:
    """Return a path as messages and reports name it, relative to data.path."""
    return relative(str(path.relative_to(root)))
