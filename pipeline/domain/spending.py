"""What a run may cost, and until when it may last: budgets and deadlines as a recipe or a command says them.

Both are limits of one run, that is of one call of the command: who runs it again to resume gives it the same budget
anew. A run that meets one ends cleanly, with whole units, and nothing of it is lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Annotated

from pydantic import Field, field_validator

from pipeline.domain.errors import UserError
from pipeline.domain.section import Section

_PARTS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)min)?(?:(\d+)s)?")
_OF_DAY = re.compile(r"\d\d:\d\d")
_SECONDS = (86_400, 3_600, 60, 1)
EXAMPLES = "a duration such as 6h, 90min or 1d12h, a time of day such as 06:00Z, or a moment such as 2031-05-01T06:00Z"
MOST = 1e9
"""Above this no budget makes sense; it keeps every sum finite."""

Amount = Annotated[float, Field(gt=0, le=MOST)]


class Budget(Section):
    """The most that one run may spend; what is left out is not limited."""

    gpu_hours: Amount | None = None
    """Hours for which workers are held, times `compute.gpus`, whether they work or wait."""
    worker_hours: Amount | None = None
    """Hours for which workers are held, summed over them."""
    images: Annotated[int, Field(ge=1, le=int(MOST))] | None = None
    """Candidate images made, the refused among them."""


class Limits(Section):
    """What `compute` says of a run's limits, and of workers that have nothing to do."""

    budget: Budget = Budget()
    deadline: Annotated[str, Field(max_length=64)] | None = None
    """When the run stops: so long after its start (`6h`), or at a time and zone (`06:00Z`, `2031-05-01T06:00Z`)."""
    idle_s: Annotated[float, Field(ge=0, le=86_400)] | None = 120.0
    """Workers that have had nothing to do for so long are let go, between rounds too; null keeps them to the end."""

    @field_validator("deadline", mode="before")
    @classmethod
    def _can_be_read(cls, value: object) -> object:
        # YAML reads a moment with seconds as one
        text = value.isoformat() if isinstance(value, datetime) else value
        if isinstance(text, str):
            deadline_s(text, 0.0)
        return text


def budget_overrides(given: Sequence[str]) -> list[str]:
    """Return `gpu-hours=2,images=1000` and the like, given once or repeatedly, as overrides of a recipe.

    Raises:
        UserError: a budget that is none of ours, or is no number.
    """
    out = []
    for part in (p.strip() for text in given for p in text.split(",")):
        name, sign, value = part.partition("=")
        key = name.strip().replace("-", "_")
        if not sign or key not in Budget.model_fields:
            known = ", ".join(f"{k.replace('_', '-')}=N" for k in Budget.model_fields)
            raise UserError(f"--budget {part}: got no budget that can be kept; give one or more of {known}")
        out.append(f"compute.budget.{key}={value.strip()}")
    return out


def deadline_s(text: str, now_s: float) -> float:
    """Return the moment that a deadline means, in seconds since the epoch; a time of day is the next such one.

    Raises:
        ValueError: neither a duration nor a time with its zone; the message says what to give.
    """
    match = _PARTS.fullmatch(text)
    if text and match and any(match.groups()):
        length_s = sum(int(n) * s for n, s in zip(match.groups(), _SECONDS, strict=True) if n)
        if length_s > 0:
            return now_s + length_s
    try:
        at = time.fromisoformat(text) if _OF_DAY.match(text) else datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"that is no time; give {EXAMPLES}") from None
    if at.tzinfo is None:
        raise ValueError(f"a time without a zone is another one on every node; add one: {text}Z is UTC")
    if isinstance(at, datetime):
        return at.timestamp()
    today = datetime.combine(datetime.fromtimestamp(now_s, at.tzinfo).date(), at)
    return (today if today.timestamp() > now_s else today + timedelta(days=1)).timestamp()


def moment(at_s: float) -> str:
    """Return a moment as people and machines read it: `2031-05-01T06:00:00Z`."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
