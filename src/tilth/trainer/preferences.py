"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): the better of two answers becomes more likely.

The loss of a pair is -log sigmoid(beta ((c - c0) - (r - r0))), with the log likelihoods c and r of the chosen and the rejected
answer after their prompt, and c0 and r0 those of a reference that is never trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tilth.errors import ContractError
from tilth.kernels import linear
from tilth.models.decoder import Decoder
from tilth.tokenize.answer_places import NOWHERE, answer_places, byte_tokens
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.shards import IGNORED
from tilth.trainer.data import Batch, Row
from tilth.trainer.documents import refuse_documents, trimmed

CHUNK_TOKENS = 1024  # whose logits are held at a time


@dataclass(frozen=True)
class Preferences:
    """Documents `PROMPT<mark>CHOSEN<rejected_mark>REJECTED`; a row holds the chosen answer with its prompt, then the rejected.

    A prompt and its answers are tokenised apart, as a model is sampled from: the separator and the prompt with the mark,
    then an answer and the separator. A pair is one target, at the first place of its row. `reference` is the model that the
    run began with, or its teacher.
    """

    seq_len: int
    mark: str
    rejected_mark: str
    beta: float
    reference: Decoder
    tokenizer: Tokenizer
    token_bytes: list[bytes]
    reads_whole_documents: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    @classmethod
    def of(
        cls, seq_len: int, marks: tuple[str, str], beta: float, reference: Decoder, tokens: TokenMixture
    ) -> Preferences:  # fmt: skip
        """On all documents of `tokens`. Raises RecipeError where one is no pair, or is longer than `seq_len`."""
        _check_pairs(seq_len, marks, tokens)
        return cls(seq_len, *marks, beta, reference, tokens.sets[0].tokenizer(), byte_tokens(tokens.sets[0]))

    def for_validation(self, tokens: TokenMixture) -> Preferences:
        """The same of other documents."""
        _check_pairs(self.seq_len, (self.mark, self.rejected_mark), tokens)
        return replace(self)

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """Ids, targets and padding (2 seq_len) of both sequences one behind the other, and how long their prompt is (1,)."""
        data = b"".join(self.token_bytes[number] for number in (row[0][0], *row[1]))
        prompt, _, answers = data.decode().partition(self.mark)
        chosen, _, rejected = answers.partition(self.rejected_mark)
        first_ids = [self.tokenizer.begin_id, *self.tokenizer.encode(prompt + self.mark).tolist()]
        ids_2T, padding_2T = np.zeros((2, self.seq_len), np.int64), np.ones((2, self.seq_len), np.int32)
        for place, answer in enumerate((chosen, rejected)):
            own = [*first_ids, *self.tokenizer.encode(answer).tolist(), self.tokenizer.separator_id]
            if len(own) > self.seq_len:
                what = f"an answer with its prompt has {len(own)} tokens, more than the pair"
                raise ContractError(what, prompt[:60], f"Set seq_len to {len(own)}.")
            ids_2T[place, : len(own)], padding_2T[place, : len(own)] = own, 0
        targets_2T = np.full(2 * self.seq_len, IGNORED, np.int64)
        targets_2T[0] = ids_2T[0, len(first_ids)]
        return ids_2T.reshape(-1), targets_2T, padding_2T.reshape(-1), np.array([len(first_ids)])

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss of the pairs and their number."""
        margin_B, asked_B = self._margins(model, batch)
        loss_B = -functional.logsigmoid(margin_B) * asked_B
        if each_BT is not None:
            each_BT.zero_()[:, 0] = loss_B.detach()
        return loss_B.sum(), asked_B.sum()

    def score(self, model: Decoder, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss, and of how many pairs the chosen answer has become more likely against the rejected one."""
        margin_B, asked_B = self._margins(model, batch)
        loss_B = -functional.logsigmoid(margin_B)
        return {"loss": (loss_B * asked_B).sum(), "accuracy": ((margin_B > 0) & asked_B).sum()}, asked_B.sum()

    def _margins(self, model: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
        """beta ((c - c0) - (r - r0)) of each pair (B,), and whether it counts."""
        ids_B2T, targets_B2T, padding_B2T, prompt_B1 = batch
        rows = [part.reshape(-1, self.seq_len) for part in (ids_B2T, targets_B2T, padding_B2T)]
        (ids_RT, lengths_R), first_R = trimmed((rows[0], rows[1], rows[2])), prompt_B1.repeat_interleave(2)
        place_1T = torch.arange(ids_RT.shape[1], device=ids_RT.device).unsqueeze(0)
        # the token at a place is predicted one place before
        asked_RT = (place_1T + 1 >= first_R.unsqueeze(1)) & (place_1T + 1 < lengths_R.unsqueeze(1))
        padding_RT = rows[2][:, : ids_RT.shape[1]]
        targets_N = ids_RT.roll(-1, 1)[asked_RT]

        def of_answers(hidden_RTD: Tensor, weight_VD: Tensor) -> Tensor:
            log_p_N = token_log_p(hidden_RTD[asked_RT], weight_VD, targets_N)
            return log_p_N.new_zeros(len(ids_RT)).index_add(0, asked_RT.nonzero()[:, 0], log_p_N)

        log_p_R = model.measure(ids_RT, padding_RT, of_answers)
        with torch.no_grad():
            known_R = self.reference.measure(ids_RT, padding_RT, of_answers)
        gain_R = log_p_R - known_R
        return self.beta * (gain_R[0::2] - gain_R[1::2]), targets_B2T[:, 0] != IGNORED


def token_log_p(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """log p (N,) of the targets where the logits are hidden_ND @ weight_VD.T, of which a chunk is held at a time.

    They are made anew for the gradient. In float32 at least.
    """

    def of_chunk(hidden_CD: Tensor, weight_VD: Tensor, targets_C: Tensor) -> Tensor:
        logits_CV = linear(hidden_CD, weight_VD)
        logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
        return logits_CV.gather(1, targets_C.unsqueeze(1)).squeeze(1) - logits_CV.logsumexp(1)

    chunks = zip(hidden_ND.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True)
    found: list[Tensor] = [
        checkpoint(of_chunk, hidden_CD, weight_VD, targets_C, use_reentrant=False, preserve_rng_state=False)
        for hidden_CD, targets_C in chunks
    ]
    return torch.cat(found)


def _check_pairs(seq_len: int, marks: tuple[str, str], tokens: TokenMixture) -> None:
    """Raises RecipeError where a document is no pair of answers, or is not read whole."""
    for name, own in zip(tokens.names, tokens.sets, strict=True):
        chosen, rejected = (answer_places(own, mark) for mark in marks)
        read = own.lengths > 1
        are_none = read & ((chosen == NOWHERE) | (rejected < chosen))
        why = f"are no pairs of answers: no {marks[0]!r} with {marks[1]!r} behind it is in them"
        refuse_documents(tokens, name, are_none, why, "Pick documents of the source `Preferences`.")
        fix = f"Set seq_len to {int(own.lengths.max(initial=0))} or more, or pick documents with n_tokens <= {seq_len}."
        refuse_documents(tokens, name, own.lengths > seq_len, f"are longer than seq_len={seq_len} tokens", fix)
