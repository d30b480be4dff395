"""A candidate as a table, layer by layer: what each becomes, by which method, and how large."""

from autolr.forms import FORMS
from autolr.records import TOLD_BY_SIZES, Candidate


def layer_table(candidate: Candidate) -> list[list[str]]:
    """Return the head and the rows of a candidate's table; what a layer's form has no size of is left empty.

    Forms are named where sizes do not tell them.

    Example:
        >>> from autolr.forms.low_rank import low_rank
        >>> layer_table(Candidate.of({"h.0.mlp": low_rank("kfac", 8)}))
        [['layer', 'method', 'rank'], ['h.0.mlp', 'kfac', '8']]
    """
    forms = {choice.form: FORMS.get(choice.form) for _, choice in candidate.choices}
    titles = {name: title for form in forms.values() for name, title in form.sizes.items()}
    named = not forms.keys() <= set(TOLD_BY_SIZES.values())
    rows = [["layer", *["form"] * named, "method", *titles.values()]]
    for unit, choice in candidate.choices:
        sizes = dict(choice.sizes)
        rows.append([unit, *[choice.form] * named, choice.method, *(str(sizes.get(name, "")) for name in titles)])
    return rows


def as_markdown(table: list[list[str]]) -> list[str]:
    """Return a table's lines in Markdown; its first row is the head.

    Example:
        >>> as_markdown([["layer", "rank"], ["a", "8"]])
        ['| layer | rank |', '|---|---|', '| a | 8 |']
    """
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return [lines[0], "|---" * len(table[0]) + "|", *lines[1:]]
