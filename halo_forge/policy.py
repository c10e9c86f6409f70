"""The policy: base weights loaded once, one LoRA adapter on top, sampled from and trained in the same memory.

torch, transformers and peft are imported inside functions: nothing here costs anything until a model is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from halo_forge.errors import HaloForgeError, ModelError
from halo_forge.records import Prompt
from halo_forge.seeds import derive_seed

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class ModelSettings(Protocol):
    """The `model` section of the configuration, as far as the policy reads it."""

    @property
    def model_name_or_path(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def attn_implementation(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...


class LoraSettings(Protocol):
    """The `lora` section of the configuration."""

    @property
    def r(self) -> int: ...
    @property
    def lora_alpha(self) -> float: ...
    @property
    def lora_dropout(self) -> float: ...
    @property
    def target_modules(self) -> str | list[str]: ...
    @property
    def use_rslora(self) -> bool: ...


class Policy:
    """A causal language model with one trainable LoRA adapter.

    Attributes:
        model: The PEFT model; base weights frozen in `dtype`, adapter weights in float32.
        tokenizer: Its tokenizer, with a chat template.
        version: Which policy version the adapter in memory is: 0 is the start model.
        end_of_turn_id: The token that ends an assistant message in the chat template; learned in training.
        stop_ids: Tokens that end a completion when sampled.
        identity: What says that two runs start from the same model, for run.json.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        identity: Mapping[str, str],
        response_prefix: str | None = None,
    ) -> None:
        self.model = model
        self.identity = dict(identity)
        self.tokenizer = tokenizer
        self.response_prefix = response_prefix if response_prefix is not None else ""
        self.version = 0
        self.end_of_turn_id = _end_of_turn_id(tokenizer)
        self.stop_ids = frozenset({self.end_of_turn_id, *_generation_stop_ids(model, tokenizer)})
        self._start_adapter = self._adapter_state()

    @classmethod
    def load(
        cls,
        settings: ModelSettings,
        lora: LoraSettings,
        *,
        seed: int,
        response_prefix: str | None = None,
    ) -> Policy:
        """Load the base model once and put the start adapter, or a new one drawn from `seed`, on top.

        Raises:
            ModelError: The model, its tokenizer, its chat template or the start adapter cannot be used.
        """
        check_local(settings)
        _quiet_libraries()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        name = settings.model_name_or_path
        with _explained(name):
            tokenizer = AutoTokenizer.from_pretrained(name, **common)
        if tokenizer.chat_template is None:
            raise ModelError(
                f"model.model_name_or_path: {name}: its tokenizer has no chat template",
                "use an instruction-tuned model, or add a chat_template.jinja to a local copy of this one",
            )
        device = _device()
        attention = (
            {} if settings.attn_implementation == "auto" else {"attn_implementation": settings.attn_implementation}
        )
        with _explained(name):
            base = AutoModelForCausalLM.from_pretrained(
                name, dtype=resolve_dtype(settings.dtype, device), **attention, **common
            )
        base.requires_grad_(False)
        model = _with_adapter(base.to(device), settings, lora, seed)
        model.eval()
        return cls(model, tokenizer, identity=_identity(settings, base), response_prefix=response_prefix)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def render(self, prompt: Prompt) -> str:
        """The text the model continues: chat template, generation prompt and response prefix.

        Raises:
            ModelError: The template refuses the messages (some know no system message).
        """
        messages = [dict(message) for message in prompt.messages]
        return _templated(self.tokenizer, messages, add_generation_prompt=True) + self.response_prefix

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of `render(prompt)`; the template has its own special tokens, so none are added."""
        return list(self.tokenizer(self.render(prompt), add_special_tokens=False)["input_ids"])

    def load_adapter(self, folder: Path | None, version: int) -> None:
        """Put another adapter of this run on the base model in memory; None is the start adapter (v0).

        Raises:
            ModelError: The folder holds no adapter of this shape.
        """
        from peft import set_peft_model_state_dict

        weights = self._start_adapter if folder is None else _adapter_weights(str(folder), self._start_adapter)
        set_peft_model_state_dict(self.model, weights)
        self.version = version

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in memory as a plain PEFT folder that `PeftModel.from_pretrained` loads."""
        self.model.save_pretrained(str(folder), safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)  # a model card template without content
        path = folder / ADAPTER_FILES[0]
        config = json.loads(path.read_text(encoding="utf-8"))
        # The library writes a set in the order of this process's string hashes; equal adapters have equal bytes.
        config["target_modules"] = sorted(config["target_modules"])
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def adapter_norm(self) -> float:
        """Frobenius norm of the whole weight change, sqrt(sum over modules of ||s B A||_F^2); dimensionless.

        ||BA||_F^2 = trace((B^T B)(A A^T)), so no matrix larger than r x r is formed.
        """
        total = 0.0
        for module in self.model.modules():
            for name, a in getattr(module, "lora_A", {}).items():
                a_weight, b_weight = a.weight.detach().double(), module.lora_B[name].weight.detach().double()
                gram = (b_weight.T @ b_weight) * (a_weight @ a_weight.T)
                total += module.scaling[name] ** 2 * float(gram.sum())
        return math.sqrt(max(total, 0.0))

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """Evaluation mode, with the adapter in the base weights' dtype while the block runs.

        A low-precision copy of the adapter saves a cast in every linear layer of every step.  The float32 master
        weights are put back afterwards bit by bit.  Merging into the base weights would be faster still, but
        rounding W + sBA to bfloat16 drops updates below half a unit in the last place: a small learning rate
        would look like no learning at all.
        """
        adapter = [parameter for name, parameter in self.model.named_parameters() if "lora_" in name]
        masters = [parameter.data for parameter in adapter]
        self.model.eval()
        try:
            for parameter in adapter:
                parameter.data = parameter.data.to(self.model.dtype)
            yield
        finally:
            for parameter, master in zip(adapter, masters, strict=True):
                parameter.data = master

    def _adapter_state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _named_weights(self.model).items()}


def check_local(settings: ModelSettings) -> None:
    """Find a missing folder or a foreign adapter before torch is imported; a Hub id is left to the loader.

    Raises:
        ModelError: What is wrong, and what to do.
    """
    name, path = settings.model_name_or_path, Path(settings.model_name_or_path).expanduser()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or path.parts[0] == "models"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"model.model_name_or_path: {name}: no config.json in this folder", "name a model folder")
        _read_object(path / "config.json", "model.model_name_or_path")
    elif looks_local and name.count("/") > 0:
        hint = "run `make model`" if path.parts[0] == "models" else "name an existing folder or a Hub id (owner/name)"
        raise ModelError(f"model.model_name_or_path: {name}: no such folder", hint)
    if settings.adapter is not None:
        _check_adapter(Path(settings.adapter).expanduser(), name)


def _check_adapter(folder: Path, base_name: str) -> None:
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"model.adapter: {folder}: {' and '.join(missing)} missing",
            "name a PEFT adapter folder (cycles/NNN/adapter)",
        )
    made_for = _read_object(folder / ADAPTER_FILES[0], "model.adapter").get("base_model_name_or_path")
    # The same model may stand under a Hub id and in a local folder, so only the last part of the name must agree.
    if made_for is not None and Path(str(made_for)).name.lower() != Path(base_name).name.lower():
        raise ModelError(
            f"model.adapter: {folder} was trained on {made_for!r}, but model.model_name_or_path is {base_name!r}",
            "use the adapter's own base model; if both are the same model under two names,"
            " correct base_model_name_or_path in the adapter's adapter_config.json",
        )


def _read_object(path: Path, key: str) -> dict[str, Any]:
    """A JSON object; anything else would end in a loader's AttributeError."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{key}: {path} is not JSON: {error}", "name an intact folder") from error
    if not isinstance(found, dict):
        raise ModelError(f"{key}: {path} holds no JSON object", "name an intact folder")
    return found


def _identity(settings: ModelSettings, base: Any) -> dict[str, str]:
    """Name, and what is behind it: the commit of a Hub model, or a local folder's settings, tokenizer, and size and
    ends of its weight files.

    Reading gigabytes at every start would cost more than it finds: weights that were trained differ in their ends too.
    """
    found = {"model_name_or_path": settings.model_name_or_path}
    commit = getattr(base.config, "_commit_hash", None)
    if commit is not None:
        found["commit"] = str(commit)
    folder = Path(settings.model_name_or_path).expanduser()
    if folder.is_dir():
        found["sha256"] = _folder_digest(folder)
    if settings.adapter is not None:
        found["adapter_sha256"] = adapter_digest(Path(settings.adapter).expanduser())
    return found


def _folder_digest(folder: Path) -> str:
    digest, end_bytes = hashlib.sha256(), 1 << 20
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jinja")]):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(end_bytes))
            handle.seek(max(0, size - end_bytes))
            digest.update(handle.read(end_bytes))
    return digest.hexdigest()


def adapter_digest(folder: Path) -> str:
    """SHA-256 over the adapter's two files."""
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 where the device computes it natively, else float16 on a GPU and float32 on a CPU."""
    import torch

    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device == "cpu":
        return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _cpu_computes_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _quiet_libraries() -> None:
    """The libraries' own progress bars and notes about their next version would tear our progress apart."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")


def _with_adapter(base: Any, settings: ModelSettings, lora: LoraSettings, seed: int) -> PeftModel:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    if settings.adapter is not None:
        with _explained(settings.adapter):
            model = PeftModel.from_pretrained(base, settings.adapter, is_trainable=True)
        found = model.peft_config["default"].r
        if found != lora.r:
            raise ModelError(
                f"model.adapter: {settings.adapter} has r {found}, but lora.r is {lora.r}", f"set lora.r to {found}"
            )
        # The library fills weights that the file lacks with random ones.
        _adapter_weights(settings.adapter, _named_weights(model))
        return _trainable(model)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), _explained("lora.target_modules"):
        torch.manual_seed(derive_seed(seed, "lora_init"))
        return _trainable(get_peft_model(base, config))


def _trainable(model: PeftModel) -> PeftModel:
    """The model, if its trainer can train the adapter; found here rather than after the first cycle's sampling."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise ModelError(
            "lora.target_modules: an adapter on the output layer (lm_head) cannot be trained: the loss is computed"
            " from the layer's own weight",
            "take lm_head out of lora.target_modules",
        )
    return model


def _named_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    # Never the embeddings: the default asks a model hub whether the vocabulary was resized.
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def _adapter_weights(folder: str, wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in an adapter folder, if they are those that `wanted` names, in the same shapes."""
    from peft import load_peft_weights

    with _explained(folder):
        weights = dict(load_peft_weights(folder, device="cpu"))
    for name in sorted(wanted.keys() | weights.keys()):
        shapes = [tuple(each[name].shape) if name in each else "none" for each in (weights, wanted)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"{folder}: the adapter does not fit this model: {name} is {shapes[0]}, {shapes[1]} is needed",
                "use it with the base model and the lora section that it was made with",
            )
    return weights


def _end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The special token right after an assistant message in the chat template; else the tokenizer's own EOS.

    Raises:
        ModelError: Neither exists, so a model could never learn to stop.
    """
    probe = "@@halo@@"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": probe}]
    after = _templated(tokenizer, messages, add_generation_prompt=False).rpartition(probe)[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    # Many tokenizers mark their turn tokens as special without listing them among their named special tokens.
    marked = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special = marked | set(tokenizer.all_special_ids)
    for token in ids:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-turn token", "use a tokenizer with an eos_token")
    return int(tokenizer.eos_token_id)


def _templated(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template cannot render a conversation of {roles}: {error}",
            "drop prompts.system_prompt if the template knows no system message, or mend chat_template.jinja",
        ) from error


def _generation_stop_ids(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    config = getattr(model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what loaders raise about unusable files into an error that says which name, and what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except HaloForgeError:
        raise
    except ImportError as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{name}: a package is missing: {first_line}", "install it, or change model.attn_implementation"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name}: cannot be loaded: {first_line}",
            "name a readable local folder or a reachable Hub id (without network: HF_HUB_OFFLINE=1 and a cached model)",
        ) from error
