"""Tables of figures for the terminal."""

from __future__ import annotations

import math


def percent(share: float, digits: int = 2) -> str:
    """A share in percent; ``-`` where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f}"


def table(rows: list[list[str]]) -> str:
    """Rows of cells as text: the first column to the left, the others to the right, a rule below the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
