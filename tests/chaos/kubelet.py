"""The kubelet of all pods: starts each, lets it run for a moment, and ends it as the story has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from instructbooth.contract import ExitCode, Label, Outcome, Stage
from tests.chaos.kube import MERGE, PODS, Kube
from tests.integration.operator.bench import RANK, running_status, terminated_status
from tests.integration.operator.plane import JsonObject, Refused
from tests.unit.reconcile.world import success

RUN_SECONDS = 0.3
GRACE_SECONDS = 1.5  # what the pods of an ended gang take to go; without a node they would be gone at once
FINALIZER = "chaos.instructbooth.io/grace"


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
        if kind != "DELETED" and "deletionTimestamp" in meta and FINALIZER in meta.get("finalizers", ()):
            key = (meta["uid"], "Terminating")
            if key not in self._busy:
                self._busy[key] = asyncio.create_task(self._let_go(meta))
            return
        over = kind == "DELETED" or "deletionTimestamp" in meta or key[1] in ("Succeeded", "Failed")
        if not over and Label.STAGE in meta.get("labels", {}) and key not in self._busy:
            self._busy[key] = asyncio.create_task(self._move(pod, key[1]))

    async def _move(self, pod: JsonObject, phase: str) -> None:
        meta = pod["metadata"]
        if phase == "Pending":
            child = meta["labels"]["batch.kubernetes.io/job-name"]
            if any((meta["namespace"], child) == key[:2] for key in self.endings):
                await self._patch(meta, {"metadata": {"finalizers": [*meta.get("finalizers", ()), FINALIZER]}})
            await self._patch(meta, {"status": running_status()}, "/status")
            return
        await asyncio.sleep(RUN_SECONDS)
        stage = Stage(meta["labels"][Label.STAGE])
        while (meta["namespace"], stage) in self.holding:
            await asyncio.sleep(0.1)
        child = meta["labels"]["batch.kubernetes.io/job-name"]
        rank = int(meta["annotations"][RANK])
        code = self.endings.get((meta["namespace"], child, rank), ExitCode.OK)
        said = success(stage) if code is ExitCode.OK else Outcome("Checkpointed", "stopped as asked")
        await self._patch(meta, {"status": terminated_status(int(code), json.dumps(vars(said)))}, "/status")

    async def _let_go(self, meta: JsonObject) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        while True:
            try:
                now = (await self._kube.request("GET", path))["metadata"]
                left = [name for name in now["finalizers"] if name != FINALIZER]
                version = now["resourceVersion"]  # the Job controller has a finalizer there too
                patch = {"metadata": {"uid": meta["uid"], "resourceVersion": version, "finalizers": left}}
                await self._kube.request("PATCH", path, patch, MERGE)
                return
            except Refused as refused:
                if refused.code == 404:
                    return
                if refused.code != 409:
                    raise

    async def _patch(self, meta: Mapping[str, str], patch: JsonObject, subresource: str = "") -> None:
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}{subresource}"
        same = {"uid": meta["uid"], **patch.get("metadata", {})}
        try:
            await self._kube.request("PATCH", path, {**patch, "metadata": same}, MERGE)
        except Refused as refused:
            if refused.code not in (404, 409):  # the pod is gone, or another one has its name
                raise
