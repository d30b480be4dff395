"""``autolr dashboard``."""

import signal
import socket
from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli.terminal import err, reported
from autolr.errors import UsageError


@reported
def dashboard(
    study: o.StudyArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback is open to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Serve optuna-dashboard on a study, also while it is searching."""
    from optuna_dashboard import run_server

    from autolr.optimization.study.folder import StudyFolder

    folder = StudyFolder.existing(study)
    folder.load_study()
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    err.print(
        f"dashboard of {study}: http://{host}:{port}/  (Ctrl-C ends it)", highlight=False, markup=False, soft_wrap=True
    )
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A KeyboardInterrupt that comes while a page is answered is swallowed by the handler of requests.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        run_server(folder.storage(), host=host, port=port)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
