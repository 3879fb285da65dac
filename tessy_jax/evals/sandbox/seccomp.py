"""System calls that no judged program needs, denied as a second wall behind the namespaces.

They are of two kinds: doors through which the kernel itself has been attacked, and memory that no limit of a process
counts (System V shared memory, anonymous files). A denied call fails with EPERM; the program runs on.
"""

import struct
from typing import NamedTuple


class Machine(NamedTuple):
    audit: int  # AUDIT_ARCH_* of linux/audit.h
    calls: dict[str, int]  # asm/unistd_64.h, asm-generic/unistd.h


NEW = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429}
NEW |= {
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
}
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {"shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "pivot_root": 155, "mount": 165, "umount2": 166}
        | {"add_key": 248, "request_key": 249, "keyctl": 250, "mq_open": 240, "unshare": 272, "perf_event_open": 298}
        | {"name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310}
        | {"process_vm_writev": 311, "kcmp": 312, "memfd_create": 319, "bpf": 321, "userfaultfd": 323, **NEW},
    ),
    "aarch64": Machine(
        0xC00000B7,
        {"umount2": 39, "mount": 40, "pivot_root": 41, "unshare": 97, "ptrace": 117, "mq_open": 180, "msgget": 186}
        | {"semget": 190, "shmget": 194, "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241}
        | {"name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270}
        | {"process_vm_writev": 271, "kcmp": 272, "memfd_create": 279, "bpf": 280, "userfaultfd": 282, **NEW},
    ),
}
X32 = 0x40000000  # calls of the x32 ABI have this bit, other numbers, and no use here

LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h: BPF_LD|W|ABS, BPF_JMP|JEQ, JGE, BPF_RET
ALLOW, KILL, DENY = 0x7FFF0000, 0x80000000, 0x00050001  # linux/seccomp.h: the process dies; EPERM


def denied_calls(machine: str) -> bytes | None:
    """The filter as `bwrap --seccomp` reads it: an array of `struct sock_filter`; None for an unknown machine."""
    if machine not in MACHINES:
        return None
    audit, calls = MACHINES[machine]
    numbers = sorted(calls.values())
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    program.append((AT_LEAST, len(numbers) + 1, 0, X32))
    program += [(EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, DENY)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
