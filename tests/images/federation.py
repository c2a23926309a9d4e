"""A federation in containers: an aggregator and three silos, each in a network namespace of its own.

`hospital-a` reaches nothing but a forward proxy, which alone reaches the aggregator for it. The others reach the
aggregator's port and nothing else. Root, Debian's buildah, podman, runc, nftables and tinyproxy are needed.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from images.containers import USER, Container, Ran, given_away, until_answers
from images.image_builds import build
from images.network import METRICS, Network, network
from support.models import tiny_llama, write_text
from support.small_plans import SMALL_PLANS

SILOS = ("hospital-a", "hospital-b", "hospital-c")
PROXIED, MANUAL = "hospital-a", "hospital-b"
AGGREGATOR, PROXY = "aggregator", "proxy"
PUBLIC_NAME, PORT, PROXY_PORT = "aggregator.example.org", 8443, 8888
CONFIG = ("--config", "/etc/sparsilo/aggregator.yaml")
IDENTITY = "/var/lib/sparsilo/identity"
AGENT = ("--config", f"{IDENTITY}/agent.yaml")
PLAN = {
    "release": "votes",
    "samples": 4,
    "sequence_length": 32,
    "sparsity_ratio": "0.5",
    "phase_seconds": 120,
    "preparation_seconds": 600,
    "evaluate": 2,
}


class Federation:
    """Containers that can be started, and what stands between them."""

    def __init__(self, folder: Path, net: Network) -> None:
        self.network, self.folder = net, folder
        self.proxy = ForwardProxy(folder / "tinyproxy", net)
        model = given_away(tiny_llama(folder / "model"))
        hosts = {PUBLIC_NAME: net.address(AGGREGATOR)}
        self.aggregator = self._container(AGGREGATOR, AGGREGATOR, {model: "/models/tiny:ro"}, {}, {})
        config = {
            "address": f"0.0.0.0:{PORT}",
            "public_address": f"{PUBLIC_NAME}:{PORT}",
            "model": "/models/tiny",
            "state": "/var/lib/sparsilo",
            "metrics_host": "0.0.0.0",  # noqa: S104 - the namespace says who comes this far
            "metrics_port": METRICS,
        }
        self._write(AGGREGATOR, "aggregator.yaml", yaml.safe_dump(config))
        self._write(AGGREGATOR, "plan.yaml", yaml.safe_dump(PLAN))
        self.silos: dict[str, Container] = {}
        for seed, silo in enumerate(SILOS):
            text = folder / silo / "data"
            text.mkdir(parents=True)
            write_text(text / "notes.txt", 2400, seed=seed)
            volumes = {model: "/models/tiny:ro", given_away(text): "/data:ro"}
            variables = {"SPARSILO_METRICS_HOST": "0.0.0.0", "SPARSILO_METRICS_PORT": str(METRICS)}  # noqa: S104
            if silo == PROXIED:  # in capitals: what gRPC's own reading of the environment passes over
                variables["HTTPS_PROXY"] = self.proxy.url
            self.silos[silo] = self._container(silo, "silo-agent", volumes, variables, hosts)

    @property
    def containers(self) -> Mapping[str, Container]:
        """All of them, by party."""
        return {AGGREGATOR: self.aggregator, **self.silos}

    @property
    def metrics(self) -> dict[str, list[str]]:
        """host:port of every /metrics by job, in reach of this machine."""
        return {
            "aggregator": [f"{self.network.address(AGGREGATOR)}:{METRICS}"],
            "silo": [f"{self.network.address(silo)}:{METRICS}" for silo in SILOS],
        }

    def health(self, party: str, path: str = "readyz") -> str:
        """URL of a probe."""
        return f"http://{self.network.address(party)}:{METRICS}/{path}"

    def state(self, party: str) -> Path:
        """What /var/lib/sparsilo of its container is here."""
        return self.folder / party / "state"

    def start_aggregator(self) -> None:
        """Until it is ready."""
        self.aggregator.start()
        until_answers(self.health(AGGREGATOR), 200)

    def enrol(self, silo: str) -> None:
        """Invited and enrolled; its policy says yes to every plan by itself, except MANUAL's."""
        file = f"/var/lib/sparsilo/{silo}.yaml"
        invited = done(self.aggregator.execute("aggregator", "invite", *CONFIG, "--silo", silo, "--out", file, *JSON))
        self._write(silo, "invitation.yaml", (self.state(AGGREGATOR) / f"{silo}.yaml").read_text())
        done(
            self.silos[silo].once(
                *("enroll", "--invitation", "/etc/sparsilo/invitation.yaml", "--fingerprint", invited["fingerprint"]),
                *("--out", IDENTITY, "--model", "/models/tiny", "--calibration", "/data/notes.txt", "--once", *JSON),
            )
        )
        policy = self.state(silo) / "identity" / "policy.yaml"
        given = yaml.safe_load(policy.read_text())
        policy.write_text(yaml.safe_dump({**given, **SMALL_PLANS, "approval": "manual" if silo == MANUAL else "auto"}))

    def start_agent(self, silo: str) -> None:
        """Until it answers; it is not ready before a roster is pinned."""
        self.silos[silo].start("run", *AGENT)
        until_answers(self.health(silo, "livez"), 200)

    def pin(self, silo: str, fingerprint: str) -> None:
        """Pin the roster that has this fingerprint; until the agent is ready."""
        done(self.silos[silo].execute("silo-agent", "roster", "pin", *AGENT, "--fingerprint", fingerprint, *JSON))
        until_answers(self.health(silo), 200)

    def start(self) -> None:
        """Everything, up to a roster that all silos have pinned."""
        self.start_aggregator()
        for silo in SILOS:
            self.enrol(silo)
        for silo in SILOS:
            self.start_agent(silo)
        fingerprints = {silo: self.shown_roster(silo)["fingerprint"] for silo in SILOS}
        assert len({*fingerprints.values()}) == 1
        for silo in SILOS:
            self.pin(silo, fingerprints[silo])

    def shown_roster(self, silo: str) -> Any:
        """What `silo-agent roster show` says there."""
        return done(self.silos[silo].execute("silo-agent", "roster", "show", *AGENT, *JSON))

    def submit(self) -> str:
        """PLAN as a run; its name."""
        submitted = done(self.aggregator.execute("aggregator", "plan", "submit", PLAN_FILE, *CONFIG, *JSON))
        return str(submitted["run"])

    def wait(self, run: str, seconds: int = 400) -> Any:
        """Until the run is over: what `aggregator rounds wait` says."""
        command = ("aggregator", "rounds", "wait", run, *CONFIG, "--timeout", seconds, *JSON)
        return done(self.aggregator.execute(*command, limit=seconds + 60))

    def logs(self) -> str:
        """For whoever has to find out why a test failed."""
        return "\n".join(f"--- {party}\n{each.log()[-4000:]}" for party, each in self.containers.items())

    def _container(
        self,
        party: str,
        image: str,
        volumes: Mapping[Path, str],
        variables: Mapping[str, str],
        hosts: Mapping[str, str],
    ) -> Container:
        own = {}
        for name, target in (("etc", "/etc/sparsilo:ro"), ("state", "/var/lib/sparsilo")):
            (self.folder / party / name).mkdir(parents=True)
            own[given_away(self.folder / party / name)] = target
        namespace = self.network.namespace(party)
        return Container(namespace, build(image), f"ns:/run/netns/{namespace}", {**own, **volumes}, variables, hosts)

    def _write(self, party: str, name: str, content: str) -> None:
        file = self.folder / party / "etc" / name
        file.write_text(content)
        shutil.chown(file, USER, USER)
        file.chmod(0o400)


class ForwardProxy:
    """tinyproxy in its namespace: CONNECT to the aggregator's port, for one silo."""

    def __init__(self, folder: Path, net: Network) -> None:
        folder.mkdir()
        self._net, self._config, self._log = net, folder / "tinyproxy.conf", folder / "tinyproxy.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://{net.address(PROXY)}:{PROXY_PORT}"
        self._config.write_text(
            f"Port {PROXY_PORT}\nListen {net.address(PROXY)}\nAllow {net.address(PROXIED)}\nConnectPort {PORT}\n"
            f'Timeout 600\nMaxClients 50\nLogLevel Connect\nLogFile "{self._log}"\n'
        )

    def start(self) -> None:
        """It listens when this returns, or nearly."""
        command = (*self._net.inside(PROXY), "tinyproxy", "-d", "-c", str(self._config))
        self._process = subprocess.Popen(command)

    def stop(self) -> None:
        """At once, with all connections through it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """Which connections were asked for."""
        return self._log.read_text() if self._log.exists() else ""


JSON = ("--output", "json")
PLAN_FILE = "/etc/sparsilo/plan.yaml"


def done(ran: Ran) -> Any:
    """The data of a command that succeeded."""
    assert ran.code == 0, f"{ran.code}: {ran.out}{ran.err}"
    return json.loads(ran.out)["data"]


@contextmanager
def federation(folder: Path) -> Iterator[Federation]:
    """Nothing is started yet but the proxy; `start()` does the rest. Nothing is left behind but what is in `folder`."""
    with ExitStack() as stack:
        net = stack.enter_context(network((AGGREGATOR, PROXY, *SILOS), [(PUBLIC_NAME, AGGREGATOR)]))
        for silo in SILOS:
            if silo != PROXIED:
                net.allow(silo, AGGREGATOR, PORT)
        net.allow(PROXIED, PROXY, PROXY_PORT)
        net.allow(PROXY, AGGREGATOR, PORT)
        net.count(PROXIED, AGGREGATOR)
        made = Federation(folder, net)
        for container in made.containers.values():
            stack.callback(container.remove)
        stack.callback(made.proxy.stop)
        made.proxy.start()
        yield made
