"""Install, upgrade, roll back, test and uninstall with the real Helm engine against the fake API server."""

from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
from charts import CHARTS, Values, loaded, scenario_manifests, values_of, with_value
from fake_api_server import FakeAPIServer, Key
from helm_python import Config

both = pytest.mark.parametrize("chart", CHARTS)
WAIT = {"wait": "watcher", "timeout": 60}  # as `helm --wait`; takes over a second, so not everywhere


@pytest.fixture
def server() -> Iterator[FakeAPIServer]:
    with FakeAPIServer() as running:
        yield running


@pytest.fixture
def helm(server: FakeAPIServer) -> Iterator[Config]:
    with Config(kubeconfig_content=server.kubeconfig, namespace="ns", storage_driver="memory") as config:
        yield config


def installed(helm: Config, chart: str, values: Values, **options: Any) -> None:
    helm.install(loaded(chart), "rel", values, namespace="ns", create_namespace=True, **options)


def grace(server: FakeAPIServer, chart: str) -> int:
    pod = server.objects["StatefulSet", "ns", f"rel-{chart}"]["spec"]["template"]["spec"]
    return pod["terminationGracePeriodSeconds"]


def volume(server: FakeAPIServer, chart: str) -> tuple[str, str]:
    claim = server.objects[state(chart)]
    return claim["metadata"]["uid"], claim["spec"]["volumeName"]


def state(chart: str) -> Key:
    return ("PersistentVolumeClaim", "ns", f"rel-{chart}-state")


@both
def test_the_life_of_a_release(chart: str, server: FakeAPIServer, helm: Config) -> None:
    values = values_of(chart, "monitoring")
    installed(helm, chart, values, **WAIT)
    wanted = {(each["kind"], each["metadata"]["name"]) for each in scenario_manifests(chart, "monitoring")}
    hooks = {("Pod", f"rel-{chart}-test")}
    assert {(kind, name) for kind, _, name in server.objects} == wanted - hooks | {("Namespace", "ns")}
    first, before = volume(server, chart), grace(server, chart)

    upgraded = with_value(values, "terminationGracePeriodSeconds", before + 15)
    helm.upgrade(loaded(chart), "rel", with_value(upgraded, "state.size", "300Gi"), namespace="ns", **WAIT)
    assert grace(server, chart) == before + 15
    assert server.objects[state(chart)]["spec"]["resources"]["requests"]["storage"] == "300Gi"
    assert volume(server, chart) == first

    helm.test("rel", timeout=60)
    assert ("POST", "/api/v1/namespaces/ns/pods") in server.requests or any(
        method == "PATCH" and "/pods/" in path for method, path in server.requests
    )
    assert server.names("Pod") == []  # a test that passed leaves nothing

    with pytest.raises(helm_python.HelmReleaseError, match="cannot shrink"):
        helm.rollback("rel", version=1)
    helm.upgrade(loaded(chart), "rel", with_value(values, "state.size", "300Gi"), namespace="ns")
    helm.rollback("rel", version=2, **WAIT)
    assert grace(server, chart) == before + 15
    assert volume(server, chart) == first
    assert helm.history("rel")[-1]["status"] == "deployed"

    said = helm.uninstall("rel", **WAIT)
    assert f"rel-{chart}-state" in said["info"]
    assert {kind for kind, _, _ in server.objects} == {"Namespace", "PersistentVolumeClaim"}
    assert volume(server, chart) == first

    installed(helm, chart, with_value(values, "state.size", "300Gi"))
    assert volume(server, chart) == first  # the same release finds its state again


@both
def test_a_state_volume_that_is_no_longer_the_charts_own_stays(chart: str, server: FakeAPIServer, helm: Config) -> None:
    values = values_of(chart)
    installed(helm, chart, values)
    first = volume(server, chart)
    helm.upgrade(loaded(chart), "rel", with_value(values, "state.existingClaim", "another"))
    assert volume(server, chart) == first


@both
def test_a_failing_test_is_reported(chart: str, server: FakeAPIServer, helm: Config) -> None:
    installed(helm, chart, values_of(chart))
    server.pod_outcome = "Failed"
    with pytest.raises(helm_python.HelmReleaseError, match="failed"):
        helm.test("rel", timeout=60)


BAD = {
    "an unknown field": ("extraVolumes", [{"name": "x", "emptydir": {}}], "emptydir"),
    "a host path": ("extraVolumes", [{"name": "x", "hostPath": {"path": "/"}}], "PodSecurity"),
    "an unknown kind": (
        "extraObjects",
        [{"apiVersion": "policy/v1beta1", "kind": "PodSecurityPolicy", "metadata": {"name": "x"}}],
        "could not find the requested resource",
    ),
    "a variable twice": ("extraEnv", [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}], "twice"),
    "a privileged init container": (
        "initContainers",
        [{"name": "x", "image": "x:1", "securityContext": {"privileged": True}}],
        "PodSecurity",
    ),
}


@both
def test_bad_manifests_are_rejected_and_the_release_stays(chart: str, server: FakeAPIServer, helm: Config) -> None:
    values = values_of(chart)
    installed(helm, chart, values)
    before, first = grace(server, chart), volume(server, chart)
    for path, value, message in BAD.values():
        worse = with_value(with_value(values, path, value), "terminationGracePeriodSeconds", 7)
        with pytest.raises(helm_python.HelmReleaseError, match=message):
            helm.upgrade(loaded(chart), "rel", worse, namespace="ns", timeout=60)
        assert grace(server, chart) == before
        assert volume(server, chart) == first


def test_changes_that_a_stateful_set_can_take(server: FakeAPIServer, helm: Config) -> None:
    values = values_of("silo-agent")
    installed(helm, "silo-agent", values)
    for name, change in {
        "commonLabels": {"a": "b"},
        "podLabels": {"c": "d"},
        "image": {"registry": "mirror.example.org", "tag": "0.1.1"},
        "fullnameOverride": "other",
    }.items():
        helm.upgrade(loaded("silo-agent"), "rel", with_value(values, name, change), namespace="ns")
    assert state("silo-agent") in server.objects  # another name, another volume; the first one stays


def test_a_dry_run_writes_nothing(server: FakeAPIServer, helm: Config) -> None:
    helm.install(loaded("aggregator"), "rel", values_of("aggregator"), namespace="ns", dry_run="server")
    assert server.objects == {}


@both
def test_an_older_kubernetes(chart: str) -> None:
    with FakeAPIServer("1.28") as server:
        with Config(kubeconfig_content=server.kubeconfig, namespace="ns", storage_driver="memory") as helm:
            installed(helm, chart, values_of(chart))
        assert server.names("StatefulSet") == [f"rel-{chart}"]


def test_too_old_a_kubernetes_is_refused() -> None:
    with FakeAPIServer("1.24") as server, Config(kubeconfig_content=server.kubeconfig, storage_driver="memory") as helm:
        with pytest.raises(helm_python.HelmError, match="kubeVersion"):
            helm.install(loaded("aggregator"), "rel", values_of("aggregator"))
        assert server.objects == {}
