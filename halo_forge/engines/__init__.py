"""Engines write completions.

One module (or one entry point of another package: docs/extending.md), one engine: a frozen Spec that extends
`EngineSpec` with `kind: Literal["<name>"] = "<name>"` and

    open(policy) -> Engine

where `policy` is the model (`halo_forge.policy.Policy`), or None for a kind whose `needs_policy` is False.  An
`Engine` answers `sample(prompts, requests, policy_version)` with completions as they finish, in any order, exactly
one for each request.  A request carries its own seed: batch size and order must not change what is drawn beyond
floating-point noise (a server may promise less).  Its `saturates_cpu` says whether checking has to wait.  An engine
that is a context manager is exited when the run ends; one that is `ReportsEvents` can write to the run's events, and
one that is `KeepsLogs` is told where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from halo_forge.core.records import Completion, Prompt, SampleRequest

if TYPE_CHECKING:
    from halo_forge.engines._spec import EngineSpec
else:

    def __getattr__(name: str) -> object:
        # Late: the process that guards a server imports a module of this package without any library (pydantic).
        if name != "EngineSpec":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from halo_forge.engines._spec import EngineSpec

        return EngineSpec


__all__ = ["Engine", "EngineSpec", "KeepsLogs", "ReportsEvents"]


class Engine(Protocol):
    """What the loop asks of an engine."""

    @property
    def saturates_cpu(self) -> bool:
        """Sampling keeps all processors busy: answers are checked after it, because beside it both are slower."""
        ...

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """Completions of `requests` by the current policy, as they finish; one for each request."""
        ...


@runtime_checkable
class ReportsEvents(Protocol):
    """An engine that has something to say about how it sampled.

    Attributes:
        note: Set by who opens the run; takes the name of an event and its fields (docs/run-directory.md).
    """

    note: Callable[..., None]


@runtime_checkable
class KeepsLogs(Protocol):
    """An engine that starts programs whose output somebody may want to read after the run."""

    def keep_logs(self, folder: Path) -> None:
        """Told before the first `sample`; the folder is made when there is something to keep."""
        ...
