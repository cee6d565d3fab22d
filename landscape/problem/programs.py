"""What was traced for a problem, kept for other points of the problem and other batches of the same shapes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class Programs:
    """Traced programs, and why there is none for what couldn't be traced.

    A problem and all problems made of it that differ in their point share one of these. What a program is, only
    `landscape.curvature.products` knows.
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._made: dict[Hashable, Any] = {}
        self._failed: dict[Hashable, str] = {}

    def __len__(self) -> int:
        """How many programs there are."""
        return len(self._made)

    def __contains__(self, key: Hashable) -> bool:
        """Whether something was traced for this."""
        return key in self._made

    def __getitem__(self, key: Hashable) -> Any:
        """The program that was traced for this."""
        return self._made[key]

    def keep(self, key: Hashable, program: Any) -> None:
        """Keep a program; one that was there for the same is replaced."""
        self._made[key] = program

    def fail(self, key: Hashable, why: str) -> None:
        """Keep why there is no program, so that nobody tries again at every point."""
        self._failed[key] = why

    def failure(self, key: Hashable) -> str | None:
        """Why there is no program; None where nobody tried, or there is one."""
        return self._failed.get(key)
