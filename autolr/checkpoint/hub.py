"""Whether the hub answers, asked once and briefly: its own client waits and tries again for a minute and a half."""

from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of whichever client

SECONDS = 5.0
"""Waited for an answer."""


def unreachable(source: str | Path, kind: str = "model") -> str | None:
    """Return why the hub cannot be asked about a model or data set, for a message; None where it can, or need not be.

    Args:
        source: a directory, which needs no hub, or an id.
        kind: ``"model"`` or ``"dataset"``.
    """
    if constants.HF_HUB_OFFLINE or Path(source).expanduser().exists():
        return None
    try:
        HfApi().repo_info(str(source), repo_type=kind, timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return None  # it answered, or the id is malformed: loading tells more
    except (TransportError, OSError) as error:
        return (
            f"the hub at {constants.ENDPOINT} could not be reached ({error}); get online, or name a local "
            f"directory; --offline or HF_HUB_OFFLINE=1 reads the cache alone without asking"
        )
    return None
