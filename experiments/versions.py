"""Which code made a cell's numbers: a hash that changes when what is computed may change, and not with a comment.

It covers the paper's equations, the two trained loops and the judge. The rest of the trainer is not in it: a change of
storage, messages or speed would otherwise put hours of finished cells in doubt. Whoever changes numbers elsewhere (a
sampler, a reward) raises `GENERATION`.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
GENERATION: Final = 1
# Versions that compute what an earlier one does, and why; the golden run's numbers are the same before and after.
SAME_AS: Final[dict[str, str]] = {
    "d3af8928ddfe": "c4555bf4c781",  # spec.model.cudaGraphs, which is for GPUs, came into the two trained loops
    # Judges compute in fp32, as those of fp32 models did; weightDecay is said where it was implied; and the outcome's
    # numbers are those of the adapter that is published, where that is not the last one.
    "ee39a7e47e86": "c4555bf4c781",
    "4ea6e9897c8c": "87babdfa4799",
}
_TRAINER = ROOT / "trainer" / "instructbooth_trainer"
_MINIATURE = ROOT / "miniature" / "instructbooth_miniature"


def covered_files() -> list[Path]:
    """The modules whose meaning the version stands for."""
    loops = [_TRAINER / "recipes" / f"{name}.py" for name in ("personalize", "reinforce", "rollouts")]
    judge = [_MINIATURE / f"{name}.py" for name in ("oracle", "segment", "captions")]
    return [*sorted((_TRAINER / "algorithms").glob("*.py")), *loops, *judge]


@cache
def drawing_version() -> str:
    """Of what draws and scores an evaluation's pictures: the same in a process, and parsed once."""
    files = [*(_TRAINER / "diffusion").glob("*.py"), *(_TRAINER / "rewards").glob("*.py")]
    return code_version([_TRAINER / "recipes" / "evaluate.py", *sorted(files)])


def meaning(source: str) -> str:
    """A module without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return ast.unparse(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def code_version(files: Iterable[Path] = ()) -> str:
    """Twelve hex digits of the meaning of the files, by default of those covered."""
    digest = hashlib.sha256(str(GENERATION).encode())
    for path in files or covered_files():
        digest.update(path.name.encode() + b"\0" + meaning(path.read_text()).encode() + b"\0")
    version = digest.hexdigest()[:12]
    return SAME_AS.get(version, version)
