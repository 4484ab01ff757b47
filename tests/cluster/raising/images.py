"""stub"""
from __future__ import annotations
from collections.abc import Sequence
from raising.layout import Layout
from raising.settings import CACHE, NODES, image_tag
from raising.nodes import criclient
from raising.toolchain import binary
LAYOUT = Layout(CACHE / "registry")
FROM_BINARIES = ("pause", "minio")
def build(names: Sequence[str]) -> None:
    if "pause" in names:
        LAYOUT.add_single_binary("pause", binary("pause").resolve(), "65532")
def load(names: Sequence[str]) -> None:
    for n in NODES:
        print(criclient(n, "pull", image_tag("pause")))
