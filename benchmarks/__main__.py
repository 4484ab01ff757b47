"""`make bench`: what our parts cost beside their floors, without any peer; options as of each part's own command."""

from __future__ import annotations

import sys

from benchmarks.trainer.__main__ import main

if __name__ == "__main__":
    main([*sys.argv[1:]] or ["--only", "reinforce", "parts"])
