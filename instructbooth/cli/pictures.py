"""The subject's pictures in a folder: which files they are, and whether a ConfigMap can hold them."""

from __future__ import annotations

import re
from pathlib import Path

from instructbooth.cli.output import CliError, human_size, note
from instructbooth.contract import CAPTION_TABLE, PICTURE_SUFFIXES

CONFIG_MAP_LIMIT = 1 << 20  # bytes of all values: what the API server takes
FEW, MANY = 3, 6  # the paper's number of pictures
_KEY = re.compile(r"[^-._a-zA-Z0-9]")


def picture_files(folder: Path) -> list[Path]:
    """The PNG, JPEG and WebP files of a folder, sorted. Raises CliError for none, and for what is no picture."""
    if not folder.is_dir():
        raise CliError(f"{folder} is not a folder")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    pictures = [p for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise CliError(f"{folder} holds no picture: {FEW} to {MANY} PNG, JPEG or WebP files are needed")
    for path in pictures:
        _require_picture(path)
    if others := [p.name for p in files if p not in pictures and not _is_caption(p, pictures)]:
        note(f"{folder}: not a picture, passed over: {', '.join(others)}")
    if not FEW <= len(pictures) <= MANY:
        note(f"{folder} holds {len(pictures)} pictures; {FEW} to {MANY} are what the method was made for")
    return pictures


def _require_picture(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(12)
    known = head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")
    if not known:
        raise CliError(f"{path} is called {path.suffix} but holds no PNG, JPEG or WebP picture; remove or convert it")


def _is_caption(path: Path, pictures: list[Path]) -> bool:
    """Whether it is what spec.personalization.captions: files reads."""
    return path.name == CAPTION_TABLE or any(path == picture.with_suffix(".txt") for picture in pictures)


def config_map_data(folder: Path) -> dict[str, bytes]:
    """Key -> content of the ConfigMap for a folder of pictures and captions. Raises CliError if they do not fit."""
    pictures = picture_files(folder)
    captions = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_caption(path, pictures)]
    size = sum(path.stat().st_size for path in pictures + captions)
    if size > CONFIG_MAP_LIMIT:
        raise CliError(
            f"the {len(pictures)} pictures in {folder} have {human_size(size)}; a ConfigMap holds "
            f"{human_size(CONFIG_MAP_LIMIT)}. Make them smaller (the model sees them at its own resolution anyway), or "
            f"keep them in object storage: instructbooth artifacts put {folder} subjects/NAME -f MANIFEST, and "
            "spec.subject.images.s3: {prefix: subjects/NAME} in place of configMap"
        )
    data: dict[str, bytes] = {}
    for path in pictures + captions:
        key = _KEY.sub("-", path.name)
        if key in data:
            raise CliError(f"{folder}: two files would become the ConfigMap key {key}; rename {path.name}")
        data[key] = path.read_bytes()
    return data
