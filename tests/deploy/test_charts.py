"""What the charts render, what they refuse, and whether their documents say the same."""

import re
import shlex
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import helm_python
import pytest
import yaml
from charts import (
    CHARTS,
    HELM,
    SCENARIOS,
    Values,
    loaded,
    manifests,
    one,
    render,
    scenario_manifests,
    values_of,
    with_value,
    workload,
)
from manifests import Manifest, containers_of, pod_of
from values_table import commented, readme

from aggregator.config import AggregatorConfig
from silo_agent.config import AgentConfig

both = pytest.mark.parametrize("chart", CHARTS)
scenarios = pytest.mark.parametrize(("chart", "scenario"), SCENARIOS, ids=lambda part: part)
silo_scenarios = pytest.mark.parametrize("scenario", [name for chart, name in SCENARIOS if chart == "silo-agent"])
DIGEST = "ab" * 32


@scenarios
def test_strict_lint_is_clean(chart: str, scenario: str) -> None:
    assert helm_python.lint(HELM / chart, values_of(chart, scenario), strict=True)["messages"] == []


@both
def test_strict_lint_of_the_defaults_is_clean(chart: str) -> None:
    assert helm_python.lint(HELM / chart, strict=True)["messages"] == []


@both
def test_an_install_with_open_values_names_all_of_them(chart: str) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(chart, {})
    expected = {
        "aggregator": ["publicAddress:", "image.registry:", "model:"],
        "silo-agent": [
            *("silo:", "aggregator.host:", "calibration.existingClaim:", "policy.models:", "identity:"),
            *("aggregator.cidrs:", "image.registry:", "model:"),
        ],
    }
    assert all(f"- {name}" in str(refused.value) for name in expected[chart])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("identity.enrolment.fingerprint", "", "identity.enrolment.fingerprint:"),
        ("identity", {"signingKey": {"existingSecret": "key"}}, "tls:"),
        ("proxy.url", "http://proxy.example.org:3128", "proxy.cidrs:"),
        ("aggregator.cidrs", [], "aggregator.cidrs:"),
        ("tls.authority.existingConfigMap", "authority", "tls.authority:"),
        ("metrics", {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "metrics: serviceMonitor"),
    ],
)
def test_values_that_do_not_go_together(path: str, value: object, message: str) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render("silo-agent", with_value(values_of("silo-agent"), path, value))
    assert f"- {message}" in str(refused.value)


SILO_WRONG: list[tuple[str, object]] = [
    ("silo", "Hospital A"),
    ("silo", "a" * 64),
    ("aggregator.host", "https://aggregator.example.org"),
    ("aggregator.port", 0),
    ("aggregator.port", 65536),
    ("aggregator.port", "443"),
    ("aggregator.cidrs", ["aggregator.example.org"]),
    ("aggregator.cidrs", ["192.0.2.10"]),
    ("aggregator.cidrs", ["192.0.2.0/33"]),
    ("proxy.url", "https://proxy.example.org:3128"),
    ("proxy.url", "http://user:password@proxy.example.org:3128"),
    ("proxy.url", "http://proxy.example.org"),
    ("proxy", {"url": "http://proxy.example.org:3128", "existingSecret": "proxy"}),
    ("identity.enrolment.fingerprint", "3f2a"),
    ("identity", {"enrolment": {"existingSecret": "a"}, "signingKey": {"existingSecret": "b"}}),
    ("tls", {"existingSecret": "a", "certManager": {"enabled": True, "issuerRef": {"name": "b"}}}),
    ("tls.certManager.privateKey", {"algorithm": "RSA", "size": 256}),
    ("tls.certManager.duration", "90 days"),
    ("model", {"existingClaim": "a", "hub": "b/c"}),
    ("model.hub", "https://hub.example.org/b/c"),
    ("model.hub", "b/c"),
    ("model.hub", "b/c@main"),
    ("model.path", "../elsewhere"),
    ("model.path", "/models"),
    ("calibration.path", "notes.docx"),
    ("calibration.path", "../notes.txt"),
    ("agent.suite", "quick"),
    ("agent.sparsity_ratio", "1"),
    ("agent.capacity", -1),
    ("agent.reconnect_seconds", 0),
    ("agent.stay", "yes"),
    ("agent.retention", -1),
    ("agent.upload_bytes_per_second", "fast"),
    ("policy.models", "every"),
    ("policy.models", ["abc"]),
    ("policy.models", [DIGEST, DIGEST]),
    ("policy.release_kinds", []),
    ("policy.release_kinds", ["votes", "text"]),
    ("policy.least_survivors", 1),
    ("policy.least_survivors", 201),
    ("policy.least_survivors", 3.5),
    ("policy.least_cohort", 1),
    ("policy.least_honest_survivors", 1),
    ("policy.colluders", -1),
    ("policy.colluders", 198),
    ("policy.least_samples", 0),
    ("policy.least_sequence_length", 1),
    ("policy.most_sparsity_ratio", 1.1),
    ("policy.least_sparsity_ratio_of_others", -0.1),
    ("policy.most_rounds", 0),
    ("policy.candidates", -1),
    ("policy.accusations", 0),
    ("policy.budget.releases", 0),
    ("policy.budget.epsilon", 0),
    ("policy.budget.epsilon", -1),
    ("policy.budget.epsilon", "infinite"),
    ("policy.budget.delta", 0),
    ("policy.budget.delta", 1),
    ("policy.budget.delta", "0.1"),
    ("policy.budget.delta", None),
    ("policy.budget.epoch", "A b"),
    ("policy.budget.epoch", "x" * 64),
    ("policy.budget.epoch", 2026),
    ("policy.approval", "yes"),
    ("policy.hours", {"days": ["mon"], "from": "8:00", "to": "18:00", "timezone": "Europe/Berlin"}),
    ("policy.hours", {"days": ["mon"], "from": "08:00", "to": "24:00", "timezone": "Europe/Berlin"}),
    ("policy.hours", {"days": ["monday"], "from": "08:00", "to": "18:00", "timezone": "Europe/Berlin"}),
    ("policy.hours", {"days": [], "from": "08:00", "to": "18:00", "timezone": "Europe/Berlin"}),
    ("policy.hours", {"days": ["mon"], "from": "08:00", "to": "18:00"}),
    ("gpu.count", 0),
    ("gpu.device", "cpu"),
    ("networkPolicy.dns.to", []),
]
BOTH_WRONG: list[tuple[str, object]] = [
    ("image.tag", "latest"),
    ("image.tag", ":1"),
    ("image.digest", "sha256:abc"),
    ("image.pullPolicy", "Sometimes"),
    ("image.repository", "Sparsilo/Agent"),
    ("global.imagePullSecrets", ["mirror"]),
    ("state.size", "big"),
    ("state.accessModes", ["ReadWriteMany"]),
    ("state.accessModes", []),
    ("resources.limits", None),
    ("resources.limits.memory", "8 GB"),
    ("podSecurityContext.runAsNonRoot", False),
    ("podSecurityContext.runAsUser", 0),
    ("podSecurityContext.seccompProfile", {"type": "Unconfined"}),
    ("podSecurityContext.seccompProfile", None),
    ("securityContext.readOnlyRootFilesystem", False),
    ("securityContext.readOnlyRootFilesystem", None),
    ("securityContext.allowPrivilegeEscalation", True),
    ("securityContext.privileged", True),
    ("securityContext.capabilities", {"drop": ["NET_RAW"]}),
    ("securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ("metrics.serviceMonitor.interval", "often"),
    ("probes.liveness.periodSeconds", 0),
    ("terminationGracePeriodSeconds", 0),
    ("fullnameOverride", "a" * 53),
    ("extraEnv", [{"name": "SPARSILO_POLICY", "value": "other.yaml"}]),
    ("extraEnv", [{"name": "HOME", "value": "/root"}]),
    ("extraVolumes", [{"name": "state", "emptyDir": {}}]),
    ("extraVolumeMounts", [{"name": "x", "mountPath": "/var/lib/sparsilo"}]),
    ("commonLabels", {"a": 1}),
]
AGGREGATOR_WRONG: list[tuple[str, object]] = [
    ("publicAddress", "aggregator.example.org"),
    ("publicAddress", "https://aggregator.example.org:443"),
    ("suite", "quick"),
    ("plans", {"First Plan": "a"}),
    ("plans", {"first": {"pruner": "wanda"}}),
    ("service.type", "ExternalName"),
    ("service.port", 0),
    ("service.loadBalancerSourceRanges", ["anywhere"]),
    ("tls.certManager", {"enabled": True}),
    ("podDisruptionBudget.enabled", "yes"),
]
WRONG = [
    *(("silo-agent", path, value) for path, value in SILO_WRONG + BOTH_WRONG),
    *(("aggregator", path, value) for path, value in AGGREGATOR_WRONG + BOTH_WRONG),
]


def test_there_are_enough_wrong_values() -> None:
    assert len(WRONG) >= 25
    assert {path.partition(".")[0] for chart, path, _ in WRONG if chart == "silo-agent"} >= {
        "policy",
        "identity",
        "tls",
    }


@pytest.mark.parametrize(("chart", "path", "value"), WRONG, ids=str)
def test_the_schema_rejects_and_names_the_path(chart: str, path: str, value: object) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        loaded(chart).validate_schema(with_value(values_of(chart), path, value))
    named = re.findall(r"at '([^']*)'", str(refused.value))
    # A key that was taken out is missing from the mapping around it.
    expected = "/" + (path if value is not None else path.rpartition(".")[0]).replace(".", "/")
    assert any(each == expected or each.startswith(f"{expected}/") for each in named), str(refused.value)


def mappings(values: Values, prefix: str = "") -> Iterator[str]:
    yield prefix
    for key, value in values.items():
        if isinstance(value, dict):
            yield from mappings(value, f"{prefix}{key}.")


# Keys are the operator's own.
FREE = re.compile(
    r"(global|.*(labels|annotations|Labels|Annotations)|nodeSelector|affinity|plans|resources\.(requests|limits))\."
)
CLOSED = [
    (chart, prefix)
    for chart in CHARTS
    for prefix in mappings(loaded(chart).values)
    if not FREE.match(prefix) and prefix != "policy.hours."
]


@pytest.mark.parametrize(("chart", "prefix"), CLOSED, ids=str)
def test_no_mapping_takes_an_unknown_key(chart: str, prefix: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match="additional properties 'unknown' not allowed"):
        loaded(chart).validate_schema(with_value(values_of(chart), f"{prefix}unknown", 1))


def test_the_schemas_agree_on_what_both_charts_have() -> None:
    aggregator_schema, silo_schema = (loaded(chart).schema for chart in CHARTS)
    assert aggregator_schema["definitions"] == silo_schema["definitions"]
    own = {"tls", "networkPolicy"}
    for name in aggregator_schema["properties"].keys() & silo_schema["properties"].keys() - own:
        assert aggregator_schema["properties"][name] == silo_schema["properties"][name], name


def test_the_charts_share_their_common_templates() -> None:
    shared = {
        file.relative_to(HELM / "silo-agent")
        for file in (HELM / "silo-agent/templates").rglob("*")
        if file.is_file() and (HELM / "aggregator" / file.relative_to(HELM / "silo-agent")).exists()
    }
    own = {
        Path(f"templates/{name}") for name in ("configmap.yaml", "statefulset.yaml", "networkpolicy.yaml", "NOTES.txt")
    }
    assert Path("templates/_common.tpl") in shared
    for file in shared - own:
        assert (HELM / "silo-agent" / file).read_bytes() == (HELM / "aggregator" / file).read_bytes(), file


# What is rendered.


def config_of(found: list[Manifest], key: str) -> Any:
    return yaml.safe_load(one(found, "ConfigMap", "-config")["data"][key])


def written(found: list[Manifest], folder: Path) -> Path:
    """The config files, where the container has them."""
    for name, text in one(found, "ConfigMap", "-config")["data"].items():
        (folder / name).write_text(text)
    return folder


@silo_scenarios
def test_the_agent_reads_its_config(scenario: str, tmp_path: Path) -> None:
    values, found = values_of("silo-agent", scenario), scenario_manifests("silo-agent", scenario)
    config = AgentConfig.read(written(found, tmp_path) / "agent.yaml")
    merged = loaded("silo-agent").merge_values(values)
    assert config.silo == values["silo"]
    assert config.aggregator == f"{values['aggregator']['host']}:443"
    assert config.policy == tmp_path / "policy.yaml"
    assert config.device == ("cuda" if merged["gpu"]["enabled"] else "cpu")
    for field, value in merged["agent"].items():
        read = config.suite.profile if field == "suite" else getattr(config, field)
        assert read == (None if (field, value) == ("retention", 0) else value), field
    assert f"{config.metrics_host}:{config.metrics_port}" == "0.0.0.0:9464"
    assert config.renew_certificate is (not any(v["name"] == "tls" for v in workload(found)["volumes"]))
    mounts = {mount["name"]: mount["mountPath"] for mount in workload(found)["containers"][0]["volumeMounts"]}
    assert (None if config.fetch_results is None else str(config.fetch_results)) == mounts.get("results")
    assert (config.fetch_results is not None) == (scenario == "extras")
    if scenario == "proxy":
        assert config.proxy == "http://proxy.hospital-a.example:3128"
    elif scenario == "proxy-password":
        assert config.proxy_file == Path("/run/secrets/sparsilo/proxy/proxy")
    else:
        assert config.proxy == "none"


@silo_scenarios
def test_every_file_that_the_agent_reads_is_mounted(scenario: str) -> None:
    found = scenario_manifests("silo-agent", scenario)
    [container] = workload(found)["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    fields = ("calibration", "state", "signing_key", "roster", "certificate", "private_key", "authority", "proxy_file")
    config = config_of(found, "agent.yaml")
    files = [config[field] for field in fields if field in config]
    files += [] if "hub" in scenario else [config["model"]]
    for file in files:
        assert any(Path(file).is_relative_to(mount) for mount in mounts), file


@silo_scenarios
def test_policy_says_what_the_values_say(scenario: str, tmp_path: Path) -> None:
    found = scenario_manifests("silo-agent", scenario)
    wanted = loaded("silo-agent").merge_values(values_of("silo-agent", scenario))["policy"]
    if not wanted["hours"]:
        del wanted["hours"]
    assert config_of(found, "policy.yaml") == wanted  # numbers as numbers, times as texts


@silo_scenarios
def test_the_agent_reads_its_policy(scenario: str, tmp_path: Path) -> None:
    from silo_agent.consent.bounds import BOUNDS
    from silo_agent.consent.policy import Policy

    found = scenario_manifests("silo-agent", scenario)
    policy = Policy.read(written(found, tmp_path) / "policy.yaml")
    wanted = loaded("silo-agent").merge_values(values_of("silo-agent", scenario))["policy"]
    budget = wanted["budget"]
    assert policy.models == (None if wanted["models"] == "any" else frozenset(wanted["models"]))
    assert policy.release_kinds == set(wanted["release_kinds"])
    assert (policy.approval, policy.releases, policy.delta) == (wanted["approval"], budget["releases"], budget["delta"])
    assert policy.epsilon == (None if budget["epsilon"] == "unlimited" else budget["epsilon"])
    assert policy.epoch == budget["epoch"]
    assert (policy.hours is None) == (wanted["hours"] == {})
    for field in BOUNDS:
        assert getattr(policy, field) == (Decimal(str(wanted[field])) if "ratio" in field else wanted[field])


@pytest.mark.parametrize("scenario", [name for chart, name in SCENARIOS if chart == "aggregator"])
def test_the_aggregator_reads_its_config(scenario: str, tmp_path: Path) -> None:
    values, found = values_of("aggregator", scenario), scenario_manifests("aggregator", scenario)
    config = AggregatorConfig.read(written(found, tmp_path) / "aggregator.yaml")
    assert config.public_address == values["publicAddress"]
    assert config.suite.profile == values.get("suite", "default")
    assert config.address == "0.0.0.0:8443"
    assert f"{config.metrics_host}:{config.metrics_port}" == "0.0.0.0:9464"
    [container] = workload(found)["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for file in (config.certificate, config.private_key, config.authority, config.client_authorities, config.state):
        assert file is None or any(file.is_relative_to(mount) for mount in mounts), file
    assert (config.certificate is None) == (scenario not in ("existing-secrets", "cert-manager"))


def parsed(arguments: list[str]) -> click.Context:
    """A command line, read by the program that it starts. Raises click.UsageError where that does not know it."""
    import aggregator.cli
    import silo_agent.cli

    program, *rest = arguments
    command: click.Command = {"aggregator": aggregator.cli.cli, "silo-agent": silo_agent.cli.cli}[program]
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None and name is not None
        context = command.make_context(name, rest, parent=context) if not isinstance(command, click.Group) else context
    return context


@scenarios
def test_the_programs_know_their_arguments(chart: str, scenario: str) -> None:
    pod = workload(scenario_manifests(chart, scenario))
    for container in pod["containers"] + pod.get("initContainers", []):
        if container["command"][0] != "python3":
            parsed(container["command"] + container.get("args", []))


@scenarios
def test_the_programs_know_what_notes_tell_to_type(chart: str, scenario: str) -> None:
    notes = render(chart, values_of(chart, scenario))["NOTES.txt"]
    typed = re.findall(rf"kubectl -n ns exec \S*{chart}\S*-0 -- (.+)", notes)
    assert len(typed) >= 3
    for line in typed:
        arguments = shlex.split(line)
        if arguments[0] != "cat":
            parsed(arguments)


def allowed(policy: Manifest, direction: str) -> set[tuple[str, int]]:
    """Peers and ports that a policy lets through."""
    peer = {"egress": "to", "ingress": "from"}[direction]
    assert direction.capitalize() in policy["spec"]["policyTypes"]
    return {
        (str(each), port["port"])
        for rule in policy["spec"].get(direction, [])
        for each in rule.get(peer, ["anybody"])
        for port in rule["ports"]
    }


DNS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
DNS["podSelector"] = {"matchLabels": {"k8s-app": "kube-dns"}}


@pytest.mark.parametrize(
    ("scenario", "beside_dns"),
    [
        ("default", {("192.0.2.10/32", 443)}),
        ("gpu", {("192.0.2.10/32", 443)}),
        ("proxy", {("10.20.0.8/32", 3128), ("fd00:20::8/128", 3128)}),
        ("proxy-password", {("10.20.0.8/32", 8080)}),
    ],
)
def test_a_silo_reaches_name_resolution_and_one_peer_only(scenario: str, beside_dns: set[tuple[str, int]]) -> None:
    policy = one(scenario_manifests("silo-agent", scenario), "NetworkPolicy", "-agent")
    peers = {(str({"ipBlock": {"cidr": cidr}}), port) for cidr, port in beside_dns}
    assert allowed(policy, "egress") == peers | {(str(DNS), 53)}
    scraping = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert {port for _, port in allowed(policy, "ingress")} == {9464}
    assert (str(scraping), 9464) in allowed(policy, "ingress")
    assert len(allowed(policy, "ingress")) == 2  # and the test pod


def test_with_cilium_a_silo_reaches_the_aggregator_by_name_only() -> None:
    found = scenario_manifests("silo-agent", "cilium")
    assert allowed(one(found, "NetworkPolicy", "-agent"), "egress") == set()
    dns, aggregator_rule = one(found, "CiliumNetworkPolicy")["spec"]["egress"]
    assert dns["toPorts"][0]["rules"]
    assert aggregator_rule["toFQDNs"] == [{"matchName": "aggregator.example.org"}]
    assert aggregator_rule["toPorts"] == [{"ports": [{"port": "443", "protocol": "TCP"}]}]


def test_the_aggregator_reaches_name_resolution_only() -> None:
    policy = one(scenario_manifests("aggregator", "load-balancer"), "NetworkPolicy", "-aggregator")
    assert allowed(policy, "egress") == {(str(DNS), 53)}
    silos = {each for each in allowed(policy, "ingress") if each[1] == 8443}
    assert silos == {("{'ipBlock': {'cidr': '198.51.100.0/24'}}", 8443)}
    assert {port for _, port in allowed(policy, "ingress")} == {8443, 9464}
    anybody = one(scenario_manifests("aggregator", "default"), "NetworkPolicy", "-aggregator")
    assert ("anybody", 8443) in allowed(anybody, "ingress")


@both
def test_without_network_policy_the_notes_warn(chart: str) -> None:
    found = scenario_manifests(chart, "no-network-policy")
    assert not [each for each in found if each["kind"] == "NetworkPolicy"]
    assert (
        "WARNING: networkPolicy.enabled is false" in render(chart, values_of(chart, "no-network-policy"))["NOTES.txt"]
    )
    assert "WARNING" not in render(chart, values_of(chart))["NOTES.txt"]


def test_weak_policies_are_warned_of() -> None:
    notes = render("silo-agent", values_of("silo-agent", "cilium"))["NOTES.txt"]
    assert "WARNING: policy.approval is auto" in notes
    assert "WARNING: policy.models is any" in notes


@both
def test_state_is_one_pod_and_a_volume_that_stays(chart: str) -> None:
    found = scenario_manifests(chart, "default")
    claim = one(found, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    stateful_set = one(found, "StatefulSet")["spec"]
    assert stateful_set["replicas"] == 1
    assert stateful_set["podManagementPolicy"] == "Parallel"  # else an upgrade waits for a pod that cannot get ready
    assert "volumeClaimTemplates" not in stateful_set
    [state] = [volume for volume in workload(found)["volumes"] if volume["name"] == "state"]
    assert state["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert not [each for each in scenario_manifests(chart, "extras") if each["kind"] == "PersistentVolumeClaim"]


def test_gpu() -> None:
    pod = workload(scenario_manifests("silo-agent", "gpu"))
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 1}
    assert pod["runtimeClassName"] == "nvidia"
    assert {each["key"] for each in pod["tolerations"]} == {"dedicated", "nvidia.com/gpu"}
    [shm] = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    for without in pod["initContainers"] + workload(scenario_manifests("silo-agent", "default"))["containers"]:
        assert "nvidia.com/gpu" not in without["resources"]["limits"]


@both
def test_openshift_chooses_the_ids(chart: str) -> None:
    for manifest in scenario_manifests(chart, "openshift"):
        text = yaml.safe_dump(manifest)
        assert not re.search("runAsUser|runAsGroup|fsGroup:", text)


@both
def test_cert_manager_makes_a_new_key_each_time(chart: str) -> None:
    found = scenario_manifests(chart, "cert-manager")
    certificate = one(found, "Certificate")["spec"]
    assert certificate["privateKey"]["rotationPolicy"] == "Always"
    [tls] = [volume for volume in workload(found)["volumes"] if volume["name"] == "tls"]
    assert tls["secret"]["secretName"] == certificate["secretName"]
    if chart == "silo-agent":
        assert certificate["commonName"] == "hospital-a"  # what the aggregator knows it by
        assert "client auth" in certificate["usages"]
    else:
        assert certificate["dnsNames"][0] == "aggregator.example.org"
        assert "server auth" in certificate["usages"]


def test_enrolment_happens_once_and_sees_neither_model_nor_text() -> None:
    pod = workload(scenario_manifests("silo-agent", "default"))
    [enroll] = pod["initContainers"]
    assert "--once" in enroll["args"]
    assert {mount["name"] for mount in enroll["volumeMounts"]} == {"invitation", "state", "tmp"}
    [invitation] = [volume for volume in pod["volumes"] if volume["name"] == "invitation"]
    assert invitation["secret"]["optional"] is True  # the Secret may be deleted once it is used
    assert not workload(scenario_manifests("silo-agent", "existing-secrets")).get("initContainers")


def checksum(chart: str, values: Values) -> str:
    template = one(manifests(chart, values), "StatefulSet")["spec"]["template"]
    return template["metadata"]["annotations"]["checksum/config"]


def test_a_pod_restarts_for_its_config_and_not_for_a_plan() -> None:
    silo = values_of("silo-agent")
    assert checksum("silo-agent", silo) != checksum("silo-agent", with_value(silo, "policy.approval", "auto"))
    assert checksum("silo-agent", silo) != checksum("silo-agent", with_value(silo, "agent.capacity", 3))
    values = values_of("aggregator")
    assert checksum("aggregator", values) == checksum("aggregator", with_value(values, "plans", {"first": "a: 1"}))
    assert checksum("aggregator", values) != checksum("aggregator", with_value(values, "suite", "fips"))


def test_plans_are_files() -> None:
    data = one(scenario_manifests("aggregator", "plans"), "ConfigMap", "-plans")["data"]
    assert set(data) == {"first.yaml", "second.yaml"}
    assert yaml.safe_load(data["first.yaml"]) == {"pruner": "wanda", "sparsity_ratio": "0.5"}


@both
def test_monitoring(chart: str) -> None:
    found = scenario_manifests(chart, "monitoring")
    rule = one(found, "PrometheusRule")
    plain = yaml.safe_load((HELM / chart / "rules/alerts.yaml").read_text())
    assert [group["name"] for group in rule["spec"]["groups"]] == [group["name"] for group in plain["groups"]]
    for rendered, source in zip(rule["spec"]["groups"], plain["groups"], strict=True):
        for alert, before in zip(rendered["rules"], source["rules"], strict=True):
            assert alert["expr"] == before["expr"]
            assert alert["annotations"]["description"] == before["annotations"]["description"]  # {{ }} untouched
            assert alert["annotations"]["runbook_url"].startswith("https://docs.example.org/operations.html#")
    dashboards = one(found, "ConfigMap", "-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["metadata"]["annotations"]["grafana_folder"] == "Sparsilo"
    files = {file.name: file.read_text() for file in (HELM / chart / "dashboards").glob("*.json")}
    assert files
    assert {name: text.strip() for name, text in dashboards["data"].items()} == {
        name: text.strip() for name, text in files.items()
    }
    pod = one(found, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]
    assert (pod["prometheus.io/scrape"], pod["prometheus.io/port"], pod["prometheus.io/path"]) == (
        *("true", "9464"),
        "/metrics",
    )
    kinds = {each["kind"] for each in scenario_manifests(chart, "default")}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


@both
@pytest.mark.parametrize("release", ["r", "a" * 53, f"x-{'silo-agent' * 5}"[:53]])
def test_names_fit(chart: str, release: str) -> None:
    found = manifests(chart, values_of(chart, "cert-manager"), release)
    assert all(len(each["metadata"]["name"]) <= 63 for each in found)
    assert len(one(found, "StatefulSet")["metadata"]["name"]) <= 52


@both
def test_the_test_pod_asks_for_all_three_and_fails_where_one_does(chart: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [container] = one(scenario_manifests(chart, "default"), "Pod")["spec"]["containers"]
    interpreter, option, script = container["command"]
    assert (interpreter, option) == ("python3", "-c")
    asked: list[str] = []

    class Answer:
        def read(self) -> bytes:
            return b""

    def answer(url: str, timeout: float) -> Answer:
        asked.append(url)
        if len(asked) > 3:
            raise OSError("503")
        return Answer()

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    exec(script, {})  # noqa: S102 - the chart's own
    service = one(scenario_manifests(chart, "default"), "Service", "-metrics")["metadata"]["name"]
    assert asked == [f"http://{service}:9464/{path}" for path in ("livez", "metrics", "readyz")]
    with pytest.raises(OSError, match="503"):
        exec(script, {})  # noqa: S102


# Images and documents.

_IMAGE = re.compile(r"(?:[^/]+/)?(sparsilo/[^:@]+)(:[^@]+)?(@sha256:[0-9a-f]{64})?")


def images_of(chart: str, scenario: str) -> set[str]:
    pods = [pod for pod in map(pod_of, scenario_manifests(chart, scenario)) if pod]
    return {container["image"] for pod in pods for container in containers_of(pod)}


def published() -> set[str]:
    """The list to mirror, in the README."""
    [block] = re.findall(r"<!-- images -->\n```\n(.*?)```", (HELM / "README.md").read_text(), re.DOTALL)
    return set(block.split())


def test_the_images_of_all_scenarios_are_the_published_list() -> None:
    used = set()
    for chart, scenario in SCENARIOS:
        for image in images_of(chart, scenario):
            found = _IMAGE.fullmatch(image)
            assert found, image
            used.add(found[1] + (found[2] or ":0.1.0"))
    annotated = {
        image["image"]
        for chart in CHARTS
        for image in yaml.safe_load(loaded(chart).metadata["annotations"]["artifacthub.io/images"])
    }
    assert used == published() == annotated


@both
def test_a_mirror_and_a_digest(chart: str) -> None:
    [image] = images_of(chart, "air-gap")
    assert re.fullmatch(rf"mirror\.hospital-a\.example:5000/sparsilo/{chart}@sha256:[0-9a-f]{{64}}", image)
    pod = workload(scenario_manifests(chart, "air-gap"))
    assert pod["imagePullSecrets"] == [{"name": "mirror"}]
    tagged = with_value(values_of(chart), "image", {"registry": "r.example.org", "tag": "0.1.0-ubi"})
    assert workload(manifests(chart, tagged))["containers"][0]["image"] == f"r.example.org/sparsilo/{chart}:0.1.0-ubi"


@both
def test_every_value_has_a_comment_and_the_readme_has_them_all(chart: str) -> None:
    paths = [path for path, _, _ in commented(chart)]
    assert len(paths) > 60
    assert (HELM / chart / "README.md").read_text() == readme(chart), "python tests/deploy/values_table.py writes it"


@both
def test_chart_metadata(chart: str) -> None:
    metadata = loaded(chart).metadata
    assert metadata["apiVersion"] == "v2"
    assert metadata["type"] == "application"
    assert metadata["kubeVersion"] == ">=1.25.0-0"
    assert metadata["icon"].startswith("data:")  # nothing is fetched
    assert metadata["maintainers"]
    assert "dependencies" not in metadata
    project = (HELM.parents[1] / "pyproject.toml").read_text()
    assert f'version = "{metadata["appVersion"]}"' in project


@both
def test_a_package_is_the_chart(chart: str, tmp_path: Path) -> None:
    archive = helm_python.package(HELM / chart, destination=tmp_path)
    assert re.fullmatch("sha256:[0-9a-f]{64}", helm_python.digest(archive))
    with helm_python.Chart.load(archive) as packed:
        names = {file["name"] for file in packed.files}
        assert any(name.startswith("dashboards/") for name in names)
        assert "rules/alerts.yaml" in names
        assert not any(name.startswith("ci/") for name in names)
        rendered = packed.render(values_of(chart, "monitoring"), name="rel", namespace="ns")
    assert rendered == loaded(chart).render(values_of(chart, "monitoring"), name="rel", namespace="ns")


def test_the_readme_says_what_was_not_tested() -> None:
    text = " ".join((HELM / "README.md").read_text().split())
    assert "not on a real cluster" in text
    assert "egress to the hub" in text
