"""A tokenizer with fewer tokens, for which text that used only those is tokenized to the same pieces.

Why each kind of tokenizer keeps its pieces, K being the tokens that stay:

    WordPiece   takes the longest token that fits; where that is in K it is the longest of K too.
    BPE         merges pairs by rank. A token stays with all that any merge makes it of, and a merge with its parts and
                its result: of text whose tokens are in K every merge is left, and none that is left came before.
    Unigram     takes the most probable sequence of pieces; where it is of K it is the most probable of K too. The least
                probable piece stays, for the penalty of unknown characters is counted from it.
    WordLevel   looks words up.

Special and added tokens, single characters and bytes stay, so that any other text is still tokenized, in more pieces.
"""

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any

from autolr.errors import UsageError

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
_WITHOUT_IDS = ("ByteLevel",)
"""Post-processors that name no token by its number."""


def tokens_to_keep(tokenizer: Mapping[str, Any], used: Collection[int]) -> list[int]:
    """Return the numbers of the tokens that stay, rising: those that are used, and what they and any text need.

    Args:
        tokenizer: the content of tokenizer.json.
        used: numbers of tokens.

    Raises:
        UsageError: a tokenizer of this kind cannot be cut exactly; the message names what stands against it.
    """
    _check_kind(tokenizer)
    model = tokenizer["model"]
    ids = _ids(model)
    kept = set(used) | {token["id"] for token in tokenizer["added_tokens"]}
    kept |= {number for token, number in ids.items() if len(_bare(token, model)) <= 1 or _BYTE.fullmatch(token)}
    unknown = model.get("unk_token")
    kept |= {ids[unknown]} if unknown in ids else set()
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept |= {scores.index(min(scores)), *([] if model["unk_id"] is None else [model["unk_id"]])}
    if model["type"] == "BPE":
        _add_parts(kept, model, ids)
    return sorted(kept)


def trimmed(tokenizer: Mapping[str, Any], kept: Collection[int]) -> dict[str, Any]:
    """Return the content of tokenizer.json with some tokens only, numbered anew in their order.

    Args:
        tokenizer: the content of tokenizer.json.
        kept: what :func:`tokens_to_keep` returned.
    """
    new = copy.deepcopy(dict(tokenizer))
    place = {number: index for index, number in enumerate(sorted(kept))}
    model = new["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in place]
        model["unk_id"] = None if model["unk_id"] is None else place[model["unk_id"]]
    else:
        model["vocab"] = {token: place[number] for token, number in model["vocab"].items() if number in place}
    if model["type"] == "BPE":
        vocabulary = model["vocab"]
        model["merges"] = [
            merge for merge in model["merges"] if all(part in vocabulary for part in _of_merge(merge, model))
        ]
    for token in new["added_tokens"]:
        token["id"] = place[token["id"]]
    if new.get("padding"):
        new["padding"]["pad_id"] = place[new["padding"]["pad_id"]]
    _renumber(new.get("post_processor"), place)
    return new


def _check_kind(tokenizer: Mapping[str, Any]) -> None:
    model = tokenizer["model"]
    if model["type"] not in _KINDS:
        raise UsageError(f"a {model['type']} tokenizer cannot be cut exactly; only {', '.join(_KINDS)} are known")
    if model.get("dropout"):
        raise UsageError(f"the tokenizer draws its merges at random (dropout {model['dropout']}): set it to none first")
    for processor in _processors(tokenizer.get("post_processor")):
        kind = processor["type"]
        if kind not in ("TemplateProcessing", "BertProcessing", "RobertaProcessing", *_WITHOUT_IDS):
            raise UsageError(f"the tokenizer's post-processor {kind} may name tokens by number, in a way not known")


def _ids(model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model["vocab"]
    return {piece: number for number, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)


def _bare(token: str, model: Mapping[str, Any]) -> str:
    """Return a token without the marks of its place in a word."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    return token.removeprefix(prefix).removesuffix(suffix) or token


def _of_merge(merge: str | list[str], model: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the two parts of a merge and its result."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right, left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def _add_parts(kept: set[int], model: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    """Add, in place, all that any merge makes kept tokens of."""
    parts: dict[int, set[int]] = {}
    for merge in model["merges"]:
        left, right, result = _of_merge(merge, model)
        if result in ids:
            parts.setdefault(ids[result], set()).update((ids[left], ids[right]))
    waiting = list(kept)
    while waiting:
        for part in parts.get(waiting.pop(), ()):
            if part not in kept:
                kept.add(part)
                waiting.append(part)


def _processors(processor: Any) -> list[dict[str, Any]]:
    """Return a post-processor as the list of those that it is a sequence of."""
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return [inner for outer in processor["processors"] for inner in _processors(outer)]
    return [processor]


def _renumber(processor: Any, place: Mapping[int, int]) -> None:
    """Number the tokens that a post-processor names anew, in place."""
    for inner in _processors(processor):
        if inner["type"] == "TemplateProcessing":
            for token in inner["special_tokens"].values():
                token["ids"] = [place[number] for number in token["ids"]]
        for end in ("sep", "cls"):
            if end in inner:
                inner[end] = [inner[end][0], place[inner[end][1]]]
