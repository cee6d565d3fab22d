"""Limits of axes by autoscaling, which covers everything drawn, in any order.

``set_xlim`` and ``set_ylim`` end autoscaling: an artist drawn later may be cut off. Functions that draw one row or one
record therefore don't call them. They name the values that the limits must hold, and the artists that may be cut off.
"""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.artist import Artist
from matplotlib.axes import Axes


def reach(axes: Axes, *, x: Iterable[float] = (), y: Iterable[float] = ()) -> None:
    """Extend the limits to these values, with the usual margins around everything drawn."""
    axes.update_datalim([(value, 0) for value in x], updatey=False)
    axes.update_datalim([(0, value) for value in y], updatex=False)
    axes.autoscale_view()


def span(axes: Axes, *, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None) -> None:
    """Set the limits to these two values without margins, or further apart where an artist goes beyond them."""
    axes.margins(x=None if x is None else 0, y=None if y is None else 0)
    reach(axes, x=x or (), y=y or ())


def may_leave(axes: Axes, artist: Artist) -> None:
    """Draw an artist that has no part in the limits, which may cut it off; the figure must say where they do."""
    artist.set_in_layout(False)
    axes.add_artist(artist)
