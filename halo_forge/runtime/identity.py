"""What identifies a run (run.json), and whether a run that is continued is still the same one."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import halo_forge
from halo_forge.config import RaftConfig, config_digest, differing_keys, resolved
from halo_forge.config.yaml_io import load_document
from halo_forge.core.errors import RunDirError
from halo_forge.core.plan import PromptSets
from halo_forge.core.registry import PROMPTS_GROUP, plugins, used_plugins
from halo_forge.policy import Policy
from halo_forge.policy.rendering import Renderer
from halo_forge.runtime.fork import ForkPoint, check_same_fork
from halo_forge.runtime.prompt_sets import prompt_digest
from halo_forge.store.files import EDITED
from halo_forge.store.run import CONTINUE_ELSEWHERE, Run, read_identity
from halo_forge.store.sft import is_sft_run

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "numpy")
IDENTITY_KEYS = {
    "prompts": "the prompts are not those the run was started with",
    "start_model": "the start model is not the one the run was started with",
    "rendering": "the prompts have other token ids than when the run was started: the chat template, the tokenizer or"
    " the version of transformers is not the same",
}

NOTED_KEYS = ("toolchain", "versions", "plugins", "hardware")
"""Of run.json: another value does not make another run, but an event."""


def identity_of(
    config: RaftConfig, prompts: PromptSets, toolchain: dict[str, Any], policy: Policy | None
) -> dict[str, Any]:
    """What run.json holds for a new run, without its hardware and the rendering of its prompts."""
    return {
        "halo_forge_version": halo_forge.__version__,
        "config_digest": config_digest(config),
        "seed": config.seed,
        "prompts": _prompt_digests(prompts),
        "start_model": {**({} if policy is None else policy.identity), **config.engine.inputs()},
        "toolchain": toolchain,
        "versions": {"python": platform.python_version(), **package_versions()},
        "plugins": _plugins(config),
        "git_commit": git_commit(),
    }


def check_schema(root: Path) -> None:
    """Refuse a run of another schema before its prompts are read: they may no longer be there or readable."""
    if (root / "run.json").exists():
        read_identity(root)


def check_same_run(
    run: Run, config: RaftConfig, prompts: PromptSets, *, resume: bool, fork: ForkPoint | None = None
) -> None:
    """Refuse to continue a run under another configuration or with other prompts.

    Raises:
        RunDirError: It is not the same run, `run.json` was edited, or `resume` was not asked for.
    """
    if not resume:
        raise RunDirError(
            f"{run.root}: a run was already started here",
            f"continue it with --resume (`resume=True` in Python, or `halo-forge raft resume {run.root}`), look at it"
            f" with `halo-forge raft status {run.root}`, or choose another output_dir",
        )
    identity = run.identity()
    if is_sft_run(run.root):
        raise RunDirError(f"{run.root}: holds an SFT run, not a RAFT run", "choose another output_dir")
    for key, kind in {"config_digest": str, "prompts": dict, "start_model": dict}.items():
        if not isinstance(identity.get(key), kind):
            raise RunDirError(f"{run.root / 'run.json'}: {key} is {str(identity.get(key))[:80]!r}", EDITED)
    if identity["config_digest"] != config_digest(config):
        raise other_configuration(run.root, resolved(config))
    compare_identity(run.root, identity, {"prompts": _prompt_digests(prompts)})
    if fork is not None:
        check_same_fork(run, fork.record())


def other_configuration(root: Path, now: Mapping[str, Any]) -> RunDirError:
    """The error about a run that was started with another configuration than `now`, every value given."""
    changes = differing_keys(load_document(root / "config.resolved.yaml").data, now)
    rows = "\n".join(f"  {key}: was {old!r}, is {new!r}" for key, old, new in changes if key != "output_dir")
    return RunDirError(
        f"{root}: started with another configuration:\n{rows}",
        "put the values back, or choose another output_dir for the new configuration",
    )


def check_same_model(run: Run, identity: dict[str, Any], policy: Policy | None) -> None:
    """Refuse to continue a run with another start model; other versions, tools and hardware become an event.

    Raises:
        RunDirError: The start model, or the token ids of the prompts, are not those of the run.
    """
    stored = run.identity()
    compare_identity(run.root, stored, {"start_model": identity["start_model"]})
    if "rendering" in stored and identity["rendering"] is not None:
        compare_identity(run.root, stored, {"rendering": identity["rendering"]})
    elif "rendering" not in stored and policy is not None:
        _refuse_unknown_rendering(run, policy.rendering)
    stored.setdefault("plugins", {})  # a run of an earlier version knew none
    changed = {key: identity[key] for key in NOTED_KEYS if stored.get(key) != identity[key]}
    if changed:
        run.event("environment_changed", **changed)


def _refuse_unknown_rendering(run: Run, rendering: Renderer) -> None:
    """Refuse to continue a run of a version that recorded no rendering, where it rendered prompts otherwise.

    Raises:
        RunDirError: The chat template reads the clock, or opens the reasoning, which was no part of completions then.
    """
    if rendering.reads_clock:
        raise RunDirError(
            f"{run.root}: its chat template reads the clock, and the version that started it did not record the date",
            CONTINUE_ELSEWHERE,
        )
    if opened := rendering.opened_reasoning:
        raise RunDirError(
            f"{run.root}: its chat template opens the reasoning ({opened.strip()}), and in the version that started it"
            " completions did not begin with that: its completions were checked in another way",
            CONTINUE_ELSEWHERE,
        )


def compare_identity(root: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare keys of run.json.

    Raises:
        RunDirError: One is not what it was.
    """
    for key, value in now.items():
        was = stored[key]
        changed = [name for name in sorted(was.keys() | value.keys()) if was.get(name) != value.get(name)]
        if changed:
            raise RunDirError(
                f"{root}: {IDENTITY_KEYS[key]} ({', '.join(changed)} changed)",
                "put them back as they were, or choose another output_dir for a new run",
            )


def _prompt_digests(prompts: PromptSets) -> dict[str, Any]:
    return {name: prompt_digest(own) for name, own in prompts.by_name().items()}


def _plugins(config: RaftConfig) -> dict[str, str]:
    """Distribution -> version of the plugins that take part: kinds that are used, and all shapes of prompt rows.

    Every shape is asked whether it recognises the rows, so each can decide how they are read.
    """
    shapes = {plugin.distribution: plugin.version for plugin in plugins(PROMPTS_GROUP)}
    return dict(sorted({**shapes, **used_plugins(config)}.items()))


def package_versions() -> dict[str, str]:
    """Package -> its version, of those that decide the numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit this package runs from, where it is a checkout; a wheel has none."""
    root = Path(halo_forge.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
