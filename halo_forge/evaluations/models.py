"""The models in memory: subjects on the same base share it, and only the adapter is replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from halo_forge.config.sections import LoraSection
from halo_forge.core.records import Prompt
from halo_forge.core.source import ReasoningMarks
from halo_forge.evaluations.subject import Subject
from halo_forge.hardware import HardwareSettings, Profile, prepare
from halo_forge.policy import ADAPTER_FILES, Policy
from halo_forge.policy.folder_checks import read_object
from halo_forge.policy.rendering import Renderer

if TYPE_CHECKING:
    from pathlib import Path

_SHAPE = ("r", "lora_alpha", "use_rslora", "target_modules")
_PLAIN: Mapping[str, Any] = {
    "peft_type": "LORA", "use_dora": False, "bias": "none", "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "layers_to_transform": None, "layers_pattern": None, "trainable_token_indices": None,
    "target_parameters": None, "exclude_modules": None, "lora_bias": False, "fan_in_fan_out": False,
}  # fmt: skip
"""Keys of adapter_config.json -> the values with which an adapter is nothing but what a `lora` section describes."""


class Models:
    """One base model in memory, loaded when it is first asked and replaced when another one is.

    Args:
        subjects: Those that will be measured: a base is loaded in the shape that their adapters have.
    """

    def __init__(self, subjects: Sequence[Subject] = ()) -> None:
        self._subjects = tuple(subjects)
        self._key: tuple[Any, ...] | None = None
        self._policy: Policy | None = None
        self._profile: Profile | None = None

    def prepare(self, hardware: HardwareSettings) -> Profile:
        """The profile of this machine; called before anything imports torch, and the same ever after."""
        if self._profile is None:
            self._profile = prepare(hardware)
        return self._profile

    def policy(
        self,
        subject: Subject,
        prompts: Sequence[Prompt],
        *,
        hardware: HardwareSettings,
        response_prefix: str | None,
        date: datetime,
        reasoning_marks: ReasoningMarks | None,
    ) -> Policy:
        """The subject's model with its adapter, rendering prompts as asked.

        Raises:
            ModelError: Model or adapter cannot be used, or do not belong together.
            ConfigError: A prompt has a token that the model does not know.
        """
        lora = self._shape(subject)
        # An adapter that a `lora` section cannot describe is loaded by PEFT, and shares its base with no other one.
        settings = subject.model.model_copy(update={"adapter": None if lora is not None else str(subject.adapter)})
        key = (settings, lora)
        if self._policy is None or key != self._key:
            self._policy, self._key = None, None  # first: both at once may not fit into memory
            self._policy = Policy.load(
                settings,
                _section_of(subject.adapter) if lora is None else lora,
                seed=0,
                profile=self.prepare(hardware),
                date=date,
            )
            self._key = key
        policy = self._policy
        policy.load_adapter(subject.adapter if lora is not None else None, subject.label)
        prefix = "" if response_prefix is None else response_prefix
        policy.rendering = Renderer(policy.tokenizer, prefix, date=date, reasoning_marks=reasoning_marks)
        policy.check_tokens(prompts)
        return policy

    def _shape(self, subject: Subject) -> LoraSection | None:
        """The shape that the base is loaded with for a subject: of its adapter, or for the base alone of any other's.

        The new adapter of that shape has B = 0 and changes nothing.
        """
        if subject.adapter is not None:
            return _plain_shape(subject.adapter)
        shapes = (
            _plain_shape(each.adapter)
            for each in self._subjects
            if each.adapter is not None and each.server is None and each.model == subject.model
        )
        return next((shape for shape in shapes if shape is not None), LoraSection())


def _plain_shape(adapter: Path) -> LoraSection | None:
    """The adapter's shape as a `lora` section, None if it has more than that can say."""
    found = read_object(adapter / ADAPTER_FILES[0], "adapter")
    modules = found.get("target_modules")
    if not isinstance(modules, list) or any(found.get(key, usual) != usual for key, usual in _PLAIN.items()):
        return None
    return _section_of(adapter)


def _section_of(adapter: Path | None) -> LoraSection:
    assert adapter is not None  # a base alone always has a plain shape
    found = read_object(adapter / ADAPTER_FILES[0], "adapter")
    modules = found.get("target_modules")
    shape = {key: found[key] for key in _SHAPE if key in found}
    shape["target_modules"] = sorted(modules) if isinstance(modules, list) else "all-linear"
    return LoraSection.model_construct(**{**LoraSection().model_dump(), **shape})
