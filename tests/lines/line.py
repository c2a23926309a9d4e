"""Two hosts as network namespaces, and the bad line between them: packets are lost, late and slow, or none pass.

Needs root and /dev/net/tun (Linux). Each end is a TUN device; what comes out of one goes into the other, or not.
"""

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import time
from contextlib import suppress
from itertools import count
from threading import Event, Thread
from typing import Final

HERE, THERE = "192.0.2.1", "192.0.2.2"
"""Addresses of the two hosts (RFC 5737)."""

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MOST_PACKET: Final = 1400
_MOST_QUEUED: Final = 0.5
"""Seconds that a packet may wait for those before it; a router drops what would wait longer."""


def ip(*arguments: str) -> None:
    subprocess.run([shutil.which("ip") or "ip", *arguments], check=True, capture_output=True)


class Host:
    """A network namespace with one interface beside its loopback."""

    def __init__(self, name: str, address: str, peer: str) -> None:
        self.name = f"{name}-{os.getpid()}"
        self.prefix = ("ip", "netns", "exec", self.name)
        """What stands before a command that shall run on this host."""
        device = f"{name}{os.getpid() % 10_000}"
        self.packets = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.packets, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI))
        ip("netns", "add", self.name)
        ip("link", "set", device, "netns", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "link", "set", device, "mtu", f"{_MOST_PACKET}", "up")
        ip("-n", self.name, "addr", "add", address, "peer", peer, "dev", device)

    def close(self) -> None:
        os.close(self.packets)
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", self.name)


class Line:
    """The line between `here` and `there`. What it is like may be changed while it is in use."""

    def __init__(self, seed: int) -> None:
        self.here, self.there = Host("here", HERE, THERE), Host("there", THERE, HERE)
        self.loss = 0.0
        """The share of packets that is lost, each way."""
        self.delay = 0.0
        """Seconds that a packet takes, each way."""
        self.rate = 0.0
        """Bytes a second, each way; 0 as fast as can be."""
        self.is_cut = False
        """Whether the line lets no packet pass."""
        self._chance = random.Random(seed)
        self._ended = Event()
        self._thread = Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.here.close()
        self.there.close()

    def _carry(self) -> None:
        ends = {self.here.packets: self.there.packets, self.there.packets: self.here.packets}
        due: list[tuple[float, int, int, bytes]] = []
        free = dict.fromkeys(ends, 0.0)
        number = count()
        while not self._ended.is_set():
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 0.1
            for end in select.select(list(ends), [], [], min(wait, 0.1))[0]:
                with suppress(BlockingIOError):
                    while True:
                        packet, now = os.read(end, 2 * _MOST_PACKET), time.monotonic()
                        free[end] = max(free[end], now)
                        if self.is_cut or self._chance.random() < self.loss or free[end] - now > _MOST_QUEUED:
                            continue
                        free[end] += len(packet) / self.rate if self.rate else 0.0
                        heapq.heappush(due, (free[end] + self.delay, next(number), ends[end], packet))
            while due and due[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(due)
                with suppress(BlockingIOError):
                    os.write(end, packet)
