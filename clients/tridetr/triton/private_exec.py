"""Execute the server so that it dies with its watcher and other users cannot read the files that it creates.

Run by path in isolated mode: `python -I private_exec.py WATCHER_PID PROGRAM [ARGUMENT…]`. The process attributes are
set here, before `exec`, because a `preexec_fn` is not safe in a process with threads.

The server's Python backend creates a shared-memory region that contains camera pictures. Boost creates it with mode
0644 and then calls `fchmod`, so a umask does not help. A later `chmod` would be too late for a user who has already
opened it. A seccomp filter therefore makes each `fchmod` that would give access to other users succeed without
effect.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
# machine: (AUDIT_ARCH_… of linux/audit.h, number of fchmod)
_ABIS = {"x86_64": (0xC000003E, 91), "aarch64": (0xC00000B7, 52)}
# Offsets in `struct seccomp_data`; the low half of the second argument is the mode.
_NUMBER, _ARCHITECTURE, _MODE = 0, 4, 24
# Classic BPF, linux/bpf_common.h
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _SUCCEED = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def fchmod_filter(architecture: int, number: int) -> bytes:
    """Return a seccomp filter that makes `fchmod` calls with permissions for group or others no-ops.

    Args:
        architecture: the kernel's constant for the machine (`AUDIT_ARCH_…`).
        number: system call number of `fchmod` on it.
    """
    instructions = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, _MODE),
        (_JUMP_IF_SET, 0, 1, 0o077),
        (_RETURN, 0, 0, _SUCCEED),
        (_RETURN, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def keep_private() -> None:
    """Prevent other users from reading files and regions that this process or its children create.

    If the kernel has no seccomp, only the umask applies; the watcher checks the region before it is used.
    """
    os.umask(0o077)
    abi = _ABIS.get(platform.machine())
    if abi is None:
        return
    code = fchmod_filter(*abi)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _Program(len(code) // 8, code)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def main() -> None:
    """Execute the program, unless the watcher has died: nothing would restart or stop the program."""
    watcher, line = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != watcher:
        sys.exit("the watcher of the Triton server has died")
    keep_private()
    os.execv(line[0], line)  # noqa: S606


if __name__ == "__main__":
    main()
