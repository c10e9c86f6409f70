"""C programs call functions that were never declared."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from halo_forge.core.advice._facts import MIN_PROMPTS, Advice, RunFacts
from halo_forge.core.advice._rule import Rule
from halo_forge.core.wording import counted

# gcc and older clang; clang from version 15 on.
_UNDECLARED = re.compile(r"implicit declaration of function|call to undeclared (?:library )?function")


class Spec(Rule):
    """The compiler then assumes that it returns int, which truncates pointers; newer compilers refuse the program."""

    about_training: ClassVar[bool] = False
    kind: Literal["implicit_declaration"] = "implicit_declaration"
    limit: float = 0.1
    """A larger share of the judged samples on train and dev is worth advice."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if many judged samples call an undeclared function."""
        judged = [each.verdict for each in (*facts.now.train, *facts.now.dev) if each.verdict.status != "error"]
        found = [verdict for verdict in judged if _UNDECLARED.search(verdict.diagnostics)]
        if len({verdict.prompt_id for verdict in judged}) < MIN_PROMPTS or len(found) <= self.limit * len(judged):
            return None
        return Advice(
            kind=self.kind,
            symptom="many programs call functions that are not declared",
            evidence=f"{len(found)} of {counted(len(judged), 'sample')}"
            f" ({len(found) / len(judged):.0%}, above {self.limit:.0%})",
            cause="missing #include lines, or a verifier.standard without gnu (c17), which hides what is not ISO C"
            " (strdup, getline, M_PI)",
            action="say in the prompts that the program has to include its headers; if you have set"
            " verifier.standard, set gnu17, the default",
            power="exact for these samples",
        )
