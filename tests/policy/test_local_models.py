"""What is seen of a model's folder before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_forge.config import ModelSection
from halo_forge.core.errors import ModelError
from halo_forge.policy import check_local


def test_a_file_or_a_dead_link_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.gguf").write_bytes(b"GGUF")
    Path("loop").symlink_to("loop")
    for name, said in {
        "model.gguf": "is a file, allowed: a model folder",
        "loop": "can be reached by this link",
    }.items():
        with pytest.raises(ModelError, match=said):
            check_local(ModelSection(model_name_or_path=name))
    check_local(ModelSection(model_name_or_path="gpt2"))
