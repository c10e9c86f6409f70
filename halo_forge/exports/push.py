"""Uploads a finished export to a hub: only where it is told to, and never before it is sealed."""

from __future__ import annotations

from pathlib import Path

from halo_forge.core.errors import ConfigError


def push(folder: Path, repository: str, *, is_data_set: bool) -> str:
    """Upload an export but for its record and the proof's samples; a repository is created as a private one.

    Args:
        repository: OWNER/NAME.

    Returns:
        Its address.

    Raises:
        ConfigError: The hub cannot be reached, or refuses; the export itself is complete.
    """
    from huggingface_hub import HfApi

    kind = "dataset" if is_data_set else "model"
    try:
        api = HfApi()
        address = api.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            repo_type=kind,
            commit_message="Export by halo-forge",
            ignore_patterns=["export.json", "proof/*"],  # they name folders of this machine
        )
    except Exception as error:  # the client raises its own errors, those of its HTTP library, and ValueError
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"--push {repository}: {type(error).__name__}: {first_line}",
            f"log in with `hf auth login`, check the network and the name; {folder} is complete: run the same command"
            " again to upload it",
        ) from error
    return str(address)
