"""`leaseha user`: who may use the repositories, written to etcd; every node reads it from there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from leaseha.adapters.etcd import EtcdClient
from leaseha.config import Config
from leaseha.core.values import NS_PER_S, Committed, Compare, Delete, KeyValue, Put, Target, Txn, Unknown
from leaseha.errors import OperationalError, UsageError
from leaseha.repository.users import COST_MAX, NAME, User, hashed, is_hash, read
from leaseha.runtime.operator import UNSURE, etcd_of
from leaseha.runtime.users import FOLDER

ASK_S: Final = 5.0
LARGEST_IMPORT: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to become different about a user; None: stays."""

    append_only: bool | None = None
    quota_bytes: int | None = None
    monitor: bool | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file's users."""

    written: tuple[str, ...]
    there: tuple[str, ...]
    """Left as they are: a user of that name exists."""
    refused: tuple[str, ...]
    """A sentence for each line that is none of ours."""


async def add(config: Config, name: str, password: str, wish: Wish) -> User:
    """A new user. Raises UsageError, OperationalError (there is one already), StoreError."""
    user = _changed(User(_named(name), _hash(password)), wish)
    async with etcd_of(config) as client:
        if not await _create(client, user):
            raise OperationalError(f"{name} exists: `leaseha user passwd {name}` gives a new password")
    return user


async def change(config: Config, name: str, wish: Wish, password: str | None = None) -> User:
    """Another password, or other rights. Raises as `add` does; OperationalError if there is no such user."""
    new = None if password is None else _hash(password)
    async with etcd_of(config) as client:
        kv, user = await _find(client, name)
        changed = _changed(user if new is None else replace(user, hash=new), wish)
        await _commit(client, kv, Put(kv.key, changed.told()))
    return changed


async def remove(config: Config, name: str) -> None:
    """The user is gone; what he stored stays. Raises OperationalError if there is no such user."""
    async with etcd_of(config) as client:
        kv, _ = await _find(client, name)
        await _commit(client, kv, Delete(kv.key))


async def listed(config: Config) -> tuple[User, ...]:
    """All users, by name."""
    async with etcd_of(config) as client:
        _, keys = await client.read_all(ASK_S, FOLDER)
    return tuple(user for kv in keys if (user := read(kv.key, kv.value)) is not None)


async def import_htpasswd(config: Config, text: str) -> Imported:
    """The users of an htpasswd file; only bcrypt is taken, and nobody who exists is changed."""
    users, refused = parse_htpasswd(text)
    written: list[str] = []
    there: list[str] = []
    async with etcd_of(config) as client:
        for user in users:
            (written if await _create(client, user) else there).append(user.name)
    return Imported(tuple(written), tuple(there), tuple(refused))


def parse_htpasswd(text: str) -> tuple[Iterable[User], list[str]]:
    """The users in it, the last line of a name counting, and a sentence for each line that is none."""
    users: dict[str, User] = {}
    refused: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, known = line.partition(":")
        if not colon or not NAME.fullmatch(name):
            refused.append(f"line {number}: not a user's name")
        elif not is_hash(known):
            refused.append(f"line {number}: {name}: not bcrypt (htpasswd -B) of cost {COST_MAX} or less")
        else:
            users[name] = User(name, known)
    return tuple(users.values()), refused


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r}: a user's name has 1 to 64 letters, digits and ._@- and begins with a letter or digit"
        )
    return name


def _hash(password: str) -> str:
    try:
        return hashed(password)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _changed(user: User, wish: Wish) -> User:
    return User(
        user.name,
        user.hash,
        user.append_only if wish.append_only is None else wish.append_only,
        user.quota_bytes if wish.quota_bytes is None else wish.quota_bytes,
        user.monitor if wish.monitor is None else wish.monitor,
    )


async def _find(client: EtcdClient, name: str) -> tuple[KeyValue, User]:
    _, kv = await client.get(FOLDER + _named(name), ASK_S)
    user = read(name, kv.value) if kv.mod else None
    if user is None:
        raise OperationalError(f"there is no user {name}")
    return kv, user


async def _create(client: EtcdClient, user: User) -> bool:
    """False: there is one of that name."""
    _, kv = await client.get(FOLDER + user.name, ASK_S)
    if kv.mod:
        return False
    await _commit(client, kv, Put(FOLDER + user.name, user.told()))
    return True


async def _commit(client: EtcdClient, kv: KeyValue, write: Put | Delete) -> None:
    """One write against what was read. Raises OperationalError when it is not known to stand."""
    txn = Txn((Compare(write.key, Target.MOD, kv.mod),), (write,), ())
    outcome = await client.commit(txn, 0, int(ASK_S * NS_PER_S))
    if isinstance(outcome, Committed):
        return
    if isinstance(outcome, Unknown):
        _, now = await client.get(write.key, ASK_S)
        if now.mod != kv.mod and now.value == (write.value if isinstance(write, Put) else ""):
            return
        raise OperationalError(client.denied or UNSURE)
    raise OperationalError("somebody else has just changed this user: look, and try again")
