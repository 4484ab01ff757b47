"""A process that waits for another one for ever, or fails with what FAIL says."""

import os
import sys
import time

if "FAIL" in os.environ:
    sys.exit(os.environ["FAIL"])
time.sleep(3600)
