"""What a unit can become: ``FORMS`` is the table, one file a form.

How to add one: subclass :class:`autolr.forms.base.Form` and the layer that runs it,
:class:`autolr.checkpoint.runtime.layers.CompressedLinear`; register an instance in the entry-point group
``autolr.forms``, and run :func:`autolr.forms.conformance.check` on it.
"""

from collections.abc import Iterable

from autolr.forms import (
    embedding,
    heads,
    kronecker,
    low_rank,
    low_rank_rows,
    masked_heads,
    masked_neurons,
    neurons,
    neurons_low_rank,
    ov_pair,
    qk_pair,
)
from autolr.forms.base import Form
from autolr.registry import Registry

FORMS: Registry[Form] = Registry(
    "form",
    Form,
    lambda: (
        form.FORM
        for form in (
            low_rank,
            low_rank_rows,
            neurons,
            neurons_low_rank,
            ov_pair,
            qk_pair,
            heads,
            embedding,
            kronecker,
            masked_neurons,
            masked_heads,
        )
    ),
)
"""Every form: the built-in ones and those of installed packages."""


MATRIX_FORMS = ("low-rank", "low-rank-rows")
"""What a single matrix may become, where a study names no forms; ``kronecker`` is left to those who ask for it."""
GROUP_FORMS = ("neurons", "neurons-low-rank", "ov-pair", "qk-pair")
"""What feed-forward pairs and attentions may become beside that."""
TIME_FORMS = ("heads",)
"""What is offered beside that where a budget is a time: counted in operations, it was never the best."""
TABLE_FORMS = ("embedding",)
"""What a table of token vectors may become, where a budget counts its parameters."""


def get_forms(names: Iterable[str]) -> tuple[Form, ...]:
    """Return the named forms in the order given.

    Raises:
        UsageError: a name is unknown; the message has the nearest one.
    """
    return tuple(FORMS.get(name) for name in names)
