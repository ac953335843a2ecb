"""Every setting of the service. Each is an environment variable `UNDUE_…`, or a key in a TOML file."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy import URL

from .domain.architectures import BUILT_IN
from .domain.costs import BLOCK_BYTES, SERVE_BYTES


class Settings(BaseSettings):
    """Settings, from the environment, then from the file that `UNDUE_CONFIG` names."""

    model_config = SettingsConfigDict(env_prefix="UNDUE_", frozen=True, extra="forbid", use_attribute_docstrings=True)

    grpc_address: str = "127.0.0.1:50051"
    """Where the API listens: host:port, port 0 for any free one, or unix:path."""

    metrics_address: str = "127.0.0.1:9464"
    """Where /metrics, /healthz and /readyz are, with no data in them: host:port; empty for nowhere."""

    data_dir: Path = Path("undue-data")
    """State and artifacts of the embedded default. One service at a time holds it."""

    database_url: str = ""
    """SQLAlchemy URL of the database; empty for SQLite in the data directory."""

    devices: str = "auto"
    """Slots for work: auto (each CUDA device, else one CPU slot), or a list such as cuda:0,cuda:1."""

    dataset_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders whose files may be registered by file:// URI and read where they lie: absolute paths or file:// URIs,
    separated by commas; empty for none. Everybody who may register a data set may read everything below them."""

    architectures: Annotated[tuple[str, ...], NoDecode] = (BUILT_IN,)
    """Architectures that weights in safetensors may be registered with, separated by commas: names of entry points of
    the group undue.architectures, whose code runners then run, names of those built in, or builtin for all of these."""

    block_bytes: int = Field(default=BLOCK_BYTES, ge=1 << 20)
    """Memory that a runner takes for the intermediate values of a block of rows, beside the model and what its method
    holds. Smaller blocks are slower and change no score. Where a device has less, blocks are halved until they fit."""

    serve_bytes: int = Field(default=SERVE_BYTES, ge=1 << 20)
    """Memory that the indexes of one device may take which are held for Explain, with their models, beside the block of
    the rows that are asked about. Those that were explained from longest ago make way."""

    explain_window_ms: float = Field(default=0.0, ge=0.0, le=1000.0)
    """How long a call of Explain waits for others to be answered with, where none is at work. Those that come while one
    is at work are answered together in any case."""

    max_upload_bytes: int = Field(default=4 << 30, ge=1)
    """Largest file that an upload may declare."""

    upload_ttl_seconds: int = Field(default=24 * 3600, ge=1)
    """How long an upload that does not move is kept, and a finished one that nobody used."""

    reflection: bool = True
    """Whether the API describes itself to gRPC tools."""

    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    @field_validator("grpc_address", "metrics_address")
    @classmethod
    def _only_loopback(cls, address: str, info: ValidationInfo) -> str:
        elsewhere = address.startswith("unix:") if info.field_name == "grpc_address" else not address
        if not elsewhere:
            host, separator, port = address.rpartition(":")
            if not separator or not port.isdigit() or int(port) > 65535:
                raise ValueError(f"{address!r} must be host:port or unix:path")
            if not _is_loopback(host.strip("[]")):
                raise ValueError(
                    f"refusing to listen on {address}: beyond loopback there must be TLS and tokens, which this "
                    "version does not have; listen on 127.0.0.1 behind a proxy that has them"
                )
        return address

    @field_validator("dataset_roots", mode="before")
    @classmethod
    def _folders(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(_folder(str(part)) for part in value) if isinstance(value, (list, tuple)) else value

    @field_validator("architectures", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"{level!r} must be DEBUG, INFO, WARNING or ERROR")
        return level

    @property
    def database(self) -> str | URL:
        """The database's URL."""
        return self.database_url or URL.create("sqlite", database=str(self.data_dir.resolve() / "undue.sqlite3"))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the base class's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line first, then the environment, then the file."""
        file = os.environ.get("UNDUE_CONFIG")
        if not file:
            return init_settings, env_settings
        if not Path(file).is_file():
            raise ValueError(f"UNDUE_CONFIG: there is no file {file}")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)


def _folder(text: str) -> Path:
    """Return the folder that an absolute path or a file:// URI names; in a URI a comma is %2C."""
    scheme, separator, rest = text.partition("://")
    if separator:
        host, slash, path = rest.partition("/")
        if scheme.lower() != "file" or host.lower() not in ("", "localhost") or not slash:
            raise ValueError(f"{text!r} must be an absolute path or file:///folder; other places are not read yet")
        text = "/" + unquote(path)
    if not os.path.isabs(text) or "\0" in text or ".." in Path(text).parts:
        raise ValueError(f"{text!r} must be an absolute path, without '..', or file:///folder")
    return Path(text)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
