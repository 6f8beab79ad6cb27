"""Tables of figures for the terminal."""

from __future__ import annotations

import math

WIDTH = 100  # columns that a table for the terminal may take


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


def table_in_blocks(columns: list[list[str]]) -> str:
    """Columns of cells as text, as many beside each other as fit; each block of them begins with the first column."""
    first, *others = columns
    blocks: list[list[list[str]]] = []
    room = 0
    for column in others:
        width = max(map(len, column)) + 2
        if not blocks or width > room:
            blocks.append([first])
            room = WIDTH - max(map(len, first))
        blocks[-1].append(column)
        room -= width
    return "\n\n".join(table([list(cells) for cells in zip(*block, strict=True)]) for block in blocks)
