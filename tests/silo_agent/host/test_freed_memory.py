"""Whether buffers of a chunk's size are on the same pages again, by the page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest

BUFFERS = """
from resource import RUSAGE_SELF, getrusage
from silo_agent.host.freed_memory import keep_freed_memory

if {kept}:
    keep_freed_memory()

def faults(rounds):
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        buffers = [b"a" * (1 << 20) for _ in range(8)]
        buffers.clear()
    return getrusage(RUSAGE_SELF).ru_minflt - before

faults(2)
print(faults(50))
"""


def faults(kept: bool) -> int:
    ran = subprocess.run([sys.executable, "-c", BUFFERS.format(kept=kept)], capture_output=True, check=True, text=True)
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc only")
def test_buffers_that_come_and_go_stay_on_the_same_pages() -> None:
    assert faults(kept=True) < faults(kept=False) / 20
