"""What a rule is."""

from __future__ import annotations

import abc
from typing import ClassVar

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.registry import Spec


class Rule(Spec, abc.ABC):
    """Looks at what was measured so far; a module adds `kind` and its thresholds."""

    about_training: ClassVar[bool] = True
    """False where it speaks of prompts, sampling or measuring, which a learning rate of 0 does not change."""

    @abc.abstractmethod
    def look(self, facts: RunFacts) -> Advice | None:
        """What is to be said of the version measured last; None where there is nothing, or the data cannot tell."""


class PlanRule(Spec, abc.ABC):
    """Looks at a plan before anything is loaded; a module adds `kind` and its thresholds."""

    @abc.abstractmethod
    def look(self, facts: PlanFacts) -> Advice | None:
        """What is to be said of the plan; None where there is nothing."""
