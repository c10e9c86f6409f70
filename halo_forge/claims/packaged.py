"""Whether prompts that a claim calls packaged ones are those: everybody has them, so nobody needs to take its word."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import halo_forge
from halo_forge.claims.archive import Manifest, prompts_file
from halo_forge.claims.findings import Findings
from halo_forge.core.errors import HaloForgeError
from halo_forge.core.records import Prompt
from halo_forge.prompts import builtin, load_prompts
from halo_forge.runtime.prompt_sets import prompt_digest

Load = Callable[[str], Sequence[Prompt]]


def packaged_set(
    named: str, name: str, manifest: Manifest, load: Load, findings: Findings
) -> tuple[Prompt, ...] | None:
    """The packaged prompts of this halo-forge if they are those of the claim; None if not, or if it names others.

    Args:
        named: What the run's configuration has for the set.
        load: Reads a set under that configuration.
    """
    if not named.startswith(builtin.PREFIX):
        return None
    said = manifest.prompts[name].sha256
    try:
        prompts = tuple(load(named))
    except HaloForgeError as error:
        _report(named, name, manifest, said, error.message, findings)
        return None
    if (digest := prompt_digest(prompts)) == said:
        return prompts
    _report(named, name, manifest, said, digest, findings)
    return None


def check_packaged(named: str, folder: str, manifest: Manifest, prompts: Sequence[Prompt], findings: Findings) -> None:
    """Compare tasks and tests of an evaluation's prompts with the packaged ones: it may have asked a part of a set."""
    if not named.startswith(builtin.PREFIX):
        return
    try:
        packaged = {each.id: each for each in load_prompts(named, language=None)}
    except HaloForgeError as error:
        _report(named, folder, manifest, None, error.message, findings)
        return
    for prompt in prompts:
        own = packaged.get(prompt.id)
        if own is None or (own.messages[-1], own.tests) != (prompt.messages[-1], prompt.tests):
            _report(named, folder, manifest, prompt.id, "no such task" if own is None else "another task", findings)


def _report(named: str, name: str, manifest: Manifest, stored: object, found: object, findings: Findings) -> None:
    """A difference, unless another halo-forge, which may package others, packed the claim."""
    what = f"that the prompts of {name} are {named[:80]}"
    if manifest.halo_forge_version == halo_forge.__version__:
        findings.add("value", prompts_file(manifest.kind, name), what, stored, found)
    else:
        made_by = manifest.halo_forge_version[:40]
        findings.leave_out(what, f"they are not those of this halo-forge, and halo-forge {made_by} packed the claim")
