"""Deciding code that is replayed reaches nothing: each way out is tried for real, in the process that decides again."""

from __future__ import annotations

import pickle
import platform
import sys
from typing import Any

import pytest

from postsale.access import Unsealer
from postsale.audit import ReplayReport, replay_many
from postsale.audit.replay_judge import Judge
from postsale.audit.replay_sandbox import ARCHITECTURES, program
from postsale.errors import SandboxFailed, SandboxViolation
from tests.agents.world import World
from tests.audit.reaching import Endless, Reaching, Tempted, decided

KERNEL = sys.platform == "linux" and platform.machine() in ARCHITECTURES
needs_kernel = pytest.mark.skipif(not KERNEL, reason="seccomp is of Linux, and known here for x86_64 and aarch64")


on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="by its numbers")
BY_NUMBER = {
    "io_uring": "io_uring_setup",
    "openat2": "openat2",
    "the parent's memory": "process_vm_writev",
    "a file in memory, past Python": "memfd_create",
    "a process's descriptor": "pidfd_getfd",
}


def replayed(world: World, **more: Any) -> ReplayReport:
    return replay_many(world.log, "acme", Unsealer(world.log.vault), agents=world.engine.agents.values(), **more)


@needs_kernel
@pytest.mark.parametrize(
    ("way", "tried"),
    [
        ("a socket", {"socket"}),
        ("a socket, and says nothing of it", {"socket"}),
        ("a socket, past Python", {"socket"}),
        ("a file", {"open", "openat"}),
        ("a file away", {"unlink", "unlinkat"}),
        ("a leaked descriptor", {"write"}),
        ("standard output", {"write"}),
        ("a program", {"pipe2", "vfork", "clone", "clone3"}),
        ("a process", {"fork", "clone", "clone3"}),
        ("a thread that writes", {"a call with signals blocked, such as a thread"}),
        ("a signal", {"kill"}),
        ("randomness", {"getrandom"}),
        *[pytest.param(way, {tried}, marks=on_x86_64) for way, tried in BY_NUMBER.items()],
        ("a signal to the parent", {"kill", "system call 110", "system call 173"}),  # it asks for its number first
        ("a file in memory", {"memfd_create"}),
        ("a vector to a leaked descriptor", {"writev"}),
        ("a module it did not import", {"open", "openat"}),
    ],
)
def test_the_kernel_stops_a_decider_that_reaches_for(way: str, tried: set[str]) -> None:
    """It ends there, whatever the code catches, and the error names the decision, the code and what was tried."""
    world = decided(Reaching(way))
    (decision,) = [e for e in world.events() if e.stored.kind == "agent/decision-recorded"]
    head = world.store.head()
    with pytest.raises(SandboxViolation) as caught:
        replayed(world)
    assert caught.value.tried in tried
    assert caught.value.decision_id == str(decision.event_id)
    assert caught.value.decider == "tests.audit.reaching:Reaching"
    assert caught.value.sandbox == f"seccomp-bpf/{platform.machine()}"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert world.store.head() == head


@pytest.mark.parametrize("way", ["a socket", "a socket, and says nothing of it", "a file", "a program", "a file away"])
def test_without_a_kernels_filter_python_stops_it(way: str) -> None:
    with pytest.raises(SandboxViolation) as caught:
        replayed(decided(Reaching(way)), enforce=False)
    assert caught.value.sandbox.startswith("audit-hooks/")


@pytest.mark.parametrize("way", ["nothing", "nothing, but prints"])
def test_a_decider_that_reaches_for_nothing_is_certified_only_where_the_kernel_held_it(way: str) -> None:
    world = decided(Reaching(way))
    report = replayed(world)
    assert (report.ok, report.counts) == (True, {"same": 1})
    assert report.word == ("certified" if KERNEL else "checked")
    weaker = replayed(world, enforce=False)
    assert (weaker.ok, weaker.counts, weaker.word) == (True, {"same": 1}, "checked")
    assert weaker.results_digest == report.results_digest


def test_a_descriptor_that_leaked_is_closed_without_a_kernels_filter_too() -> None:
    """What it wrote while it was recorded went through; in the replay there is no such descriptor, so its evidence differs."""
    report = replayed(decided(Reaching("a leaked descriptor")), enforce=False)
    (outcome,) = report.different
    assert {d.where for d in outcome.differences} >= {"evidence.extra", "flags.failed"}
    assert "OSError" in str(outcome.differences)


def test_a_tool_that_is_asked_for_in_a_replay_is_out_of_reach() -> None:
    """A sandbox tool too, which would need nothing of the kernel."""
    world = decided(Tempted())
    calls = list(world.toolbox.ledger.calls)
    with pytest.raises(SandboxViolation) as caught:
        replayed(world)
    assert caught.value.tried == "the tool crm.create_task@1"
    assert list(world.toolbox.ledger.calls) == calls


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("stands still", "no answer within"),
        ("leaves", "ended with status 0"),
        ("leaves politely", "SystemExit"),
        ("talks", "an answer that is none"),
    ],
)
def test_a_decider_that_gives_no_answer_is_named(how: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded wait, never a hang; what it writes into the pipe of answers is no answer."""
    from postsale.audit import replay_run

    def quick(*given: Any, **more: Any) -> Judge:
        return Judge(*given, **more, within_s=20.0 if how != "stands still" else 6.0)

    monkeypatch.setattr(replay_run, "Judge", quick)
    world = decided(Endless(how))
    (decision,) = [e for e in world.events() if e.stored.kind == "agent/decision-recorded"]
    with pytest.raises(SandboxFailed) as caught:
        replayed(world)
    assert reason in str(caught.value)
    assert caught.value.decision_id == str(decision.event_id)


@pytest.mark.parametrize(("how", "error"), [("takes memory", "MemoryError"), ("raises", "KeyError")])
def test_a_decider_that_raises_in_the_replay_alone_differs_and_its_words_are_not_repeated(how: str, error: str) -> None:
    report = replayed(decided(Endless(how)))
    (outcome,) = report.different
    assert f"its evidence could not be read: {error}" in [d.regenerated for d in outcome.differences]
    assert "not repeated" not in str(report.to_dict())


def test_an_agent_that_cannot_be_sent_is_named_and_counted() -> None:
    """A class of a function cannot be loaded by another process: its intents are compared, its evidence is not claimed."""

    class Local(Reaching):
        pass

    report = replayed(decided(Local("nothing")))
    assert report.ok
    assert report.counts == {"unverifiable": 1}
    assert report.reasons == {"decider-not-here": 1}
    assert any("Local" in key for key in report.missing)


@needs_kernel
def test_the_parent_asks_the_kernel_and_believes_no_child() -> None:
    with Judge({}, None) as judge:
        assert judge.sandbox.enforced
    with Judge({}, None, enforce=False) as judge:
        assert not judge.sandbox.enforced


@needs_kernel
def test_the_process_that_decides_again_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and passwords are there."""
    monkeypatch.setenv("POSTSALE_TOKEN", "canary-of-the-environment")
    with Judge({}, None) as judge, open(f"/proc/{judge._process.pid}/environ", "rb") as environ:
        assert b"canary" not in environ.read()


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
def test_the_filter_of_every_architecture_allows_by_list_and_no_number_twice(machine: str) -> None:
    """As the kernel would run it: what is not on the list is trapped; reading and writing are for the two pipes; no memory is code."""
    arch = ARCHITECTURES[machine]
    groups = [*arch.free.values(), *arch.quiet.values(), *arch.guarded.values()]
    assert len(set(groups)) == len(groups)
    assert not set(arch.named.values()) & set(groups)
    allow, eperm, trap, kill = 0x7FFF0000, 0x00050001, 0x00030000, 0x80000000

    def decides(number: int, *arguments: int, audit: int = arch.audit) -> int:
        return _run(program(arch), number, audit, [*arguments, 0, 0, 0, 0, 0, 0][:6])

    assert {decides(n) for n in arch.free.values()} == {allow}
    assert {decides(n) for n in arch.quiet.values()} == {eperm}
    assert {decides(n) for n in arch.named.values()} == {trap}
    assert {decides(n, audit=0x40000003) for n in arch.free.values()} == {kill}
    assert [decides(arch.guarded["read"], fd) for fd in (0, 3, 4)] == [trap, allow, trap]
    assert [decides(arch.guarded["write"], fd) for fd in (1, 2, 3, 4, 5)] == [trap, trap, trap, allow, trap]
    nobody = 0xFFFFFFFF
    assert decides(arch.guarded["mmap"], 0, 4096, 3, 0x22, nobody) == allow
    assert decides(arch.guarded["mmap"], 0, 4096, 7, 0x22, nobody) == trap
    assert decides(arch.guarded["mmap"], 0, 4096, 1, 2, 5) == trap
    assert [decides(arch.guarded["mprotect"], 0, 4096, prot) for prot in (1, 3, 5)] == [allow, allow, trap]
    if machine == "x86_64":
        assert decides(0x40000000 + arch.guarded["write"], 4) == kill


def _run(raw: bytes, number: int, audit: int, arguments: list[int]) -> int:
    """The few instructions of classic BPF that the filter is made of."""
    import struct

    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments)
    code = [struct.unpack_from("=HBBI", raw, at) for at in range(0, len(raw), 8)]
    at = value = 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("<I", data, k)
            case 0x15:
                at += yes if value == k else no
            case 0x35:
                at += yes if value >= k else no
            case 0x45:
                at += yes if value & k else no
            case 0x06:
                return int(k)
