"""The draws of the rows in flight; imported late, because it needs torch.

What a row draws with (temperature, top_p, min_p, its stream of uniform numbers) goes to the device once, when the row
joins.  A draw uploads nothing, and on a GPU the host asks for nothing either: what it has to know, it knows from the
requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from halo_forge.core.records import SampleRequest
from halo_forge.engines._transfer import upload, upload_indices
from halo_forge.engines.transformers import BROKEN, STOPPED

_TEMPERATURE, _TOP_P, _MIN_P, _GREEDY, _NUM_SETTINGS = range(5)
"""Columns of a row's settings; its uniform numbers come after them."""
_NUCLEUS_TOKENS = 512


class Sampler:
    """The settings and streams of the rows in flight, at first none, in their order.

    Args:
        device: Where the logits are.
        stop_ids: Tokens that end a completion.
        max_rows: The most rows at once.
        max_new_tokens: Of all requests that will come, the largest; room is made once.

    Attributes:
        tokens: (max_rows,) the newest token of each row, valid for the model whatever was drawn.
    """

    def __init__(self, device: torch.device, stop_ids: frozenset[int], *, max_rows: int, max_new_tokens: int) -> None:
        self._device = device
        self._stop_ids = sorted(stop_ids)
        self._ends: torch.Tensor | None = None
        self._requests: list[SampleRequest] = []
        self._table = torch.zeros(max_rows, _NUM_SETTINGS + max_new_tokens, device=device)
        # The column of each row's next uniform number.
        self._next = torch.zeros(max_rows, dtype=torch.long, device=device)
        self.tokens = torch.zeros(max_rows, dtype=torch.long, device=device)

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, requests: Sequence[SampleRequest], uniforms: Sequence[Any]) -> None:
        """New rows after those in flight.

        Args:
            requests: Theirs.
            uniforms: For each row its numbers in [0, 1), one for each token that it may draw.
        """
        made = torch.zeros(len(requests), self._table.shape[1])
        for line, request, numbers in zip(made, requests, uniforms, strict=True):
            greedy = request.temperature == 0
            line[:_NUM_SETTINGS] = torch.tensor(
                [1.0 if greedy else request.temperature, request.top_p, request.min_p, greedy]
            )
            line[_NUM_SETTINGS : _NUM_SETTINGS + len(numbers)] = torch.as_tensor(numbers)
        rows = slice(len(self), len(self) + len(requests))
        self._table[rows] = upload(made, self._device)
        self._next[rows] = _NUM_SETTINGS
        self._requests += requests

    def keep(self, order: Sequence[int]) -> None:
        """Drop all rows but these, which come in this order."""
        (index,) = upload_indices(order, device=self._device)
        for states in (self._table, self._next, self.tokens):
            states[: len(order)] = states[index]
        self._requests = [self._requests[row] for row in order]

    @torch.inference_mode()
    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        """One token for each of the last rows, also left in `tokens`.

        Args:
            logits: (rows, vocabulary), any floating dtype, of as many of the last rows; computed in float32.

        Returns:
            (rows,) token ids, `STOPPED` or `BROKEN`.
        """
        rows = slice(len(self) - len(logits), len(self))
        table, column = self._table[rows], self._next[rows]
        probabilities = _softmax(logits, table[:, _TEMPERATURE], self._requests[rows])
        # One NaN or infinity makes all shares NaN; a single token that is ruled out (minus infinity) makes none.
        broken = probabilities[:, 0].isnan()
        tokens = self._tokens(_truncated(probabilities, table, self._requests[rows]), table, column, rows)
        column.add_(1).clamp_(max=table.shape[1] - 1)  # a row that is done goes on until it is dropped
        self.tokens[rows] = tokens
        if self._ends is None:
            ends = torch.zeros(logits.shape[1], dtype=torch.bool)
            ends[[each for each in self._stop_ids if each < len(ends)]] = True
            self._ends = upload(ends, self._device)
        return tokens.masked_fill(self._ends[tokens], STOPPED).masked_fill_(broken, BROKEN)

    def _tokens(
        self, probabilities: torch.Tensor, table: torch.Tensor, column: torch.Tensor, rows: slice
    ) -> torch.Tensor:
        num_greedy = sum(request.temperature == 0 for request in self._requests[rows])
        if num_greedy == len(probabilities):
            return probabilities.argmax(dim=1)
        cumulative = probabilities.cumsum(dim=1)
        # Rounding may leave the total a little below or above 1, so the draw is scaled to it; right=True never lands
        # on a token of probability 0 when the draw is exactly 0.
        targets = table.gather(1, column[:, None]) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, targets, right=True).clamp_(max=probabilities.shape[1] - 1)
        # Two ways to a token that was ruled out: the draw can round up to the total itself, beyond which nothing lies,
        # and a GPU's sums need not rise, because each adds up in an order of its own.
        likeliest = probabilities.gather(1, tokens)[:, 0] == 0
        tokens = tokens[:, 0]
        if num_greedy:
            likeliest |= table[:, _GREEDY] > 0
        if probabilities.is_cuda:
            return torch.where(likeliest, probabilities.argmax(dim=1), tokens)
        # To look costs nothing here, and a pass over the vocabulary does.
        if bool(likeliest.any()):
            tokens[likeliest] = probabilities[likeliest].argmax(dim=1)
        return tokens


def _softmax(logits: torch.Tensor, temperatures: torch.Tensor, requests: Sequence[SampleRequest]) -> torch.Tensor:
    """(rows, vocabulary) probabilities at each row's temperature, of the `top_k` likeliest tokens."""
    top_k = requests[0].top_k  # one of the engine's settings, the same for all
    scores = logits
    if any(request.temperature not in (0, 1) for request in requests):
        scores = scores.float() / temperatures[:, None]
    if top_k is not None and top_k < scores.shape[1]:
        scores = scores.float()
        floor = scores.topk(top_k, dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < floor, float("-inf"))
    return scores.softmax(dim=1, dtype=torch.float32)


def _truncated(probabilities: torch.Tensor, table: torch.Tensor, requests: Sequence[SampleRequest]) -> torch.Tensor:
    """Without the tokens that `top_p` and `min_p` rule out."""
    if any(request.top_p < 1 for request in requests):
        probabilities = nucleus(probabilities, table[:, _TOP_P])
    if any(request.min_p > 0 for request in requests):
        # After the nucleus, whose likeliest token is the likeliest of all: the shares are those of the whole.
        floor = probabilities.amax(dim=1) * table[:, _MIN_P]
        probabilities = probabilities.masked_fill(probabilities < floor[:, None], 0.0)
    return probabilities


def nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zero all tokens outside the smallest set whose probabilities sum to at least `top_p`, where that is below 1.

    Args:
        probabilities: (rows, vocabulary).
        top_p: (rows,).
    """
    if probabilities.is_cuda:
        # All of it in order: whether less is enough could only be asked by waiting for the answer.
        ordered, order = probabilities.sort(dim=1, descending=True)
        limits = top_p.masked_fill(top_p >= 1, float("inf"))[:, None]
        inside = ordered.masked_fill(ordered.cumsum(dim=1) - ordered >= limits, 0.0)
        return torch.zeros_like(probabilities).scatter_(1, order, inside)
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
