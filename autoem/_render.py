"""A derivation as a page that a statistician can read: plain text, or Markdown with LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Page:
    """Titled sections of (label, text) lines."""

    title: str
    sections: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    def text(self) -> str:
        """Plain text."""
        return self.title

    def markdown(self) -> str:
        """Markdown."""
        return self.title


def page(model: Any, complete: Any, evidences: Sequence[Any], skeletons: Any, plans: Mapping[str, Any], slots: Any, derivation: Any) -> Page:
    """Write the page of a derivation."""
    return Page("derivation", ())
