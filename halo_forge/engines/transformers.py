"""Engine `transformers`: sampling from the policy in memory, with a fixed number of rows in flight.

A finished row is refilled with the next request, each prompt is computed once for the samples that start together, and
completions are yielded as they finish.  Every row draws from its own stream of uniform numbers (seeded by its request),
turned into tokens by the inverse of the cumulative distribution: in exact arithmetic the same request gives the same
tokens whatever else is in flight.  Logits are not exact: a GPU's bfloat16 products depend on the number of rows, so a
near tie can resolve differently with other rows.

On a GPU the host reads the tokens of a step while the next one is computed.  A row that had finished by then computes
one token too many, which is discarded; every row has its own stream of uniform numbers, so no other token changes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from halo_forge.core.errors import LogitsNotFinite
from halo_forge.core.records import Completion, Finish, Prompt, SampleRequest
from halo_forge.engines._spec import EngineSpec
from halo_forge.supervisor import heartbeat

if TYPE_CHECKING:
    from halo_forge.engines._transfer import Readback
    from halo_forge.policy import Policy

_log = logging.getLogger(__name__)
_VOCABULARY_BYTES, _SORTED_VOCABULARY_BYTES = 16, 52
"""Of a word in a row while a token is drawn: logits, probabilities, their sums, and another copy.  On a GPU `top_p`
sorts the vocabulary: logits and probabilities, the sorted ones and their order (20), and what CUDA's sort of many rows
takes beside (about 32: index and row twice, keys and values once more; from its source, not measured on a GPU)."""
STOPPED, BROKEN = -1, -2
"""In place of a token: an end-of-turn token was sampled; the logits were not finite, so nothing could be drawn."""
LEFTOVER = 1 / 3
"""The share by which rows in flight may exceed the setting if that avoids a second round."""
REFILL_AT = 1 / 8
"""Finished rows are refilled, or dropped at the end, once they reach this share: both cost a pass or a copy."""


class TransformersSpec(EngineSpec):
    """Sampling with transformers, on the device the model is on."""

    kind: Literal["transformers"] = "transformers"
    cuda_graphs: bool = False
    """On an NVIDIA GPU a decoding step runs as a CUDA graph; not run on a GPU yet."""

    def open(self, policy: Policy) -> TransformersEngine:
        """An engine over the policy in memory."""
        fitted = self.batch_size == "auto"
        rows = policy.profile.rows_in_flight(policy.num_parameters) if self.batch_size == "auto" else self.batch_size
        graphs = self.cuda_graphs and _has_graphs(policy)
        return TransformersEngine(policy, batch_size=rows, stop=tuple(self.stop), fitted=fitted, graphs=graphs)


@dataclass
class ActiveRow:
    """One completion in progress.

    Attributes:
        num_drawn: Tokens drawn so far; the newest of them may not have been read yet.
    """

    request: SampleRequest
    num_drawn: int = 0
    token_ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    text: str = ""

    @property
    def is_active(self) -> bool:
        """Whether another token has to be drawn, as far as is known."""
        return self.finish is None and self.num_drawn < self.request.max_new_tokens


class TransformersEngine:
    """Samples requests in the order of their prompts' lengths; see the module's docstring.

    Args:
        batch_size: The most rows in flight.
        fitted: Use fewer rows if their caches would not fit into the profile's memory budget, and a few more if that
            avoids a second round of few rows.
        graphs: Decoding steps run as CUDA graphs.
    """

    def __init__(
        self, policy: Policy, *, batch_size: int, stop: tuple[str, ...], fitted: bool = False, graphs: bool = False
    ) -> None:
        self.policy = policy
        self.graphs = graphs
        self.batch_size = batch_size
        self.fitted = fitted
        self.stop = stop
        # Only the newest token can complete a stop string, so checking this many tokens is enough.
        self._tail = max((len(text.encode()) for text in stop), default=0) + 8
        self._may_end: dict[int, bool] = {}

    @property
    def saturates_cpu(self) -> bool:
        """On a CPU: every product waits for the slowest of torch's threads, and a compiler slows one down."""
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
        from halo_forge.engines._fused import fused_operations

        needed = dict.fromkeys(request.prompt_id for request in requests)
        ids = {prompt_id: self.policy.prompt_ids(prompts[prompt_id]) for prompt_id in needed}
        starts = {prompt_id: self.policy.response_start(prompts[prompt_id]) for prompt_id in needed}
        ordered = sorted(requests, key=lambda each: (len(ids[each.prompt_id]), each.prompt_id, each.index))
        base = self.policy.model.get_base_model()
        with (
            self.policy.sampling(),
            fast_decoding(base),
            fused_operations(base),
        ):
            for row in self._all(ordered, ids):
                yield self._completion(row, starts[row.request.prompt_id], policy_version)

    def _all(self, requests: Sequence[SampleRequest], ids: Mapping[str, list[int]]) -> Iterator[ActiveRow]:
        """Complete every request; whenever the GPU's memory runs out, continue with half the rows.

        Rows that were in flight start over, with the same uniform numbers.
        """
        import torch

        left = {(request.prompt_id, request.index): request for request in requests}
        while left:
            num_rows = min(self._most_rows(len(left)), len(left), self._fitting(left.values(), ids))
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
            _log.warning("the GPU's memory ran out; sampling continues with %d rows in flight", self.batch_size)

    def _most_rows(self, num_requests: int) -> int:
        """Rows in flight, with a few more if all the rest fits in: a second round would take as many steps again."""
        all_at_once = self.fitted and num_requests <= self.batch_size * (1 + LEFTOVER)
        return num_requests if all_at_once else self.batch_size

    def _fitting(self, requests: Collection[SampleRequest], ids: Mapping[str, list[int]]) -> int:
        """The most rows whose caches fit into the memory that is left."""
        budget = self.policy.profile.memory_budget_bytes() if self.fitted else None
        if budget is None:
            return self.batch_size
        num_tokens = max(map(len, ids.values())) + max(request.max_new_tokens for request in requests)
        sorts = False
        if self.policy.device.type != "cpu":
            from halo_forge.engines._fixed_cache import SLOT_BUCKET, rounded_up

            num_tokens = rounded_up(num_tokens, SLOT_BUCKET)
            sorts = any(request.top_p < 1 for request in requests)
        return max(1, budget // row_bytes(self.policy.model, num_tokens, sorts=sorts))

    def _run(self, waiting: deque[SampleRequest], ids: Mapping[str, list[int]], num_rows: int) -> Iterator[ActiveRow]:
        """Decode until every request is answered; yields each row once it is finished."""
        from halo_forge.engines._decoder import Decoder
        from halo_forge.engines._sampling import Sampler
        from halo_forge.engines._transfer import Readback

        most = max(request.max_new_tokens for request in waiting)
        device, longest = self.policy.device, max(map(len, ids.values())) + most
        decoder = Decoder(self.policy.model, max_rows=num_rows, max_length=longest, graphs=self.graphs)
        sampler = Sampler(device, self.policy.stop_ids, max_rows=num_rows, max_new_tokens=most)
        rows: list[ActiveRow] = []
        drawn: deque[tuple[list[ActiveRow], Readback]] = deque()
        while waiting or rows:
            going = [number for number, row in enumerate(rows) if row.is_active]
            if rows and len(rows) - len(going) >= REFILL_AT * len(rows):
                order = decoder.keep(going)
                sampler.keep(order)
                rows = [rows[number] for number in order]
                continue
            if waiting and num_rows - len(rows) >= REFILL_AT * num_rows:
                new = [ActiveRow(waiting.popleft()) for _ in range(min(len(waiting), num_rows - len(rows)))]
                logits = decoder.add([ids[row.request.prompt_id] for row in new])
                sampler.add([row.request for row in new], [uniforms_of(row.request) for row in new])
                rows = rows + new
            else:
                new = rows
                logits = decoder.step(sampler.tokens if self.graphs else sampler.tokens[: len(rows)])
            drawn.append((new, Readback(sampler.draw(logits))))
            for row in new:
                row.num_drawn += 1
            # A CPU has computed the tokens by now; a GPU goes on with the next step while the last one's are read.
            if len(drawn) > (device.type != "cpu"):
                yield from self._read(*drawn.popleft())
        while drawn:
            yield from self._read(*drawn.popleft())

    def _read(self, rows: Sequence[ActiveRow], drawn: Readback) -> Iterator[ActiveRow]:
        """Append to each row the token drawn for it; yields the rows that this finishes."""
        tokens = drawn.read()
        heartbeat.beat()
        open_rows = [(row, token) for row, token in zip(rows, tokens, strict=True) if row.finish is None]
        broken = [row for row, token in open_rows if token == BROKEN]
        for row, token in open_rows:
            if token != BROKEN:
                self._append(row, token)
            if row.finish is not None:
                yield row
        if broken:
            raise self._not_finite(broken, len(open_rows))

    def _not_finite(self, broken: Sequence[ActiveRow], num_rows: int) -> LogitsNotFinite:
        first, version = broken[0], self.policy.version
        rows = f", and {len(broken) - 1} more of {num_rows} rows" if len(broken) > 1 else ""
        what = (
            f"prompt {first.request.prompt_id!r}, sample {first.request.index}, token {len(first.token_ids) + 1}{rows}"
        )
        # A run keeps its configuration, so other arithmetic is another run.
        adapter = "" if version == 0 else f" --set model.adapter=RUN/cycles/{version:03d}/adapter"
        trained = (
            ""
            if version == 0
            else f" (RUN is this run's directory: v{version} becomes v0 of the new run); if it is only v{version}, its"
            " training diverged: begin with an earlier version's adapter, and lower training.learning_rate"
        )
        return LogitsNotFinite(
            f"v{version} gave logits that are not finite on {self.policy.device} ({what}): nothing can be sampled from"
            " them; earlier completions are kept",
            "attention kernels are known that give NaN (`halo-forge docs hardware_notes`):"
            " start a new run, the same command with another output_dir and"
            f" --set model.attn_implementation=eager{adapter}, or with model.dtype=float32 in place of the"
            f" first{trained}",
        )

    def _append(self, row: ActiveRow, token: int) -> None:
        """Add the drawn token to the row, and check whether it finishes the row."""
        if token == STOPPED:
            row.finish, row.text = "stop", self._decode(row.token_ids)
            return
        row.token_ids.append(token)
        if self._ends_stop_string(token) and self._has_stop_string(row.token_ids[-self._tail :]):
            row.finish, row.text = "stop", cut_after(self._decode(row.token_ids), self.stop)
        elif len(row.token_ids) >= row.request.max_new_tokens:
            row.finish, row.text = "length", self._decode(row.token_ids)

    def _ends_stop_string(self, token: int) -> bool:
        """Whether a stop string may end in this token; cheaper than decoding every row's last tokens at every step."""
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
        # A special token in the middle of a completion is part of it; if hidden, it would be trained on unnoticed.
        return str(
            self.policy.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def _completion(self, row: ActiveRow, start: str, policy_version: int) -> Completion:
        assert row.finish is not None
        return Completion(
            prompt_id=row.request.prompt_id,
            index=row.request.index,
            text=start + row.text,
            token_ids=tuple(row.token_ids),
            finish=row.finish,
            seed=row.request.seed,
            policy_version=policy_version,
        )


def _has_graphs(policy: Policy) -> bool:
    """Whether decoding steps can run as CUDA graphs on this machine; warns if not."""
    import torch

    if policy.device.type != "cpu" and torch.version.hip is None:
        return True
    _log.warning("engine.cuda_graphs: ignored on %s: graphs are for NVIDIA GPUs", policy.profile.name)
    return False


def row_bytes(model: Any, num_tokens: int, *, sorts: bool = False) -> int:
    """Memory of one row in flight: keys and values of all its positions, and what drawing from its logits takes.

    Args:
        model: A causal language model of transformers.
        num_tokens: The longest prompt and its completion.
        sorts: The whole vocabulary is sorted for the draw.
    """
    shape = model.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None)
    size = getattr(shape, "head_dim", None)
    heads = shape.num_attention_heads if heads is None else heads
    size = shape.hidden_size // shape.num_attention_heads if size is None else size
    cache = 2 * shape.num_hidden_layers * heads * size * model.dtype.itemsize * num_tokens
    return int(cache + (_SORTED_VOCABULARY_BYTES if sorts else _VOCABULARY_BYTES) * shape.vocab_size)


def uniforms_of(request: SampleRequest) -> Any:
    """(max_new_tokens,) numbers in [0, 1), one for each token."""
    import numpy

    # Philox is counter-based: the stream of a row is a pure function of its seed.
    return numpy.random.Generator(numpy.random.Philox(key=request.seed)).random(request.max_new_tokens)


def cut_after(text: str, stop: Sequence[str]) -> str:
    """`text` up to and including the stop string that ends first; the whole text if none is in it."""
    ends = [text.index(mark) + len(mark) for mark in stop if mark in text]
    return text[: min(ends)] if ends else text
