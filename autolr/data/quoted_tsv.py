"""TSV in two dialects: raw, as GLUE has it, where quotes are text; and quoted, as csv and pandas write it.

Nothing in a file says which it is, so the whole of it is looked at. Raw is the rule; quoted must be proved.
"""

import re
from collections.abc import Iterator

_CELL = re.compile(r'("[^"]*(?:""[^"]*)*"|[^"\t\r\n]*)(\t|\r?\n|\Z)')
"""A cell in quotes, those inside doubled, or one without any; and what ends it."""

Row = tuple[int, list[str]]
"""The line a row begins on, from 1, and its cells."""


class MalformedTable(Exception):
    """A row that is not of its dialect.

    Attributes:
        line: that the row begins on, from 1.
        fault: what is wrong with it.
    """

    def __init__(self, line: int, fault: str) -> None:
        super().__init__(f"line {line}: {fault}")
        self.line = line
        self.fault = fault


def is_quoted(text: str) -> bool:
    r"""Tell whether a TSV file is quoted.

    It is where the header's cells are all in quotes. Otherwise its quoted reading must be a table: every cell that
    holds a quote is as csv writes it, and all rows have as many cells. And something must ask for that reading: the raw
    one is no table, or a cell holds a doubled quote. Where the raw reading is a table too, a cell in quotes that goes
    over a tab or a line end is two stray quotes of two cells. (Files of one column are a table when read raw; there
    such a cell asks for quotes, and so does a row of ``""``, which csv writes for an empty cell.)

    Example:
        >>> is_quoted('a\tb\nHe said "so".\t"Hello"\n'), is_quoted('a\tb\n"He said ""so""."\tHello\n')
        (False, True)
    """
    if '"' not in text:
        return False
    lines = [line for line in (one.removesuffix("\r") for one in text.split("\n")) if line]
    if all(_in_quotes(cell) for cell in lines[0].split("\t")):
        return True
    try:
        rows = [cells for _, cells in _written(text)]
    except MalformedTable:
        return False
    if len({len(cells) for cells in rows}) > 1:
        return False
    inside = [cell[1:-1] for cells in rows for cell in cells if cell.startswith('"')]
    across = any(end in cell for cell in inside for end in "\t\r\n")
    if len(rows[0]) == 1:
        return across or any(cell == "" or '""' in cell for cell in inside)
    raw_is_table = len({line.count("\t") for line in lines}) == 1
    return any('""' in cell for cell in inside) and not across if raw_is_table else True


def quoted_rows(text: str) -> Iterator[Row]:
    r"""Yield the rows of a quoted TSV file, quotes taken off; blank lines are left out.

    Raises:
        MalformedTable: a cell holds a quote, and is not as csv writes it.

    Example:
        >>> list(quoted_rows('a\t"b"\n\n"x\n""y"" z"\tc\n'))
        [(1, ['a', 'b']), (3, ['x\n"y" z', 'c'])]
    """
    for line, cells in _written(text):
        yield line, [cell[1:-1].replace('""', '"') if cell.startswith('"') else cell for cell in cells]


def _in_quotes(cell: str) -> bool:
    found = _CELL.fullmatch(cell)
    return found is not None and cell.startswith('"')


def _written(text: str) -> Iterator[Row]:
    """Yield the rows with their cells as they are written."""
    line, start, place, cells = 1, 1, 0, list[str]()
    while place < len(text):
        found = _CELL.match(text, place)
        if found is None:
            raise MalformedTable(start, "a quote in a cell that is not in quotes, or one without its second")
        cell, end = found.groups()
        cells.append(cell)
        place = found.end()
        line += found[0].count("\n")
        if end != "\t":
            if cells != [""]:
                yield start, cells
            start, cells = line, []
    if cells:
        yield start, [*cells, ""]  # the text ends with a tab
