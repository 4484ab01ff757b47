"""A trainer with a recipe that only counts, for tests of the launcher and of the worker: real processes, real gloo.

`launch` is the pod's first process, `work` one of its training processes. STUB_MODE says what happens: `count`, `wait`,
`kill:<rank>:<step>`, `zombie:<rank>:<step>` (it stops until SIGCONT), `hang:<rank>:<step>`, `hold:<rank>:<step>` (it
hangs with the interpreter's lock), `user-error:<rank>`, `defect:<rank>`, `die-early:<rank>`, `together`, `diverge`,
`import` (for ever); `alone` is a pod that runs its recipe in place although it should not.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from instructbooth_trainer import launch
from instructbooth_trainer.runtime.environment import read_environment
from instructbooth_trainer.runtime.errors import TransientError

MODE, *ARGUMENTS = os.environ["STUB_MODE"].split(":")


def work() -> int:
    from instructbooth_trainer.runtime import worker
    from tests.unit.runtime.stub_recipe import recipe

    worker.load_recipe = lambda stage: recipe
    return worker.run_worker()


def main() -> int:
    if MODE == "die-early" and sys.argv[1] == "work" and os.environ["RANK"] == ARGUMENTS[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    if MODE == "import" and sys.argv[1] == "work":
        print("importing", flush=True)
        time.sleep(3600)
    if sys.argv[1] == "work" or MODE == "alone":
        return work()
    try:
        launch.STACKS_AFTER = float(os.environ.get("STUB_STACKS_AFTER", launch.STACKS_AFTER))
        command = (sys.executable, "-m", "tests.unit.runtime.stub_trainer", "work")
        return launch.run_workers(read_environment(os.environ), os.environ, command)
    except TransientError as error:
        print(error, flush=True)
        return 75


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
