"""Carry out a plan: actions in order, then events, then the status. Each request may be repeated without harm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from instructbooth.contract import API_VERSION, KIND, Label
from instructbooth.reconcile.actions import Action, Apply, DeleteChild, DeleteSelf, Event, ForgetPod, SetSuspend
from instructbooth.reconcile.names import base_name
from instructbooth.reconcile.observed import Rejection, format_time
from instructbooth.reconcile.patch import merge_patch
from instructbooth.spec.status import InstructBoothJobStatus
from instructbooth_operator.api import MANAGER, Api
from instructbooth_operator.cache import Cache, job_key, owner_of
from instructbooth_operator.errors import ApiError, StillThere
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.observe import utc_now
from instructbooth_operator.resources import EVENTS, IBJ, JOBS, PODS, resource_of

JsonObject = dict[str, Any]


class Rejected(Exception):
    """The API server would not let a child be created: the plan must say so."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.message)
        self.rejection = rejection


class Hands:
    """The only place where the operator writes."""

    def __init__(self, api: Api, cache: Cache, freshness: Freshness, now: Callable[[], datetime] = utc_now) -> None:
        self._api = api
        self._cache = cache
        self._freshness = freshness
        self._now = now

    async def act(self, job: JsonObject, action: Action) -> bool:
        """Carry out one action. Raises ApiError, Rejected, StillThere.

        Returns whether it brought along what is known of a child: of that no watch will tell anybody.
        """
        namespace = job["metadata"]["namespace"]
        match action:
            case Apply(manifest):
                return await self._apply(job, manifest)
            case SetSuspend(name, suspend):
                await self._set_suspend(job, name, suspend)
            case DeleteChild(name):
                await self._delete_child(job, name)
            case ForgetPod(name, uid):
                await self._forget_pod(namespace, name, uid)
                return False  # it goes when its finalizers let it, which nobody would be told of
            case DeleteSelf():
                options = {"preconditions": _as_seen(job), "propagationPolicy": "Background"}
                await self._api.delete(IBJ, namespace, job["metadata"]["name"], options)
        return True

    async def write_status(self, job: JsonObject, status: InstructBoothJobStatus) -> bool:
        """Write what differs, unless somebody else has written since; False if nothing differs. Raises ApiError."""
        # As this version reads it: a default that a newer version added is no difference, least of all after the end.
        before = InstructBoothJobStatus.from_object(job) if job.get("status") else None
        if status == before:
            return False
        patch = merge_patch(before.to_wire() if before else {}, status.to_wire())
        if not patch:
            return False
        meta = job["metadata"]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": patch}
        self._note(await self._api.patch(IBJ, meta["namespace"], meta["name"], body, subresource="status"))
        return True

    async def post(self, job: JsonObject, event: Event) -> None:
        """Post a Kubernetes Event, once however often this is called before the status is written. Raises ApiError.

        Its name follows from what it says and from the status before: that is the same after a crash, whoever else
        has edited the job meanwhile; and another one when the same thing happens again.
        """
        meta, now = job["metadata"], format_time(self._now())
        before = json.dumps(job.get("status") or {}, sort_keys=True)
        digest = hashlib.sha256(repr((meta["uid"], event, before)).encode()).hexdigest()[:16]
        reference = {field: meta[field] for field in ("name", "namespace", "uid")}
        manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{base_name(meta['name'])}.{digest}",
                "namespace": meta["namespace"],
                "labels": {Label.JOB: base_name(meta["name"])},
            },
            "involvedObject": {"apiVersion": API_VERSION, "kind": KIND, **reference},
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "reportingInstance": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.create(EVENTS, manifest)
        except ApiError as error:
            if not error.exists:  # posted before
                raise

    async def _apply(self, job: JsonObject, manifest: JsonObject) -> bool:
        """Create a child unless the job has it. What is there is never changed: an upgrade touches no running job."""
        # A job that has started has its snapshot: a look costs less than a create that is refused.
        shared = manifest["kind"] != "Job" and job.get("status", {}).get("stages")
        if shared and await self._is_there(job, manifest):
            return False
        try:
            created = await self._api.create(resource_of(manifest), manifest)
        except ApiError as error:
            if not (error.conflict or error.invalid or error.refused):
                raise
            # The name may be taken, by an earlier pass of this or another replica: then there is nothing to create.
            if await self._is_there(job, manifest):
                return True  # whoever created it, what is known of it may be news
            if error.conflict:
                raise  # taken and free again: the next pass finds out
            reason = error.reason if error.reason != "Error" else "Rejected"
            name = manifest["metadata"]["name"]
            raise Rejected(Rejection(manifest["kind"], name, reason, error.message, final=error.invalid)) from error
        if manifest["kind"] != "Job":
            return False
        self._note(created)
        # Of what has just been made there is no news, unless somebody's admission has held it back.
        return bool(created["spec"].get("suspend", False) != manifest["spec"].get("suspend", False))

    async def _is_there(self, job: JsonObject, manifest: JsonObject) -> bool:
        """Whether the job has that child. Raises Rejected if the name is another's, StillThere if it soon is free."""
        meta = manifest["metadata"]
        try:
            there = await self._api.get(resource_of(manifest), meta["namespace"], meta["name"])
        except ApiError as error:
            if error.not_found:
                return False
            raise
        self._check_owner(job, there | {"kind": manifest["kind"]})
        return True

    def _check_owner(self, job: JsonObject, there: JsonObject) -> None:
        owner, meta = owner_of(there), job["metadata"]
        if owner is not None and owner[1] == meta["uid"]:
            if there["kind"] == "Job":
                self._note(there)
            return
        name = there["metadata"]["name"]
        if owner is not None and owner[0] == job_key(job):
            raise StillThere(f"{there['kind']} {name} of an earlier {meta['name']} is still being collected")
        way_out = "it belongs to something else; delete it, or give the job another name"
        raise Rejected(Rejection(there["kind"], name, "NameTaken", way_out, final=False))

    async def _set_suspend(self, job: JsonObject, name: str, suspend: bool) -> None:
        """Only if the child has not changed since: carried out late, it would stop a gang that may run again."""
        child = self._child(job, name)
        labels = {Label.SUSPENDED: "true" if suspend else None}
        meta = {**(_as_seen(child) if child else {}), "labels": labels}
        patch = {"metadata": meta, "spec": {"suspend": suspend}}
        self._note(await self._api.patch(JOBS, job["metadata"]["namespace"], name, patch))

    async def _delete_child(self, job: JsonObject, name: str) -> None:
        """Only that very child: a job that is made again under the same name has one of the same name."""
        child = self._child(job, name)
        options: JsonObject = {"propagationPolicy": "Foreground"}
        if child is not None:
            options["preconditions"] = {"uid": child["metadata"]["uid"]}
        try:
            answer = await self._api.delete(JOBS, job["metadata"]["namespace"], name, options)
        except ApiError as error:
            if not error.not_found:
                raise
            answer = {}
            if child is not None:
                self._cache.remove(child)
        if answer.get("kind") == "Job":
            self._note(answer)

    async def _forget_pod(self, namespace: str, name: str, uid: str) -> None:
        options: JsonObject = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        try:
            await self._api.delete(PODS, namespace, name, options)
        except ApiError as error:
            if not (error.not_found or error.conflict):  # gone, or another pod by now
                raise

    def _child(self, job: JsonObject, name: str) -> JsonObject | None:
        children = self._cache.children(job_key(job), job["metadata"]["uid"])
        return next((child for child in children if child["metadata"]["name"] == name), None)

    def _note(self, obj: JsonObject) -> None:
        """An own write is known at once; the watch must show it before long."""
        self._cache.put(obj)
        self._freshness.expect(obj)


def _as_seen(obj: JsonObject) -> JsonObject:
    """What makes a write count only if the object is still the one that was seen, unchanged."""
    return {field: obj["metadata"][field] for field in ("uid", "resourceVersion")}
