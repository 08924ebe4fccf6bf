"""Files written whole or not at all, and the one digest of bytes, files and tensors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multierase.errors import AlreadyThere, WriteError

if TYPE_CHECKING:
    import torch

TEMPORARY = ".multierase-tmp"
FORGOTTEN = 24 * 3600  # seconds after which another machine's temporary file is left over
CHUNK = 2**20
UNFLUSHABLE = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # of pipes and some file systems


@contextlib.contextmanager
def replacing(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` if the body ends without an error.

    The file is flushed to the disk before it is renamed, and so is its folder after, where the
    system can. Whatever is raised, the old file stays as it was and the temporary file is removed.
    Temporary files of runs that were killed are collected first.

    An error of the body that names the temporary file is told of ``path``, which is the name that
    the user knows.

    Args:
        path: the file to write; its folder must exist.
        overwrite: whether a file that is there may be replaced. If not, it may not appear while the
            body runs either: the last step creates the name, or fails.

    Raises:
        AlreadyThere: for a file that is there, unless ``overwrite``.
        WriteError: if the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    if not overwrite:
        require_absent(path)
    temporary = _temporary(path)

    try:
        yield temporary
        _flush(temporary)
        _publish(temporary, path, overwrite)
    except (AlreadyThere, WriteError):
        raise
    except Exception as error:
        if not isinstance(error, OSError) and temporary.name not in str(error):
            raise
        reason = reason_of(error, temporary, path)
        raise WriteError(f"cannot write {path}: {reason}; nothing was changed") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

    _flush_folder(path.parent)


def reason_of(error: Exception, temporary: Path, path: Path) -> str:
    """Return why ``temporary`` could not be written, in words that know ``path`` alone."""
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror

    return reason.replace(str(temporary), str(path)).replace(temporary.name, path.name)


def require_writable(folder: str | Path) -> None:
    """Raise ``WriteError`` unless a file can be made in ``folder``, which must exist."""
    temporary = _temporary(Path(folder) / "writable")
    temporary.unlink()


def write_text(path: str | Path, text: str, *, overwrite: bool = True) -> None:
    """Write UTF-8 text whole or not at all; see ``replacing``."""
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, overwrite: bool = True) -> None:
    """Write JSON, indented, whole or not at all; see ``replacing``."""
    write_text(path, json.dumps(value, indent=1), overwrite=overwrite)


def collect_left_over(folder: Path) -> None:
    """Remove temporary files whose process has ended, on this machine, or that are a day old."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(TEMPORARY) and _left_over(entry):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def temporary_name(path: Path, suffix: str = TEMPORARY) -> Path:
    """Return a name beside ``path`` that nobody can guess, and that says whose it is."""
    owner = f"{socket.gethostname()[:32]}.{os.getpid()}"

    # No longer than a file system allows, however long the target's name is.
    return path.parent / f".{path.name[:20]}.{owner}.{secrets.token_hex(8)}{suffix}"


def owner_is_gone(name: str, suffix: str = TEMPORARY) -> bool:
    """Whether a name of ``temporary_name`` is that of a process of this machine that has ended."""
    owner = name.removesuffix(suffix).rpartition(".")[0]
    host, _, process = owner.rpartition(".")
    here = host.endswith("." + socket.gethostname()[:32])

    return here and process.isdecimal() and not _alive(int(process))


def digest_bytes(*parts: bytes | memoryview | str, length: int = 64) -> str:
    """Return the first ``length`` hex digits of the SHA-256 of the parts, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)

    return digest.hexdigest()[:length]


def digest_file(path: str | Path, *, length: int = 64) -> str:
    """Return the first ``length`` hex digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)

    return digest.hexdigest()[:length]


def digest_tensors(
    tensors: Mapping[str, torch.Tensor], *, length: int = 64, prefix: bytes = b""
) -> str:
    """Return the SHA-256 over every tensor's name, dtype, shape and bytes, in the order of names.

    Args:
        prefix: bytes that are hashed first, such as metadata.
    """
    import torch

    digest = hashlib.sha256(prefix)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    return digest.hexdigest()[:length]


def plain(text: object) -> str:
    """Return ``text`` with control characters spelt out, safe for a terminal."""
    return "".join(char if _harmless(char) else _spelt(char) for char in str(text))


def _harmless(char: str) -> bool:
    # Bidirectional overrides and other format characters are not printable either.
    return char.isprintable() or char == "\n"


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def require_absent(path: Path) -> None:
    """Raise ``AlreadyThere`` for a file that is there."""
    if os.path.lexists(path):
        raise AlreadyThere(f"{path} exists already and is not overwritten")


def _temporary(path: Path) -> Path:
    """Make an empty file beside ``path`` with a name that nobody can guess."""
    collect_left_over(path.parent)
    temporary = temporary_name(path)

    # Exclusive, so that nobody's link is followed; the mode honours the umask.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        os.close(os.open(temporary, flags, 0o666))
    except OSError as error:
        raise WriteError(f"cannot write into {path.parent}: {_reason(error)}") from error

    return temporary


def _left_over(entry: os.DirEntry[str]) -> bool:
    if time.time() - entry.stat(follow_symlinks=False).st_mtime > FORGOTTEN:
        return True

    return owner_is_gone(entry.name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process, or no process's number
        return True

    return True


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name in one step."""
    if overwrite:
        os.replace(temporary, path)
        return

    try:
        os.link(temporary, path)  # fails if the name exists, where a rename would replace it
    except FileExistsError as error:
        raise AlreadyThere(f"{path} appeared meanwhile and is not overwritten") from error
    except OSError:  # a file system without hard links
        require_absent(path)
        os.replace(temporary, path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNFLUSHABLE:
            raise
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make a new name last, where the system can: a power cut could bring the old file back."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def whole_path(name: Any) -> Any:
    """Return the whole path of what is there under this name; else what was given."""
    path = os.path.expanduser(name) if isinstance(name, str) else ""

    return str(Path(path).resolve()) if os.path.exists(path) else name
