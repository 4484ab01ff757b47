"""What makes a binary or an image count as built."""

import subprocess
import sys
from pathlib import Path

import pytest
from raising import images, leftovers, mounts, system, toolchain
from raising.settings import CACHE, PROJECT_DIR
from raising.shell import ClusterError

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


def test_what_a_killed_build_left_is_deleted_unless_something_is_mounted_there(tmp_path, monkeypatch):
    left = tmp_path / "tmp" / "storage123" / "layer"
    left.parent.mkdir(parents=True)
    left.write_text("half a layer")
    monkeypatch.setattr(images, "_TEMPORARY", tmp_path / "tmp")
    monkeypatch.setattr(mounts, "below", lambda homes: [f"{homes[0]}/base/proc"])
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)  # an umount that does nothing
    with pytest.raises(ClusterError, match="cannot unmount"):
        images._forget_temporary()
    assert left.exists()
    monkeypatch.setattr(mounts, "below", lambda _: [])
    images._forget_temporary()
    assert not (tmp_path / "tmp").exists()


def test_mounts_of_a_killed_base_image_count_as_leftovers():
    assert CACHE / "tmp" in leftovers._HOMES


def test_mount_points_are_found_by_folder():
    assert "/proc" in mounts.below([Path("/proc")])
    assert mounts.below([Path("/pro")]) == []


def test_an_installation_that_was_cut_short_is_finished_first(monkeypatch):
    """dpkg then refuses everything until it was told to configure what is half installed."""
    called = []

    def run(command, **_):
        called.append(command[0] if command[0] == "dpkg" else "install" if "install" in command else "update")
        if called == ["update", "install"]:
            raise ClusterError("dpkg was interrupted, you must manually run 'dpkg --configure -a'")

    monkeypatch.setattr(system, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: name if name == "apt-get" else None)
    system.install_packages()
    assert called == ["update", "install", "dpkg", "install"]


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
