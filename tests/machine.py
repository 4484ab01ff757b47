"""What tests take from the machine that they run on: the binaries that `make cluster` builds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

BIN = Path(os.environ.get("INSTRUCTBOOTH_CACHE") or Path.home() / ".cache" / "instructbooth") / "bin"


def binary(name: str) -> str:
    """Path of a binary: what <NAME>_BINARY says, what `make cluster` built, or what is on PATH.

    Raises FileNotFoundError with the way out.
    """
    variable = f"{name.upper().replace('-', '_')}_BINARY"
    for candidate in (os.environ.get(variable), str(BIN / name), shutil.which(name)):
        if candidate and Path(candidate).is_file():
            return candidate
    raise FileNotFoundError(f"{name} is neither in {BIN} nor on PATH; `make cluster` builds it, or set {variable}")
