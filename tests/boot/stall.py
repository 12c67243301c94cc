"""
Processes in a box that get no further for a while, without being stopped.
"""

import contextlib
import ctypes
import os
import re
from pathlib import Path

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_DETACH = 17
WALL = 0x40000000


def pid_here(box, pid):
    """The number that a process of the box has on this machine."""
    namespace = os.readlink(f"/proc/{box.pid}/ns/pid")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            numbers = re.search(r"^NSpid:(.*)$", (process / "status").read_text(), re.MULTILINE)
            if numbers.group(1).split()[-1] == str(pid):
                if os.readlink(process / "ns" / "pid") == namespace:
                    return int(process.name)
    raise AssertionError(f"there is no process {pid} in box {box.name}")


@contextlib.contextmanager
def stalled(box, pid):
    """
    A process that gets no further, and takes no signal, until this is left. The manager sends
    SIGCONT along with the signal for a reload; a process that is stopped by its debugger stays so.
    """
    process = pid_here(box, pid)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    libc.ptrace.restype = ctypes.c_long

    def ptrace(request):
        if libc.ptrace(request, process, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    ptrace(PTRACE_SEIZE)
    ptrace(PTRACE_INTERRUPT)
    os.waitpid(process, WALL)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH)
