"""Every manifest of every scenario against what a cluster would hold it against; and the checks against bad ones."""

from copy import deepcopy
from typing import Any

import pytest
import yaml
from charts import CHARTS, SCENARIOS, one, scenario_manifests, workload
from manifests import (
    CUSTOM,
    described,
    hardening_problems,
    manifests_of,
    pod_of,
    repeated_names,
    restricted_problems,
    schema_problems,
    unmounted_volumes,
)

# The first is the charts' kubeVersion; the others are the oldest and newest that the issue names.
VERSIONS = ("1.25", "1.28", "1.37")
scenarios = pytest.mark.parametrize(("chart", "scenario"), SCENARIOS, ids=lambda part: part)


@pytest.mark.parametrize("version", VERSIONS)
@scenarios
def test_schemas_strictly(chart: str, scenario: str, version: str) -> None:
    for manifest in scenario_manifests(chart, scenario):
        assert schema_problems(manifest, version) == [], described(manifest)


@scenarios
def test_pod_security_restricted_and_more(chart: str, scenario: str) -> None:
    pods = [each for each in scenario_manifests(chart, scenario) if pod_of(each)]
    assert sorted(each["kind"] for each in pods) == ["Pod", "StatefulSet"]  # the test, and the workload
    for manifest in pods:
        pod = pod_of(manifest)
        assert restricted_problems(pod) == [], described(manifest)
        assert hardening_problems(pod) == [], described(manifest)
        assert unmounted_volumes(pod) == [], described(manifest)
        assert pod["enableServiceLinks"] is False  # a Service named sparsilo-metrics would set SPARSILO_METRICS_PORT


@scenarios
def test_names_are_unique(chart: str, scenario: str) -> None:
    found = scenario_manifests(chart, scenario)
    for manifest in found:
        assert repeated_names(manifest) == [], described(manifest)
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names))


@scenarios
def test_selectors_select_the_pod(chart: str, scenario: str) -> None:
    found = scenario_manifests(chart, scenario)
    labels = one(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    test = one(found, "Pod")["metadata"]["labels"].items()
    for manifest in found:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "NetworkPolicy" and manifest["metadata"]["name"].endswith("-test"):
            assert spec["podSelector"]["matchLabels"].items() <= test
            assert not spec["podSelector"]["matchLabels"].items() <= labels
            continue
        selector = spec.get("selector") or spec.get("podSelector") or spec.get("endpointSelector") or {}
        matched = selector.get("matchLabels", selector).items()
        assert matched <= labels, described(manifest)
        assert not matched or not matched <= test, described(manifest)


@scenarios
def test_everything_is_labelled(chart: str, scenario: str) -> None:
    for manifest in scenario_manifests(chart, scenario):
        metadata = manifest["metadata"]
        if "note" in metadata["name"] or metadata["name"].endswith("-a-text"):
            continue  # extraObjects are the operator's own
        labels = metadata["labels"]
        assert metadata["namespace"] == "ns"
        assert labels["app.kubernetes.io/instance"] == "rel"
        assert labels["app.kubernetes.io/name"] == chart
        if manifest["kind"] != "Pod":
            assert labels["app.kubernetes.io/managed-by"] == "Helm"
            assert labels["app.kubernetes.io/part-of"] == "sparsilo"
            assert labels["helm.sh/chart"] == f"{chart}-0.1.0"
            assert labels["app.kubernetes.io/version"] == "0.1.0"


@scenarios
def test_no_role_no_secret_and_no_service_account_token(chart: str, scenario: str) -> None:
    found = scenario_manifests(chart, scenario)
    assert not {each["kind"] for each in found} & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Secret"}
    for manifest in found:
        if manifest["kind"] == "ConfigMap":
            for text in manifest.get("data", {}).values():
                assert "-----BEGIN" not in text
                assert "@" not in text.split("\nmodel:")[0] or "proxy" not in text
        if manifest["kind"] == "ServiceAccount":
            assert manifest["automountServiceAccountToken"] is False
    pod = workload(found)
    assert "secretKeyRef" not in yaml.safe_dump(pod)
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440
    for container in pod["containers"] + pod.get("initContainers", []):
        for mount in container.get("volumeMounts", []):
            assert mount.get("readOnly") or mount["name"] in ("state", "tmp", "shm", "results", "scratch")


@scenarios
def test_probes_are_plain_http(chart: str, scenario: str) -> None:
    [container] = workload(scenario_manifests(chart, scenario))["containers"]
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert all(get["port"] == "metrics" for get in asked.values())


# The checks themselves.

POD: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "c",
            "image": "i:1",
            "resources": {"limits": {"memory": "1Gi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}
BAD = {
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
    "securityContext.runAsNonRoot": None,
    "securityContext.runAsUser": 0,
    "securityContext.seccompProfile": None,
    "securityContext.seccompProfile.type": "Unconfined",
    "securityContext.appArmorProfile": {"type": "Unconfined"},
    "securityContext.seLinuxOptions": {"type": "spc_t"},
    "securityContext.sysctls": [{"name": "kernel.msgmax", "value": "1"}],
    "containers.0.securityContext": None,
    "containers.0.securityContext.privileged": True,
    "containers.0.securityContext.allowPrivilegeEscalation": None,
    "containers.0.securityContext.capabilities": None,
    "containers.0.securityContext.capabilities.add": ["NET_RAW"],
    "containers.0.securityContext.runAsNonRoot": False,
    "containers.0.securityContext.runAsUser": 0,
    "containers.0.securityContext.procMount": "Unmasked",
    "containers.0.securityContext.seccompProfile": {"type": "Unconfined"},
    "containers.0.ports": [{"containerPort": 80, "hostPort": 80}],
    "containers.0.livenessProbe": {"httpGet": {"host": "example.org", "port": 80}},
}


def changed(pod: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    result = deepcopy(pod)
    place: Any = result
    *folders, last = path.split(".")
    for folder in folders:
        place = place[int(folder) if folder.isdigit() else folder]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return result


def test_a_restricted_pod_passes() -> None:
    assert restricted_problems(POD) == []
    assert hardening_problems(POD) == []


@pytest.mark.parametrize("path", BAD)
def test_what_restricted_forbids_is_found(path: str) -> None:
    assert restricted_problems(changed(POD, path, BAD[path]))


@pytest.mark.parametrize("field", ["initContainers", "ephemeralContainers"])
def test_every_kind_of_container_is_looked_at(field: str) -> None:
    assert restricted_problems(POD | {field: [{"name": "x"}]})
    assert hardening_problems(POD | {field: [{"name": "x"}]})


@pytest.mark.parametrize(
    "path",
    [
        "automountServiceAccountToken",
        "containers.0.securityContext.readOnlyRootFilesystem",
        "containers.0.resources.limits.memory",
    ],
)
def test_what_hardening_asks_for_is_missed(path: str) -> None:
    assert hardening_problems(changed(POD, path, None))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("StatefulSet", "spec.template.spec.securityContex", {}),
        ("StatefulSet", "spec.replicas", "one"),
        ("StatefulSet", "spec.serviceNam", "x"),
        ("StatefulSet", "spec.template.spec.containers.0.readOnlyRootFilesystem", True),
        ("StatefulSet", "apiVersion", "apps/v1beta1"),
        ("StatefulSet", "kind", "StatefulSat"),
        ("Service", "spec.ports.0.targetport", 1),
        ("PersistentVolumeClaim", "spec.accessModes", "ReadWriteOnce"),
        ("NetworkPolicy", "spec.egress.0.from", []),
        ("ServiceMonitor", "spec.endpoints.0.intervall", "30s"),
        ("ServiceMonitor", "spec.endpoints.0.interval", 30),
        ("ServiceMonitor", "spec.endpoints", []),
        ("ServiceMonitor", "spec.selector", None),
        ("ServiceMonitor", "apiVersion", "monitoring.coreos.com/v2"),
        ("PrometheusRule", "spec.groups.0.rules.0.expresion", "1"),
        ("PrometheusRule", "spec.groups.0.rules.0.expr", None),
        ("PrometheusRule", "metadata.label", {}),
    ],
)
def test_schema_problems_are_found(kind: str, path: str, value: object, version: str) -> None:
    manifest = next(each for each in scenario_manifests("aggregator", "monitoring") if each["kind"] == kind)
    assert schema_problems(changed(manifest, path, value), version)


def test_every_custom_kind_is_rendered_by_some_scenario() -> None:
    kinds = {(each["apiVersion"], each["kind"]) for pair in SCENARIOS for each in scenario_manifests(*pair)}
    assert set(CUSTOM) <= kinds


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("env", {"name": "HOME", "value": "/"}),
        ("ports", {"name": "other", "containerPort": 9464, "protocol": "TCP"}),
        ("ports", {"name": "metrics", "containerPort": 1, "protocol": "TCP"}),
        ("volumeMounts", {"name": "tmp", "mountPath": "/var/lib/sparsilo"}),
    ],
)
def test_repeated_names_are_found(path: str, item: dict[str, Any]) -> None:
    manifest = one(scenario_manifests("silo-agent", "default"), "StatefulSet")
    manifest["spec"]["template"]["spec"]["containers"][0][path].append(item)
    assert repeated_names(manifest)


def test_repeated_volumes_and_keys_are_found() -> None:
    manifest = one(scenario_manifests("silo-agent", "default"), "StatefulSet")
    manifest["spec"]["template"]["spec"]["volumes"].append({"name": "tmp", "emptyDir": {}})
    assert repeated_names(manifest)
    with pytest.raises(yaml.YAMLError, match="repeated keys"):
        manifests_of("a: 1\nb: {c: 1, c: 2}\n")


def test_the_scenarios_of_both_charts() -> None:
    of = {chart: {scenario for each, scenario in SCENARIOS if each == chart} for chart in CHARTS}
    both = {"default", "existing-secrets", "cert-manager", "openshift", "monitoring", "pod-monitor", "air-gap"}
    assert both <= of["aggregator"]
    assert both | {"enrolment", "gpu", "proxy", "manual-hours", "cilium"} <= of["silo-agent"]
