"""Where this process runs, as far as it decides what its sandbox can promise."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

Container = Literal["toolbx", "distrobox", "podman", "docker"]
SHARING: tuple[Container, ...] = ("toolbx", "distrobox")
"""Containers that share home folder, network and process list with the host on purpose."""

_FRESH_PROC: dict[Container, str] = {"podman": "unmask=ALL", "docker": "systempaths=unconfined"}
"""What stops the container from hiding parts of /proc, without which the kernel lets nobody mount another one."""


class Probed(Protocol):
    """What the ladder found out about one level; see `sandbox.ladder.LevelProbe`."""

    @property
    def level(self) -> str: ...
    @property
    def works(self) -> bool: ...
    @property
    def fix(self) -> str: ...


def container(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Container | None:
    """The kind of container that this process is in, None if none is recognised."""
    if (root / "run/.toolboxenv").exists():
        return "toolbx"
    if "DISTROBOX_ENTER_PATH" in environment:
        return "distrobox"
    # With a read-only root file system podman makes no such file, but always sets the variable.
    if (root / "run/.containerenv").exists() or environment.get("container") == "podman":
        return "podman"
    return "docker" if (root / ".dockerenv").exists() else None


def command_to_raise(
    level: str | None, add_ons: Mapping[str, int | bool], probes: Sequence[Probed], inside: Container | None
) -> str:
    """The one thing to do for a higher level, or for the add-on that is missing; empty where nothing is to be gained.

    Args:
        level: The level that is in force; None for none.
        probes: The best level first.
    """
    if level == "namespace":
        option = _FRESH_PROC.get(inside) if inside is not None else None
        if option is not None and not add_ons.get("fresh_proc", True):
            return (
                f"start the container with --security-opt {option} if programs need /proc"
                " (`halo-forge docs containers#proc`)"
            )
        return ""
    return next((probe.fix for probe in probes if not probe.works), "")


def not_promised(level: str | None, inside: Container | None) -> list[str]:
    """What the sandbox does not promise here, in words."""
    found = [
        "programs share this machine's kernel: a kernel vulnerability breaks the sandbox; for deliberately hostile code"
        " use a dedicated virtual machine (or gVisor)"
    ]
    if level == "limits":
        found.append("at level `limits` programs can access the files, the network and the processes of their user")
    if level == "landlock":
        found.append("at level `landlock` programs can list the running processes, but neither signal nor read them")
    if inside in SHARING:
        found.append(
            f"{inside} itself provides no isolation: it shares the home folder, the network and the process list of the"
            " host; only the sandbox confines programs"
        )
    return found
