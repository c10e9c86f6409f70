"""With the model's tokenizer: are the texts of the completions what their token ids say?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from datetime import datetime
from typing import TYPE_CHECKING, Any

from halo_forge.claims.findings import Findings
from halo_forge.claims.pairs import Pair
from halo_forge.config import RaftConfig
from halo_forge.core.errors import ClaimError
from halo_forge.core.records import Prompt
from halo_forge.engines.transformers import cut_after

if TYPE_CHECKING:
    from halo_forge.policy.rendering import Renderer

TEXTS = "that the texts of the completions are what their token ids say"
_WITH_IDS = ("transformers", "vllm", "recorded")
"""Engines whose token ids are the sampled ones; other servers may return text alone."""


def check_texts(
    pairs: Iterable[Pair],
    prompts: Mapping[str, Prompt],
    whole: Set[str],
    config: RaftConfig,
    rendering: Any,
    tokenizer: str,
    findings: Findings,
) -> None:
    """Decode every completion, and render the prompts again.

    Args:
        whole: Ids of the prompts that are known with their text.
        rendering: That of run.json.
        tokenizer: Folder or hub id of the model; its tokenizer alone is loaded, and no code that comes with it.

    Raises:
        ModelError: It cannot be loaded.
        ClaimError: The run had no model.
    """
    if not config.engine.needs_policy or not isinstance(rendering, dict):
        raise ClaimError("--tokenizer: the run of this claim had no model", "leave --tokenizer out")
    renderer = _renderer(config, rendering, tokenizer)
    if whole >= prompts.keys():
        findings.compare("run.json", rendering, renderer.record(prompts.values()), what="rendering")
    if config.engine.kind not in _WITH_IDS:
        findings.leave_out(TEXTS, f"engine {config.engine.kind} may have been told the text alone")
        return
    seen: dict[str, str] = {}
    for pair in pairs:
        completion = pair.completion
        if pair.is_second or completion.prompt_id not in whole:
            continue
        start = seen.get(completion.prompt_id)
        if start is None:
            start = seen[completion.prompt_id] = renderer.start(prompts[completion.prompt_id])
        text = _decoded(renderer, completion.token_ids)
        file = pair.file.replace("verdicts.jsonl", "completions.jsonl")
        findings.compare(file, completion.text, start + cut_after(text, config.engine.stop), pair.key, "text")


def _renderer(config: RaftConfig, rendering: Mapping[str, Any], tokenizer: str) -> Renderer:
    # Late: a library of a second or two.
    from halo_forge.policy.rendering import Renderer, load_tokenizer

    settings = config.model.model_copy(
        update={"model_name_or_path": tokenizer, "revision": None, "trust_remote_code": False}
    )
    date = rendering.get("date")
    return Renderer(
        load_tokenizer(settings),
        config.prompts.response_prefix if config.prompts.response_prefix is not None else "",
        date=datetime.fromisoformat(date) if isinstance(date, str) else None,
        reasoning_marks=config.verifier.own_marks,
    )


def _decoded(renderer: Renderer, token_ids: tuple[int, ...]) -> str:
    try:
        text = renderer.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    except (OverflowError, TypeError, ValueError, IndexError):
        return "(no such tokens)"  # ids that the tokenizer does not have
    return str(text)
