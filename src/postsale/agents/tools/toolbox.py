"""The toolbox: the only door to tools. It asks `reach`, checks arguments and outputs, bounds time, and never raises for a tool's fault.

May import the tool contract, sandboxes, reach, errors. Who calls it is the outbox and nobody else.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from postsale.agents import reach
from postsale.agents.faults import caught
from postsale.agents.guardrails import ToolRef
from postsale.agents.policy import Policy
from postsale.agents.tools.contract import Receipt, Tool, check_tool, check_undo_fits
from postsale.agents.tools.sandbox import Ledger, SandboxTool, sandbox_of, shipped
from postsale.errors import BadDeclaration, PolicyInvalid, ToolRefused, ToolUnavailable, ToolUncertain
from postsale.events import Text

_TEXT: TypeAdapter[str] = TypeAdapter(Text)
T = TypeVar("T")


class Result(NamedTuple):
    """What came of one call. `ambiguous`: it may have had its effect although it did not say so."""

    status: Literal["done", "refused", "retry", "absent"]  # absent: a query found nothing
    reason: str = ""
    receipt: str = ""
    ambiguous: bool = False
    sandbox: bool = False
    retry_after_s: float | None = None  # what the tool asked for


class Toolbox:
    """The tools that may be called here, by `name@version`.

    The shipped contracts are always there, as sandboxes. With `sandbox` (the default) every tool given is replaced by a
    recorder of its contract, so that nothing leaves until somebody says `sandbox=False`.
    """

    def __init__(self, tools: Iterable[Tool] = (), *, sandbox: bool = True, ledger: Ledger | None = None) -> None:
        """Raises BadDeclaration for a tool that cannot work, whose undo is not here, or two of one name and version."""
        self.ledger = ledger if ledger is not None else Ledger()
        self._tools: dict[str, Tool] = {t.ref.name: t for t in shipped(self.ledger)}
        given: set[str] = set()
        for tool in tools:
            check_tool(tool)
            if tool.ref.name in given:
                raise BadDeclaration(what=type(tool).__name__, reason=f"{tool.ref.name} is given twice")
            given.add(tool.ref.name)
            self._tools[tool.ref.name] = sandbox_of(tool, self.ledger) if sandbox and not tool.sandbox else tool
        for tool in self._tools.values():
            check_undo_fits(tool, None if tool.undo is None else self._tools.get(tool.undo.tool))
        self._refs = {name: tool.ref for name, tool in self._tools.items()}

    @property
    def refs(self) -> Mapping[str, ToolRef]:
        """Contracts by name: what a decision may know."""
        return self._refs

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def all(self) -> tuple[Tool, ...]:
        """Every tool that may be called here, by name."""
        return tuple(tool for _, tool in sorted(self._tools.items()))

    def check(self, policy: Policy) -> None:
        """Return when every row's tool is here and its arguments are named as the contract wants; else PolicyInvalid."""
        for rule in policy.acts:
            if rule.tool is None:
                continue
            kind = "option" if rule in (policy.options or ()) else "rule"
            tool = self._tools.get(rule.tool)
            if tool is None:
                raise PolicyInvalid(policy=policy.name, where=f"{kind} {rule.id!r}, tool", reason=f"{rule.tool} is not installed")
            fields = tool.input.model_fields
            for name in rule.arguments:
                if name not in fields:
                    raise PolicyInvalid(
                        policy=policy.name, where=f"{kind} {rule.id!r}, arguments.{name}", reason=f"{rule.tool} takes no such argument"
                    )
            for name, info in fields.items():
                if info.is_required() and name not in rule.arguments:
                    raise PolicyInvalid(policy=policy.name, where=f"{kind} {rule.id!r}, arguments", reason=f"{rule.tool} needs {name!r}")

    def misfit(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Where arguments do not fit the contract of a tool that is here; "" when they fit."""
        try:
            self._tools[name].input.model_validate(dict(arguments))
        except ValidationError as error:
            return _place(error)
        return ""

    def call(self, name: str, arguments: Mapping[str, Any], *, idempotency_key: str) -> Result:
        """Have the effect. Raises ToolUnreachable where no effect may leave; every fault of the tool becomes a Result."""
        tool = self._tools[name]
        reach.check(name, simulated=tool.sandbox)
        try:
            checked = tool.input.model_validate(dict(arguments))
        except ValidationError as error:
            return Result("refused", f"the arguments do not fit the tool's input at {_place(error)}")
        return _guarded(tool, lambda: tool.call(checked, idempotency_key=idempotency_key, timeout_s=tool.timeout_s))

    def query(self, name: str, *, idempotency_key: str) -> Result:
        """Whether a key took effect; for queryable tools. A query that fails is a retry."""
        tool = self._tools[name]
        reach.check(name, simulated=tool.sandbox)
        result = _guarded(tool, lambda: tool.query(idempotency_key, timeout_s=tool.timeout_s))
        return result._replace(status="retry", ambiguous=True) if result.status == "refused" else result


def _guarded(tool: Tool, call: Callable[[], BaseModel | None]) -> Result:
    try:
        output = call() if isinstance(tool, SandboxTool) else within(tool.timeout_s, call)
    except ToolRefused as error:
        return Result("refused", _plain(error.reason), sandbox=tool.sandbox)
    except ToolUnavailable as error:
        return Result("retry", _plain(error.reason), sandbox=tool.sandbox, retry_after_s=error.retry_after_s)
    except ToolUncertain as error:
        return Result("retry", _plain(error.reason), ambiguous=True, sandbox=tool.sandbox, retry_after_s=error.retry_after_s)
    except TimeoutError:
        return Result("retry", f"no answer within {tool.timeout_s:g} s", ambiguous=True, sandbox=tool.sandbox)
    except Exception as error:  # the type only: a message may hold personal data
        return Result("retry", f"it raised {type(error).__name__}", ambiguous=True, sandbox=tool.sandbox)
    if output is None:
        return Result("absent", sandbox=tool.sandbox)
    return _done(tool, output)


def _done(tool: Tool, output: object) -> Result:
    """A checked output; garbage is ambiguous, since the tool did run."""
    model = Receipt if isinstance(tool, SandboxTool) else tool.output
    try:
        if isinstance(output, BaseModel):
            output = output.model_dump()
        answer = model.model_validate(output)
        receipt = _TEXT.validate_python(str(getattr(answer, "receipt", "")))
    except (ValidationError, ValueError):
        return Result("retry", "its answer does not fit its output", ambiguous=True, sandbox=tool.sandbox)
    return Result("done", receipt=receipt, sandbox=tool.sandbox)


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """The call's result, or TimeoutError when it is not there in time; the thread is then left behind as a daemon.

    Raises exceptions only: what ends a thread or cancels a task there ends nobody here.
    """
    box: list[T] = []
    failed: list[Exception] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            box.append(context.run(call))
        except BaseException as error:
            failed.append(caught(error))

    thread = threading.Thread(target=run, daemon=True, name="postsale-tool")
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError
    if failed:
        raise failed[0]
    return box[0]


def _plain(reason: str) -> str:
    text = "".join(ch if ch.isprintable() else " " for ch in reason)
    return text[:500]


def _place(error: ValidationError) -> str:
    return ".".join(map(str, error.errors(include_input=False, include_url=False)[0]["loc"])) or "(whole)"
