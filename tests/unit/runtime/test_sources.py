"""What is given is checked before it is believed, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from instructbooth import contract
from instructbooth.artifacts.commit import commit
from instructbooth.artifacts.local import LocalStore
from instructbooth.contract import PromptRole
from instructbooth.spec.sources import ImageSource, ModelSource, PromptSource
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.sources import Sources, load_subject_images


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", "runs")


@pytest.fixture
def sources(store: LocalStore, tmp_path: Path) -> Sources:
    roots = {path: tmp_path / path.strip("/") for path in (contract.Path.VOLUMES, contract.Path.PROMPTS)}
    return Sources(store, tmp_path / "scratch", None, beat=lambda: None, roots=roots)


def model(folder: Path) -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    save_file({"w": np.zeros(100, np.float32)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def upload(store: LocalStore, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            store.put_file(prefix + path.relative_to(folder).as_posix(), path)


S3_MODEL = ModelSource.model_validate({"s3": {"prefix": "models/tiny"}})


def test_a_model_from_s3_without_manifest(sources: Sources, store: LocalStore, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("")
    upload(store, folder, "models/tiny/")
    got = sources.model_folder(S3_MODEL)
    assert sorted(p.relative_to(got).as_posix() for p in got.rglob("*") if p.is_file()) == [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


def test_a_model_is_downloaded_once_and_again_when_it_changed(
    sources: Sources, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, model(tmp_path / "model"), "models/tiny/")
    first = sources.model_folder(S3_MODEL)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "get_file", lambda *_: pytest.fail("downloaded again"))
        assert sources.model_folder(S3_MODEL) == first
    store.put_bytes("models/tiny/model_index.json", b'{"new": 1}')
    assert json.loads((sources.model_folder(S3_MODEL) / "model_index.json").read_text()) == {"new": 1}


def test_a_model_with_a_manifest_is_verified(sources: Sources, store: LocalStore, tmp_path: Path) -> None:
    commit(store, model(tmp_path / "model"), "models/tiny/")
    assert (sources.model_folder(S3_MODEL) / "model_index.json").is_file()


def test_a_damaged_file_of_a_model_is_named(sources: Sources, store: LocalStore, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    upload(store, folder, "models/tiny/")
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.safetensors is not a whole") as caught:
        sources.model_folder(S3_MODEL)
    assert caught.value.reason == "ModelInvalid"


def test_pickles_are_refused(sources: Sources, tmp_path: Path) -> None:
    folder = model(tmp_path / "mnt/volumes/models/sd")
    (folder / "vae").mkdir()
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"vae/diffusion_pytorch_model\.bin.*safe_serialization") as caught:
        sources.model_folder(ModelSource.model_validate({"pvc": {"claimName": "models", "path": "sd"}}))
    assert caught.value.reason == "ModelNeedsPickle"


def test_the_published_pickle_of_a_reward_is_let_through_and_no_other(
    sources: Sources, store: LocalStore, tmp_path: Path
) -> None:
    folder = tmp_path / "hps"
    folder.mkdir()
    for name in ("HPS_v2.1_compressed.pt", "vocab.json", "HPS_v2_compressed.pt"):
        (folder / name).write_bytes(b"{}")
    upload(store, folder, "models/tiny/")
    got = sources.model_folder(S3_MODEL)
    assert sorted(path.name for path in got.iterdir()) == ["HPS_v2.1_compressed.pt", "vocab.json"]
    volume = tmp_path / "mnt/volumes/models/hps"
    volume.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(volume)
    with pytest.raises(UserError, match=r"HPS_v2_compressed\.pt.*pickle"):
        sources.model_folder(ModelSource.model_validate({"pvc": {"claimName": "models", "path": "hps"}}))


@pytest.mark.parametrize(
    "source", [{"s3": {"prefix": "models/none"}}, {"pvc": {"claimName": "models", "path": "none"}}], ids=["s3", "pvc"]
)
def test_an_absent_model_is_the_users_mistake(sources: Sources, source: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        sources.model_folder(ModelSource.model_validate(source))
    assert caught.value.reason == "ModelNotFound"


def picture(path: Path, mode: str = "RGB", color: object = (255, 0, 0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), color).save(path)  # type: ignore[arg-type]


def test_pictures_come_in_order_upright_and_without_transparency(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", "RGBA", (0, 0, 0, 0))
    picture(tmp_path / "a.jpg", color=(0, 0, 255))
    (tmp_path / "..data").mkdir()
    images = load_subject_images(tmp_path)
    assert [image.mode for image in images] == ["RGB", "RGB"]
    assert images[1].getpixel((0, 0)) == (255, 255, 255)
    blue = images[0].getpixel((0, 0))
    assert isinstance(blue, tuple)
    assert blue[2] > 200


def test_a_text_file_called_png_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "rex.png").write_text("I am a dog")
    with pytest.raises(UserError, match=r"rex\.png is no PNG") as caught:
        load_subject_images(tmp_path)
    assert caught.value.reason == "SubjectImagesInvalid"


def test_a_cut_picture_is_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "rex.png")
    data = (tmp_path / "rex.png").read_bytes()
    (tmp_path / "rex.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"rex\.png cannot be read"):
        load_subject_images(tmp_path)


def test_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"no picture \(notes\.txt\)"):
        load_subject_images(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        load_subject_images(tmp_path / "none")


def test_pictures_from_s3(sources: Sources, store: LocalStore, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    upload(store.in_bucket("photos"), tmp_path / "in", "rex/")
    folder = sources.image_folder(ImageSource.model_validate({"s3": {"bucket": "photos", "prefix": "rex"}}))
    assert len(load_subject_images(folder)) == 1


def test_prompts_from_everywhere(sources: Sources, store: LocalStore, tmp_path: Path) -> None:
    text = "a {subject}\n\n# a remark\n  a dog on a beach  \n"
    expected = ["a {subject}", "a dog on a beach"]
    store.put_bytes("prompts.txt", b"\xef\xbb\xbf" + text.encode())
    mount = tmp_path / "mnt/prompts/reinforcement"
    mount.mkdir(parents=True)
    (mount / "train.txt").write_text(text)
    for source in (
        {"inline": [*text.splitlines()[:1], "a dog on a beach"]},
        {"s3": {"prefix": "prompts.txt"}},
        {"configMap": {"name": "prompts", "key": "train.txt"}},
    ):
        assert sources.prompt_lines(PromptSource.model_validate(source), PromptRole.REINFORCEMENT) == expected


def test_templates_times_contexts_with_weights(sources: Sources, store: LocalStore) -> None:
    store.put_bytes("prompts.txt", b"a {subject} {context}\n  the {subject} \n")
    file = {"s3": {"prefix": "prompts.txt"}, "contexts": ["on a beach", "in the snow"]}
    source, role = PromptSource.model_validate(file), PromptRole.REINFORCEMENT
    assert sources.prompt_lines(source, PromptRole.EVALUATION) == [
        "a {subject} on a beach",
        "a {subject} in the snow",
        "the {subject}",
    ]
    assert sources.weighted_prompts(source, role, {"a {subject} {context}": 3}) == [
        ("a {subject} on a beach", 3),
        ("a {subject} in the snow", 3),
        ("the {subject}", 1),
    ]
    assert sources.weighted_prompts(source, role, {" the {subject}": 0.5})[-1] == ("the {subject}", 0.5)
    with pytest.raises(UserError, match=r"PromptsInvalid.*'a \{subject\} on a beach', which is no line of"):
        sources.weighted_prompts(source, role, {"a {subject} on a beach": 3})
    with pytest.raises(UserError, match=r"a prompt has \{context\} but there are no contexts"):
        sources.prompt_lines(PromptSource.model_validate({"s3": {"prefix": "prompts.txt"}}), role)
    store.put_bytes("prompts.txt", b"the {subject}\n")
    with pytest.raises(UserError, match=r"and no prompt has \{context\}"):
        sources.prompt_lines(source, role)


@pytest.mark.parametrize(
    ("source", "way_out"),
    [
        ({"s3": {"prefix": "nowhere.txt"}}, "there is no object"),
        ({"configMap": {"name": "prompts", "key": "nowhere.txt"}}, "add the key to the ConfigMap"),
    ],
)
def test_absent_prompts_are_the_users_mistake_with_a_way_out(
    sources: Sources, source: dict[str, object], way_out: str
) -> None:
    with pytest.raises(UserError, match=way_out) as caught:
        sources.prompt_lines(PromptSource.model_validate(source), PromptRole.EVALUATION)
    assert caught.value.reason == "PromptsNotFound"
    assert "evaluation prompts" in caught.value.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"a dog\n", "PromptsWithoutSubject"), (b"", "PromptsWithoutSubject"), (b"\xff", "PromptsInvalid")],
)
def test_bad_prompts(sources: Sources, store: LocalStore, data: bytes, reason: str) -> None:
    store.put_bytes("prompts.txt", data)
    with pytest.raises(UserError) as caught:
        sources.prompt_lines(PromptSource.model_validate({"s3": {"prefix": "prompts.txt"}}), PromptRole.EVALUATION)
    assert caught.value.reason == reason
