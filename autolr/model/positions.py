"""How many tokens a model can be given at all."""

from torch import nn


def longest_sequence(model: nn.Module) -> int | None:
    """Return how many tokens the model's positions allow, or None if its configuration sets no limit.

    RoBERTa's table of positions, and that of its relatives CamemBERT, MPNet, ..., starts behind the padding index: of
    514 rows 512 can be used.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest < 1:  # XLNet says -1
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return min(longest, module.num_embeddings - module.padding_idx - 1)
    return longest
