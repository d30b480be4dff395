"""How often a model finds the acceptable sentence of a minimal pair likelier.

decoders         Σ_t log p(token t | tokens before). The first token of a sentence counts where the tokenizer puts one
                 before it (Llama's ``<s>``); elsewhere nothing precedes it, and it does not.
masked encoders  the pseudo-log-likelihood, Σ_t log p(token t | all others), each token masked in turn
others           a probe: logistic regression on the mean of the last layer, trained on half of a paradigm's pairs to
                 tell acceptable from not, asked which of the two sentences of the other half is the acceptable one

Sources: Warstadt et al. 2020, arXiv 1912.00582; Salazar et al. 2020, Masked Language Model Scoring, arXiv 1910.14659.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autolr.data.minimal_pairs import MinimalPairs
from autolr.errors import AutolrError, UsageError
from autolr.model.inputs import grouped, input_device
from autolr.model.kind import check_causal, is_causal_class
from autolr.probes.classifiers import HANDS, logistic_regression
from autolr.probes.features import features, sentence_batches, text_inputs

LEAST_PAIRS = 4
"""With which a probe can be trained and asked."""
How = Literal["likelihood", "pseudo-likelihood", "probe"]
"""By a language model's head, or where there is none by a probe."""
Scores = Float[Tensor, " sentences"]


def how_asked(model: nn.Module) -> How:
    """Return how a model can be asked, by its head.

    Example:
        >>> how_asked(nn.Linear(2, 2))
        'probe'
    """
    if is_causal_class(model):
        return "likelihood"
    return "pseudo-likelihood" if type(model).__name__.endswith("ForMaskedLM") else "probe"


def check_askable(model: nn.Module, tokenizer: Any, paradigms: Sequence[MinimalPairs], max_length: int) -> None:
    """Refuse pairs that this model cannot be asked about, before any is.

    Args:
        model: see the head of this file.
        tokenizer: the model's.
        paradigms: the pairs.
        max_length: tokens that a sentence may have.

    Raises:
        UsageError: there are too few pairs for a probe, a masked model's tokenizer has no mask token, a sentence is too
            long, or the model is no causal language model although its class says so.
    """
    how = how_asked(model)
    if how == "likelihood":
        check_causal(model, "minimal pairs")
    if how == "pseudo-likelihood" and tokenizer.mask_token_id is None:
        raise UsageError(
            "a masked language model is asked about sentences with its tokens masked, and its tokenizer has no mask "
            "token; set tokenizer.mask_token"
        )
    for pairs in paradigms:
        if how == "probe" and len(pairs) < LEAST_PAIRS:
            raise UsageError(
                f"paradigm {pairs.paradigm} has {len(pairs)} pairs; a model without a language model's head is asked "
                f"by a probe, which needs at least {LEAST_PAIRS}"
            )
        texts = [*pairs.good, *pairs.bad]
        for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
            if len(ids) > max_length:
                raise UsageError(
                    f"paradigm {pairs.paradigm}: {text[:40]!r}… has {len(ids)} tokens, the model takes {max_length}; "
                    f"leave the pair out"
                )


def preferred(
    model: nn.Module,
    tokenizer: Any,
    pairs: MinimalPairs,
    size: int = 64,
    max_length: int = 512,
    tick: Callable[[], None] = lambda: None,
) -> Float[Tensor, " pairs"]:
    """Return for each pair that was asked 1 where the acceptable sentence is likelier, 1/2 at a tie, else 0.

    Args:
        model: see the head of this file.
        tokenizer: the model's, with a padding token.
        pairs: of one paradigm, that :func:`check_askable` has seen.
        size: sentences in a batch.
        max_length: tokens after which a sentence is cut.
        tick: called between batches; may raise to stop.

    Raises:
        AutolrError: a likelihood is not finite.
    """
    model.eval()
    n, texts, how = len(pairs), [*pairs.good, *pairs.bad], how_asked(model)
    if how == "probe":
        return _by_probe(model, tokenizer, pairs, size, max_length, tick)
    ask = likelihoods if how == "likelihood" else pseudo_likelihoods
    scores = ask(model, tokenizer, texts, size, max_length, tick)
    if not torch.isfinite(scores).all():
        raise AutolrError(f"the model's likelihood of a sentence of {pairs.paradigm} is NaN or infinite")
    return _ahead(scores[:n], scores[n:])


def _ahead(good: Scores, bad: Scores) -> Float[Tensor, " pairs"]:
    return (good > bad).double() + 0.5 * (good == bad).double()


def likelihoods(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    size: int = 64,
    max_length: int = 512,
    tick: Callable[[], None] = lambda: None,
) -> Scores:
    """Return the log-likelihood of each text by a causal language model, nats, float64."""
    sentences = sentence_batches(tokenizer, texts, size, max_length, input_device(model))
    parts = []
    with torch.inference_mode():
        for batch in sentences.batches:
            mask = batch["attention_mask"].bool()
            log_p = model(**text_inputs(model, batch)).logits[:, :-1].float().log_softmax(-1)
            said = log_p.gather(-1, batch["input_ids"][:, 1:, None])[..., 0].double()
            parts.append((said * (mask[:, 1:] & mask[:, :-1])).sum(1).cpu())
            tick()
    return _in_order(torch.cat(parts), sentences.order)


def pseudo_likelihoods(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    size: int = 64,
    max_length: int = 512,
    tick: Callable[[], None] = lambda: None,
) -> Scores:
    """Return the pseudo-log-likelihood of each text by a masked language model, nats, float64."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, return_special_tokens_mask=True)
    special = encoded.pop("special_tokens_mask")
    places = [(row, t) for row, flags in enumerate(special) for t, flag in enumerate(flags) if not flag]
    places.sort(key=lambda place: (len(encoded["input_ids"][place[0]]), place))
    scores = torch.zeros(len(texts), dtype=torch.float64)
    device = input_device(model)
    with torch.inference_mode():
        for group in grouped([len(encoded["input_ids"][row]) for row, _ in places], size):
            rows, at = zip(*places[group], strict=True)
            listed = {name: [encoded[name][row] for row in rows] for name in encoded}
            padded = tokenizer.pad(listed, padding_side="right", return_tensors="pt")
            inputs = {name: tensor.to(device) for name, tensor in padded.items()}
            index, position = torch.arange(len(rows), device=device), torch.tensor(at, device=device)
            true = inputs["input_ids"][index, position].clone()
            inputs["input_ids"][index, position] = tokenizer.mask_token_id
            log_p = model(**inputs).logits[index, position].float().log_softmax(-1)
            scores.index_add_(0, torch.tensor(rows), log_p[index, true].double().cpu())
            tick()
    return scores


def _by_probe(
    model: nn.Module, tokenizer: Any, pairs: MinimalPairs, size: int, max_length: int, tick: Callable[[], None]
) -> Float[Tensor, " pairs"]:
    n = len(pairs)
    sentences = sentence_batches(tokenizer, [*pairs.good, *pairs.bad], size, max_length, input_device(model))
    X = features(model, sentences, "mean", [-1], tick)[0].double()
    gap = X[:n] - X[n:]  # what tells the two apart; a probe without offset on differences is one on both sentences
    half = n // 2
    gap = gap / gap[:half].square().mean(0).sqrt().clamp(min=1e-12)
    mirrored = torch.cat([gap[:half], -gap[:half]])
    hands = [torch.arange(hand, half, HANDS) for hand in range(min(HANDS, half))]
    folds = [torch.cat([hand, hand + half]) for hand in hands]  # a pair with its mirror image
    probe = logistic_regression(mirrored, torch.arange(2).repeat_interleave(half), folds, offset=False)
    score = -torch.from_numpy(probe.decision_function(gap[half:].numpy()))  # of class 1, the mirror images
    return _ahead(score, torch.zeros_like(score))


def _in_order(by_row: Tensor, order: Sequence[int]) -> Tensor:
    found = torch.empty_like(by_row)
    found[list(order)] = by_row
    return found
