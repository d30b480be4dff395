"""Where a study's model and data are now: the options of commands that open a study, for what was moved."""

from functools import reduce
from pathlib import Path

from autolr.cli.options import Given
from autolr.errors import UsageError, command
from autolr.spec.options import options_of
from autolr.spec.study import SPACE_FILES, StudySpec

NOW = {
    "model": "Where the study's model is now, if it was moved.",
    "train": "Where its train data are now.",
    "validation": "Where its validation data are now.",
    "test": "Where its test data are now.",
    "probes": "Where its probing tasks are now.",
    "space": "Where the YAML file of its space is now.",
}


def spec_at(study: Path, places: Given) -> StudySpec:
    """Return a study's specification with the places that are given; that the contents are the same is proved later.

    Raises:
        UsageError: it is not a study, or a place that is stored is empty and no other is given: then the message names
            the options and the command to type.
    """
    from autolr.optimization.study.folder import StudyFolder
    from autolr.workflows.placed import with_own_inputs
    from autolr.workflows.resolve import moved

    spec = with_own_inputs(StudyFolder.existing(study).spec(), study)
    now = moved(spec, {name: places[name] for name in NOW})
    before = _places(spec)
    gone = {
        flag: place
        for flag, place in _places(now).items()
        if place == before.get(flag) and Path(place).is_absolute() and not Path(place).exists()
    }
    if gone:
        words = [word for flag in gone for word in (flag, "PLACE")]
        raise UsageError(
            f"the study at {study} was given {', '.join(f'{flag} {place}' for flag, place in gone.items())}, "
            f"where nothing is now; say where the same contents are: {command('resume', study, *words)} "
            f"(also for export and sensitivity, which take {', '.join(gone)} too)"
        )
    return now


def _places(spec: StudySpec) -> dict[str, str]:
    """Return option -> place, of the options that a specification has a place for."""
    splits = ("train", "validation", "test") if spec.data.dataset else ()
    places: dict[str, str] = {}
    for name in NOW:
        option = options_of(StudySpec)[name]
        place = reduce(getattr, option.path, spec)
        preset = name == "space" and not str(place).endswith(SPACE_FILES)
        if isinstance(place, str) and name not in splits and not preset:
            places[option.flag] = place
    return places
