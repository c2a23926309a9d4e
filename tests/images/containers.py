"""Containers as a cluster with restricted pod security runs them: one user, nothing to write but /tmp and volumes."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from images.image_builds import call, environment

USER = 65532
RESTRICTED = (
    *("--user", f"{USER}:{USER}", "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp"),  # noqa: S108 - the container's
    *("--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "3g", "--pids-limit", "500"),
    "--http-proxy=false",
)
GRACE_SECONDS = 30


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Container:
    """What to run with: an image, its network, its volumes (`:ro` after the target where they are) and environment."""

    name: str
    image: str
    network: str
    volumes: Mapping[Path, str]
    environment: Mapping[str, str]
    hosts: Mapping[str, str]

    def once(self, *arguments: object, entrypoint: str = "", limit: float = 180) -> Ran:
        """A container of its own for one command, as an init container is one."""
        options = ("--entrypoint", entrypoint) if entrypoint else ()
        return podman("run", "--rm", *self._options, *options, self.image, *arguments, limit=limit)

    def start(self, *arguments: object) -> None:
        """The container itself; without arguments it does what its image says."""
        ran = podman("run", "--detach", "--name", self.name, *self._options, self.image, *arguments)
        assert ran.code == 0, ran.err

    def execute(self, *command: object, limit: float = 180) -> Ran:
        """A command in the running container, as `kubectl exec` does it."""
        return podman("exec", self.name, *command, limit=limit)

    def status(self) -> dict[str, str]:
        """What the kernel says of its first process: fields of /proc/PID/status."""
        pid = call("podman", "inspect", "--format", "{{.State.Pid}}", self.name).strip()
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def running(self) -> bool:
        """Whether its process is alive."""
        return call("podman", "inspect", "--format", "{{.State.Running}}", self.name).strip() == "true"

    def log(self) -> str:
        """Everything that it wrote."""
        ran = podman("logs", self.name)
        return ran.out + ran.err

    def stop(self) -> int:
        """SIGTERM; the status that it ends with (137: it had to be killed)."""
        podman("stop", "--time", GRACE_SECONDS, self.name, limit=GRACE_SECONDS + 60)
        return self.ended()

    def ended(self, seconds: float = 120) -> int:
        """The status that it ends with, by itself and within so many seconds."""
        return int(podman("wait", self.name, limit=seconds).out)

    def remove(self) -> None:
        """Whether it was ever started or not."""
        podman("rm", "--force", "--time", 0, "--ignore", self.name)

    @property
    def _options(self) -> Sequence[str]:
        volumes = [f"{source}:{target}" for source, target in self.volumes.items()]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        hosts = [f"{name}:{address}" for name, address in self.hosts.items()]
        return (
            *(*RESTRICTED, "--network", self.network),
            *(word for volume in volumes for word in ("--volume", volume)),
            *(word for variable in variables for word in ("--env", variable)),
            *(word for host in hosts for word in ("--add-host", host)),
        )


def podman(*words: object, limit: float = 120) -> Ran:
    """One podman command, whatever comes of it."""
    command = ["podman", *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment())
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def given_away(folder: Path) -> Path:
    """The folder and all in it, now the container user's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    return folder


def answers(url: str) -> int:
    """The HTTP status; 0 where nobody answers."""
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return 0


def until_answers(url: str, status: int, seconds: float = 180) -> None:
    """Fails where it does not come to that."""
    end = time.monotonic() + seconds
    while (found := answers(url)) != status:
        assert time.monotonic() < end, f"{url}: {found}, not {status}"
        time.sleep(0.3)
