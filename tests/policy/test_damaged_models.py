"""Model and adapter folders with a file that was edited, cut off or lost: an error with its fix, or a policy.

More examples: HALO_FORGE_TEST_EXAMPLES=10000 (docs/testing.md).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from damage import damage
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import load_policy, prompt

from halo_forge.config import load_config
from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.policy import check_local


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """`model`, and `adapter`, which was saved for it."""
    room = tmp_path_factory.mktemp("damaged")
    shutil.copytree(tiny_models["llama"], room / "model")
    with contextlib.chdir(room):
        load_policy(Path("model")).save_adapter(room / "adapter")
    return room


@pytest.mark.filterwarnings("ignore")
@given(data=st.data())
@examples(12)
def test_no_damaged_model_ends_in_a_traceback(data: st.DataObject, folders: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        room = Path(shutil.copytree(folders, Path(name) / "room"))
        what = damage(data, room)
        settings = load_config(
            {"model": {"model_name_or_path": str(room / "model"), "adapter": str(room / "adapter")}, "output_dir": "x"}
        ).config.model
        with contextlib.suppress(ModelError):
            check_local(settings)
        try:
            policy = load_policy(room / "model", adapter=str(room / "adapter"))
            policy.check_tokens([prompt(1, "int main")])
            policy.prompt_ids(prompt(1, "int main"))
        except ConfigError as error:
            assert error.message and error.hint, what
            assert len(error.message) < 2_000, (what, "a message is read by a person")
