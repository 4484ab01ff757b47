"""Where bytes come from: models, the subject's pictures, prompts; each is checked before it is believed.

Models are safetensors only. A pickle file is never downloaded and never opened: it can run code. Two scoring models are
published in no other form; their files, known by name, are let through for the rewards that read tensors from them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from instructbooth import contract
from instructbooth.artifacts.commit import fetch, replacing
from instructbooth.artifacts.errors import ArtifactMissing, ObjectMissing
from instructbooth.artifacts.layout import MANIFEST
from instructbooth.artifacts.store import ObjectStore, StoredObject
from instructbooth.spec.sources import (
    CONTEXT,
    PLACEHOLDER,
    HubSource,
    ImageSource,
    ModelSource,
    PromptSource,
    PvcLocation,
)
from instructbooth.spec.sources import S3Location as S3
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.growing import beating_while_it_grows
from instructbooth_trainer.runtime.hub import PUBLISHED_PICKLES, download_snapshot, repository_files

log = logging.getLogger(__name__)

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
MODEL_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model"})
CAPTION_SUFFIXES = frozenset({".txt", ".jsonl"})
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
ASK_FOR_THEM = "name a revision that has one, or convert it with save_pretrained(..., safe_serialization=True)"


class Sources:
    """Resolves sources to local folders. One process per node downloads; `beat` is called while bytes come."""

    def __init__(
        self,
        store: ObjectStore,
        workdir: Path,
        cache: Path | None,
        beat: Callable[[], None],
        roots: Mapping[str, Path] | None = None,
    ) -> None:
        self._store = store
        self._models = (cache or workdir) / "models"
        self._workdir = workdir
        self._beat = beat
        self._roots = roots or {}

    def model_folder(self, source: ModelSource) -> Path:
        """The model's folder, downloaded if need be. Raises UserError ModelNotFound, ModelInvalid, ModelNeedsPickle."""
        if source.pvc is not None:
            folder = self._volume(source.pvc)
            if not folder.is_dir():
                raise UserError("ModelNotFound", f"the volume claim {source.pvc.claim_name} has no folder {folder}")
        else:
            with beating_while_it_grows(self._models, self._beat):
                folder = self._download_model(source)
        check_model_folder(folder)
        return folder

    def look_for_model(self, source: ModelSource) -> None:
        """Whether `model_folder` will find weights, by the names of the files.

        Says nothing where that cannot be told: a volume, a hub that does not answer or does not show the repository.
        Raises UserError ModelNotFound, ModelInvalid.
        """
        self._beat()
        if source.hub is not None:
            folder, place = self._hub_folder(source.hub), source.hub.repo
            if folder.is_dir():  # the cache, where it may have come before anybody looked into it
                names: list[str] | None = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
            else:
                names = repository_files(source.hub, os.environ.get("HF_TOKEN"))
            if names is None:
                return
        elif source.s3 is not None:
            store, prefix, objects = self._model_objects(source.s3)
            names, place = [item.key.removeprefix(prefix) for item in objects], store.url(prefix)
        else:
            return
        if not any(name.endswith(".safetensors") or name in PUBLISHED_PICKLES for name in names):
            raise UserError("ModelInvalid", f"{place} holds no *.safetensors file{_has_pickles(names)}")

    def adapter_folder(self, source: ModelSource) -> Path:
        """The folder of a LoRA. Raises UserError as `model_folder`."""
        if source.hub is None:
            return self.model_folder(source)
        folder = self._hub_folder(source.hub, "adapters")
        if not folder.is_dir():
            with beating_while_it_grows(self._models, self._beat), replacing(folder) as partial:
                download_snapshot(source.hub, partial, token=os.environ.get("HF_TOKEN"), adapter=True)
        check_model_folder(folder)
        return folder

    def _download_model(self, source: ModelSource) -> Path:
        if source.hub is not None:
            return self._hub(source.hub)
        assert source.s3 is not None  # the schema's rule: exactly one source
        return self._s3_model(source.s3)

    def image_folder(self, source: ImageSource) -> Path:
        """The folder with the subject's pictures and their captions, downloaded if need be."""
        if source.config_map is not None:
            return self._mount(contract.Path.SUBJECT_IMAGES)
        if source.pvc is not None:
            return self._volume(source.pvc)
        assert source.s3 is not None
        return self._s3_folder(
            source.s3, contract.PICTURE_SUFFIXES | CAPTION_SUFFIXES, self._workdir / "subject", "SubjectImagesInvalid"
        )

    def prompt_lines(self, source: PromptSource, role: contract.PromptRole) -> list[str]:
        """The prompts of a source, each in all contexts. Raises UserError as `weighted_prompts` does."""
        return [prompt for prompt, _ in self.weighted_prompts(source, role, {})]

    def weighted_prompts(
        self, source: PromptSource, role: contract.PromptRole, weights: Mapping[str, float]
    ) -> list[tuple[str, float]]:
        """The prompts of a source, each in all contexts, with their weights.

        Args:
            source: where they are.
            role: who uses them.
            weights: of lines as the source has them, 1 for the others. Each prompt made of a line has the line's.

        Raises:
            UserError: `PromptsNotFound`, `PromptsWithoutSubject`; `PromptsInvalid` for contexts without `{context}` or
                the reverse, and for the weight of a line that is not there.
        """
        lines, origin = self._lines(source, role)
        contexts = source.contexts or []
        if any(CONTEXT in line for line in lines) != bool(contexts):
            raise UserError(
                "PromptsInvalid",
                f"{origin}: contexts and {CONTEXT} go together, and "
                + (f"no prompt has {CONTEXT}" if contexts else f"a prompt has {CONTEXT} but there are no contexts"),
            )
        known = {line.strip(): weight for line, weight in weights.items()}
        if unknown := sorted(set(known) - set(lines)):
            raise UserError(
                "PromptsInvalid",
                f"spec.reinforcement.promptWeights names {unknown[0]!r}, which is no line of {origin}; write it as it "
                "stands there, placeholders and all",
            )
        return [
            (line.replace(CONTEXT, context), known.get(line, 1.0))
            for line in lines
            for context in (contexts if CONTEXT in line else [""])
        ]

    def _lines(self, source: PromptSource, role: contract.PromptRole) -> tuple[list[str], str]:
        """The lines of a source, and what to call it."""
        if source.inline is not None:
            lines, origin = list(source.inline), f"the inline {role.value} prompts"
        elif source.config_map is not None:
            path = self._mount(contract.Path.PROMPTS) / role.value / source.config_map.key
            origin = f"key {source.config_map.key} of the ConfigMap {source.config_map.name}"
            if not path.is_file():
                raise UserError(
                    "PromptsNotFound",
                    f"{role.value} prompts: there is no {origin}; add the key to the ConfigMap, or correct the name of "
                    "either in a new job",
                )
            lines = _decode(path.read_bytes(), origin)
        else:
            assert source.s3 is not None
            store = self._store.in_bucket(source.s3.bucket or self._store.bucket)
            origin = store.url(source.s3.prefix)
            try:
                lines = _decode(store.get_bytes(source.s3.prefix), origin)
            except ObjectMissing as error:
                raise UserError(
                    "PromptsNotFound",
                    f"{role.value} prompts: there is no object {origin}; s3.prefix is the key of one text file: "
                    "upload it, or correct the prefix in a new job",
                ) from error
        prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not any(PLACEHOLDER in prompt for prompt in prompts):
            raise UserError(
                "PromptsWithoutSubject",
                f"{origin}: none of the {len(prompts)} prompts names the subject; write {PLACEHOLDER} where it "
                f'belongs, for example "a {PLACEHOLDER} on a beach"',
            )
        return prompts, origin

    def _mount(self, path: str) -> Path:
        return self._roots.get(path, Path(path))

    def _volume(self, pvc: PvcLocation) -> Path:
        return self._mount(contract.Path.VOLUMES) / pvc.claim_name / (pvc.path or "")

    def _hub(self, source: HubSource) -> Path:
        folder = self._hub_folder(source)
        if not folder.is_dir():
            with replacing(folder) as partial:
                download_snapshot(source, partial, token=os.environ.get("HF_TOKEN"))
        return folder

    def _hub_folder(self, source: HubSource, kind: str = "hub") -> Path:
        return self._models / kind / source.repo.replace("/", "--") / source.revision

    def _s3_model(self, source: S3) -> Path:
        """A model from S3: verified by its manifest where there is one, by sizes otherwise."""
        store, prefix, objects = self._model_objects(source)
        identity = json.dumps([store.bucket, prefix, [(o.key, o.size, o.version) for o in objects]])
        folder = self._models / "s3" / hashlib.sha256(identity.encode()).hexdigest()[:32]
        if folder.is_dir():
            return folder
        if any(o.key == prefix + MANIFEST for o in objects):
            try:
                fetch(store, prefix, folder)
                return folder
            except ArtifactMissing as error:
                raise UserError("ModelNotFound", error.message) from error
        return self._download(store, prefix, objects, MODEL_SUFFIXES, folder, "ModelInvalid")

    def _model_objects(self, source: S3) -> tuple[ObjectStore, str, list[StoredObject]]:
        store = self._store.in_bucket(source.bucket or self._store.bucket)
        prefix = source.prefix.rstrip("/") + "/"
        objects = store.list(prefix)
        if not objects:
            raise UserError(
                "ModelNotFound", f"there is no object below {store.url(prefix)}; check the model's s3.prefix"
            )
        return store, prefix, objects

    def _s3_folder(self, source: S3, suffixes: frozenset[str], folder: Path, reason: str) -> Path:
        store = self._store.in_bucket(source.bucket or self._store.bucket)
        prefix = source.prefix.rstrip("/") + "/"
        return self._download(store, prefix, store.list(prefix), suffixes, folder, reason)

    def _download(
        self,
        store: ObjectStore,
        prefix: str,
        objects: list[StoredObject],
        suffixes: frozenset[str],
        folder: Path,
        reason: str,
    ) -> Path:
        with replacing(folder) as partial:
            for item in objects:
                name = item.key.removeprefix(prefix)
                if Path(name).suffix.lower() not in suffixes and name not in PUBLISHED_PICKLES:
                    log.info("leaving out %s", store.url(item.key))
                    continue
                path = partial / name
                if not path.resolve().is_relative_to(partial.resolve()):
                    raise UserError(reason, f"{store.url(item.key)} would be written outside of its folder")
                path.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(item.key, path)
                self._beat()
                if path.stat().st_size != item.size:
                    raise UserError(
                        reason, f"{store.url(item.key)}: {path.stat().st_size} bytes came, {item.size} are listed"
                    )
        return folder


def check_model_folder(folder: Path) -> None:
    """Refuse a folder whose weights are pickles, absent, or no whole safetensors files. Raises UserError."""
    weights = sorted(p for p in folder.rglob("*.safetensors") if p.is_file())
    published = [folder / name for name in sorted(PUBLISHED_PICKLES) if (folder / name).is_file()]
    pickles = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICKLE_SUFFIXES)
    for path in pickles:
        if path not in published and not any(w.parent == path.parent for w in weights):
            raise UserError(
                "ModelNeedsPickle",
                f"{path.relative_to(folder)} has no safetensors beside it; pickle files can run code and are never "
                "opened: convert the model with save_pretrained(..., safe_serialization=True)",
            )
    if not weights and not published:
        raise UserError("ModelInvalid", f"the model folder {folder.name} holds no *.safetensors file; {ASK_FOR_THEM}")
    for path in weights:
        try:
            with safe_open(path, framework="np") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(
                "ModelInvalid", f"{path.relative_to(folder)} is not a whole safetensors file ({error}); upload it again"
            ) from error


def _has_pickles(names: Iterable[str]) -> str:
    pickles = [name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES]
    seen = f" (but {pickles[0]}; pickle files can run code and are never opened)" if pickles else ""
    return f"{seen}; {ASK_FOR_THEM}"


def picture_paths(folder: Path) -> list[Path]:
    """The picture files of a folder in order of their names. Raises UserError SubjectImagesInvalid."""
    reason = "SubjectImagesInvalid"
    if not folder.is_dir():
        raise UserError(reason, f"subject.images: there is no folder {folder}; check claim, path or ConfigMap")
    # A ConfigMap's mount holds its keys as links into a hidden folder.
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    pictures = [p for p in paths if p.suffix.lower() in contract.PICTURE_SUFFIXES]
    if not pictures:
        found = ", ".join(p.name for p in paths[:5]) or "nothing"
        raise UserError(reason, f"subject.images holds no picture ({found}); give 3-6 PNG, JPEG or WebP files")
    return pictures


def load_subject_images(folder: Path) -> list[Image.Image]:
    """The subject's pictures in order of their names, upright, RGB, transparency on white. Raises UserError."""
    return [_load_image(path, "SubjectImagesInvalid") for path in picture_paths(folder)]


def _load_image(path: Path, reason: str) -> Image.Image:
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    reason, f"{path.name} has {image.width}x{image.height} pixels, at most {MAX_PIXELS} may"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                rgba = upright.convert("RGBA")
                white = Image.new("RGBA", rgba.size, "white")
                return Image.alpha_composite(white, rgba).convert("RGB")
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(
            reason, f"{path.name} is no PNG, JPEG or WebP picture, whatever its name says; replace it"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(reason, f"{path.name} cannot be read as a picture ({error}); replace it") from error


def _decode(data: bytes, origin: str) -> list[str]:
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError("PromptsInvalid", f"{origin} is no UTF-8 text ({error})") from error
