"""Promote a model version and roll it back, by the aliases `champion`, `challenger` and `previous`.

MLflow moves one alias in one transaction. `champion` is therefore moved by one call, after everything else that a
promotion or a rollback records: if the process dies earlier, the old champion stays, and repeating the command
completes the rest. `previous` is derived: the champion's tag `champion.after` says what was in service before it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.checkout import files
from flows.checkout.locks import file_lock
from flows.runtime.exits import Failure
from flows.tracking import connection, models

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
AFTER, SINCE = "champion.after", "champion.since"
"""Tags of a version that became champion: the champion before it, and the time."""
WITHDRAWN = "rollback.at"
"""Tag of a version that was rolled back, which the gate refuses from then on."""
NONE = "none"
PATIENCE = 300.0
"""Seconds that a decision waits for another one (our choice); each takes a few."""


class RegistryError(Failure):
    """MLflow cannot be used, or returns a model that differs from the registered one."""


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A rollback: the version that was taken out of service, and the one that was put back."""

    withdrawn: str
    restored: str


@contextmanager
def registry_errors() -> Iterator[None]:
    """Turn every error of MLflow into a RegistryError with one sentence."""
    try:
        yield
    except connection.ERRORS as error:
        reason = connection.reason_of(error)
        raise RegistryError(f"the MLflow registry cannot be used ({reason}); nothing was promoted") from error


@contextmanager
def decision_lock() -> Iterator[None]:
    """Allow one decision at a time on a SQLite store, which the checkout and its deployments share.

    There is no lock for a server; its aliases are read again before they move."""
    file = connection.database()
    if file is None:
        yield
        return
    busy = RegistryError("another model is being decided on; wait for that retrain, or stop it there")
    with file_lock(file.with_suffix(".publish.lock"), busy, PATIENCE):
        yield


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def promote(name: str, version: str, before: str | None) -> None:
    """Make the version champion after the version `before`."""
    models.tag_version(name, version, {AFTER: before or NONE, SINCE: now()})
    if before is not None:
        models.move_alias(name, PREVIOUS, before)
    models.move_alias(name, CHAMPION, version)


def withdrawn_at(name: str, md5: str) -> str | None:
    """Return when a version with this file was rolled back, or None if none was."""
    version = models.find_version(name, md5)
    return models.version_tags(name, version).get(WITHDRAWN) if version else None


def roll_back(name: str, who: str, why: str) -> Rollback:
    """Put the champion's predecessor back into service.

    Raises ValueError if there is none, RegistryError if MLflow fails or the predecessor's file is damaged.
    """
    with registry_errors():
        champion = models.alias_version(name, CHAMPION)
        if champion is None:
            raise ValueError(f"{name} has no champion to roll back; see `python -m flows.publish`")
        target = predecessor(name, champion)
        if target is None:
            raise ValueError(f"version {champion} of {name} is its first champion; there is none to roll back to")
        require_intact(models.load_version(name, target))
        record = {"rollback.to": target, "rollback.by": who, "rollback.reason": why or NONE, WITHDRAWN: now()}
        models.tag_version(name, champion, record)
        models.move_alias(name, CHAMPION, target)
        # no error, since repeating the rollback would undo one more
        with connection.failure_as_warning("the alias previous"):
            point_previous(name, target)
        return Rollback(withdrawn=champion, restored=target)


def predecessor(name: str, version: str) -> str | None:
    """Return the last champion before `version` that was not rolled back, or the alias `previous` if set by hand."""
    set_by_hand = models.alias_version(name, PREVIOUS)
    if version == models.alias_version(name, CHAMPION) and set_by_hand not in (None, version):
        return set_by_hand
    seen = {version}
    while (version := models.version_tags(name, version).get(AFTER, NONE)) not in {NONE, *seen}:
        if WITHDRAWN not in models.version_tags(name, version):
            return version
        seen.add(version)
    return None


def point_previous(name: str, champion: str) -> None:
    """Point `previous` at the predecessor of a champion that was put back into service."""
    models.drop_alias(name, PREVIOUS)
    before = predecessor(name, champion)
    if before is not None:
        models.move_alias(name, PREVIOUS, before)


def require_intact(shipped: models.Shipped) -> None:
    """Raise RegistryError unless the file that the registry returned is the one that was registered."""
    found = files.md5_of(shipped.model)
    if found != shipped.md5:
        raise RegistryError(
            f"the registry's file of version {shipped.version} is damaged (md5 {found}, registered as "
            f"{shipped.md5 or NONE}); restore it from results/ or the DVC remote, or delete that version"
        )
