"""Why a model answered as it did: `decision` finds out, `plot` draws it."""

from .decision import Decision, change, decided_by, explain, leave_out, token_spans

__all__ = ["Decision", "change", "decided_by", "explain", "leave_out", "token_spans"]
