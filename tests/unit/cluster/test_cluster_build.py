"""What makes a binary or an image count as built."""

import subprocess
import sys
from pathlib import Path

import pytest
from raising import images, toolchain
from raising.settings import PROJECT_DIR

SCRIPT = Path(toolchain.__file__).resolve().parents[1] / "cluster.py"


def test_the_key_of_a_binary_follows_its_sources_and_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "CLUSTER_DIR", tmp_path)
    folder = tmp_path / "tools" / "etcd"
    folder.mkdir(parents=True)
    (folder / "go.sum").write_text("a")
    tool = toolchain.Tool("etcd", {"server": "etcd"})
    first = tool.key("go1.26.8")
    assert tool.key("go1.26.8") == first
    assert tool.key("go1.26.9") != first
    (folder / "go.sum").write_text("b")
    assert tool.key("go1.26.8") != first


def test_an_image_follows_what_its_dockerfile_copies(tmp_path, monkeypatch):
    for path in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / path).write_text("x")
    for path in ("requirements/build.txt", "requirements/operator.txt", "operator/a.py", "trainer/b.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x")
    monkeypatch.setattr(images, "PROJECT_DIR", tmp_path)
    first = images.content_hash("operator")
    (tmp_path / "trainer/b.py").write_text("y")
    assert images.content_hash("operator") == first
    (tmp_path / "operator/a.py").write_text("y")
    assert images.content_hash("operator") != first


def test_every_folder_the_dockerfile_copies_is_watched():
    dockerfile = (PROJECT_DIR / "Dockerfile").read_text()
    for name, folders in images._SOURCES.items():
        stage = dockerfile.split(f"AS project-{name}\n")[1].split("\nFROM ")[0]
        copied = {words[1] for words in map(str.split, stage.splitlines()) if words[:1] == ["COPY"] and len(words) == 3}
        assert copied == set(folders)


@pytest.mark.parametrize("words", [["images", "nonsense"], ["nonsense"]])
def test_a_wrong_name_is_told_what_there_is(words):
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "operator" in done.stderr or "kubeconfig" in done.stderr


def test_kubeconfig_prints_one_path_and_nothing_else():
    command = [sys.executable, str(SCRIPT), "kubeconfig"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"CLUSTER": "own", "PATH": ""})
    assert done.stdout.count("\n") == 1
    assert Path(done.stdout.strip()).is_absolute()
    assert done.stderr == ""
