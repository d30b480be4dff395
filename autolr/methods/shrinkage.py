"""What the methods ask of the calibration statistics, and what is done when there are too few tokens."""

from jaxtyping import Float
from torch import Tensor

from autolr.errors import FactorizationError
from autolr.methods.weighted_svd import oas_intensity, shrink
from autolr.types import LayerStats

TOKENS_PER_FEATURE = 4
"""Below this many calibration tokens per input feature a Gram matrix is shrunk (heuristic: where overfitting shows)."""


def required(stats: LayerStats | None, method: str, *fields: str) -> LayerStats:
    """Return the statistics, or raise if the method's needs are not met.

    Raises:
        FactorizationError: the statistics or one of the named fields are missing.
    """
    missing = list(fields) if stats is None else [name for name in fields if getattr(stats, name) is None]
    if stats is None or missing:
        wanted = ", ".join(missing) or "moments"
        raise FactorizationError(
            f"{method} needs calibration statistics ({wanted}); calibrate with a task that has them"
        )
    return stats


def too_few_tokens(in_features: int, n_tokens: int) -> bool:
    """Tell whether a Gram matrix of this size is shrunk.

    Example:
        >>> too_few_tokens(384, 2000), too_few_tokens(1536, 2000)
        (False, True)
    """
    return n_tokens < TOKENS_PER_FEATURE * in_features


def well_conditioned(gram: Float[Tensor, "in in"], n_tokens: int) -> Float[Tensor, "in in"]:
    """Return the Gram matrix, shrunk towards a multiple of the identity if it rests on too few tokens.

    The intensity is the oracle-approximating one, so a matrix that is well determined is hardly changed.
    """
    if not too_few_tokens(gram.shape[0], n_tokens):
        return gram
    return shrink(gram, oas_intensity(gram, n_tokens))
