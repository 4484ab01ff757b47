"""The kubelet of all pods: starts each, lets it run for a moment, and ends it as the story has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from instructbooth.contract import ExitCode, Label, Outcome, Stage
from tests.chaos.kube import MERGE, PODS, JsonObject, Kube, Refused
from tests.integration.operator.bench import RANK, running_status, terminated_status
from tests.unit.reconcile.world import success

RUN_SECONDS = 0.3


class Kubelet:
    """Moves every pod of ours from Pending to Running to its end.

    Attributes:
        endings: exit code by (namespace, child, rank), for those that do not end well.
        holding: (namespace, stage) whose running pods go on running.
    """

    def __init__(self, kube: Kube) -> None:
        self.endings: dict[tuple[str, str, int], ExitCode] = {}
        self.holding: set[tuple[str, Stage]] = set()
        self._kube = kube
        self._busy: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever."""
        try:
            await self._kube.watch(PODS, self._seen)
        finally:
            for task in self._busy.values():
                task.cancel()

    def _seen(self, kind: str, pod: JsonObject) -> None:
        meta = pod["metadata"]
        key = (meta["uid"], pod["status"].get("phase", "Pending"))
        over = kind == "DELETED" or "deletionTimestamp" in meta or key[1] in ("Succeeded", "Failed")
        if not over and Label.STAGE in meta.get("labels", {}) and key not in self._busy:
            self._busy[key] = asyncio.create_task(self._move(pod, key[1]))

    async def _move(self, pod: JsonObject, phase: str) -> None:
        meta = pod["metadata"]
        if phase == "Pending":
            await self._write(meta, running_status())
            return
        await asyncio.sleep(RUN_SECONDS)
        stage = Stage(meta["labels"][Label.STAGE])
        while (meta["namespace"], stage) in self.holding:
            await asyncio.sleep(0.1)
        child = meta["labels"]["batch.kubernetes.io/job-name"]
        rank = int(meta["annotations"][RANK])
        code = self.endings.get((meta["namespace"], child, rank), ExitCode.OK)
        said = success(stage) if code is ExitCode.OK else Outcome("Checkpointed", "stopped as asked")
        await self._write(meta, terminated_status(int(code), json.dumps(vars(said))))

    async def _write(self, meta: Mapping[str, str], status: JsonObject) -> None:
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        try:
            await self._kube.request("PATCH", path, {"metadata": {"uid": meta["uid"]}, "status": status}, MERGE)
        except Refused as refused:
            if refused.code not in (404, 409):  # the pod is gone, or another one has its name
                raise
