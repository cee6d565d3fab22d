"""Limits of axes: autoscaling finds them from everything that is drawn, in whatever order.

``set_xlim`` and ``set_ylim`` end autoscaling, and whatever is drawn later may be cut off. So no function that draws one
row or one record calls them: it names the values that the limits have to hold, and declares what they may cut off.
"""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.artist import Artist
from matplotlib.axes import Axes


def reach(axes: Axes, *, x: Iterable[float] = (), y: Iterable[float] = ()) -> None:
    """Let the limits hold these values too, with the usual margins around all that is drawn."""
    axes.update_datalim([(value, 0) for value in x], updatey=False)
    axes.update_datalim([(0, value) for value in y], updatex=False)
    axes.autoscale_view()


def span(axes: Axes, *, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None) -> None:
    """Let the limits be these two values, or further apart where something is drawn beyond them."""
    axes.margins(x=None if x is None else 0, y=None if y is None else 0)
    reach(axes, x=x or (), y=y or ())


def may_leave(axes: Axes, artist: Artist) -> None:
    """Draw what the limits may cut off, and which has no part in them; the figure has to say where it is cut off."""
    artist.set_in_layout(False)
    axes.add_artist(artist)
