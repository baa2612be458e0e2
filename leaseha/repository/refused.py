"""An answer that is a refusal."""

from __future__ import annotations


class RefusedError(Exception):
    """The answer is this status, with this sentence, and with these header fields beside the usual ones."""

    def __init__(self, status: int, why: str, *fields: tuple[str, str]) -> None:
        super().__init__(why)
        self.status = status
        self.fields = fields
