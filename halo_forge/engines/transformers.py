"""Engine `transformers`: batched sampling from the policy in memory.

Requests are sorted by prompt length, each prompt of a batch is prefilled once for all its samples, and finished
rows leave the batch.  Every row draws from its own stream of uniform numbers (seeded by its request), turned into
tokens by the inverse of the cumulative distribution: the same request gives the same tokens whatever else is in
the batch, up to floating-point noise in the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from halo_forge.engines._spec import EngineSpec
from halo_forge.records import Completion, Finish, Prompt, SampleRequest

if TYPE_CHECKING:
    import torch

    from halo_forge.policy import Policy

AUTO_BATCH_SIZE = 64
COMPACT_AT = 1 / 8
"""Finished rows are dropped from the cache when they are this share of it: dropping copies the cache once."""


class TransformersSpec(EngineSpec):
    """Sampling with transformers, on the device the model is on."""

    kind: Literal["transformers"] = "transformers"

    def open(self, policy: Policy) -> TransformersEngine:
        """An engine over the policy in memory."""
        batch_size = AUTO_BATCH_SIZE if self.batch_size == "auto" else self.batch_size
        return TransformersEngine(policy, batch_size=batch_size, stop=tuple(self.stop))


@dataclass
class Row:
    """One completion in the making."""

    request: SampleRequest
    uniforms: Any
    token_ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    text: str = ""


class TransformersEngine:
    """Samples batches of rows; see the module's docstring."""

    def __init__(self, policy: Policy, *, batch_size: int, stop: tuple[str, ...]) -> None:
        self.policy = policy
        self.batch_size = batch_size
        self.stop = stop
        # A stop string can only be completed by the newest token, so looking at this many is enough.
        self._tail = max((len(text.encode()) for text in stop), default=0) + 8

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """Completions of `requests` as they finish."""
        if policy_version != self.policy.version:
            raise RuntimeError(f"asked for v{policy_version}, but v{self.policy.version} is in memory")
        ids = {request.prompt_id: [] for request in requests}
        for prompt_id in ids:
            ids[prompt_id] = self.policy.prompt_ids(prompts[prompt_id])
        ordered = sorted(requests, key=lambda r: (len(ids[r.prompt_id]), r.prompt_id, r.index))
        for start in range(0, len(ordered), self.batch_size):
            rows = [_new_row(request) for request in ordered[start : start + self.batch_size]]
            with self.policy.sampling():
                for row in self._run_batch(rows, ids):
                    yield self._completion(row, policy_version)

    def _run_batch(self, rows: list[Row], ids: Mapping[str, list[int]]) -> Iterator[Row]:
        """Decode until every row is finished; yields each row once."""
        import torch

        with torch.inference_mode():
            cache, logits, mask = self._prefill(rows, ids)
        present = rows  # the rows whose keys and values are in the cache, finished or not
        while True:
            with torch.inference_mode():
                tokens = sample_tokens(logits, present)
            for row, token in zip(present, tokens.tolist(), strict=True):
                if row.finish is None:
                    self._append(row, token)
                    if row.finish is not None:
                        yield row
            keep = [position for position, row in enumerate(present) if row.finish is None]
            if not keep:
                return
            with torch.inference_mode():
                if len(present) - len(keep) >= COMPACT_AT * len(present):
                    index = torch.tensor(keep, device=mask.device)
                    cache.batch_select_indices(index)
                    mask, tokens = mask[index], tokens[index]
                    present = [present[position] for position in keep]
                mask = torch.cat([mask, mask.new_ones(len(present), 1)], dim=1)
                logits = self._decode_step(tokens, mask, cache)

    def _decode_step(self, tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Next-token logits (rows, vocabulary) after `tokens` (rows,); the cache grows by one position."""
        output = self.policy.model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits[:, -1]

    def _prefill(self, rows: list[Row], ids: Mapping[str, list[int]]) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Run each distinct prompt once, left-padded, and copy its cache to its rows.

        Returns:
            The cache, the next-token logits (rows, vocabulary), the attention mask (rows, prompt length).
        """
        import torch

        names = list(dict.fromkeys(row.request.prompt_id for row in rows))
        longest = max(len(ids[name]) for name in names)
        # Any id serves as padding: the mask hides it.
        padded = [[0] * (longest - len(ids[name])) + ids[name] for name in names]
        mask = [[0] * (longest - len(ids[name])) + [1] * len(ids[name]) for name in names]
        device = self.policy.device
        input_ids, attention = torch.tensor(padded, device=device), torch.tensor(mask, device=device)
        output = self.policy.model(
            input_ids=input_ids,
            attention_mask=attention,
            position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        position = {name: number for number, name in enumerate(names)}
        index = torch.tensor([position[row.request.prompt_id] for row in rows], device=device)
        cache = output.past_key_values
        cache.batch_select_indices(index)
        return cache, output.logits[index, -1], attention[index]

    def _append(self, row: Row, token: int) -> None:
        """Add a sampled token to the row and say whether the row is finished by it."""
        if token in self.policy.stop_ids:
            row.finish, row.text = "stop", self._decode(row.token_ids)
            return
        row.token_ids.append(token)
        if self.stop and any(text in self._decode(row.token_ids[-self._tail :]) for text in self.stop):
            row.finish, row.text = "stop", cut_after(self._decode(row.token_ids), self.stop)
        elif len(row.token_ids) >= row.request.max_new_tokens:
            row.finish, row.text = "length", self._decode(row.token_ids)

    def _decode(self, token_ids: list[int]) -> str:
        return str(
            self.policy.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _completion(self, row: Row, policy_version: int) -> Completion:
        assert row.finish is not None
        return Completion(
            prompt_id=row.request.prompt_id,
            index=row.request.index,
            text=self.policy.response_prefix + row.text,
            token_ids=tuple(row.token_ids),
            finish=row.finish,
            seed=row.request.seed,
            policy_version=policy_version,
        )


def _new_row(request: SampleRequest) -> Row:
    import numpy

    # Philox is counter-based: the stream of a row is a pure function of its seed.
    stream = numpy.random.Generator(numpy.random.Philox(key=request.seed))
    return Row(request, uniforms=stream.random(request.max_new_tokens))


def cut_after(text: str, stop: Sequence[str]) -> str:
    """`text` up to and including the stop string that ends first; the whole text if none is in it."""
    ends = [text.index(mark) + len(mark) for mark in stop if mark in text]
    return text[: min(ends)] if ends else text


def sample_tokens(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """One token for each row.

    Args:
        logits: (rows, vocabulary), any floating dtype; computed in float32.
        rows: Their requests (temperature, top_p, top_k) and uniform numbers.

    Returns:
        (rows,) token ids.
    """
    import torch

    scores = logits.float()
    temperatures = torch.tensor([row.request.temperature for row in rows], device=scores.device)
    greedy = temperatures == 0
    scores = scores / torch.where(greedy, torch.ones_like(temperatures), temperatures)[:, None]
    top_k = rows[0].request.top_k
    if top_k is not None and top_k < scores.shape[1]:
        floor = scores.topk(top_k, dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < floor, float("-inf"))
    probabilities = scores.softmax(dim=1)
    top_p = torch.tensor([row.request.top_p for row in rows], device=scores.device)
    if bool((top_p < 1).any()):
        probabilities = _nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(dim=1)
    drawn = [row.uniforms[min(len(row.token_ids), len(row.uniforms) - 1)] for row in rows]
    uniforms = torch.tensor(drawn, dtype=torch.float32, device=scores.device)
    # Rounding may leave the total a little below or above 1, so the draw is scaled to it; right=True never lands
    # on a token of probability 0 when the draw is exactly 0.
    targets = (uniforms * cumulative[:, -1])[:, None]
    drawn_tokens = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    likeliest = probabilities.argmax(dim=1)
    # The draw can round up to the total itself; then nothing lies beyond it.
    invalid = greedy | (drawn_tokens >= scores.shape[1])
    return torch.where(invalid, likeliest, drawn_tokens)


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zero all tokens outside the smallest set whose probabilities sum to at least `top_p`."""
    ordered, order = probabilities.sort(dim=1, descending=True)
    outside = ordered.cumsum(dim=1) - ordered >= top_p[:, None]
    return probabilities.masked_fill(outside.scatter(1, order, outside), 0.0)
