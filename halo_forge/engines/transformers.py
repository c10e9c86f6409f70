"""Engine `transformers`: sampling from the policy in memory, with a fixed number of rows in flight.

A finished row is filled with the next request, each prompt is computed once for the samples that are filled in
together, and completions come out as they finish.  Every row draws from its own stream of uniform numbers (seeded by
its request), turned into tokens by the inverse of the cumulative distribution: the same request gives the same tokens
whatever else is in flight, up to floating-point noise in the logits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from halo_forge import heartbeat
from halo_forge.engines._spec import EngineSpec
from halo_forge.records import Completion, Finish, Prompt, SampleRequest

if TYPE_CHECKING:
    import torch

    from halo_forge.policy import Policy

_log = logging.getLogger(__name__)
_VOCABULARY_COPIES = 4
"""Logits, probabilities, their sums, and what sorting takes."""
_NUCLEUS_TOKENS = 512
REFILL_AT = 1 / 8
"""Finished rows are filled again, or dropped at the end, when they are this share: both cost a pass or a copy."""


class TransformersSpec(EngineSpec):
    """Sampling with transformers, on the device the model is on."""

    kind: Literal["transformers"] = "transformers"

    def open(self, policy: Policy) -> TransformersEngine:
        """An engine over the policy in memory."""
        if self.batch_size != "auto":
            return TransformersEngine(policy, batch_size=self.batch_size, stop=tuple(self.stop))
        rows = policy.profile.rows_in_flight(policy.num_parameters)
        return TransformersEngine(policy, batch_size=rows, stop=tuple(self.stop), fitted=True)


@dataclass
class Row:
    """One completion in the making."""

    request: SampleRequest
    uniforms: Any
    token_ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    text: str = ""


class TransformersEngine:
    """Samples requests in the order of their prompts' lengths; see the module's docstring.

    Args:
        batch_size: The most rows in flight.
        fitted: Take fewer rows where their caches would not fit into the profile's memory budget.
    """

    def __init__(self, policy: Policy, *, batch_size: int, stop: tuple[str, ...], fitted: bool = False) -> None:
        self.policy = policy
        self.batch_size = batch_size
        self.fitted = fitted
        self.stop = stop
        # A stop string can only be completed by the newest token, so looking at this many is enough.
        self._tail = max((len(text.encode()) for text in stop), default=0) + 8
        self._may_end: dict[int, bool] = {}
        self._adjust_threads: Callable[[], None]

    @property
    def takes_processors(self) -> bool:
        """On a CPU: every product waits for the slowest of torch's threads, and a compiler makes one slow."""
        return self.policy.device.type == "cpu"

    def sample(
        self, prompts: Mapping[str, Prompt], requests: Sequence[SampleRequest], policy_version: int
    ) -> Iterator[Completion]:
        """Completions of `requests` as they finish."""
        if policy_version != self.policy.version:
            raise RuntimeError(f"asked for v{policy_version}, but v{self.policy.version} is in memory")
        if not requests:
            return
        from halo_forge.engines._attention import fast_decoding
        from halo_forge.policy.threads import free_processors

        needed = dict.fromkeys(request.prompt_id for request in requests)
        ids = {prompt_id: self.policy.prompt_ids(prompts[prompt_id]) for prompt_id in needed}
        ordered = sorted(requests, key=lambda each: (len(ids[each.prompt_id]), each.prompt_id, each.index))
        with (
            self.policy.sampling(),
            fast_decoding(self.policy.model.get_base_model()),
            free_processors(self.policy.device) as self._adjust_threads,
        ):
            for row in self._all(ordered, ids):
                yield self._completion(row, policy_version)

    def _all(self, requests: Sequence[SampleRequest], ids: Mapping[str, list[int]]) -> Iterator[Row]:
        """Every request answered; each time that the GPU's memory runs out, what is left is asked with half the rows.

        Rows that were in flight begin anew and get the same tokens, which follow from their seeds.
        """
        import torch

        left = {(request.prompt_id, request.index): request for request in requests}
        while left:
            num_rows = min(self.batch_size, len(left), self._fitting(left.values(), ids))
            try:
                for row in self._run(deque(left.values()), ids, num_rows):
                    del left[row.request.prompt_id, row.request.index]
                    yield row
            except torch.OutOfMemoryError:
                if num_rows == 1:
                    raise
                self.batch_size = num_rows // 2
            else:
                return
            # Past the handler, so that the traceback no longer holds the caches that have to go.
            torch.cuda.empty_cache()
            _log.warning("the GPU's memory ran out; sampling goes on with %d rows in flight", self.batch_size)

    def _fitting(self, requests: Iterable[SampleRequest], ids: Mapping[str, list[int]]) -> int:
        """The most rows whose caches fit into the memory that is left."""
        budget = self.policy.profile.memory_budget_bytes() if self.fitted else None
        if budget is None:
            return self.batch_size
        num_tokens = max(map(len, ids.values())) + max(request.max_new_tokens for request in requests)
        return max(1, budget // row_bytes(self.policy.model, num_tokens))

    def _run(self, waiting: deque[SampleRequest], ids: Mapping[str, list[int]], num_rows: int) -> Iterator[Row]:
        """Decode until every request is answered; yields each row once, when it is finished."""
        import torch

        from halo_forge.engines._decoder import Decoder

        longest = max(map(len, ids.values())) + max(request.max_new_tokens for request in waiting)
        decoder = Decoder(self.policy.model, max_length=longest)
        rows: list[Row] = []
        tokens = torch.zeros(0, dtype=torch.long, device=self.policy.device)
        while waiting or rows:
            going = [number for number, row in enumerate(rows) if row.finish is None]
            if rows and len(rows) - len(going) >= REFILL_AT * len(rows):
                order = decoder.keep(going)
                rows, tokens = [rows[number] for number in order], tokens[order]
            elif waiting and num_rows - len(rows) >= REFILL_AT * num_rows:
                new = [_new_row(waiting.popleft()) for _ in range(min(len(waiting), num_rows - len(rows)))]
                logits = decoder.add([ids[row.request.prompt_id] for row in new])
                rows, tokens = rows + new, torch.cat([tokens, self._draw(logits, new)])
                yield from (row for row in new if row.finish is not None)
            else:
                self._adjust_threads()
                logits = decoder.step(tokens)
                asked = [rows[number] for number in going]
                tokens[going] = self._draw(logits if len(going) == len(rows) else logits[going], asked)
                yield from (row for row in asked if row.finish is not None)

    def _draw(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """The next token of each row, appended to it."""
        import torch

        with torch.inference_mode():
            tokens = sample_tokens(logits, rows)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            self._append(row, token)
        heartbeat.beat()
        return tokens

    def _append(self, row: Row, token: int) -> None:
        """Add a sampled token to the row and say whether the row is finished by it."""
        if token in self.policy.stop_ids:
            row.finish, row.text = "stop", self._decode(row.token_ids)
            return
        row.token_ids.append(token)
        if self._ends_stop_string(token) and self._has_stop_string(row.token_ids[-self._tail :]):
            row.finish, row.text = "stop", cut_after(self._decode(row.token_ids), self.stop)
        elif len(row.token_ids) >= row.request.max_new_tokens:
            row.finish, row.text = "length", self._decode(row.token_ids)

    def _ends_stop_string(self, token: int) -> bool:
        """Whether a stop string may end in this token: decoding every row's last tokens at every step costs more."""
        if token not in self._may_end:
            piece = self._decode([token])
            # U+FFFD stands for a part of a character, whose other part may be in the next token.
            # Some tokenizers drop the space of a token that stands alone.
            self._may_end[token] = "\ufffd" in piece or any(text[-1] in piece or text[-1] == " " for text in self.stop)
        return self._may_end[token]

    def _has_stop_string(self, token_ids: list[int]) -> bool:
        text = self._decode(token_ids)
        return any(stop in text for stop in self.stop)

    def _decode(self, token_ids: list[int]) -> str:
        # A special token in the middle of an answer is part of it: hidden, it would be trained on unseen.
        return str(
            self.policy.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
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


def row_bytes(model: Any, num_tokens: int) -> int:
    """Memory of one row in flight: keys and values of all its positions, and its float32 row of the vocabulary.

    Args:
        model: A causal language model of transformers.
        num_tokens: The longest prompt and its answer.
    """
    shape = model.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None)
    size = getattr(shape, "head_dim", None)
    heads = shape.num_attention_heads if heads is None else heads
    size = shape.hidden_size // shape.num_attention_heads if size is None else size
    cache = 2 * shape.num_hidden_layers * heads * size * model.dtype.itemsize * num_tokens
    return int(cache + _VOCABULARY_COPIES * 4 * shape.vocab_size)


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
        rows: Their requests (temperature, top_p, top_k, min_p) and uniform numbers.

    Returns:
        (rows,) token ids.
    """
    import torch

    scores = logits.float()
    temperatures = torch.tensor([row.request.temperature for row in rows], device=scores.device)
    greedy = temperatures == 0
    scores = scores / temperatures.masked_fill(greedy, 1.0)[:, None]
    top_k = rows[0].request.top_k
    if top_k is not None and top_k < scores.shape[1]:
        floor = scores.topk(top_k, dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < floor, float("-inf"))
    probabilities = scores.softmax(dim=1)
    top_p = torch.tensor([row.request.top_p for row in rows], device=scores.device)
    if bool((top_p < 1).any()):
        probabilities = _nucleus(probabilities, top_p)
    min_p = torch.tensor([row.request.min_p for row in rows], device=scores.device)
    if bool((min_p > 0).any()):
        # After the nucleus, whose likeliest token is the likeliest of all: the shares are those of the whole.
        floor = probabilities.amax(dim=1) * min_p
        probabilities = probabilities.masked_fill(probabilities < floor[:, None], 0.0)
    cumulative = probabilities.cumsum(dim=1)
    drawn = [row.uniforms[min(len(row.token_ids), len(row.uniforms) - 1)] for row in rows]
    uniforms = torch.tensor(drawn, dtype=torch.float32, device=scores.device)
    # Rounding may leave the total a little below or above 1, so the draw is scaled to it; right=True never lands
    # on a token of probability 0 when the draw is exactly 0.
    targets = (uniforms * cumulative[:, -1])[:, None]
    tokens = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    # The draw can round up to the total itself; then nothing lies beyond it.
    likeliest = greedy | (tokens >= scores.shape[1])
    if bool(likeliest.any()):
        tokens[likeliest] = probabilities[likeliest].argmax(dim=1)
    return tokens


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zero all tokens outside the smallest set whose probabilities sum to at least `top_p`, where that is below 1."""
    rows = (top_p < 1).nonzero()[:, 0]
    asked, limit = probabilities[rows], top_p[rows][:, None]
    # The whole vocabulary is only sorted where the likeliest tokens are not enough.
    ordered, order = asked.topk(min(_NUCLEUS_TOKENS, asked.shape[1]), dim=1)
    if bool((ordered.sum(dim=1, keepdim=True) < limit).any()):
        ordered, order = asked.sort(dim=1, descending=True)
    inside = ordered.masked_fill(ordered.cumsum(dim=1) - ordered >= limit, 0.0)
    found = probabilities.clone()
    found[rows] = asked.new_zeros(asked.shape).scatter(1, order, inside)
    return found
