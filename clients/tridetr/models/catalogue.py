"""What `tridetr models pull` can fetch: a short list with a checksum for each entry.

The built-in list (`catalogue.json`) names Roboflow's published checkpoints with the MD5 sums that the
``rfdetr`` package (1.11.2) itself checks them by. A list of one's own, with models ready to run, is
given with ``--catalogue FILE-or-URL``; an entry without a checksum is refused.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tridetr.errors import ModelError
from tridetr.models.download import CONNECT_TIMEOUT_S, Checksum, require_host

_MAX_BYTES = 1 << 20


class Entry(BaseModel):
    """One model that can be fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="What it is called once installed.")
    url: str
    checksum: str = Field(description="sha256:<hex> or md5:<hex> of the file at the URL.")
    kind: Literal["contract", "export", "checkpoint"] = Field(
        description="Ready to run; an RF-DETR ONNX to be fused; a checkpoint to be exported and fused."
    )
    size: int | None = Field(None, gt=0, description="Bytes, to be shown before it is fetched.")
    variant: Literal["nano", "small", "medium", "large"] | None = None
    file: str | None = Field(None, description="File name to keep it under; null = the URL's.")
    license: str = ""
    note: str = ""

    @field_validator("checksum")
    @classmethod
    def _checksum_is_one(cls, text: str) -> str:
        try:
            return str(Checksum.parse(text))
        except ModelError as error:
            raise ValueError(str(error)) from error

    @field_validator("url")
    @classmethod
    def _url_is_web(cls, url: str) -> str:
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme != "https" and not local:
            raise ValueError("models are fetched over https:// only")
        return url


class Catalogue(BaseModel):
    """A list of entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    models: tuple[Entry, ...]

    def find(self, name: str) -> Entry:
        """Return an entry by name.

        Raises:
            ModelError: there is none; names those there are.
        """
        for entry in self.models:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.models)
        raise ModelError(f"no model {name!r} in the catalogue; it has {names}")


def load_catalogue(source: str | None = None) -> Catalogue:
    """Load the built-in catalogue, a file, or an https:// address.

    Raises:
        ModelError: it cannot be read or is no catalogue.
    """
    if source is None:
        text = resources.files("tridetr.models").joinpath("catalogue.json").read_text()
    elif source.startswith(("http://", "https://")):
        text = _fetch(source)
    else:
        try:
            text = Path(source).read_text()
        except OSError as error:
            raise ModelError(f"the catalogue {source} cannot be read: {error}") from error
    try:
        return Catalogue.model_validate(json.loads(text))
    except (json.JSONDecodeError, ValidationError) as error:
        raise ModelError(f"{source or 'the catalogue'} is no catalogue: {error}") from error


def _fetch(url: str) -> str:
    if not urllib.request.getproxies():
        require_host(url)
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as response:  # noqa: S310
            return bytes(response.read(_MAX_BYTES)).decode()
    except (urllib.error.URLError, OSError) as error:
        raise ModelError(f"the catalogue {url} cannot be fetched: {error}. Offline?") from error
