"""What the chart renders with several sets of values: permissions, pod security, the definition, refused values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml
from prometheus_client import REGISTRY

from instructbooth_operator.cache import Cache
from instructbooth_operator.main import _pod_defaults, main
from instructbooth_operator.metrics import JobCollector
from tests.integration.chart.helm import CHART, ROOT, VARIANTS, helm, one, pod_templates, render, template

CRD = "instructboothjobs.instructbooth.io"
ROLE_KINDS = {"Role", "ClusterRole"}


@pytest.fixture(scope="module", params=VARIANTS)
def objects(request):
    return render(*VARIANTS[request.param])


def test_lint_is_clean():
    for args in VARIANTS.values():
        done = helm("lint", "--strict", "--kube-version", "1.35.0", str(CHART), *args)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_role_grants_secrets_everything_or_to_make_pods(objects):
    for role in (obj for obj in objects if obj["kind"] in ROLE_KINDS):
        for rule in role["rules"]:
            assert not {"secrets", "*"} & set(rule["resources"]), role["metadata"]["name"]
            assert "*" not in rule["verbs"] + rule["apiGroups"]
            if any(name.startswith("pods") for name in rule["resources"]):
                assert set(rule["verbs"]) <= {"get", "list", "watch", "delete"}
            if any(name.startswith("pods/") for name in rule["resources"]):
                assert set(rule["verbs"]) <= {"get", "list", "watch"}
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_pods_meet_the_restricted_standard(objects):
    for name, pod in pod_templates(objects).items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
        assert {next(iter(v.keys() - {"name"})) for v in pod["spec"]["volumes"]} <= {
            "emptyDir", "persistentVolumeClaim", "configMap", "secret",
        }  # fmt: skip
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert {"livenessProbe", "readinessProbe"} <= container.keys()


def test_selectors_choose_their_pods_and_nobody_elses(objects):
    labels = {name: pod["metadata"]["labels"] for name, pod in pod_templates(objects).items()}
    for obj in objects:
        if obj["kind"] == "Service":
            chosen = [name for name, have in labels.items() if obj["spec"]["selector"].items() <= have.items()]
            assert len(chosen) == 1, obj["metadata"]["name"]


@pytest.mark.parametrize(("replicas", "several"), [(0, False), (1, False), (2, True), (3, True)])
def test_several_replicas_are_kept_apart_and_one_is_never_in_the_way(replicas, several):
    objects = render("--set", f"operator.replicas={replicas}")
    budgets = [obj for obj in objects if obj["kind"] == "PodDisruptionBudget"]
    pod = one(objects, "Deployment", "instructbooth-operator")["spec"]["template"]
    constraints = pod["spec"].get("topologySpreadConstraints", [])
    assert (len(budgets), len(constraints)) == ((1, 2) if several else (0, 0))
    selectors = [constraint["labelSelector"]["matchLabels"] for constraint in constraints]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in budgets]
    assert all(selector.items() <= pod["metadata"]["labels"].items() for selector in selectors)
    assert all(constraint["whenUnsatisfiable"] == "ScheduleAnyway" for constraint in constraints)


def test_a_new_operator_is_ready_before_an_old_one_goes():
    deployment = one(render(), "Deployment", "instructbooth-operator")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_definition_is_upgraded_with_the_chart_and_kept():
    """As a template it is part of every upgrade; in crds/ Helm would install it once and for all."""
    assert not (CHART / "crds").exists()
    found = one(render(), "CustomResourceDefinition", CRD)
    assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert found == yaml.safe_load((ROOT / "crds" / f"{CRD}.yaml").read_text())


def test_definition_can_go_with_the_release_or_stay_away():
    assert "annotations" not in one(render("--set", "crds.keep=false"), "CustomResourceDefinition", CRD)["metadata"]
    kinds = {obj["kind"] for obj in render("--set", "crds.install=false")}
    assert "CustomResourceDefinition" not in kinds


def test_namespaced_operator_has_no_cluster_wide_permission():
    objects = render(*VARIANTS["namespaced"])
    roles = {obj["metadata"]["namespace"] for obj in objects if obj["kind"] == "Role"}
    assert roles == {"instructbooth-system", "team-a", "team-b"}
    assert "ClusterRoleBinding" not in {obj["kind"] for obj in objects}
    everywhere = one(render(), "ClusterRole", "instructbooth-operator")["rules"]
    for namespace in ("team-a", "team-b"):
        role = next(o for o in objects if o["kind"] == "Role" and o["metadata"]["namespace"] == namespace)
        assert role["rules"] == everywhere


def test_every_binding_names_the_operators_account_and_an_existing_role(objects):
    roles = {(obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace")) for obj in objects}
    for obj in objects:
        if obj["kind"] in {"RoleBinding", "ClusterRoleBinding"}:
            ref = obj["roleRef"]
            assert (ref["kind"], ref["name"], obj["metadata"].get("namespace")) in roles
            assert obj["subjects"] == [
                {"kind": "ServiceAccount", "name": "instructbooth-operator", "namespace": "instructbooth-system"}
            ]


def test_minio_is_off_unless_asked_for():
    assert "minio" not in template("-s", "templates/deployment.yaml", "-s", "templates/service.yaml")
    assert not [obj for obj in render() if obj["metadata"]["name"] == "instructbooth-minio"]


def test_minio_makes_random_keys_that_outlive_the_release():
    first, second = (one(render(*VARIANTS["minio"]), "Secret", "instructbooth-minio") for _ in range(2))
    assert first["data"].keys() == {"accessKey", "secretKey"}
    assert first["data"] != second["data"]
    assert first["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_minio_with_an_existing_secret_makes_none():
    objects = render(*VARIANTS["minio-existing"])
    assert not [obj for obj in objects if obj["kind"] in {"Secret", "PersistentVolumeClaim"}]
    (container,) = one(objects, "StatefulSet", "instructbooth-minio")["spec"]["template"]["spec"]["containers"]
    used = {env["valueFrom"]["secretKeyRef"]["name"] for env in container["env"] if "valueFrom" in env}
    assert used == {"mine"}


def test_minio_keeps_its_data_on_a_claim():
    objects = render(*VARIANTS["minio"])
    claim = one(objects, "PersistentVolumeClaim", "instructbooth-minio")
    volumes = one(objects, "StatefulSet", "instructbooth-minio")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "instructbooth-minio"}} in volumes
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("minio.enable=true", "'/minio': additional properties 'enable' not allowed"),
        ("operatr.replicas=1", "additional properties 'operatr' not allowed"),
        ("operator.replicas=-1", "'/operator/replicas': minimum: got -1, want 0"),
        ("operator.image.pullPolicy=Sometimes", "'/operator/image/pullPolicy'"),
        ("operator.logLevel=loud", "'/operator/logLevel'"),
        ("minio.persistence.size=20GB", "'/minio/persistence/size'"),
        ("watchNamespaces={Team_A}", "'/watchNamespaces/0'"),
        ("serviceAccount.create=false", "serviceAccount.name must name an existing ServiceAccount"),
        ("operator.resources.limits.cpu=-1", "'/operator/resources/limits/cpu'"),
        ("networkPolicy.enabled=true", "networkPolicy.metricsFrom must say who may scrape; [{namespaceSelector: {}}]"),
        (
            "minio.enabled=true,networkPolicy.enabled=true,networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b",
            "networkPolicy.minioFrom must say who may use MinIO; [{namespaceSelector: {}}]",
        ),
    ],
)
def test_wrong_values_are_refused_at_their_place(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        template("--set", wrong)


def test_fences_let_in_who_is_named_and_gangs_only_their_like():
    objects = render(*VARIANTS["fenced"])
    prometheus = {"podSelector": {"matchLabels": {"app": "prometheus"}}}
    operator = one(objects, "Deployment", "instructbooth-operator")["spec"]["selector"]["matchLabels"]
    fences = {(o["metadata"]["namespace"], o["metadata"]["name"]): o for o in objects if o["kind"] == "NetworkPolicy"}
    assert fences.keys() == {
        *(("instructbooth-system", f"instructbooth-{name}") for name in ("operator", "minio")),
        *((team, "instructbooth-trainer") for team in ("team-a", "team-b")),
    }
    ours = fences["instructbooth-system", "instructbooth-operator"]["spec"]
    assert ours["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}], "from": [prometheus]}]
    gang = fences["team-a", "instructbooth-trainer"]["spec"]
    trainers = {"matchLabels": {"app.kubernetes.io/managed-by": "instructbooth-operator"}}
    assert gang["podSelector"] == trainers
    home = {"matchLabels": {"kubernetes.io/metadata.name": "instructbooth-system"}}
    assert gang["ingress"] == [
        {"from": [{"podSelector": trainers}]},  # of its own namespace, on every port
        {
            "ports": [{"port": "metrics", "protocol": "TCP"}],
            "from": [
                {"namespaceSelector": home, "podSelector": {"matchLabels": operator}},
                {"namespaceSelector": home, **prometheus},  # of the release's namespace there, too
            ],
        },
    ]


def test_labels_for_everything_are_on_pods_too_and_give_way_to_the_pods_own():
    changed = ("commonLabels.team=x", "commonLabels.tier=y", "operator.podLabels.tier=z", "minio.enabled=true")
    selected = "commonLabels.app\\.kubernetes\\.io/name=other"
    objects = render("--set", ",".join((*changed, selected)))
    pods = pod_templates(objects)
    for owner in (obj for obj in objects if obj["kind"] in {"Deployment", "StatefulSet"}):
        wanted = owner["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= owner["spec"]["template"]["metadata"]["labels"].items()
    labels = {name: pod["metadata"]["labels"] for name, pod in pods.items()}
    assert {name: (have["team"], have["tier"]) for name, have in labels.items()} == {
        "Deployment/instructbooth-operator": ("x", "z"),
        "StatefulSet/instructbooth-minio": ("x", "y"),
    }


def test_only_the_operator_s_pods_have_a_token():
    objects = render("--set", "minio.enabled=true")
    assert one(objects, "ServiceAccount", "instructbooth-operator")["automountServiceAccountToken"] is False
    mounts = {name: pod["spec"]["automountServiceAccountToken"] for name, pod in pod_templates(objects).items()}
    assert mounts == {"Deployment/instructbooth-operator": True, "StatefulSet/instructbooth-minio": False}


def test_half_a_core_may_be_written_as_a_number():
    pod = one(render("--set-json", "operator.resources.limits.cpu=0.5"), "Deployment", "instructbooth-operator")
    assert pod["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == 0.5


def test_what_a_trainer_s_image_says_passes_neither_for_the_operator_nor_for_another_namespace():
    objects = render(*VARIANTS["monitored"])
    (trainer,) = one(objects, "PodMonitor", "instructbooth-trainer")["spec"]["podMetricsEndpoints"]
    assert "honorLabels" not in trainer, "it could call itself any namespace"
    keep, drop, job, rest = trainer["metricRelabelings"]
    assert [rule["action"] for rule in (keep, drop, rest)] == ["keep", "drop", "labeldrop"]
    assert (job["sourceLabels"], job["targetLabel"], rest["regex"]) == (["exported_job"], "job", "exported_.+")
    operator = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    operator |= {metric.name for metric in JobCollector(Cache()).collect()}
    operator = {name for name in operator if name.startswith("instructbooth_")}
    assert len(operator) > 15
    assert [name for name in operator if not re.fullmatch(drop["regex"], name)] == []
    table = (ROOT / "docs/dashboards.md").read_text().split("From the operator")[0].split("From rank 0")[1]
    said = {f"instructbooth{name.removeprefix('instructbooth')}" for name in re.findall(r"`(\w+)[`<]", table)}
    said = {name for name in said if "_" in name}
    assert "instructbooth_stage_heartbeat_seconds" in said
    assert [name for name in said if re.fullmatch(drop["regex"], name) or not re.fullmatch(keep["regex"], name)] == []
    demo = yaml.safe_load((ROOT / "tests/cluster/prometheus/prometheus.yml").read_text())["scrape_configs"][1]
    camel = {"source_labels": "sourceLabels", "target_label": "targetLabel"}
    rules = [{camel.get(key, key): value for key, value in rule.items()} for rule in demo["metric_relabel_configs"]]
    assert rules == trainer["metricRelabelings"], "what the demo's Prometheus shows is what the chart's does"


def test_the_alerts_are_those_of_the_file():
    rule = one(render(*VARIANTS["monitored"]), "PrometheusRule", "instructbooth")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    (group,) = rule["spec"]["groups"]
    assert group["rules"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    assert all({"summary", "description"} == alert["annotations"].keys() for alert in group["rules"])


def test_what_all_training_pods_get_reaches_the_operator_as_it_understands_it():
    changed = (
        'trainer.imagePullSecrets=[{"name":"mirror"}]',
        'trainer.tolerations=[{"key":"nvidia.com/gpu","operator":"Exists"}]',
        'trainer.nodeSelector={"pool":"gpu"}',
    )
    pod = one(render("--set-json", ",".join(changed)), "Deployment", "instructbooth-operator")["spec"]["template"]
    env = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
    option = next(param for param in main.params if param.name == "trainer_pod")
    assert _pod_defaults(click.Context(main), option, env["INSTRUCTBOOTH_TRAINER_POD"]) == {
        "image_pull_secrets": [{"name": "mirror"}],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "node_selector": {"pool": "gpu"},
    }
    assert f"INSTRUCTBOOTH_{option.name.upper()}" == "INSTRUCTBOOTH_TRAINER_POD"


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and default of each value; an empty mapping is a value too."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def another(path: tuple[str, ...], default: Any) -> Any:
    """A value that the schema takes and that is not the default."""
    special = {"logLevel": "debug", "pullPolicy": "Always", "interval": "7s", "watchNamespaces": ["other"]}
    if path[-1] in special:
        return special[path[-1]]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, list):
        return [{"name": "other"}]
    if isinstance(default, dict):
        return {"other": "value"}
    return "3Gi" if path[-1] == "size" or {"requests", "limits"} & set(path) else "other"


VALUES = dict(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
EVERYTHING_ON = (
    *("--set-json", 'minio.enabled=true,networkPolicy.enabled=true,serviceAccount.name="mine"'),
    *("--set-json", 'networkPolicy.metricsFrom=[{"podSelector":{}}],networkPolicy.minioFrom=[{"podSelector":{}}]'),
    *("--set-json", "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true"),
    *("--set-json", "metrics.prometheusRule.enabled=true"),
)


@pytest.fixture(scope="module")
def with_everything_on():
    # With keys of its own the rendered text would differ each time.
    return template(*EVERYTHING_ON, "--set-json", 'minio.existingSecret="mine"')


@pytest.mark.parametrize("path", VALUES, ids=".".join)
def test_every_value_is_read(with_everything_on, path):
    """Changing it changes what is rendered; else it would be taken and ignored."""
    name = ".".join(path)
    value = False if path[-1] == "enabled" else another(path, VALUES[path])
    changed = ("--set-json", f"{name}={json.dumps(value)}")
    assert template(*EVERYTHING_ON, "--set-json", 'minio.existingSecret="mine"', *changed) != with_everything_on


@pytest.mark.parametrize("release", ["instructbooth", "x", "a-release-name-of-fifty-characters-the-longest-allowed"])
def test_names_fit_their_limits(release):
    done = helm("template", release[:53], str(CHART), "--kube-version", "1.35.0", *VARIANTS["fenced"])
    assert done.returncode == 0, done.stderr
    names = [obj["metadata"]["name"] for obj in yaml.safe_load_all(done.stdout) if obj]
    assert all(len(name) <= 63 for name in names)


def documented_permissions() -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of the table in decision 3. An empty cell repeats the one above."""
    verbs = {"get", "list", "watch", "create", "update", "patch", "delete"}
    found, group, resources = set(), "", ""
    for line in (ROOT / "docs/decisions/0003-operator-permissions.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4 or cells[0] == "API group" or cells[0].startswith("---"):
            continue
        group, resources = cells[0] or group, cells[1] or resources
        for resource in resources.split(", "):
            found |= {
                (group.replace("(core)", ""), resource, verb) for verb in re.findall(r"\w+", cells[2]) if verb in verbs
            }
    return found


def test_operator_may_do_exactly_what_is_documented():
    granted = {
        (group, resource, verb)
        for role in render()
        if role["kind"] in ROLE_KINDS and role["metadata"]["name"].startswith("instructbooth-operator")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == documented_permissions()
