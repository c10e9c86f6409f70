"""Engine `vllm`: vLLM in this process, beside the policy that is trained; needs a GPU and the extra `vllm`."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from halo_forge.engines._served_adapter import SavedAdapter
from halo_forge.engines._server_forms import Reply, completion, question
from halo_forge.engines._spec import EngineSpec
from halo_forge.errors import ToolMissing
from halo_forge.records import Completion, Prompt, SampleRequest

if TYPE_CHECKING:
    from halo_forge.policy import Policy

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` may be."""


class VllmSpec(EngineSpec):
    """vLLM in this process."""

    kind: Literal["vllm"] = "vllm"
    gpu_memory_utilization: float = Field(0.45, gt=0, lt=1)
    """vLLM's share of the GPU's memory; the model that is trained needs its own."""

    def check(self) -> None:
        """The package; see `EngineSpec`."""
        if importlib.util.find_spec("vllm") is None:
            raise _missing("there is no such package")

    def open(self, policy: Policy) -> VllmEngine:
        """Load the base model into vLLM.

        Raises:
            ToolMissing: The package cannot be imported.
        """
        try:
            import vllm
        except ImportError as error:
            raise _missing(str(error)) from error
        rank = policy.model.peft_config["default"].r
        llm = vllm.LLM(
            model=policy.identity["model_name_or_path"],
            revision=policy.identity.get("commit"),
            tokenizer_revision=policy.identity.get("commit"),
            dtype=str(policy.model.dtype).removeprefix("torch."),
            gpu_memory_utilization=self.gpu_memory_utilization,
            enable_lora=True,
            max_lora_rank=min((each for each in RANKS if each >= rank), default=rank),
            **({} if self.batch_size == "auto" else {"max_num_seqs": self.batch_size}),
        )
        return VllmEngine(policy, llm.llm_engine, tuple(self.stop))


def _missing(why: str) -> ToolMissing:
    return ToolMissing(
        f"engine.kind: vllm: the package vllm cannot be imported ({why})",
        "pip install 'halo-forge[vllm]', or choose engine.kind transformers or openai_server",
    )


class VllmEngine:
    """Hands requests to vLLM's own scheduler."""

    takes_processors = False

    def __init__(self, policy: Policy, engine: Any, stop: tuple[str, ...]) -> None:
        self.policy, self.engine, self.stop = policy, engine, stop
        self._folder = tempfile.TemporaryDirectory(prefix="halo-forge-")
        self._adapter = SavedAdapter(policy, Path(self._folder.name))

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """Completions of `requests` as they finish."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        if policy_version != self.policy.version:
            raise RuntimeError(f"asked for v{policy_version}, but v{self.policy.version} is in memory")
        path = self._adapter.path()
        # Ids of adapters start at 1; each version has its own, so that no cached prefix of another is taken.
        lora = None if path is None else LoRARequest(path.name, policy_version + 1, str(path))
        for number, request in enumerate(requests):
            fields = sampling_fields(request, self.stop, self.policy.stop_ids)
            params = SamplingParams(**fields, output_kind=RequestOutputKind.FINAL_ONLY)
            prompt = {"prompt_token_ids": self.policy.prompt_ids(prompts[request.prompt_id])}
            self.engine.add_request(str(number), prompt, params, lora_request=lora)
        try:
            while self.engine.has_unfinished_requests():
                for output in self.engine.step():
                    (answer,) = output.outputs
                    reply = Reply(answer.text, tuple(answer.token_ids), answer.finish_reason)
                    yield completion(self.policy, requests[int(output.request_id)], reply, self.stop)
        finally:
            self.engine.abort_request([str(number) for number in range(len(requests))])


def sampling_fields(request: SampleRequest, stop: Sequence[str], stop_ids: Any) -> dict[str, Any]:
    """A request as arguments of vLLM's SamplingParams, which has the names of its server's fields."""
    body = question("vllm", "", "", request, stop=stop, stop_ids=stop_ids)
    return {key: value for key, value in body.items() if key not in ("model", "prompt", "return_token_ids")}
