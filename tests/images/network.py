"""Network namespaces for a federation: every party is alone behind a gate that lets through what is asked of it.

The gate is a namespace of its own that forwards between the parties' networks and drops the rest, as a cluster's
NetworkPolicy does. The machine's own rules are left alone; it has one leg in the gate, from which metrics are read.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from images.image_builds import call

HOST = "host"
METRICS = 9464


class Network:
    """Parties by name, the machine itself (`host`) among them."""

    def __init__(self, parties: Sequence[str]) -> None:
        self._token = secrets.token_hex(2)
        self._gate = f"sparsilo-{self._token}-gate"
        self._net = f"198.18.{secrets.randbelow(256)}"  # set aside for tests of networks (RFC 2544)
        self._place = {party: 4 * index for index, party in enumerate((HOST, *parties))}

    def address(self, party: str) -> str:
        """Its IPv4 address."""
        return f"{self._net}.{self._place[party] + 2}"

    def namespace(self, party: str) -> str:
        """Its network namespace's name, as `ip netns` and /run/netns have it."""
        return f"sparsilo-{self._token}-{party}"

    def inside(self, party: str) -> tuple[str, ...]:
        """What to write before a command that shall run in the party's namespace."""
        return ("ip", "netns", "exec", self.namespace(party))

    def _make(self, names: Iterable[tuple[str, str]]) -> None:
        call("ip", "netns", "add", self._gate)
        call("ip", "netns", "exec", self._gate, "sysctl", "-q", "net.ipv4.ip_forward=1")
        for party, place in self._place.items():
            gate, leg, wire = f"{self._net}.{place + 1}", f"sps-{self._token}-{place}", f"gate{place}"
            if party != HOST:
                call("ip", "netns", "add", self.namespace(party))
            ip = ("ip",) if party == HOST else ("ip", "-n", self.namespace(party))
            call("ip", "link", "add", leg, "type", "veth", "peer", "name", wire, "netns", self._gate)
            if party != HOST:
                call("ip", "link", "set", leg, "netns", self.namespace(party))
                call(*ip, "link", "set", "lo", "up")
            call(*ip, "address", "add", f"{self.address(party)}/30", "dev", leg)
            call(*ip, "link", "set", leg, "up")
            call("ip", "-n", self._gate, "address", "add", f"{gate}/30", "dev", wire)
            call("ip", "-n", self._gate, "link", "set", wire, "up")
            call(*ip, "route", "add", f"{self._net}.0/24" if party == HOST else "default", "via", gate)
            if party != HOST:  # what `ip netns exec` puts in place of /etc/hosts
                hosts = Path("/etc/netns") / self.namespace(party) / "hosts"
                hosts.parent.mkdir(parents=True)
                hosts.write_text("".join(f"{self.address(named)} {name}\n" for name, named in names))
        self._rules(
            f"""
            table inet gate {{
                chain input {{ type filter hook input priority 0; policy drop; }}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    ct state established,related accept
                    ip saddr {self.address(HOST)} tcp dport {METRICS} accept
                }}
            }}
            """
        )

    def _rules(self, rules: str) -> None:
        call("ip", "netns", "exec", self._gate, "nft", "-f", "-", given=rules)

    def allow(self, source: str, target: str, port: int) -> None:
        """Let connections through that `source` opens to this port of `target`."""
        pair = f"ip saddr {self.address(source)} ip daddr {self.address(target)}"
        self._rules(f"add rule inet gate forward {pair} tcp dport {port} accept\n")

    def count(self, source: str, target: str) -> None:
        """Count what `source` sends straight to `target` beyond what was allowed before; it is dropped."""
        pair = f"ip saddr {self.address(source)} ip daddr {self.address(target)}"
        self._rules(
            f"add counter inet gate {source}_{target}\n"
            f'add rule inet gate forward {pair} counter name "{source}_{target}" drop\n'
        )

    def dropped(self, source: str, target: str) -> int:
        """Packets counted so far."""
        listed = call("ip", "netns", "exec", self._gate, "nft", "-j", "list", "counters")
        counters: list[dict[str, Any]] = [
            each["counter"] for each in json.loads(listed)["nftables"] if "counter" in each
        ]
        return next(int(each["packets"]) for each in counters if each["name"] == f"{source}_{target}")

    def _remove(self) -> None:
        for namespace in (*(self.namespace(party) for party in self._place if party != HOST), self._gate):
            with suppress(AssertionError):  # never made
                call("ip", "netns", "delete", namespace)
            folder = Path("/etc/netns") / namespace
            if folder.exists():
                (folder / "hosts").unlink(missing_ok=True)
                folder.rmdir()


@contextmanager
def network(parties: Sequence[str], names: Iterable[tuple[str, str]] = ()) -> Iterator[Network]:
    """A namespace a party; `names`: host names and whose address they are. Root only. Nothing is left behind."""
    made = Network(parties)
    try:
        made._make([*names])
        yield made
    finally:
        made._remove()
