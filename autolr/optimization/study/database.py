"""The PostgreSQL database that keeps the trials of studies that several processes share; else there is a journal.

A password never reaches a file or a message: what is stored and printed is the address without it. On another machine,
or when a study goes on, it comes from the address given anew, from ``PGPASSWORD`` or from ``~/.pgpass``.
"""

import functools
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import optuna
from optuna.storages import BaseStorage

from autolr.errors import AutolrError, UsageError
from autolr.optimization.optuna_access import database_engine, database_storage

PATIENCE = 300.0
"""Seconds that a database may be away before the work ends."""
_PAUSES = (0.1, 0.3, 1.0, 3.0, 5.0)
_CONNECT_SECONDS = 10
_LOCK_SECONDS = 0.05

_passwords: dict[str, str] = {}
"""Address without password -> password, as given in this process."""


def without_password(address: str) -> str:
    """Return a database's address as it may be stored and shown, and remember its password for this process.

    Raises:
        UsageError: it is not the address of a PostgreSQL database, or the driver for it is not installed.

    Example:
        >>> without_password("postgresql://me:secret@host/db")
        'postgresql://me@host/db'
    """
    try:
        import psycopg  # noqa: F401
        import sqlalchemy
    except ImportError as error:
        raise UsageError("--storage needs a database driver; pip install 'autolr[postgresql]'") from error
    try:
        url = sqlalchemy.make_url(address)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # a port that is no number; not from it: it may tell a password
        raise UsageError("--storage must look like postgresql://user@host:5432/database") from None
    if url.get_backend_name() != "postgresql":
        raise UsageError(
            f"--storage takes PostgreSQL databases alone, got {url.get_backend_name()}://; without --storage a "
            "journal file in the study's folder serves one machine"
        )
    secrets = [name for name in url.query if "password" in name.lower()]
    if set(secrets) - {"password"}:
        raise UsageError(f"--storage must not hold {', '.join(sorted(secrets))}; let libpq read it from its own files")
    password = url.password if url.password is not None else url.query.get("password")
    url = url.difference_update_query(secrets)
    plain = url._replace(password=None).render_as_string(hide_password=False)  # set() would keep it
    if password is not None:
        _passwords[plain] = str(password)
    return plain


def check_private(address: str | None, cluster: bool) -> None:
    """Refuse a password where a cluster would see it: Ray keeps the command line of what it runs, for all to read.

    Raises:
        UsageError: there is a password, or the address is not one of PostgreSQL.
    """
    if address is None:
        return
    import sqlalchemy

    without_password(address)
    url = sqlalchemy.make_url(address)
    if cluster and (url.password is not None or "password" in url.query):
        raise UsageError(
            "a cluster must not be sent a password in --storage: set PGPASSWORD or write ~/.pgpass where it is needed"
        )


def open_database(address: str) -> BaseStorage:
    """Open a PostgreSQL database; the tables are made where they are missing.

    Every call is repeated for up to ``PATIENCE`` seconds while the database is away.

    Raises:
        UsageError: it cannot be reached, or the password is wrong or missing.
    """
    import sqlalchemy

    plain = without_password(address)
    url = sqlalchemy.make_url(plain).set(drivername="postgresql+psycopg")
    secret = {"password": _passwords[plain]} if plain in _passwords else {}
    arguments = {
        "pool_pre_ping": True,
        "pool_size": 4,
        "connect_args": {"connect_timeout": _CONNECT_SECONDS, **secret},
    }
    storage = database_storage(_patient)
    for pause in (*_PAUSES[:3], None):  # several processes may be making the tables at once
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return storage(url.render_as_string(hide_password=False), engine_kwargs=arguments)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            if pause is None:
                raise
            time.sleep(pause)
        except sqlalchemy.exc.OperationalError as error:
            raise UsageError(f"cannot open the database {plain}: {_first_line(error)}") from error
    raise AssertionError("unreachable")


def check_database(address: str) -> None:
    """Open a database and close it again, so that one that cannot be used is refused before anything is computed.

    Raises:
        UsageError: as :func:`open_database`.
    """
    engine = database_engine(open_database(address))
    assert engine is not None
    engine.dispose()


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0]  # the lines after it are the driver's advice


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a storage's method that waits for its database.

    A call whose answer was lost may have been carried out. Repeating it is safe: values are set again, a state that was
    already reached is reported as such, and a trial made twice is found without an owner and given up.
    """
    from sqlalchemy.exc import SQLAlchemyError

    @functools.wraps(call)
    def patiently(*args: Any, **kwargs: Any) -> Any:
        began, tries = time.monotonic(), 0
        while True:
            try:
                return call(*args, **kwargs)
            except optuna.exceptions.UpdateFinishedTrialError:
                if tries and call.__name__ == "set_trial_state_values":
                    return True  # it was this call that finished the trial
                raise
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                if not _is_away(error):
                    raise
                if time.monotonic() - began > PATIENCE:
                    raise AutolrError(
                        f"the database has not answered for {PATIENCE:.0f} s: {_first_line(_origin(error))}; "
                        "what is finished is in it, resume the study when it is back"
                    ) from error
                time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1

    return patiently


def _origin(error: BaseException) -> BaseException:
    return error.__cause__ or error


def _is_away(error: BaseException) -> bool:
    """Tell whether a database error comes of the connection rather than of what was asked."""
    from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError

    return isinstance(error, lost := OperationalError | InterfaceError | PendingRollbackError) or isinstance(
        _origin(error), lost
    )


@contextmanager
def alone(storage: BaseStorage, name: str) -> Iterator[None]:
    """Hold a database's lock of this name while a block runs; a journal's process is alone anyway.

    Raises:
        AutolrError: another process has held it, or the database was away, for ``PATIENCE`` seconds.
    """
    engine = database_engine(storage)
    if engine is None:
        yield
        return
    import sqlalchemy

    key = {"key": zlib.crc32(name.encode())}

    def take() -> sqlalchemy.Connection | None:
        with ExitStack() as stack:
            connection: sqlalchemy.Connection = stack.enter_context(closing(engine.connect()))
            if not connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
                return None  # another holds it
            stack.pop_all()
        return connection

    began = time.monotonic()
    while (connection := _patient(take)()) is None:
        if time.monotonic() - began > PATIENCE:
            raise AutolrError(
                f"another process has been opening the study {name!r} in the database for {PATIENCE:.0f} s; end it if "
                "it hangs, then go on"
            )
        time.sleep(_LOCK_SECONDS)
    with closing(connection):
        try:
            yield
        finally:
            with suppress(sqlalchemy.exc.DBAPIError):  # a connection that is lost holds no lock
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), key)
