"""Kubernetes manifests held against what a cluster would hold them against: schemas, Pod Security, unique names.

Every check gives the problems that it found, as text.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

Manifest = dict[str, Any]

TEXT, TRUE_OR_FALSE, OBJECT, LIST = str, bool, dict, list
_MONITOR = {
    "port": TEXT,
    "path": TEXT,
    "interval": TEXT,
    "scrapeTimeout": TEXT,
    "relabelings": LIST,
    "metricRelabelings": LIST,
}
_RULE = {"alert": TEXT, "expr*": TEXT, "for": TEXT, "labels": OBJECT, "annotations": OBJECT}
# Kinds that no Kubernetes schema knows: allowed keys and their types, * after those that are required. A list's items
# are the mapping inside it.
CUSTOM: Mapping[tuple[str, str], Any] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {"selector*": {"matchLabels": OBJECT}, "endpoints*": [_MONITOR]},
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "selector": {"matchLabels": OBJECT},
        "podMetricsEndpoints": [_MONITOR],
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {"groups*": [{"name*": TEXT, "interval": TEXT, "rules*": [_RULE]}]},
    ("cert-manager.io/v1", "Certificate"): {
        "secretName*": TEXT,
        "commonName": TEXT,
        "dnsNames": LIST,
        "usages": LIST,
        "duration": TEXT,
        "renewBefore": TEXT,
        "privateKey": {"algorithm": TEXT, "size": int, "rotationPolicy": TEXT},
        "issuerRef*": {"name*": TEXT, "kind": TEXT, "group": TEXT},
    },
    ("cilium.io/v2", "CiliumNetworkPolicy"): {
        "endpointSelector*": {"matchLabels": OBJECT},
        "egress": [
            {
                "toEndpoints": [{"matchLabels": OBJECT}],
                "toFQDNs": [{"matchName*": TEXT}],
                "toPorts": [
                    {"ports*": [{"port*": TEXT, "protocol": TEXT}], "rules": {"dns": [{"matchPattern": TEXT}]}}
                ],
            }
        ],
    },
}


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"repeated keys: {repeated}", node.start_mark)
        return super().construct_mapping(node, deep)


def manifests_of(text: str) -> list[Manifest]:
    """What is in a multi-document text. Raises where a mapping repeats a key: YAML forbids it, PyYAML lets it pass."""
    return [document for document in yaml.load_all(text, _UniqueKeys) if document]


def described(manifest: Manifest) -> str:
    return f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"


def schema_problems(manifest: Manifest, version: str) -> list[str]:
    """Unknown fields, wrong types, missing fields, and kinds or API versions that this Kubernetes does not have."""
    kind = (str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if kind in CUSTOM:
        given = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
        problems = list(_custom_problems(given, {"spec": CUSTOM[kind]}, ""))
        return [*problems, *_found(_validator(version, "objectmeta-meta", "v1"), manifest["metadata"])]
    group, _, api = kind[0].rpartition("/")
    file = "-".join(part for part in (group.split(".")[0], api) if part)
    validator = _validator(version, kind[1].lower(), file)
    if validator is None or kind[0] not in validator.schema["properties"]["apiVersion"].get("enum", [kind[0]]):
        return [f"Kubernetes {version} has no {kind[0]} {kind[1]}"]
    return _found(validator, manifest)


def _found(validator: Draft202012Validator | None, value: object) -> list[str]:
    assert validator is not None
    error = best_match(validator.iter_errors(value))
    return [] if error is None else [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"]


@cache
def _validator(version: str, kind: str, file: str) -> Draft202012Validator | None:
    try:
        schema = schema_contents(f"kubernetes-json-schema/{_folder(version)}/{kind}-{file}.json", version)
    except FileNotFoundError:
        return None
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    file = f"kubernetes-json-schema/{_folder(version)}/_definitions.json"
    return Resource.from_contents(schema_contents(file, version)) @ Registry()


def _folder(version: str) -> str:
    [full] = {each for each in all_versions() if each.rpartition(".")[0] == version}
    return f"v{full}-local-strict"


def _custom_problems(value: object, known: Any, where: str) -> Iterator[str]:
    if isinstance(known, list):
        if not isinstance(value, list) or not value:
            yield f"{where}: must be a list that is not empty"
        else:
            for index, item in enumerate(value):
                yield from _custom_problems(item, known[0], f"{where}[{index}]")
    elif isinstance(known, dict):
        if not isinstance(value, dict):
            yield f"{where}: must be a mapping"
        else:
            plain = {key.rstrip("*"): inner for key, inner in known.items()}
            yield from (f"{where}.{key[:-1]}: is missing" for key in known if key[-1] == "*" and key[:-1] not in value)
            for key, item in value.items():
                if key in plain:
                    yield from _custom_problems(item, plain[key], f"{where}.{key}")
                else:
                    yield f"{where}.{key}: unknown field"
    elif not isinstance(value, known) or (known is int and isinstance(value, bool)):
        yield f"{where}: must be a {known.__name__}"


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod's spec in a Pod or workload."""
    if manifest["kind"] == "Pod":
        return manifest["spec"]
    template = manifest.get("spec", {}).get("template") if isinstance(manifest.get("spec"), dict) else None
    return template["spec"] if template else None


def containers_of(pod: Manifest) -> list[Manifest]:
    return [each for field in ("initContainers", "containers", "ephemeralContainers") for each in pod.get(field, [])]


_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
_SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def restricted_problems(pod: Manifest, annotations: Mapping[str, str] | None = None) -> list[str]:
    """What Pod Security Standards, level restricted (with baseline, which it includes), forbid."""
    own = pod.get("securityContext") or {}
    problems = [f"{field} is true" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    problems += [
        f"annotation {key}"
        for key, value in (annotations or {}).items()
        if key.startswith("container.apparmor.security.beta.kubernetes.io/")
        and not re.fullmatch("runtime/default|localhost/.*", value)
    ]
    problems += [f"sysctl {each['name']}" for each in own.get("sysctls") or [] if each["name"] not in _SYSCTLS]
    for volume in pod.get("volumes") or []:
        problems += [f"volume {volume['name']}: {kind}" for kind in volume.keys() - {"name"} - _VOLUMES]
    problems += _context_problems(own, "pod")
    for container in containers_of(pod):
        where = container["name"]
        context = container.get("securityContext") or {}
        problems += _context_problems(context, where)
        for field, wanted in (("privileged", False), ("allowPrivilegeEscalation", False)):
            if context.get(field, False if field == "privileged" else None) is not wanted:
                problems.append(f"{where}: {field} is not {wanted}")
        if context.get("runAsNonRoot", own.get("runAsNonRoot")) is not True:
            problems.append(f"{where}: runAsNonRoot is not true")
        if (context.get("seccompProfile") or own.get("seccompProfile") or {}).get("type") is None:
            problems.append(f"{where}: no seccompProfile")
        capabilities = context.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or []):
            problems.append(f"{where}: capabilities.drop is without ALL")
        problems += [f"{where}: adds {each}" for each in capabilities.get("add") or [] if each != "NET_BIND_SERVICE"]
        if context.get("procMount", "Default") != "Default":
            problems.append(f"{where}: procMount")
        problems += [f"{where}: hostPort" for port in container.get("ports") or [] if port.get("hostPort")]
        hooks = [container.get(f"{name}Probe") for name in ("startup", "liveness", "readiness")]
        hooks += (container.get("lifecycle") or {}).values()
        for hook in filter(None, hooks):
            if any((hook.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
                problems.append(f"{where}: a probe names a host")
    return problems


def _context_problems(context: Manifest, where: str) -> list[str]:
    problems = []
    if context.get("runAsUser") == 0:
        problems.append(f"{where}: runAsUser is 0")
    if context.get("runAsNonRoot") is False:
        problems.append(f"{where}: runAsNonRoot is false")
    for field in ("seccompProfile", "appArmorProfile"):
        if (context.get(field) or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
            problems.append(f"{where}: {field}")
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        problems.append(f"{where}: seLinuxOptions")
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        problems.append(f"{where}: hostProcess")
    return problems


def hardening_problems(pod: Manifest) -> list[str]:
    """What this repository asks for beyond restricted: read-only roots, no token, a memory limit on everything."""
    problems = [] if pod.get("automountServiceAccountToken") is False else ["automountServiceAccountToken is not false"]
    for container in containers_of(pod):
        if (container.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True:
            problems.append(f"{container['name']}: readOnlyRootFilesystem is not true")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            problems.append(f"{container['name']}: no memory limit")
    return problems


# What server-side apply merges lists by (x-kubernetes-list-map-keys); items with equal keys are an error.
_MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}


def repeated_names(manifest: Manifest) -> list[str]:
    """Lists with two items of one name: env, ports, volumes, mounts, containers."""
    return list(_repeated(manifest, manifest["kind"]))


def _repeated(value: object, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, list) and inner and all(isinstance(each, dict) for each in inner):
                names = [_MERGE_KEYS[key]] if key in _MERGE_KEYS else []
                if key == "ports":
                    number = "containerPort" if "containerPort" in inner[0] else "port"
                    names = [(number, "protocol")] + ([("name",)] if "name" in inner[0] else [])
                for fields in names:
                    keys = [tuple(str(each.get(field)) for field in fields) for each in inner]
                    yield from sorted({f"{where}.{key}: {each} twice" for each in keys if keys.count(each) > 1})
            yield from _repeated(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _repeated(inner, f"{where}[{index}]")


def unmounted_volumes(pod: Manifest) -> list[str]:
    """Mounts of volumes that are not there, and volumes that nothing mounts."""
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    mounted = {mount["name"] for container in containers_of(pod) for mount in container.get("volumeMounts", [])}
    return [f"volume {name}" for name in sorted(volumes ^ mounted)]
