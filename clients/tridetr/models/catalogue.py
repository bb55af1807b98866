"""The catalogue of models that `tridetr models pull` can download, each with a checksum.

The built-in catalogue (`catalogue.json`) lists Roboflow's published checkpoints, with the MD5 sums that the ``rfdetr``
package (1.11.2) itself uses to verify them. ``--catalogue FILE-or-URL`` selects another catalogue, which can also list
models that are ready to run. Every entry must have a checksum.
"""

from __future__ import annotations

import http.client
import json
from importlib import resources
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tridetr.errors import ModelError
from tridetr.files import read_text
from tridetr.models.download import Checksum, check_address, open_address
from tridetr.models.installed_models import did_you_mean

_MAX_BYTES = 1 << 20


class Entry(BaseModel):
    """One model that can be downloaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the installed model.")
    url: str
    checksum: str = Field(description="sha256:<hex> or md5:<hex> of the file at the URL.")
    kind: Literal["contract", "export", "checkpoint"] = Field(
        description="contract: ready to run; export: an RF-DETR ONNX file to fuse; checkpoint: to export and fuse."
    )
    size: int | None = Field(
        None,
        gt=0,
        description="Maximum size in bytes; larger files are not downloaded. null = 4 GiB.",
    )
    variant: Literal["nano", "small", "medium", "large"] | None = None
    file: str | None = Field(None, description="Name of the downloaded file; null = as in the URL.")
    license: str = ""
    note: str = ""

    @property
    def file_name(self) -> str:
        """Name of the downloaded file, without any folder."""
        name = self.file or Path(urlsplit(self.url).path).name
        return name if _is_file_name(name) else self.name

    @field_validator("file")
    @classmethod
    def _file_is_a_name(cls, file: str | None) -> str | None:
        if file is not None and not _is_file_name(file):
            raise ValueError(f"{file!r} is not the name of a file: write it without a folder")
        return file

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


def _is_file_name(text: str) -> bool:
    return text not in ("", ".", "..") and not {"/", "\0"} & set(text)


class Catalogue(BaseModel):
    """A list of entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    models: tuple[Entry, ...]

    def find(self, name: str) -> Entry:
        """Return an entry by name.

        Raises:
            ModelError: there is no such entry; the message lists the entries.
        """
        for entry in self.models:
            if entry.name == name:
                return entry
        names = [entry.name for entry in self.models]
        raise ModelError(
            f"no model {name!r} in the catalogue; {did_you_mean(name, names)}it has {', '.join(names)}"
        )


def load_catalogue(source: str | None = None) -> Catalogue:
    """Load a catalogue from a file or an https:// URL; None = the built-in one.

    Raises:
        ModelError: the catalogue cannot be read or is invalid.
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
        raise ModelError(
            f"{source or 'the built-in catalogue'} is not a valid catalogue: {error}"
        ) from error


def _fetch(url: str) -> str:
    try:
        with open_address(url) as response:
            data = bytes(response.read(_MAX_BYTES + 1))
        if len(data) > _MAX_BYTES:
            raise ModelError(f"the catalogue {url} is larger than {_MAX_BYTES} bytes")
        return data.decode("utf-8-sig")
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise ModelError(
            f"cannot download the catalogue {url}: {error}. Check the network connection"
        ) from error
