"""An operator of another version: what it makes of a job differs in everything that may differ between two versions.

`python -m tests.integration.operator.old_operator <flags>` in place of `instructbooth-operator <flags>`.
"""

from __future__ import annotations

from typing import Any

from instructbooth.reconcile.policies import gang
from instructbooth_operator.main import main

MARK = "example.org/version"


def differently(make: Any) -> Any:
    """The same manifest, as another version would write it."""

    def made(*args: Any, **kwargs: Any) -> dict[str, Any]:
        manifest: dict[str, Any] = make(*args, **kwargs)
        manifest["metadata"]["labels"][MARK] = "old"
        if manifest["kind"] == "Job":
            manifest["spec"]["backoffLimit"] = 1
            template = manifest["spec"]["template"]
            template["metadata"].setdefault("annotations", {})[MARK] = "old"
            template["spec"]["terminationGracePeriodSeconds"] = 7
            template["spec"]["containers"][0]["env"].append({"name": "OF_ANOTHER_VERSION", "value": "1"})
        return manifest

    return made


for name in ("child_job", "snapshot"):
    setattr(gang, name, differently(getattr(gang, name)))

if __name__ == "__main__":
    main()
