"""What the documents say holds: links lead somewhere, commands and options exist, manifests validate."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click import Command, Group

from instructbooth.cli.main import cli
from instructbooth.spec.job import InstructBoothJobSpec
from instructbooth.spec.scores import RewardSpec
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.families import families
from instructbooth_trainer.rewards import score

ROOT = Path(__file__).resolve().parents[3]


def git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # `git grep` ends with 1 when it finds nothing
    return done.stdout.splitlines()


DOCUMENTS = [path for path in git("ls-files", "*.md") if (ROOT / path).exists()]


def blocks(path: str, language: str = "") -> Iterator[str]:
    """The fenced blocks of a document in this language; without one, those of commands."""
    yield from re.findall(
        rf"^```{language or '(?:sh)?'}\n(.*?)^```", (ROOT / path).read_text(), re.MULTILINE | re.DOTALL
    )


def commands(path: str) -> Iterator[list[str]]:
    """The words of each command line in a document."""
    for block in blocks(path):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.removeprefix("$ ").partition("  #")[0].split("&&"):
                if command.split()[:1] in (["instructbooth"], ["make"]) or " make " in f" {command}":
                    yield shlex.split(command)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", (ROOT / path).read_text()):
        if "://" not in link:
            target = ((ROOT / path).parent / link).resolve().relative_to(ROOT)
            assert (ROOT / target).exists(), f"{path}: {link}"


@pytest.mark.parametrize("path", DOCUMENTS)
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / path).read_text()
    said = {word for words in re.findall(r"`(?:[A-Z]+=\S+ )?make (?:-s )?([a-z -]+)`", text) for word in words.split()}
    for command in commands(path):
        if "make" in command:
            said |= {word for word in command[command.index("make") + 1 :] if not word.startswith("-")}
    assert said <= targets, path


def test_shown_commands_and_options_exist():
    seen = 0
    for path in DOCUMENTS:
        for words in commands(path):
            if words[0] != "instructbooth":
                continue
            command: Command = cli
            rest = words[1:]
            while isinstance(command, Group):
                assert rest[0] in command.commands, f"{path}: {words}"
                command, rest = command.commands[rest[0]], rest[1:]
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            unknown = {word.partition("=")[0] for word in rest if word.startswith("-")} - known
            assert not unknown, f"{path}: {words}"
            seen += 1
    assert seen >= 8


def test_readmes_job_is_valid():
    (manifest,) = (yaml.safe_load(block) for block in blocks("README.md", "yaml"))
    InstructBoothJobSpec.model_validate(manifest["spec"])


def test_the_example_of_a_reward_is_one():
    namespace: dict[str, Any] = {}
    (example,) = blocks("docs/rewards.md", "python")
    exec(example, namespace)
    images = torch.stack([torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), 0.75)])
    scores = score("brightness", namespace["create"]({"target": 0.75, "device": "cpu"}), images, ["a", "b"])
    assert scores.tolist() == [-0.5, 0.0]


def test_every_reward_has_a_row():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| .* \| .* \| .* \| .* \|$", (ROOT / "docs/rewards.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == sorted(project["entry-points"]["instructbooth.rewards"])


def test_the_example_of_several_rewards_is_valid():
    (example,) = blocks("docs/rewards.md", "yaml")
    parts = [RewardSpec.model_validate(part) for part in yaml.safe_load(example)["rewards"]]
    assert [part.normalize for part in parts] == [True, True]


def test_every_family_has_a_row_and_every_member_of_the_interface_is_told():
    text = (ROOT / "docs/families.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| `(\w+)`", text, re.MULTILINE))
    assert rows == {name: family.pipeline_name for name, family in families().items()}
    for member in DiffusionModel.__abstractmethods__:
        assert re.search(rf"^\| `{member}`", text, re.MULTILINE), member


def test_decisions_have_numbers_of_their_own():
    numbers = []
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        numbers.append(int(path.name[:4]))
        assert path.read_text().startswith(f"# {path.name[:4]}: "), path.name
    assert numbers == list(range(1, len(numbers) + 1))


def test_no_file_names_a_place_of_one_machine():
    assert git("grep", "-nIE", "/[w]ork/|/[r]oot/") == []
