"""From the labels of a data set to the ids of a model; by name, never by guessing."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autolr.errors import UsageError, similar

NO_GOLD = frozenset({"-", "-1"})
"""How SNLI and its relatives mark a pair on which the annotators did not agree."""

_GENERIC = re.compile(r"(label[_ ]?)?\d+")


@dataclass(frozen=True)
class LabelMap:
    """What a model's ids mean.

    Attributes:
        ids: label name, stripped and in lower case -> the model's id.
        shown: the model's labels for messages, in the order of the ids.
        generic: the names are ``LABEL_0``, ``LABEL_1``, … and say nothing.
        given: the names are those of --label-names.

    Example:
        >>> labels = LabelMap.of({"contradiction": 0, "entailment": 1})
        >>> labels.id_of(" Entailment"), labels.id_of("0"), labels.id_of(1), labels.id_of("neutral")
        (1, 0, 1, None)
    """

    ids: Mapping[str, int]
    shown: str
    generic: bool
    given: bool = False

    @classmethod
    def of(cls, label2id: Mapping[str, int], label_names: Sequence[str] | None = None) -> "LabelMap":
        """Build the map from a model's configuration.

        Args:
            label2id: as in the model's configuration.
            label_names: the meaning of the ids 0, 1, … in that order; overrides the configuration's names.

        Raises:
            UsageError: there are not as many names as the model has ids, or two names differ only in case.
        """
        names = dict(label2id)
        if label_names is not None:
            n_ids = len(set(names.values()))
            if len(label_names) != n_ids:
                raise UsageError(
                    f"--label-names gives {len(label_names)} names ({', '.join(label_names)}), "
                    f"but the model has {n_ids} labels; give one for each id, from 0 on"
                )
            names = {name: i for i, name in enumerate(label_names)}
        spellings: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for name, i in names.items():
            spellings[_normal(name)][name] = i
        for same in spellings.values():
            if len(set(same.values())) > 1:
                raise UsageError(f"the labels {same} differ only in case; tell them apart with --label-names")
        shown = ", ".join(f"{name} = {i}" for name, i in sorted(names.items(), key=lambda item: item[1]))
        ids = {normal: next(iter(same.values())) for normal, same in spellings.items()}
        return cls(ids, shown, all(_GENERIC.fullmatch(name) for name in ids), label_names is not None)

    def id_of(self, value: str | int) -> int | None:
        """Return the id of a name, or of an id in digits; None when the model has no such label."""
        if isinstance(value, str):
            by_name = self.ids.get(_normal(value))
            if by_name is not None or not value.strip().isdecimal():
                return by_name
            value = int(value)
        return value if value in self.ids.values() else None

    def convert(self, value: object, classes: Sequence[str] | None, where: str) -> int | None:
        """Return the model's id of a label as found in the data, None for a pair without a gold label.

        Args:
            value: a name, an id, or an id in digits.
            classes: the names of the data's own integer labels; with them integers are mapped by name only.
            where: the place, for the message.

        Raises:
            UsageError: the value is neither a string nor an integer, or the model has no such label.
        """
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UsageError(
                f"{where}: a label must be a name or an id, saw {value!r:.200}; the model's labels: {self.shown}"
            )
        if str(value).strip() in NO_GOLD:
            return None
        if classes is not None and isinstance(value, int):
            return self._by_class(value, classes, where)
        found = self.id_of(value)
        if found is None:
            raise UsageError(f"{where}: {self._unknown(value)}")
        return found

    def _by_class(self, value: int, classes: Sequence[str], where: str) -> int:
        if not 0 <= value < len(classes):
            raise UsageError(f"{where}: label {value} has no name in the data set, which names {', '.join(classes)}")
        found = self.ids.get(_normal(classes[value]))
        if found is None:
            raise UsageError(f"{where}: {self._unknown(classes[value])}")
        return found

    def _unknown(self, value: str | int) -> str:
        if self.generic and isinstance(value, str) and not value.strip().isdecimal():
            return (
                f"the model's labels ({self.shown}) do not say which one means {value!r:.200}; "
                "tell it with --label-names, one name for each id in order, "
                "for instance --label-names entailment,neutral,contradiction"
            )
        near = similar(_normal(str(value)), self.ids)
        if self.given:
            return (
                f"--label-names has no {value!r}, it says {self.shown}{near}; give the names that the data have, in "
                f"the order of the model's ids"
            )
        return (
            f"the model has no label {value!r:.200}; its labels: {self.shown}{near}; "
            "rename the label in the data, or give the model's names with --label-names"
        )


def model_labels(
    id2label: Mapping[Any, Any] | None, label2id: Mapping[str, Any] | None, count: int, source: str
) -> dict[str, int]:
    """Return the names of a classifier's ids from the two tables of its configuration, which may disagree.

    A table that says something goes before one that is missing or holds ``LABEL_0``, ``LABEL_1``, … Where both say
    something, each id must have a name that both give it; further names of ``label2id`` are taken too.

    Args:
        id2label: as in the model's configuration; None or empty: missing.
        label2id: likewise.
        count: how many classes the model tells apart; an id without a name is called ``LABEL_<id>``.
        source: where the model came from, for the message.

    Returns:
        Name -> id in [0, count); each id has at least one name.

    Raises:
        UsageError: the tables disagree, or name an id that the model does not have.

    Example:
        >>> model_labels({0: "no", 1: "yes"}, {"LABEL_0": 0, "LABEL_1": 1}, 2, "mine")
        {'no': 0, 'yes': 1}
    """
    by_id, by_name = ({} if table is None else table for table in (id2label, label2id))
    if not all(isinstance(index, int) or str(index).isdecimal() for index in (*by_id, *by_name.values())):
        raise UsageError(f"{source}: the ids in its config.json must be numbers, saw {by_id} and {by_name}")
    twice = Counter(map(_normal, map(str, by_id.values()))).most_common(1)
    if twice and twice[0][1] > 1:
        ids = [str(index) for index, name in by_id.items() if _normal(str(name)) == twice[0][0]]
        raise UsageError(
            f"{source}: its config.json gives the name {twice[0][0]!r} to the ids {' and '.join(ids)}; name each class "
            f"otherwise, or say what the ids mean by --label-names"
        )
    by_id = {str(name): int(index) for index, name in by_id.items()}
    by_name = {str(name): int(index) for name, index in by_name.items()}
    telling = [table for table in (by_id, by_name) if not all(_says_nothing(name) for name in table)]
    found = {name: i for table in telling for name, i in table.items() if not _says_nothing(name)} or by_id or by_name
    beyond = {name: index for name, index in found.items() if not 0 <= index < count}
    if beyond:
        raise UsageError(f"{source}: its config.json names the labels {beyond}, and the model has {count} classes")
    if len(telling) > 1 and not _agree(by_id, by_name):
        raise UsageError(
            f"{source}: in its config.json id2label, read as names with their ids, is {by_id}, and label2id is "
            f"{by_name}: they disagree; correct the wrong one, or say what the ids mean by --label-names, from id 0 on"
        )
    return found | {f"LABEL_{index}": index for index in range(count) if index not in found.values()}


def _agree(by_id: Mapping[str, int], by_name: Mapping[str, int]) -> bool:
    """Tell whether no name means two ids, and no id has one name in one table and another in the other."""
    one, other = (
        {_normal(name): i for name, i in table.items() if not _says_nothing(name)} for table in (by_id, by_name)
    )
    ids = set(one.values()) & set(other.values())
    shared = {name for name in one if name in other}
    return all(one[name] == other[name] for name in shared) and ids <= {one[name] for name in shared}


def _says_nothing(name: str) -> bool:
    return _GENERIC.fullmatch(_normal(name)) is not None


def _normal(name: str) -> str:
    return name.strip().casefold()
