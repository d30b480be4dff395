"""Padding that does not change an answer: which token, and on which side."""

from typing import Any

from transformers import PreTrainedModel

from autolr.errors import UsageError
from autolr.model.inputs import Side

_LEFT = frozenset({"xlnet"})
"""Types of models that read their answer at the last position, real or not."""
_SPECIAL = ("pad", "eos", "bos", "cls", "mask", "sep", "unk")
"""Kinds of tokens that may pad where a model has no padding token of its own, the best first."""


def padding_side(model: PreTrainedModel) -> Side:
    """Return the side on which a model's classifier wants its padding, whatever its tokenizer does.

    On the right positions do not shift: GPT-2 counts them from the padding on.
    """
    return "left" if model.config.model_type in _LEFT else "right"


def ensure_padding(model: PreTrainedModel, tokenizer: Any) -> None:
    """Let the tokenizer pad with the token that the model takes for padding, and choose one where it takes none.

    A decoder's classifier reads the last token that is not its own padding, and RoBERTa counts positions by it: with
    any other token a text beside a longer one is answered otherwise than alone. A model without a padding token reads
    the last token whatever it is; it is told one that no text ends with, since that one would be passed over.

    Raises:
        UsageError: no special token will do, or an encoder-decoder, which reads its answer at the end of the text, has
            no padding token.
    """
    config: Any = model.config.get_text_config()
    table: Any = model.get_input_embeddings()
    known = len(table.weight)
    own = getattr(config, "pad_token_id", None)
    if own is not None and 0 <= own < min(known, len(tokenizer)):
        if tokenizer.pad_token_id != own:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(own)
        return
    if tokenizer.pad_token is None and getattr(model.config, "is_encoder_decoder", False):
        raise UsageError(
            "the tokenizer has no padding token, and an encoder-decoder cannot be padded with the end of the text, "
            "where it reads its answer; set tokenizer.pad_token"
        )
    ends = _ends(tokenizer)
    named = (getattr(tokenizer, f"{kind}_token") for kind in _SPECIAL)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in named if token is not None}
    fitting = [token for token, index in ids.items() if index not in ends and index < known]
    if not fitting:
        seen = ", ".join(map(repr, sorted(ids)))
        lacks = f"of the tokenizer's special tokens ({seen}) none will do: texts end with it"
        raise UsageError(
            f"the model has no padding token, and {lacks if ids else 'the tokenizer has no special token at all'}; set "
            f"tokenizer.pad_token to a token that no text ends with, and model.config.pad_token_id"
        )
    tokenizer.pad_token = fitting[0]
    config.pad_token_id = tokenizer.pad_token_id


def _ends(tokenizer: Any) -> set[int]:
    """Return the special tokens that texts and pairs end with."""
    found = [tokenizer("a")["input_ids"], tokenizer("a", "a")["input_ids"]]
    return {ids[-1] for ids in found if ids} & set(tokenizer.all_special_ids)
