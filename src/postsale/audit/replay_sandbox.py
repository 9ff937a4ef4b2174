"""The sandbox of a replay: what a process does to itself so that deciding code in it reaches nothing but two pipes.

On Linux (x86_64, aarch64) the kernel holds it: a seccomp-bpf allow-list over all threads, installed for good. Elsewhere there are only
Python's audit hooks and closed descriptors, and `enforced` is False: nobody may call that certified. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

IN: Final = 3  # the descriptors that stay open
OUT: Final = 4
MEMORY_BYTES: Final = 1 << 30  # beyond what is in use when the sandbox closes
CPU_S: Final = 600
TRIED_STATUS: Final = 70  # of a process that was stopped because it tried something

Tell = Callable[[str], None]


class Sandbox(NamedTuple):
    """What was closed. `enforced`: the kernel refuses every way out, not only Python."""

    name: str  # such as seccomp-bpf/x86_64
    enforced: bool


class _Arch(NamedTuple):
    """A kernel interface: numbers are its storage format, from the kernel's own tables of each architecture."""

    audit: int  # AUDIT_ARCH_*, linux/audit.h
    seccomp: int
    free: dict[str, int]  # moves nothing in the world, and memory only of this process
    quiet: dict[str, int]  # looks at metadata: refused with EPERM, because runtimes ask and go on without
    guarded: dict[str, int]  # allowed for some arguments only
    named: dict[str, int]  # what is most often tried, to say it by name; whatever is not listed is refused as well


_X86_64 = _Arch(
    0xC000003E,
    317,
    {
        "close": 3, "munmap": 11, "brk": 12, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28,
        "getpid": 39, "exit": 60, "gettimeofday": 96, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "exit_group": 231, "membarrier": 324, "rseq": 334,
    },
    {
        "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "ioctl": 16, "rt_sigaction": 13, "access": 21, "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89,
        "newfstatat": 262, "readlinkat": 267, "faccessat": 269, "statx": 332, "faccessat2": 439,
    },
    {"read": 0, "write": 1, "mmap": 9, "mprotect": 10},
    {
        "open": 2, "openat": 257, "openat2": 437, "creat": 85, "unlink": 87, "unlinkat": 263, "rename": 82, "renameat": 264,
        "renameat2": 316, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266,
        "chmod": 90, "fchmodat": 268, "chown": 92, "truncate": 76, "ftruncate": 77, "getdents64": 217, "socket": 41, "socketpair": 53,
        "connect": 42, "bind": 49, "listen": 50, "accept4": 288, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "recvfrom": 45,
        "clone": 56, "fork": 57, "vfork": 58, "clone3": 435, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200, "tgkill": 234,
        "pidfd_open": 434, "pidfd_getfd": 438, "pipe": 22, "pipe2": 293, "dup": 32, "dup2": 33, "dup3": 292, "writev": 20,
        "pwrite64": 18, "pwritev": 296, "pwritev2": 328, "sendfile": 40, "splice": 275, "copy_file_range": 326, "ptrace": 101,
        "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319, "io_uring_setup": 425, "bpf": 321, "shmget": 29,
        "getrandom": 318, "nanosleep": 35, "clock_nanosleep": 230, "prctl": 157, "setrlimit": 160,
        "prlimit64": 302, "seccomp": 317, "userfaultfd": 323, "mount": 165, "unshare": 272, "poll": 7, "select": 23, "epoll_create1": 291,
    },
)  # fmt: skip
_AARCH64 = _Arch(
    0xC00000B7,
    277,
    {
        "close": 57, "munmap": 215, "brk": 214, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sched_yield": 124, "mremap": 216,
        "madvise": 233, "getpid": 172, "exit": 93, "gettimeofday": 169, "sigaltstack": 132, "gettid": 178, "futex": 98,
        "restart_syscall": 128, "clock_gettime": 113, "clock_getres": 114, "exit_group": 94, "membarrier": 283, "rseq": 293,
    },
    {
        "fstat": 80, "lseek": 62, "rt_sigaction": 134, "ioctl": 29, "uname": 160, "fcntl": 25, "getcwd": 17, "newfstatat": 79, "readlinkat": 78,
        "faccessat": 48, "statx": 291, "faccessat2": 439,
    },
    {"read": 63, "write": 64, "mmap": 222, "mprotect": 226},
    {
        "openat": 56, "openat2": 437, "unlinkat": 35, "renameat": 38, "renameat2": 276, "mkdirat": 34, "linkat": 37, "symlinkat": 36,
        "fchmodat": 53, "fchownat": 54, "truncate": 45, "ftruncate": 46, "getdents64": 61, "socket": 198, "socketpair": 199,
        "connect": 203, "bind": 200, "listen": 201, "accept4": 242, "sendto": 206, "sendmsg": 211, "sendmmsg": 269, "recvfrom": 207,
        "clone": 220, "clone3": 435, "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "tgkill": 131, "pidfd_open": 434,
        "pidfd_getfd": 438, "pipe2": 59, "dup": 23, "dup3": 24, "writev": 66, "pwrite64": 68, "pwritev": 70, "pwritev2": 287,
        "sendfile": 71, "splice": 76, "copy_file_range": 285, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
        "memfd_create": 279, "io_uring_setup": 425, "bpf": 280, "shmget": 194, "getrandom": 278, "nanosleep": 101,
        "clock_nanosleep": 115, "prctl": 167, "setrlimit": 164, "prlimit64": 261, "seccomp": 277,
        "userfaultfd": 282, "mount": 40, "unshare": 97, "ppoll": 73, "pselect6": 72, "epoll_create1": 20,
    },
)  # fmt: skip
ARCHITECTURES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}

# linux/seccomp.h, linux/filter.h, linux/prctl.h, asm-generic/mman-common.h
_ALLOW, _EPERM, _TRAP, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00030000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data; arguments are 64 bits, the low half first on both architectures
_PR_SET_NO_NEW_PRIVS, _SET_FILTER, _ALL_THREADS = 38, 1, 1
_PROT_EXEC, _NO_FILE = 4, 0xFFFFFFFF
_X32 = 0x40000000  # the other interface of an x86_64 kernel begins here
_SIGSYS, _SA_SIGINFO = 31, 4
_AT_SYSCALL = 24  # in siginfo_t of SIGSYS, 64 bits: after three integers, padding, and the address of the call

_PROBED: Final = frozenset(
    {
        "open", "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.link", "os.listdir", "os.mkdir",
        "os.posix_spawn", "os.remove", "os.rename", "os.rmdir", "os.scandir", "os.spawn", "os.startfile", "os.symlink", "os.system",
        "os.truncate", "os.utime", "pty.spawn", "sqlite3.connect", "subprocess.Popen", "syslog.syslog", "ctypes.dlopen",
        "ctypes.call_function", "_thread.start_new_thread", "_winapi.CreateFile", "_winapi.CreateProcess", "winreg.SetValue",
    }
)  # fmt: skip


def lock(tell: Tell, *, enforce: bool = True) -> Sandbox:
    """Close this process for good, and return how. Once; afterwards nothing but reading IN and writing OUT is left.

    `tell(what)` is called when something is tried, then the process ends at once with TRIED_STATUS: no code of a decider can catch that.
    `enforce=False` leaves the kernel out, as where there is no seccomp.
    """
    close_descriptors()
    _limit()
    arch = ARCHITECTURES.get(platform.machine()) if enforce and sys.platform == "linux" else None
    if arch is not None and _filtered(arch, tell):
        return Sandbox(f"seccomp-bpf/{platform.machine()}", True)
    sys.addaudithook(lambda event, _: _stop(tell, event) if event in _PROBED or event.startswith(("socket.", "shutil.")) else None)
    return Sandbox(f"audit-hooks/{sys.platform}", False)


def close_descriptors() -> None:
    """All but IN and OUT."""
    os.closerange(0, IN)
    os.closerange(OUT + 1, 1 << 16)
    with contextlib.suppress(OSError):  # a higher one that was inherited
        for name in os.listdir("/proc/self/fd"):
            if int(name) > OUT:
                with contextlib.suppress(OSError):
                    os.close(int(name))


def _limit() -> None:
    """A bound on what a decider can use up. Files are none: neither opened nor grown."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_CPU": CPU_S}
    if sys.platform == "linux":
        with open("/proc/self/statm", "rb") as statm:
            limits["RLIMIT_AS"] = int(statm.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    for name, most in {**limits, "RLIMIT_NOFILE": 0}.items():  # files last: the line above opens one
        with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already, or the system has no such limit
            resource.setrlimit(getattr(resource, name), (most, most))


def _stop(tell: Tell, what: str) -> None:
    tell(what)
    os._exit(TRIED_STATUS)


# ---------------------------------------------------------------- the kernel's filter


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class _Action(ctypes.Structure):
    """struct sigaction of glibc and musl on 64 bits."""

    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_kept: list[object] = []  # the handler lives as long as the process


def program(arch: _Arch) -> bytes:
    """The filter in BPF: kill on another interface, allow by list, refuse quietly by list, trap whatever else."""
    code = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch.audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if arch is _X86_64:
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for numbers, what in ((arch.free, _ALLOW), (arch.quiet, _EPERM)):
        for number in numbers.values():
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, what)]
    for name, descriptor in (("read", IN), ("write", OUT)):
        code += [
            (_EQUAL, 0, 4, arch.guarded[name]),
            _argument(0),
            (_EQUAL, 0, 1, descriptor),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _TRAP),
        ]
    # Memory of no file, and never code.
    code += [(_EQUAL, 0, 6, arch.guarded["mmap"]), _argument(2), (_ANY_BIT, 3, 0, _PROT_EXEC), _argument(4)]
    code += [(_EQUAL, 0, 1, _NO_FILE), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _TRAP)]
    code += [(_EQUAL, 0, 3, arch.guarded["mprotect"]), _argument(2), (_ANY_BIT, 1, 0, _PROT_EXEC), (_RETURN, 0, 0, _ALLOW)]
    code += [(_RETURN, 0, 0, _TRAP)]
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def _argument(number: int) -> tuple[int, int, int, int]:
    return _LOAD, 0, 0, _ARGUMENTS + 8 * number


def _filtered(arch: _Arch, tell: Tell) -> bool:
    """Install the filter over all threads; False where the kernel has none."""
    names = {number: name for group in (arch.named, arch.guarded) for name, number in group.items()}
    libc = ctypes.CDLL(None, use_errno=True)

    def trapped(_signal: int, info: int, _context: int) -> None:
        number = ctypes.c_int.from_address(info + _AT_SYSCALL).value
        _stop(tell, names.get(number, f"system call {number}"))

    handler = _Handler(trapped)
    action = _Action(ctypes.cast(handler, ctypes.c_void_p).value, (ctypes.c_ulong * 16)(), _SA_SIGINFO, None)
    raw = program(arch)
    filter_ = _Program(len(raw) // 8, raw)
    _kept.extend((handler, action, raw, filter_))
    if libc.sigaction(_SIGSYS, ctypes.byref(action), None) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    libc.syscall.argtypes = [ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p]
    if libc.syscall(arch.seccomp, _SET_FILTER, _ALL_THREADS, ctypes.byref(filter_)):
        return False
    try:
        os.stat("/")
    except PermissionError:  # that is how it shows without ending the process
        return True
    return False
