"""What the objectives of all stages share that learn from a teacher."""

from __future__ import annotations

from tilth.tokenize.mixture import TokenMixture
from tilth.trainer.next_token import NextToken, OfTokens


class OfTeacher(OfTokens):
    """What is learnt from a teacher is validated by the next token: one measure for all stages, and for the teacher."""

    def for_validation(self, tokens: TokenMixture) -> NextToken:
        """What the student alone is worth."""
        return NextToken()
