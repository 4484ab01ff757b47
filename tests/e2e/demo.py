"""`make demo`: install the product, teach it a mascot nobody has seen, look at the result.

Every line printed says what is done and what it means. The result is in out/demo: report.html, contact-sheet.png, the
LoRA and the numbers. The end-to-end test runs this same code and asserts on what it returns.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from tests.e2e import lab, product

OUT = lab.ROOT / "out" / "demo"
MANIFEST = "examples/demo/job.yaml"
GPU_MANIFEST = "examples/demo/gpu-job.yaml"
NAMESPACE = "demo"
GPU_NODE = "gpu-1"
GPU_PODS = 2
QUERIES = {
    # Over a window: the pods are gone by now, and with them their series, but not what they said.
    "mean reward of the last reinforcement epoch": (
        'last_over_time(instructbooth_reward_mean{namespace="demo",job="demo",stage="reinforce"}[30m])'
    ),
    "jobs by phase": "sum by (phase) (instructbooth_jobs)",
}


@dataclass
class Demo:
    """What the demo saw.

    Attributes:
        job: the finished InstructBoothJob.
        placement: stage -> pod -> node, as seen while the pods ran.
        answers: Prometheus query -> number of series it returned data for.
        gpu_pods: node and GPU limit of each pod of the GPU job.
        seconds: wall time of the whole demo.
    """

    job: dict[str, Any]
    placement: dict[str, dict[str, str]] = field(default_factory=dict)
    answers: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)
    gpu_pods: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


class Steps:
    """Numbered, timed lines."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the first step."""
        return time.monotonic() - self._start

    def say(self, text: str) -> None:
        """One line with the time since the start."""
        print(f"[{int(self.elapsed) // 60}:{int(self.elapsed) % 60:02d}] {text}", flush=True)


def query(address: str, expression: str) -> list[tuple[dict[str, str], float]]:
    """Ask Prometheus at `address` (host:port); labels and value of each series."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=30) as answer:
        result = json.load(answer)["data"]["result"]
    return [(series["metric"], float(series["value"][1])) for series in result]


def watch(demo: Demo, steps: Steps, *, seconds: float) -> None:
    """Print a line whenever the job moves, note where its pods run, return when it is finished."""
    last, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        demo.job = lab.job("demo", namespace=NAMESPACE)
        status = demo.job["status"]
        for pod in lab.get("pods", namespace=NAMESPACE, selector="instructbooth.io/job=demo"):
            node, labels = pod["spec"].get("nodeName"), pod["metadata"]["labels"]
            if node:
                demo.placement.setdefault(labels["instructbooth.io/stage"], {})[pod["metadata"]["name"]] = node
        shown = (status.get("phase"), status.get("stage"), (status.get("progress") or "").split(" ")[0])
        if str(shown) != last:
            last = str(shown)
            blocked = lab.condition(demo.job, "Blocked")
            note = f"  ! {blocked['message']}" if blocked["status"] == "True" else ""
            steps.say(
                f"  {status.get('phase', ''):<14}{status.get('stage', ''):<13}{status.get('progress', ''):<14}"
                f"reward {status.get('reward', '-')}{note}"
            )
        if status.get("phase") in ("Succeeded", "Failed"):
            return
        time.sleep(3)
    raise lab.LabError(f"the demo's job is not finished after {seconds:.0f} s; see `kubectl describe ibj demo -n demo`")


def show_gpus(demo: Demo, steps: Steps) -> None:
    """A job that asks for GPUs, on a node that only pretends to have them (KWOK): shows what is scheduled where."""
    if lab.get("nodes", GPU_NODE, namespace=NAMESPACE) is None:
        steps.say(f"  left out: this cluster has no node {GPU_NODE}, which `make cluster` makes")
        return
    lab.kubectl("delete", "ibj", "gpu-demo", "-n", NAMESPACE, "--ignore-not-found")
    lab.kubectl("apply", "-n", NAMESPACE, "-f", GPU_MANIFEST)

    # The first stage alone: KWOK ends pods at once, and the next stage's would come in between.
    selector = "instructbooth.io/job=gpu-demo,instructbooth.io/stage=personalize"

    def pods() -> list[dict[str, Any]]:
        found = lab.get("pods", namespace=NAMESPACE, selector=selector)
        bound = [pod for pod in found if pod["spec"].get("nodeName")]
        return bound if len(bound) >= GPU_PODS else []

    for pod in lab.wait("the GPU job's pods to be scheduled", pods, seconds=60):
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        demo.gpu_pods.append((pod["spec"]["nodeName"], limits["nvidia.com/gpu"]))
        steps.say(
            f"  {pod['metadata']['name']} -> {pod['spec']['nodeName']}, nvidia.com/gpu: {limits['nvidia.com/gpu']}"
        )
    lab.kubectl("delete", "ibj", "gpu-demo", "-n", NAMESPACE)


def table(job: dict[str, Any]) -> str:
    """The evaluation: one row per model, one column per metric."""
    evaluation = job["status"].get("evaluation", {})
    names = sorted({name for row in evaluation.values() for name in row})
    rows = [f"  {'':<14}" + "".join(f"{name:>20}" for name in names)]
    for model in ("base", "personalized", "reinforced"):
        rows.append(
            f"  {model:<14}" + "".join(f"{evaluation.get(model, {}).get(name, float('nan')):>20.3f}" for name in names)
        )
    return "\n".join(rows)


def run_demo() -> Demo:
    """The whole demo on the cluster that `lab.connect` found. Raises LabError with the reason if anything fails."""
    steps, demo = Steps(), Demo(job={})
    steps.say("installing InstructBooth with Helm: the operator, MinIO, and a Prometheus to watch them")
    product.install()
    product.install_prometheus()
    lab.namespace(NAMESPACE)
    lab.kubectl("delete", "ibj", "demo", "-n", NAMESPACE, "--ignore-not-found", "--timeout=60s")
    steps.say("uploading the base model, the reward model and the fidelity encoder to MinIO")
    product.upload_models(NAMESPACE, MANIFEST)
    steps.say("applying the job: 5 pictures of a mascot the base model has never seen")
    lab.instructbooth("submit", "-f", MANIFEST, "-n", NAMESPACE, "--from-folder", "examples/demo/subject")
    steps.say("watching (the same as `kubectl get ibj -n demo -w`):")
    watch(demo, steps, seconds=1500)
    if demo.job["status"]["phase"] != "Succeeded":
        failed = lab.condition(demo.job, "Failed")
        raise lab.LabError(f"the job failed: {failed['reason']}: {failed['message']}")
    for stage, pods in demo.placement.items():
        steps.say(f"  {stage} ran as {', '.join(f'{pod} on {node}' for pod, node in sorted(pods.items()))}")
    steps.say("fetching the results from MinIO (every file's sha256 is verified)")
    shutil.rmtree(OUT, ignore_errors=True)
    for stage in ("reinforce", "evaluate"):
        lab.instructbooth("artifacts", "get", "demo", "-n", NAMESPACE, "--stage", stage, "--to", str(OUT / stage))
    for name in ("report.html", "contact-sheet.png"):
        shutil.copy(OUT / "evaluate" / name, OUT / name)
    steps.say("redrawing an evaluation picture from the LoRA in a fresh process with stock diffusers")
    steps.say("  " + product.redraw(OUT).strip().splitlines()[-1])
    steps.say("asking Prometheus")
    with lab.port_forward("svc/prometheus", 9090, namespace=lab.MONITORING) as address:
        for meaning, expression in QUERIES.items():
            demo.answers[expression] = query(address, expression)
            for labels, value in demo.answers[expression]:
                steps.say(f"  {meaning}: {labels.get('phase', '')} {value:g}".replace("  ", " "))
    steps.say("a job with GPUs, on a node that pretends to have them")
    show_gpus(demo, steps)
    steps.say("the evaluation on prompts that were never trained on:")
    print(table(demo.job))
    print(lab.kubectl("get", "ibj", "-n", NAMESPACE))
    demo.seconds = steps.elapsed
    shown = [str((OUT / name).relative_to(lab.ROOT)) for name in ("report.html", "contact-sheet.png")]
    steps.say(f"done. Open {shown[0]} and {shown[1]}")
    return demo


def main() -> int:
    """Entry point of `make demo`."""
    lab.connect()
    try:
        run_demo()
    except lab.LabError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
