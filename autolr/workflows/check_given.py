"""What is given, checked by names and files alone: this imports no model library, and answers in seconds."""

from pathlib import Path

from autolr.checkpoint.source import check_path
from autolr.data.parts import check_sources
from autolr.errors import UsageError
from autolr.optimization.study.folder import StudyFolder
from autolr.spec.spaces import load_space_config
from autolr.spec.study import StudySpec


def check_study(spec: StudySpec, folder: StudyFolder) -> None:
    """Refuse places where nothing is, names that nothing has, and a study whose folder is another's.

    Raises:
        UsageError: with the reason; of a name, the nearest.
    """
    folder.check_own()
    check_given(spec, folder)
    if spec.search.warm_start is not None and not folder.spec_file.is_file():
        StudyFolder.existing(Path(spec.search.warm_start)).load_study()


def check_given(spec: StudySpec, folder: StudyFolder | None = None) -> None:
    """Refuse data, models and names that there are not.

    Raises:
        UsageError: with the nearest.
    """
    check_sources(spec.data)
    if spec.model is not None and spec.data.probes is None:  # probes are refused before the model, as they are read
        check_path(spec.model)
    check_names(spec, folder)


def check_names(spec: StudySpec, folder: StudyFolder | None = None) -> None:
    """Refuse names that no table has; of a study that exists, with where they may have come from.

    Raises:
        UsageError: a method, form, space, sampler or recovery is unknown.
    """
    try:
        _check_tables(spec)
    except UsageError as error:
        if folder is None or not folder.spec_file.is_file() or not str(error).startswith("unknown "):
            raise
        raise UsageError(
            f"{error}; what a notebook or script has added by .add is known in that process alone: add it again and go "
            f"on with autolr.Study({str(folder.path)!r}) there, or have an installed package register it as an entry "
            f"point (docs/extending.md)"
        ) from error


def _check_tables(spec: StudySpec) -> None:
    """Look names up, first those whose tables are imported quickest."""
    load_space_config(spec.search.space)
    from autolr.optimization.sampler.registry import SAMPLERS  # imports scipy

    SAMPLERS.get(spec.search.sampler)
    from autolr.methods import matrix_methods  # imports torch

    matrix_methods(spec.search.methods)
    from autolr.forms import get_forms  # imports transformers
    from autolr.recovery.registry import RECOVERIES

    get_forms(spec.search.forms)
    RECOVERIES.get(spec.search.recovery)
