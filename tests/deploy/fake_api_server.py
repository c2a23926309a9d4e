"""As much of a Kubernetes API server as Helm needs: discovery, reading, server-side apply, patch, delete, watch.

Not Kubernetes. It is strict where a cluster is: schemas, names that server-side apply would find twice, Pod Security
`restricted`, fields of a StatefulSet and a volume claim that cannot change. Controllers are a few lines: what is
written is ready at once, and a pod that ends has done what `pod_outcome` says.
"""

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from manifests import CUSTOM, Manifest, pod_of, repeated_names, restricted_problems, schema_problems

_KINDS: Mapping[str, tuple[str, ...]] = {
    "v1": ("Namespace", "Pod", "Service", "ConfigMap", "Secret", "ServiceAccount", "PersistentVolumeClaim"),
    "apps/v1": ("StatefulSet", "ControllerRevision"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
}
_SERVER_OWNED = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
# Everything else of these specs is fixed once the object is there.
_CHANGEABLE: Mapping[str, set[str]] = {
    "StatefulSet": {
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    },
    "PersistentVolumeClaim": {"resources", "volumeAttributesClassName"},
}


class Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }


Key = tuple[str, str, str]  # kind, namespace, name


class FakeAPIServer:
    """Listens on loopback while entered; `objects` is its whole state."""

    def __init__(self, version: str = "1.37") -> None:
        self.version = version
        self.objects: dict[Key, Manifest] = {}
        self.pod_outcome = "Succeeded"
        self.requests: list[tuple[str, str]] = []
        self._applied: dict[Key, Manifest] = {}
        self._events: list[tuple[int, str, Manifest]] = []
        self._changed = threading.Condition()
        self._revision = 0
        self._closing = False
        self.kinds = {version: list(kinds) for version, kinds in _KINDS.items()}
        for api, kind in CUSTOM:
            self.kinds.setdefault(api, []).append(kind)
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))

    def __enter__(self) -> "FakeAPIServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    @property
    def kubeconfig(self) -> str:
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "fake",
                "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
                "users": [{"name": "fake", "user": {}}],
            }
        )

    def names(self, kind: str) -> list[str]:
        return sorted(name for each, _, name in self.objects if each == kind)

    def resource(self, api: str, plural: str) -> str:
        """The kind behind a plural. Raises Refused where the server has none."""
        for kind in self.kinds.get(api, []):
            if _plural(kind) == plural:
                return kind
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    def read(self, key: Key) -> Manifest:
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{_plural(key[0])} "{key[2]}" not found')
        return self.objects[key]

    def write(self, key: Key, given: Manifest, *, create: bool = False, dry_run: bool = False) -> tuple[int, Manifest]:
        """Create or replace, after what a cluster would check. The status code, and the object as it is now."""
        with self._changed:
            old = self.objects.get(key)
            if create and old is not None:
                raise Refused(409, "AlreadyExists", f'{_plural(key[0])} "{key[2]}" already exists')
            self._admit(key, given, old)
            new = deepcopy(given)
            metadata = new.setdefault("metadata", {})
            for field in _SERVER_OWNED:
                metadata.pop(field, None)
            metadata |= {
                "name": key[2],
                "uid": f"uid-{self._revision + 1}",
                "creationTimestamp": "2026-01-01T00:00:00Z",
            }
            metadata["generation"] = 1
            if key[1]:
                metadata["namespace"] = key[1]
            if old:
                changed = old.get("spec") != new.get("spec")
                metadata["uid"] = old["metadata"]["uid"]
                metadata["generation"] = old["metadata"]["generation"] + changed
            if dry_run:
                return 200, new
            new["status"] = self._status(new)
            if key[0] == "PersistentVolumeClaim":  # what the controller that binds it does
                new["spec"].setdefault("volumeName", f"volume-of-{metadata['uid']}")
            self._store("MODIFIED" if old else "ADDED", key, new)
            return (200 if old else 201), new

    def apply(self, key: Key, given: Manifest, *, dry_run: bool = False) -> tuple[int, Manifest]:
        """Server-side apply by the one manager that there is: what it applied before and no longer does goes, what
        others set stays. Lists are taken as a whole.
        """
        old = self.objects.get(key)
        answer = self.write(key, _three_way(old, self._applied.get(key), given), dry_run=dry_run)
        if not dry_run:
            self._applied[key] = given
        return answer

    def delete(self, key: Key) -> Manifest:
        with self._changed:
            gone = self.read(key)
            self._store("DELETED", key, gone)
            del self.objects[key]
            self._applied.pop(key, None)
            return gone

    def _store(self, event: str, key: Key, new: Manifest) -> None:
        self._revision += 1
        new["metadata"]["resourceVersion"] = str(self._revision)
        self.objects[key] = new
        self._events.append((self._revision, event, deepcopy(new)))
        self._changed.notify_all()

    def _admit(self, key: Key, given: Manifest, old: Manifest | None) -> None:
        kind, _, name = key
        bare = {field: value for field, value in given.items() if field != "status"}
        problems = schema_problems(bare, self.version) + repeated_names(bare)
        if old and kind in _CHANGEABLE:
            before, after = old["spec"], given["spec"]
            fixed = {field for field in {*before, *after} - _CHANGEABLE[kind] if before.get(field) != after.get(field)}
            problems += [f"spec.{field}: is immutable" for field in sorted(fixed)]
        if old and kind == "PersistentVolumeClaim":
            sizes = [int(each["spec"]["resources"]["requests"]["storage"].rstrip("Gi")) for each in (old, given)]
            problems += ["spec.resources: cannot shrink"] if sizes[1] < sizes[0] else []
        if problems:
            raise Refused(422, "Invalid", f'{kind} "{name}" is invalid: {"; ".join(problems)}')
        pod = pod_of(given)
        violations = restricted_problems(pod) if pod else []
        if violations:
            raise Refused(403, "Forbidden", f'{name} violates PodSecurity "restricted:latest": {"; ".join(violations)}')

    def _status(self, new: Manifest) -> Manifest:
        if new["kind"] == "StatefulSet":
            ready = dict.fromkeys(
                ("replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas"),
                new["spec"]["replicas"],
            )
            revision = f"{new['metadata']['name']}-{new['metadata']['generation']}"
            return ready | {
                "observedGeneration": new["metadata"]["generation"],
                "currentRevision": revision,
                "updateRevision": revision,
            }
        if new["kind"] == "PersistentVolumeClaim":
            return {"phase": "Bound"}
        if new["kind"] == "Pod":
            return {"phase": self.pod_outcome}
        return {}

    def watch(self, kind: str, namespace: str, name: str, since: int, seconds: float) -> Iterator[tuple[str, Manifest]]:
        """Events after revision `since`, until the time is over or the server ends."""
        while True:
            with self._changed:
                found = [each for each in self._events if each[0] > since]
                if not found and not self._changed.wait(timeout=seconds):
                    return
                if self._closing:
                    return
                found = [each for each in self._events if each[0] > since]
            for revision, event, manifest in found:
                since = revision
                metadata = manifest["metadata"]
                if manifest["kind"] != kind or namespace not in ("", metadata.get("namespace")):
                    continue
                if name in ("", metadata["name"]):
                    yield event, manifest


def _plural(kind: str) -> str:
    lower = kind.lower()
    return lower[:-1] + "ies" if lower.endswith("y") else lower + "s"


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7396; lists as a whole."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _three_way(old: Any, before: Any, given: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(given, dict):
        return given
    dropped = set(before) - set(given) if isinstance(before, dict) else set()
    result = {key: value for key, value in old.items() if key not in dropped}
    for key, value in given.items():
        result[key] = _three_way(old.get(key), before.get(key) if isinstance(before, dict) else None, value)
    return result


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A watcher that hangs up is not news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    api: FakeAPIServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = yaml.safe_load(self.rfile.read(length)) if length else {}
        self.api.requests.append((self.command, url.path))
        try:
            code, reply = self._route([part for part in url.path.split("/") if part], query, body)
        except Refused as refused:
            code, reply = refused.status["code"], refused.status
        if reply is not None:
            self._send(code, reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the library's names

    def _send(self, code: int, reply: Mapping[str, Any]) -> None:
        encoded = json.dumps(reply).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def _route(self, parts: list[str], query: dict[str, str], body: Manifest) -> tuple[int, Mapping[str, Any] | None]:
        if parts == ["version"]:
            major, minor = self.api.version.split(".")
            return 200, {"major": major, "minor": minor, "gitVersion": f"v{self.api.version}.0"}
        if parts == ["api"]:
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if parts == ["apis"]:
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()}
        if parts[:2] == ["openapi", "v3"]:
            return 200, self._openapi("/".join(parts[2:]))
        if parts[:1] == ["api"]:
            api, rest = "v1", parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 2:
            api, rest = "/".join(parts[1:3]), parts[3:]
        else:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if not rest:
            return 200, self._resources(api)
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kind = self.api.resource(api, rest[0])
        name = rest[1] if len(rest) > 1 else ""
        return self._handle(api, (kind, namespace, name), query, body)

    def _handle(
        self, api: str, key: Key, query: dict[str, str], body: Manifest
    ) -> tuple[int, Mapping[str, Any] | None]:
        kind, namespace, name = key
        dry_run = query.get("dryRun") == "All"
        if self.command == "GET" and query.get("watch") in ("1", "true"):
            self._stream(api, key, query)
            return 200, None
        if self.command == "GET":
            return 200, self.api.read(key) if name else self._listed(api, key, query)
        if self.command == "POST":
            return self.api.write((kind, namespace, body["metadata"]["name"]), body, create=True, dry_run=dry_run)
        if self.command == "DELETE":
            return 200, self.api.delete(key)
        if "apply-patch" in self.headers["Content-Type"]:
            return self.api.apply(key, body, dry_run=dry_run)
        new = body if self.command == "PUT" else _merged(self.api.read(key), body)
        return self.api.write(key, new, dry_run=dry_run)

    def _listed(self, api: str, key: Key, query: dict[str, str]) -> Mapping[str, Any]:
        kind, namespace, _ = key
        selector = query.get("fieldSelector", "")
        items = [
            each
            for (other, where, name), each in sorted(self.api.objects.items())
            if other == kind and namespace in ("", where) and selector in ("", f"metadata.name={name}")
        ]
        revision = str(max([int(each["metadata"]["resourceVersion"]) for each in self.api.objects.values()], default=0))
        return {"kind": f"{kind}List", "apiVersion": api, "metadata": {"resourceVersion": revision}, "items": items}

    def _stream(self, api: str, key: Key, query: dict[str, str]) -> None:
        kind, namespace, _ = key
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        since, seconds = int(query.get("resourceVersion") or 0), float(query.get("timeoutSeconds") or 60)
        try:
            if query.get("sendInitialEvents") == "true":
                now = self._listed(api, key, query)
                since = int(now["metadata"]["resourceVersion"])
                for manifest in now["items"]:
                    self._send_event("ADDED", manifest)
                end = {"resourceVersion": str(since), "annotations": {"k8s.io/initial-events-end": "true"}}
                self._send_event("BOOKMARK", {"kind": kind, "apiVersion": api, "metadata": end})
            for event, manifest in self.api.watch(kind, namespace, name, since, seconds):
                self._send_event(event, manifest)
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True

    def _send_event(self, event: str, manifest: Manifest) -> None:
        line = json.dumps({"type": event, "object": manifest}).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _openapi(self, path: str) -> Mapping[str, Any]:
        """Only so much that Helm finds `fieldValidation`, and leaves validation to the server."""
        urls = {f"{'apis' if '/' in api else 'api'}/{api}": api for api in self.api.kinds}
        if not path:
            return {"paths": {url: {"serverRelativeURL": f"/openapi/v3/{url}"} for url in urls}}
        group, _, version = urls[path].rpartition("/")
        return {
            "openapi": "3.0.0",
            "info": {"title": "fake", "version": version},
            "paths": {
                f"/{path}/{_plural(kind)}/{{name}}": {
                    "patch": {
                        "parameters": [{"name": "fieldValidation", "in": "query"}],
                        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
                    }
                }
                for kind in self.api.kinds[urls[path]]
            },
        }

    def _groups(self) -> list[Mapping[str, Any]]:
        versions = [each.split("/") for each in self.api.kinds if "/" in each]
        return [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
            }
            for group, version in versions
        ]

    def _resources(self, api: str) -> Mapping[str, Any]:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": api,
            "resources": [
                {
                    "name": _plural(kind),
                    "singularName": kind.lower(),
                    "namespaced": kind != "Namespace",
                    "kind": kind,
                    "verbs": verbs,
                }
                for kind in self.api.kinds.get(api, [])
            ],
        }
