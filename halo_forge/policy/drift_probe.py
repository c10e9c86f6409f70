"""Scores of given completions under the policy, token by token: the numbers behind metrics/drift.py.

Only one model is in memory.  A version's result for a completion is kept as the hidden states before the output layer,
which no adapter changes: a hundredth of the size of the probabilities.  So versions are compared over the whole
vocabulary, portion by portion, with one pass through the layers for each version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from halo_forge.core.metrics import DriftFacts, TokenValues
from halo_forge.core.records import Completion, Prompt
from halo_forge.policy import threads
from halo_forge.policy.forwards import replaced_forwards
from halo_forge.policy.model import Policy

if TYPE_CHECKING:
    import torch

    States = list[torch.Tensor]
    """(tokens of the completion, hidden size) for each completion, in the model's dtype."""

PORTION_BYTES = 16 * 1024 * 1024
"""Scores of one version that are computed at once, in float32; about four such tables are in memory."""
BATCH_TOKENS = 1024
"""Tokens, padding included, of one pass through the layers; more of them are not faster on a CPU."""


class DriftProbe:
    """Compares versions of one policy on given completions; it moves the policy between adapters.

    Args:
        prompts: Prompt id -> prompt, for every completion.
        num_completions: At most this many completions of the start model are scored, and a quarter of that
            of any others.
    """

    def __init__(self, policy: Policy, prompts: Mapping[str, Prompt], num_completions: int = 64) -> None:
        self.policy = policy
        self.prompts = prompts
        self.num_completions = num_completions
        self._fixed: dict[int, States] = {}

    def drift(
        self,
        version: int,
        previous: int,
        ensure_loaded: Callable[[int], None],
        fixed: Sequence[Completion],
        own: Sequence[Completion],
        own_is_untruncated: bool = True,
    ) -> DriftFacts:
        """What v_version is like on completions of the start model, `fixed`, and on its own completions.

        The policy may be at another version afterwards.

        Args:
            previous: The version that v_version was trained from.
            ensure_loaded: Makes the policy in memory that version.
            fixed: The same completions at every call.
            own_is_untruncated: Whether the own completions were sampled at temperature 1 from the whole vocabulary.
                If not, they are not scored under the start model: no unbiased estimate follows from them.
        """
        fixed, own = spread(fixed, self.num_completions), spread(own, self._num_others)
        ensure_loaded(version)
        self._fixed.setdefault(version, self._states(fixed))
        mine = self._states(own)
        theirs = mine
        for other in dict.fromkeys((previous, 0)):
            if other != version:
                if other not in self._fixed:
                    ensure_loaded(other)
                    self._fixed[other] = self._states(fixed)
                if other == 0 and own and own_is_untruncated:
                    ensure_loaded(other)
                    theirs = self._states(own)
        # The start model and the next version's parent are needed again; an older one can be computed again.
        self._fixed = {key: self._fixed[key] for key in {0, previous, version}}
        entropy, to_previous, to_start = self._compare(self._fixed[version], self._fixed[previous], self._fixed[0])
        own_entropy, own_logs, start_logs = self._own(mine, theirs, own)
        return DriftFacts(
            version=version,
            fixed_entropy=entropy,
            kl_to_start=to_start,
            kl_to_previous=to_previous,
            own_entropy=own_entropy,
            own_log_probabilities=own_logs,
            start_log_probabilities=start_logs,
            own_is_untruncated=own_is_untruncated,
        )

    def negative_log_likelihood(self, completions: Sequence[Completion]) -> TokenValues:
        """Of each token of some of the completions under the policy in memory, in nats."""
        completions = spread(completions, self._num_others)
        mine = self._states(completions)
        return [[-value for value in values] for values in self._own(mine, mine, completions)[1]]

    def log_probabilities(
        self, rows: Sequence[Sequence[int]], given: Sequence[int]
    ) -> tuple[TokenValues, TokenValues, TokenValues]:
        """Of the tokens of each row after the first `given` ones, of the likeliest tokens in their places, in nats; and
        which tokens those are.

        Args:
            rows: Token ids; nothing is added to them.
            given: For each row at least 1.
        """
        import torch

        targets = [list(row[first:]) for row, first in zip(rows, given, strict=True)]
        states = self._row_states(rows, given)

        def formulas(
            scores: Callable[[torch.Tensor], torch.Tensor], number: int, part: slice
        ) -> tuple[list[float], list[float], list[float]]:
            tokens = torch.tensor(targets[number][part], device=self.policy.device)[:, None]
            logs = scores(states[number][part])
            likeliest = logs.max(dim=1)
            return logs.gather(1, tokens)[:, 0].tolist(), likeliest.values.tolist(), likeliest.indices.tolist()

        return self._by_portion([len(each) for each in targets], formulas)

    @property
    def _num_others(self) -> int:
        return -(-self.num_completions // 4)

    def _states(self, completions: Sequence[Completion]) -> States:
        """The states from which the adapter in memory predicts the tokens of each completion, teacher-forced."""
        prompts = [self.policy.prompt_ids(self.prompts[each.prompt_id]) for each in completions]
        rows = [prompt + list(each.token_ids) for prompt, each in zip(prompts, completions, strict=True)]
        return self._row_states(rows, [len(prompt) for prompt in prompts])

    def _row_states(self, rows: Sequence[Sequence[int]], given: Sequence[int]) -> States:
        """The states that predict the tokens of each row after the first `given` ones."""
        import torch

        base: Any = self.policy.model.get_base_model()
        decoder = base.get_decoder()
        found: dict[int, torch.Tensor] = {}
        with self.policy.sampling(), torch.inference_mode():
            for batch in _batches([len(row) for row in rows]):
                threads.adjust()
                ids = torch.zeros(len(batch), max(len(rows[number]) for number in batch), dtype=torch.long)
                mask = torch.zeros_like(ids)
                for line, number in enumerate(batch):
                    ids[line, : len(rows[number])] = torch.tensor(rows[number])
                    mask[line, : len(rows[number])] = 1
                on_device = {"input_ids": ids.to(self.policy.device), "attention_mask": mask.to(self.policy.device)}
                hidden = decoder(**on_device, use_cache=False).last_hidden_state
                for line, number in enumerate(batch):
                    # The state at a position predicts the token after it.
                    found[number] = hidden[line, given[number] - 1 : len(rows[number]) - 1].clone()
        return [found[number] for number in range(len(rows))]

    def _compare(self, mine: States, previous: States, start: States) -> tuple[TokenValues, TokenValues, TokenValues]:
        """Entropy of `mine`, KL(previous || mine) and KL(start || mine) before each token, over the vocabulary."""

        def formulas(
            scores: Callable[[torch.Tensor], torch.Tensor], number: int, part: slice
        ) -> tuple[list[float], list[float], list[float]]:
            logs = scores(mine[number][part])
            divergences = {id(mine): [0.0] * len(logs)}
            for states in (previous, start):
                if id(states) not in divergences:
                    other = scores(states[number][part])
                    divergences[id(states)] = _expectation(other, other - logs).tolist()
            return _expectation(logs, -logs).tolist(), divergences[id(previous)], divergences[id(start)]

        return self._by_portion([len(states) for states in mine], formulas)

    def _own(
        self, mine: States, start: States, completions: Sequence[Completion]
    ) -> tuple[TokenValues, TokenValues, TokenValues]:
        """Entropy of `mine` before each token, and the token's log-probability under `mine` and under `start`."""
        import torch

        def formulas(
            scores: Callable[[torch.Tensor], torch.Tensor], number: int, part: slice
        ) -> tuple[list[float], list[float], list[float]]:
            tokens = torch.tensor(completions[number].token_ids[part], device=self.policy.device)[:, None]
            logs = scores(mine[number][part])
            entropy = _expectation(logs, -logs)
            of_mine = logs.gather(1, tokens)[:, 0].tolist()
            if start is mine:
                return entropy.tolist(), of_mine, of_mine
            return entropy.tolist(), of_mine, scores(start[number][part]).gather(1, tokens)[:, 0].tolist()

        return self._by_portion([len(states) for states in mine], formulas)

    def _by_portion(
        self,
        lengths: Sequence[int],
        formulas: Callable[
            [Callable[[torch.Tensor], torch.Tensor], int, slice], tuple[list[float], list[float], list[float]]
        ],
    ) -> tuple[TokenValues, TokenValues, TokenValues]:
        """Three numbers for each token of each completion, a portion of a completion at a time."""
        import torch

        size = max(1, PORTION_BYTES // (4 * self.policy.model.get_output_embeddings().weight.shape[0]))
        found: tuple[list[list[float]], ...] = ([], [], [])
        with self._scores() as scores, torch.inference_mode():
            for number, length in enumerate(lengths):
                columns: tuple[list[float], ...] = ([], [], [])
                for first in range(0, length, size):
                    for values, new in zip(columns, formulas(scores, number, slice(first, first + size)), strict=True):
                        values.extend(new)
                for column, whole in zip(found, columns, strict=True):
                    column.append(whole)
        return found[0], found[1], found[2]

    @contextlib.contextmanager
    def _scores(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """(tokens, hidden size) -> log-probabilities, (tokens, vocabulary), float32.

        The model itself, with given states in place of its layers: its own scaling and capping of scores are kept.
        """
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPast

        base: Any = self.policy.model.get_base_model()
        decoder = base.get_decoder()
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.policy.device)
        given: list[torch.Tensor] = []

        def given_states(*arguments: Any, **options: Any) -> BaseModelOutputWithPast:
            return BaseModelOutputWithPast(last_hidden_state=given.pop()[None])

        def scores(states: torch.Tensor) -> torch.Tensor:
            given.append(states)
            logits: torch.Tensor = base(input_ids=ids, use_cache=False).logits[0]
            return logits.float().log_softmax(dim=-1)

        with replaced_forwards({decoder: given_states}):
            yield scores


def _expectation(logs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean of `values` over the vocabulary, weighted with exp(logs); both (tokens, vocabulary)."""
    import torch

    return torch.einsum("tv,tv->t", logs.exp(), values)


def spread(completions: Sequence[Completion], num: int) -> list[Completion]:
    """At most `num` of the completions with tokens, evenly spread over their order."""
    whole = [each for each in completions if each.token_ids]
    return whole if len(whole) <= num else [whole[place * len(whole) // num] for place in range(num)]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows, of similar lengths together, at most `BATCH_TOKENS` padded tokens a batch (or one row)."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda each: (lengths[each], each)):
        if batch and lengths[number] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
