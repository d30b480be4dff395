"""What is given, checked by names and files alone: this imports no model library, and answers in seconds."""

from pathlib import Path

from autolr.checkpoint.source import check_path
from autolr.data.parts import check_sources
from autolr.optimization.study.folder import StudyFolder
from autolr.spec.spaces import load_space_config
from autolr.spec.study import StudySpec


def check_given(spec: StudySpec) -> None:
    """Refuse names that nothing has, and places where nothing is.

    Raises:
        UsageError: names the nearest.
    """
    check_sources(spec.data)
    if spec.model is not None and spec.data.probes is None:  # probes are refused before the model, as they are read
        check_path(spec.model)
    load_space_config(spec.search.space)
    from autolr.optimization.sampler.registry import SAMPLERS  # imports scipy: what needs less is refused before

    SAMPLERS.get(spec.search.sampler)
    from autolr.methods import get_methods  # imports torch

    get_methods(spec.search.methods)


def check_study(spec: StudySpec, folder: StudyFolder) -> None:
    """Refuse a study whose folder is another's, or that takes over from no study; and what :func:`check_given` does.

    Raises:
        UsageError: with the reason.
    """
    folder.check_own()
    check_given(spec)
    if spec.search.warm_start is not None and not folder.spec_file.is_file():
        StudyFolder.existing(Path(spec.search.warm_start)).load_study()
