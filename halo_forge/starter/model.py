"""What can be seen of a model before anything is loaded: its size, its family, its chat template, its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from halo_forge.config import RaftConfig
from halo_forge.core.errors import ModelError
from halo_forge.core.learning_rates import Family, family_of
from halo_forge.core.records import Prompt
from halo_forge.hardware import ModelShape
from halo_forge.hardware.shape import typical_shape
from halo_forge.policy import check_local
from halo_forge.policy.folder_checks import KEY, read_object
from halo_forge.policy.local_template import LocalTemplate
from halo_forge.policy.rendering import Renderer
from halo_forge.runtime.auto_settings import estimated_parameters, local_shape

_ASSUMED_PARAMETERS = 7_000_000_000
"""Of a model whose name does not tell: a learning rate for a smaller one would be too high."""
_FILES = ["*.json", "*.jinja", "tokenizer.model"]
"""What is fetched of a model on the Hub: everything but the weights."""
_PROBE = "Write a program."


@dataclass(frozen=True)
class TemplateFound:
    """What the chat template does.

    Attributes:
        opens_reasoning: The mark with which it opens the reasoning of every completion; "" if it does not.
        mentions_reasoning: It has marks of reasoning, so the model may reason of its own accord.
        takes_system: It renders a system message.
        notes: What it does to every prompt.
    """

    opens_reasoning: str
    mentions_reasoning: bool
    takes_system: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ModelFound:
    """A model, as far as it could be looked at.

    Attributes:
        name: As the configuration names it.
        num_parameters: None if neither its files nor its name say.
        family: For the learning rate; None where no formula was fitted to it.
        shape: Its own, or that of a typical model of its size.
        positions: The most tokens of prompt and completion together; None if unknown.
        template: None if it could not be looked at.
        render: A prompt as the model gets it; None like `template`.
        count: Number of tokens of a text; None without a tokenizer.
        assumed: What was assumed because it could not be looked at.
    """

    name: str
    num_parameters: int | None
    family: Family | None
    shape: ModelShape
    positions: int | None
    template: TemplateFound | None
    render: Callable[[Prompt], str] | None
    count: Callable[[str], int] | None
    assumed: tuple[str, ...]


def look_at_model(name: str) -> ModelFound:
    """Look at a model folder, or at what the Hub or its cache has of a hub id except its weights.

    Raises:
        ConfigError: There is no such folder, or it is not a model with a chat template.
    """
    config = _minimal(name)
    check_local(config.model)
    path = Path(config.model.model_name_or_path)
    assumed: list[str] = []
    folder: Path | None = path
    if not path.is_dir():
        folder, reason = _from_hub(name)
        if folder is None:
            assumed.append(f"{name} could not be looked at ({reason}): its size follows its name, and that it has a"
                           " chat template is assumed")  # fmt: skip
    if folder is not None:
        config = _minimal(str(folder))
        written = read_object(folder / "config.json", KEY)
    else:
        written = {}
    shape, number = local_shape(config), estimated_parameters(_minimal(name))
    if shape is not None:
        number = shape.num_parameters
    elif number is None:
        assumed.append(f"the size of {name} is unknown: {_ASSUMED_PARAMETERS / 1e9:.0f}B is assumed")
    elif folder is not None:
        assumed.append(f"the shape of {name} is unknown: that of a Qwen2.5 of its size is assumed")
    family = family_of(str(written.get("model_type", ""))) or family_of(path.name)
    template = None if folder is None else _template(folder, name)
    count = None if folder is None else _counter(folder)
    if folder is not None and count is None:
        assumed.append(f"{name} has no tokenizer.json: lengths are estimated from characters, 3 to a token")
    positions = written.get("max_position_embeddings")
    return ModelFound(
        name=name,
        num_parameters=number,
        family=family,
        shape=typical_shape(_ASSUMED_PARAMETERS if number is None else number) if shape is None else shape,
        positions=positions if isinstance(positions, int) and positions > 0 else None,
        template=None if template is None else template[0],
        render=None if template is None else template[1],
        count=count,
        assumed=tuple(assumed),
    )


def _minimal(name: str) -> RaftConfig:
    from halo_forge.config import load_config

    return load_config({"model": {"model_name_or_path": name}, "output_dir": "runs/unused"}).config


def _from_hub(name: str) -> tuple[Path | None, str]:
    """The folder with the model's small files, or None and why there is none.

    Raises:
        ModelError: The Hub knows no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
    except GatedRepoError:
        return None, "the Hub asks for a login and for consent to its licence"
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{KEY}: {name}: neither a folder here nor a model on the Hub that may be read",
            "correct the name, name a model folder, or log in to the Hub if the model is private",
        ) from error
    except (OSError, ValueError, RuntimeError):
        return None, "no network, or the Hub does not answer; it is not in the local cache either"
    return (folder, "") if (folder / "config.json").is_file() else (None, "the Hub has no config.json of it")


def _template(folder: Path, name: str) -> tuple[TemplateFound, Callable[[Prompt], str]]:
    """What the chat template of a folder does.

    Raises:
        ModelError: There is none, or it fails.
    """
    try:
        template = LocalTemplate(folder)
    except ModelError as error:
        raise ModelError(error.message.replace(str(folder), name), error.hint) from error
    renderer = Renderer(cast(Any, template), date=datetime.now().replace(microsecond=0))
    asked = ({"role": "user", "content": _PROBE},)
    renderer.start(Prompt("probe", asked))
    try:
        renderer.start(Prompt("probe", ({"role": "system", "content": "You are a compiler."}, *asked)))
        takes_system = True
    except ModelError:
        takes_system = False
    text = template.get_chat_template()
    found = TemplateFound(
        opens_reasoning=renderer.opened_reasoning.strip(),
        mentions_reasoning="think>" in text or "enable_thinking" in text,
        takes_system=takes_system,
        notes=tuple(renderer.notes("the time at which the run is started")),
    )
    return found, renderer.text


def _counter(folder: Path) -> Callable[[str], int] | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ModelError(f"{KEY}: {path} cannot be read: {error}", "copy the model again, or download it") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def in_billions(number: int) -> str:
    """Such as "135M" or "7.6B"."""
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"


def lengths(model: ModelFound, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of each prompt as the model gets it, without a tokenizer a third of its characters.

    Raises:
        ModelError: The chat template refuses a prompt.
    """
    found = []
    for prompt in prompts:
        text = "\n".join(message["content"] for message in prompt.messages)
        text = text if model.render is None else model.render(prompt)
        found.append(tokens(model, text))
    return found


def tokens(model: ModelFound, text: str) -> int:
    """Tokens of a text, without a tokenizer a third of its characters."""
    return max(1, len(text) // 3) if model.count is None else model.count(text)
