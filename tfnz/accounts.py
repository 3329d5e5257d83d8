"""Accounts: the key pair that names a user at one location, kept in files that only the user can read.

In `~/.20ft` (or where `TFNZ_HOME` says), for a location called LOCATION, each with base64 of 32 bytes:

    LOCATION         the secret key
    LOCATION.pub     the public key, by which nodes know the account
    LOCATION.spub    the location's public key, by which the user knows the nodes
    default_location the name of the location that is meant when none is given
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nacl.public import PrivateKey

from tfnz.protocol.errors import InvalidArgument, NoAccount

KEY_BYTES: Final = 32
#: Names in the directory that are not locations.
_RESERVED: Final = ("default_location", "host_key")
_LOCATION: Final = re.compile(r"[a-z0-9]([a-z0-9._:-]{0,251}[a-z0-9])?")
#: A key with its newline has 45 bytes; whatever is much larger is something else.
_MAX_FILE_BYTES: Final = 4096


@dataclass(frozen=True)
class Account:
    """A user at a location.

    Attributes:
        name: the location's name.
        public: the public key, 32 bytes.
        secret: the secret key, 32 bytes; never printed.
        server: the location's public key, or None while it is not known.
    """

    name: str
    public: bytes
    secret: bytes = field(repr=False)
    server: bytes | None


# --- names and text -----------------------------------------------------------------------------------------------


def account_directory() -> Path:
    """Where the files of all accounts are."""
    override = os.environ.get("TFNZ_HOME")
    return Path(override) if override else Path.home() / ".20ft"


def account_files(location: str) -> dict[str, Path]:
    """The files of an account, there or not, by what they hold: secret, public, server."""
    stem = account_directory() / parse_location(location)
    return {
        "secret": stem,
        "public": stem.with_name(f"{stem.name}.pub"),
        "server": stem.with_name(f"{stem.name}.spub"),
    }


def parse_location(location: str) -> str:
    """The name of a location, in the form it is kept: lower case.

    Raises:
        InvalidArgument: it cannot be the name of a host, or would be mistaken for another of our files.
    """
    name = location.lower()
    if not _LOCATION.fullmatch(name):
        raise InvalidArgument(
            f"location {location[:80]!r} is not the name of a host, such as node1.example.com or node1.example.com:2020"
        )
    if name in _RESERVED or name.endswith((".pub", ".spub")):
        raise InvalidArgument(
            f"location {name!r} has the name of one of the key files; use another name for the host"
        )
    return name


def encode_key(key: bytes) -> str:
    """A key as it is shown and kept: base64."""
    return base64.b64encode(key).decode("ascii")


def parse_key(text: str | bytes, *, what: str = "key") -> bytes:
    """The 32 bytes of a key that is written in base64.

    Raises:
        InvalidArgument: it is not base64, or not of 32 bytes. The text is not repeated: it may be secret.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgument(f"{what} is not base64: expected the 44 characters of a 32-byte key") from exc
    if len(key) != KEY_BYTES:
        raise InvalidArgument(f"{what} is of {len(key)} bytes: expected the 44 characters of a 32-byte key")
    return key


def fingerprint(public: bytes) -> str:
    """A short name of a public key for people to compare, in the form ssh uses."""
    digest = base64.b64encode(hashlib.sha256(public).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


# --- looking ------------------------------------------------------------------------------------------------------


def all_locations() -> list[str]:
    """The names of the locations that there are accounts for, sorted."""
    try:
        present = {path.name for path in account_directory().iterdir()}
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise _unreadable(account_directory(), exc) from exc
    return sorted(
        name
        for name in present
        if f"{name}.pub" in present and name not in _RESERVED and _LOCATION.fullmatch(name)
    )


def default_location() -> str | None:
    """The name of the location that is meant when none is given; None when there is none.

    Raises:
        NoAccount: the file is there but names nothing.
    """
    path = account_directory() / "default_location"
    content = _read(path)
    if content is None:
        return None
    try:
        return parse_location(content.decode("utf-8", "replace").strip())
    except InvalidArgument as exc:
        raise NoAccount(
            f"{path} does not name a location: {exc}; correct it, or remove it to have no default"
        ) from exc


def find_account(location: str | None = None) -> Account | None:
    """The account for a location.

    Args:
        location: its name, or None for the default one.

    Returns:
        The account; None when nothing was named and there is no default.

    Raises:
        NoAccount: there are no files for the location, or they are broken or readable by others.
        InvalidArgument: `location` cannot be the name of one.
    """
    name = parse_location(location) if location is not None else default_location()
    if name is None:
        return None
    files = account_files(name)
    secret = _read_key(files["secret"], forbidden=0o077)
    public = _read_key(files["public"], forbidden=0o022)
    if secret is None and public is None:
        meant = "" if location is not None else f", which {account_directory() / 'default_location'} names"
        raise NoAccount(
            f"there is no account for location {name!r}{meant}: {files['secret']} does not exist; "
            f"make one with: tfnz account create {name}"
        )
    if secret is None or public is None:
        missing = files["secret"] if secret is None else files["public"]
        raise NoAccount(
            f"half of the account for location {name!r} is missing: there is no {missing}; restore it, "
            f"or make a new one with: tfnz account create {name} --overwrite"
        )
    if bytes(PrivateKey(secret).public_key) != public:
        raise NoAccount(
            f"{files['public']} is not the public key of {files['secret']}: restore the one that was changed, "
            f"or make a new account with: tfnz account create {name} --overwrite"
        )
    server = _read_key(files["server"], forbidden=0o022)
    return Account(name, public, secret, server)


# --- changing -----------------------------------------------------------------------------------------------------


def create_account(location: str, *, server_key: bytes | None = None, overwrite: bool = False) -> Account:
    """Makes a key pair for a location and writes its files.

    Args:
        location: its name.
        server_key: the location's public key, if it is known already; `pin_server_key` adds it later.
        overwrite: replace an account that is there. Its key is lost with it.

    Raises:
        InvalidArgument: there is an account already, or `location` or `server_key` makes no sense.
        NoAccount: the files cannot be written.
    """
    files = account_files(location)
    name = files["secret"].name
    if server_key is not None:
        _check_key(server_key)
    pair = PrivateKey.generate()
    account = Account(name, bytes(pair.public_key), bytes(pair), server_key)
    existing = [path for path in files.values() if os.path.lexists(path)]
    if existing and not overwrite:
        raise _exists(existing[0], name)
    # The secret is first: of two that run at once only one gets past it.
    _write(files["secret"], encode_key(account.secret), overwrite=overwrite, location=name)
    if server_key is not None:
        _write(files["server"], encode_key(server_key), overwrite=overwrite, location=name)
    elif overwrite:
        files["server"].unlink(missing_ok=True)
    _write(files["public"], encode_key(account.public), overwrite=overwrite, location=name)
    return account


def pin_server_key(location: str, server_key: bytes, *, overwrite: bool = False) -> Account:
    """Records a location's public key with an account that is there.

    Raises:
        InvalidArgument: another key is pinned already and `overwrite` was not given.
        NoAccount: there is no account for this location, or its files cannot be written.
    """
    _check_key(server_key)
    account = find_account(location)
    assert account is not None  # a location was named
    path = account_files(location)["server"]
    if account.server not in (None, server_key) and not overwrite:
        raise InvalidArgument(
            f"{path} pins another key for location {account.name!r}, {fingerprint(account.server or b'')}: "
            f"if its nodes were installed anew, replace it with: "
            f"tfnz account trust {account.name} {encode_key(server_key)} --overwrite"
        )
    if account.server != server_key:
        _write(path, encode_key(server_key), overwrite=True, location=account.name)
    return Account(account.name, account.public, account.secret, server_key)


def set_default_location(location: str) -> None:
    """Makes a location the one that is meant when none is given.

    Raises:
        NoAccount: there is no usable account for it, or the file cannot be written.
    """
    account = find_account(location)
    assert account is not None  # a location was named
    _write(account_directory() / "default_location", account.name, overwrite=True, location=account.name)


# --- files --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _read_key(path: Path, *, forbidden: int) -> bytes | None:
    content = _read(path)
    if content is None:
        return None
    _refuse_open_permissions(path, forbidden)
    try:
        return parse_key(content, what=str(path))
    except InvalidArgument as exc:
        raise NoAccount(f"{exc}; restore the file from a copy") from exc


def _refuse_open_permissions(path: Path, forbidden: int) -> None:
    if os.name != "posix":  # elsewhere the mode says nothing
        return
    # The credentials of a service: systemd lets only that user in, by a list of which the mode shows but a part.
    if str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY"):
        return
    for checked, bits, right in ((path, forbidden, 0o600), (path.parent, 0o022, 0o700)):
        mode = stat.S_IMODE(checked.stat().st_mode)
        if mode & bits:
            danger = "written" if bits == 0o022 else "read"
            raise NoAccount(
                f"{checked} can be {danger} by other users (its mode is {mode:04o}); "
                f"type: chmod {right:o} {checked}"
            )


def _write(path: Path, content: str, *, overwrite: bool, location: str) -> None:
    """Puts a file in place whole, readable by its owner alone; an existing one stays unless `overwrite`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # its mode is 0600
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(content + "\n")
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)  # unlike a rename, it fails when there is one
        finally:
            Path(temporary).unlink(missing_ok=True)
    except FileExistsError as exc:
        raise _exists(path, location) from exc
    except OSError as exc:
        raise NoAccount(f"{path} cannot be written: {exc.strerror or exc}") from exc


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise InvalidArgument(f"a server key has {KEY_BYTES} bytes, and this one {len(key)}")


def _exists(path: Path, location: str) -> InvalidArgument:
    return InvalidArgument(
        f"there is an account for location {location!r} already: {path} exists and stays as it is; "
        "to lose its key and make a new one, add --overwrite"
    )


def _unreadable(path: Path, exc: OSError) -> NoAccount:
    return NoAccount(f"{path} cannot be read: {exc.strerror or exc}")
