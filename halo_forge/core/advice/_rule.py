"""The base classes of rules."""

from __future__ import annotations

import abc
from typing import ClassVar

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.registry import Spec


class Rule(Spec, abc.ABC):
    """A rule about measurements; a module adds `kind` and its thresholds."""

    about_training: ClassVar[bool] = True
    """False if it is about prompts, sampling or measuring, to which a learning rate of 0 makes no difference."""

    @abc.abstractmethod
    def look(self, facts: RunFacts) -> Advice | None:
        """Advice about the version measured last; None if there is none, or the data are inconclusive."""


class PlanRule(Spec, abc.ABC):
    """A rule about a plan, before anything is loaded; a module adds `kind` and its thresholds."""

    @abc.abstractmethod
    def look(self, facts: PlanFacts) -> Advice | None:
        """Advice about the plan; None if there is none."""
