"""Libraries on a model hub: a repository of increment files, read as it is."""

from __future__ import annotations

import re
from pathlib import Path

from multierase.errors import UsageError

HUB = "hf://"
ADDRESS = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_on_hub(folder: str | Path) -> bool:
    """Tell the address of a library on a hub from a folder."""
    return isinstance(folder, str) and folder.startswith(HUB)


def local_copy(address: str) -> Path:
    """Return the folder of a copy of ``hf://owner/name`` or ``hf://owner/name@revision``.

    Only the files at the top are fetched: those are the increments. A copy that is there already is
    used without a network.

    Raises:
        UsageError: for an address of another form.
        FileNotFoundError: if there is no such repository or revision, or no network and no copy.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    found = ADDRESS.fullmatch(address.removeprefix(HUB).rstrip("/"))
    if found is None:
        raise UsageError(f"{address!r} is no library: give {HUB}owner/name or {HUB}owner/name@tag")
    name, revision = found.groups()
    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=["*.safetensors"], ignore_patterns=["*/*"]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"cannot read library {address!r}: {reason}") from error

    return Path(folder)
