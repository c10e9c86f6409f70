"""Errors that a user can fix.

Every error says what happened and how to fix it; the command line prints both and exits with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence


class HaloForgeError(Exception):
    """An error that a user can cause or fix.

    Args:
        message: What happened, with the value that was found and what is allowed.
        hint: How to fix it; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.hint}"


class ConfigError(HaloForgeError):
    """The configuration, a task file or the usage is wrong."""

    exit_code = 2


def raise_together(problems: Sequence[ConfigError]) -> None:
    """Raise one error that lists all problems, each followed by what fixes it; nothing if there are none."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        *listed, last = problems
        raise ConfigError("\n".join([*map(str, listed), last.message]), last.hint)


class ModelError(ConfigError):
    """The model, its adapter or its tokenizer cannot be used."""


class ClaimError(ConfigError):
    """The file of a claim is not one, is damaged, or cannot be written or rechecked here."""


class RunDirError(HaloForgeError):
    """The run directory is in use, belongs to another run, or cannot be written."""

    exit_code = 3


class ToolMissing(HaloForgeError):
    """A compiler or a package that this configuration needs is missing, or does not work."""

    exit_code = 4


class PluginError(HaloForgeError):
    """An installed package has an entry point for halo-forge that does not work."""

    exit_code = 4


class StoppedByRule(HaloForgeError):
    """The run was stopped by a rule; it can be resumed."""

    exit_code = 5


class TooFewSamples(StoppedByRule):
    """Fewer samples were selected than `raft.min_selected`."""


class VerifierBroken(StoppedByRule):
    """The verifier itself failed too often: its verdicts cannot be trusted."""


class LogitsNotFinite(StoppedByRule):
    """The model's logits contain NaN or infinity: samples from them would be noise."""


class NoProgress(StoppedByRule):
    """A supervised run was restarted repeatedly without progress, or could not be ended."""
