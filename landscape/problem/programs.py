"""Traced programs of a problem, kept for other points of the problem and other batches of equal shapes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class Programs:
    """Traced programs, and the reasons why others couldn't be traced.

    A problem and all problems made from it that differ in their point share one `Programs`. Only
    `landscape.curvature.products` knows what a program is.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._made: dict[Hashable, Any] = {}
        self._failed: dict[Hashable, str] = {}

    def __len__(self) -> int:
        """Number of programs."""
        return len(self._made)

    def __contains__(self, key: Hashable) -> bool:
        """Whether a program was traced for this key."""
        return key in self._made

    def __getitem__(self, key: Hashable) -> Any:
        """The program that was traced for this key."""
        return self._made[key]

    def keep(self, key: Hashable, program: Any) -> None:
        """Keep a program; an earlier program of this key is replaced."""
        self._made[key] = program

    def fail(self, key: Hashable, why: str) -> None:
        """Keep the reason why tracing failed, so that tracing isn't tried again at every point."""
        self._failed[key] = why

    def failure(self, key: Hashable) -> str | None:
        """The reason why tracing failed; None where it wasn't tried or succeeded."""
        return self._failed.get(key)
