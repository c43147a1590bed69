"""Figures as JSON that every reader takes, and that a person can read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def as_json(values: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return strict JSON: numpy's numbers as plain ones, null for what is not finite.

    Args:
        values: by name.
        indent: spaces a level, lists of numbers on one line; all on one line if None.
    """
    text = json.dumps(_plain(values), indent=indent, allow_nan=False, ensure_ascii=False)
    return text if indent is None else re.sub(r'\[\n([^][{}"]*?)\n *\]', _on_one_line, text)


def _on_one_line(found: re.Match[str]) -> str:
    return f"[{' '.join(found[1].split())}]"


def _plain(value: Any) -> Any:
    """Return `value` as JSON takes it: numpy's numbers as Python's, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value
