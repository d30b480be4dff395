"""Where a study's model and data are now: the options of commands that open a study, for what was moved."""

from pathlib import Path
from typing import Annotated

import typer

from autolr.cli.options import absolute
from autolr.errors import UsageError, command
from autolr.spec.study import SPACE_FILES, StudySpec

Model = Annotated[str | None, typer.Option("--model", help="Where the study's model is now, if it was moved.")]
Train = Annotated[str | None, typer.Option("--train", help="Where its train data are now.")]
Validation = Annotated[str | None, typer.Option("--validation", help="Where its validation data are now.")]
Test = Annotated[str | None, typer.Option("--test", help="Where its test data are now.")]
Probes = Annotated[str | None, typer.Option("--probes", help="Where its probing tasks are now.")]
Space = Annotated[str | None, typer.Option("--space", help="Where the YAML file of its space is now.")]


def spec_at(
    study: Path,
    *,
    model: str | None,
    train: str | None,
    validation: str | None,
    test: str | None,
    probes: str | None,
    space: str | None,
) -> StudySpec:
    """Return a study's specification with the places that are given; that the contents are the same is proved later.

    Raises:
        UsageError: it is not a study, or a place that is stored is empty and no other is given: then the message names
            the options and the command to type.
    """
    from autolr.search.study.folder import StudyFolder

    spec = StudyFolder.existing(study).spec()
    files = {"train": train, "validation": validation, "test": test}
    data = {name: place if spec.data.dataset else absolute(place) for name, place in files.items()}
    data["probes"] = absolute(probes)
    changes = {
        "model": absolute(model) or spec.model,
        "data": spec.data.model_copy(update={name: place for name, place in data.items() if place is not None}),
        "search": spec.search.model_copy(update={"space": absolute(space) or spec.search.space}),
    }
    moved = spec.model_copy(update=changes)
    before = _places(spec)
    gone = {
        option: place
        for option, place in _places(moved).items()
        if place == before.get(option) and Path(place).is_absolute() and not Path(place).exists()
    }
    if gone:
        words = [word for option in gone for word in (option, "PLACE")]
        raise UsageError(
            f"the study at {study} was given {', '.join(f'{option} {place}' for option, place in gone.items())}, "
            f"where nothing is now; say where the same contents are: {command('resume', study, *words)} "
            f"(also for export and sensitivity, which take {', '.join(gone)} too)"
        )
    return moved


def _places(spec: StudySpec) -> dict[str, str]:
    """Return option -> place, of the options that a specification has a place for."""
    names = ("probes",) if spec.data.dataset else ("train", "validation", "test", "probes")  # else they name splits
    places = {"--model": spec.model, **{f"--{name}": getattr(spec.data, name) for name in names}}
    places["--space"] = spec.search.space if spec.search.space.endswith(SPACE_FILES) else None
    return {option: place for option, place in places.items() if place is not None}
