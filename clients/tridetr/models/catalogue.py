"""What `tridetr models pull` can fetch: a short list with a checksum for each entry.

The built-in list (`catalogue.json`) names Roboflow's published checkpoints with the MD5 sums that the
``rfdetr`` package (1.11.2) itself checks them by. A list of one's own, with models ready to run, is
given with ``--catalogue FILE-or-URL``; an entry without a checksum is refused.
"""

from __future__ import annotations

import http.client
import json
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tridetr.errors import ModelError
from tridetr.files import read_text
from tridetr.models.download import Checksum, check_address, open_address
from tridetr.models.installed_models import did_you_mean

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
    size: int | None = Field(
        None, gt=0, description="Bytes at most; more is not fetched. null = 4 GiB."
    )
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
        try:
            check_address(url)
        except ModelError as error:
            raise ValueError(str(error)) from error
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
        names = [entry.name for entry in self.models]
        raise ModelError(
            f"no model {name!r} in the catalogue; {did_you_mean(name, names)}it has {', '.join(names)}"
        )


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
        text = read_text(Path(source))
    try:
        return Catalogue.model_validate(json.loads(text))
    except (json.JSONDecodeError, ValidationError) as error:
        raise ModelError(f"{source or 'the catalogue'} is no catalogue: {error}") from error


def _fetch(url: str) -> str:
    try:
        with open_address(url) as response:
            data = bytes(response.read(_MAX_BYTES + 1))
        if len(data) > _MAX_BYTES:
            raise ModelError(f"the catalogue {url} is larger than {_MAX_BYTES} bytes")
        return data.decode("utf-8-sig")
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise ModelError(f"the catalogue {url} cannot be fetched: {error}. Offline?") from error
