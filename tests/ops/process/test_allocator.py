"""Release of freed memory to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
from threading import Thread
from stream.ops.process.allocator import give_memory_back

def resident():
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) // 1024

def work():
    for _ in range(20):
        kept.append([])
        large = [bytearray(8 << 20) for _ in range(4)]
        kept[-1].append(bytes(1000))  # something small behind it
        del large

if sys.argv[1:] == ["set"]:
    assert give_memory_back()
kept = []
before = resident()
for _ in range(4):
    thread = Thread(target=work)
    thread.start()
    thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_large_blocks_are_released() -> None:
    """Large blocks are released even if small blocks between them remain."""

    def kept(*arguments: str) -> int:
        command = [sys.executable, "-c", SCRIPT, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return int(ended.stdout)

    assert kept("set") < 8
