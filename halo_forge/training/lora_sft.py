"""LoRA supervised fine-tuning of one cycle, by TRL's SFTTrainer on the policy in memory.

The rows carry the very token ids that were sampled, so nothing is tokenised a second time: the loss falls on them
and on the end of turn after them, and on nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_forge.core.lr_scheduler import SftSettings, planned_factors
from halo_forge.core.metrics import TrainingFacts, measure_training
from halo_forge.core.records import Trained, TrainingRow, TrainingSettings
from halo_forge.core.seeds import derive_seed
from halo_forge.policy import OPTIMIZER_FILE, adapter_digest, disk_full_is_os_error, file_digest, fused_adapter
from halo_forge.policy.threads import yielding_threads
from halo_forge.training import StepListener

if TYPE_CHECKING:
    from trl.trainer.sft_config import SFTConfig

    from halo_forge.policy import Policy


class LoraSftTrainer:
    """Trains the policy's adapter in place.

    Args:
        keep_optimizer: Write the optimizer's state beside every adapter, for the next cycle to go on with.
    """

    def __init__(self, policy: Policy, settings: SftSettings, *, seed: int, keep_optimizer: bool = False) -> None:
        self.policy = policy
        self.settings = settings
        self.seed = seed
        self.keep_optimizer = keep_optimizer

    def train(
        self,
        rows: Sequence[TrainingRow],
        settings: TrainingSettings,
        folder: Path,
        on_step: StepListener,
        optimizer_state: Path | None = None,
        factors: Sequence[float] | None = None,
    ) -> Trained:
        """One cycle's training; see `halo_forge.training.Trainer`.

        Args:
            factors: The share of the learning rate at each step, for a part of a longer training, whose rows come in
                the order given; None is the shape of a whole one, whose rows are shuffled.
        """
        from datasets import Dataset

        if self.policy.version != settings.parent_version:
            raise RuntimeError(
                f"cycle {settings.cycle} trains v{settings.parent_version}, v{self.policy.version} is in memory"
            )
        start = None if settings.average_weight == 1.0 else self.policy.trainable_weights()
        in_order = factors is not None
        if factors is None:
            factors = planned_factors(
                self.settings, len(rows), settings.num_train_epochs, settings.gradient_accumulation_steps
            )
        dataset = Dataset.from_list([self._tokenized(row) for row in rows])
        base = self.policy.model.get_base_model()
        with _unwrapped_after(base), fused_adapter(self.policy.model), yielding_threads(self.policy.device):
            trainer = self._build(dataset, settings, list(factors), folder, on_step, optimizer_state, in_order)
            trainer.train()
        steps = trainer.step_rows
        if len(steps) != len(factors):
            raise RuntimeError(f"the plan says {len(factors)} optimizer steps, the trainer took {len(steps)}")
        optimizer_digest = self._keep(trainer.optimizer, folder) if self.keep_optimizer else None
        if start is not None:
            self.policy.average_with(start, settings.average_weight)
        self.policy.model.eval()
        self.policy.version = settings.cycle
        self.policy.save_adapter(folder / "adapter")
        metrics = measure_training(TrainingFacts(steps, settings.max_grad_norm, self.policy.adapter_norm()))
        digest = adapter_digest(folder / "adapter")
        return Trained(settings.cycle, settings.cycle, len(rows), metrics, digest, optimizer_digest)

    def _keep(self, optimizer: Any, folder: Path) -> str:
        from halo_forge.training._optimizer_state import save_state

        with disk_full_is_os_error():
            save_state(optimizer, self.policy.model, folder / OPTIMIZER_FILE)
        return file_digest(folder / OPTIMIZER_FILE)

    def _tokenized(self, row: TrainingRow) -> dict[str, list[int]]:
        """`input_ids` and `labels` of one row, of equal length."""
        from halo_forge.training._step_batch import IGNORED

        prompt = self.policy.prompt_ids(row.prompt)
        completion = [*row.completion.token_ids, self.policy.end_of_turn_id]
        return {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}

    def _build(
        self,
        dataset: Any,
        settings: TrainingSettings,
        factors: list[float],
        folder: Path,
        on_step: StepListener,
        optimizer_state: Path | None,
        in_order: bool,
    ) -> Any:
        from halo_forge.training._optimizer_state import restore_state
        from halo_forge.training._step_recorder import step_recording_trainer

        def prepare(optimizer: Any, model: Any) -> None:
            if settings.optimizer != "reset" and optimizer_state is not None:
                restore_state(optimizer, model, optimizer_state, with_steps=settings.optimizer == "carry")

        profile = self.policy.profile
        max_tokens, checkpointing = profile.training_pass(
            self.policy.size,
            max(map(len, dataset["input_ids"])),
            self.settings.max_tokens_per_pass,
            self.settings.gradient_checkpointing,
        )
        return step_recording_trainer(
            factors=factors,
            on_step=on_step,
            prepare_optimizer=prepare,
            fused_head=profile.takes_fused_head(),
            max_tokens=max_tokens,
            model=self.policy.model,
            args=self._arguments(settings, folder, checkpointing=checkpointing, in_order=in_order),
            train_dataset=dataset,
            processing_class=self.policy.tokenizer,
        )

    def _arguments(self, settings: TrainingSettings, folder: Path, *, checkpointing: bool, in_order: bool) -> SFTConfig:
        """What TRL's trainer is told."""
        from trl.trainer.sft_config import SFTConfig

        profile, seed = self.policy.profile, derive_seed(self.seed, "train", settings.cycle) % 2**32
        switch: dict[str, Any] = {_checkpointing_argument(SFTConfig): checkpointing}
        arguments = SFTConfig(
            output_dir=str(folder / "trainer"),
            # All rows of an optimizer step at once: our trainer cuts them by length (see `micro_batches`).
            per_device_train_batch_size=self.settings.per_device_train_batch_size
            * settings.gradient_accumulation_steps,
            gradient_accumulation_steps=1,
            num_train_epochs=settings.num_train_epochs,
            train_sampling_strategy="sequential" if in_order else "random",
            learning_rate=settings.learning_rate,
            max_grad_norm=settings.max_grad_norm,
            weight_decay=settings.weight_decay,
            optim=profile.optimizer,
            # The weights are in the dtype they compute in; autocast would only add casts.
            bf16=False,
            fp16=False,
            **switch,
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            seed=seed,
            data_seed=seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=self.policy.device.type == "cpu",
            dataloader_pin_memory=profile.pin_memory,
            # Without this, the copy of a pinned batch is waited for all the same.
            accelerator_config={"non_blocking": profile.pin_memory},
        )
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1  # the library would put the model on every visible GPU, and a run uses one
        return arguments


def _checkpointing_argument(arguments: type) -> str:
    """The name of the switch: the one before transformers 5.23 is deprecated."""
    new = "activation_checkpointing"
    return new if hasattr(arguments, new) else "gradient_checkpointing"


@contextlib.contextmanager
def _unwrapped_after(base: Any) -> Iterator[None]:
    """Take off again what the library puts around the model for a training.

    It wraps the forward of the model it is given and never unwraps it: every cycle would add a wrapper, and a hook
    on the embeddings where gradient checkpointing is on.
    """
    hooks = base.get_input_embeddings()._forward_hooks
    hooks_before = dict(hooks)
    forward = base.__dict__.get("forward")
    try:
        yield
    finally:
        # Not `replaced_forwards`: here the library replaces it, and only where it needs to.
        if forward is None:
            base.__dict__.pop("forward", None)
        else:
            base.forward = forward
        # What asks and what switches it off have other names before transformers 5.23.
        if any(getattr(module, "gradient_checkpointing", False) for module in base.modules()):
            off = "activation_checkpointing_disable"
            getattr(base, off if hasattr(base, off) else "gradient_checkpointing_disable")()
        for key in hooks.keys() - hooks_before.keys():
            del hooks[key]
