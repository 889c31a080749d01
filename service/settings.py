"""Every setting of the service. Each one is an environment variable: ``SIDERA_`` and the name in capitals.

Lists are comma-separated (``SIDERA_API_KEYS=first,second``) or a JSON list. A command-line flag of ``sidera serve``
wins over the variable.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sidera.model.weight_formats import WeightFormat

MAX_NUM_RESULTS = 100
"""The most items that one request may ask for; part of the API, so no setting raises it."""


class Settings(BaseSettings):
    """What an operator can set."""

    model_config = SettingsConfigDict(env_prefix="SIDERA_", extra="forbid", frozen=True)

    bundle: Path = Field(description="folder of the bundle to serve")
    database: str = Field("sidera-items.db", description="file or sqlite:/// URL that keeps registered items")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(
        1, ge=0, description="CPU threads of one computation; more only on cores that nothing else uses; 0: all cores"
    )
    weights: WeightFormat = Field(
        "saved", description="the language model's weights in memory: saved, float32, bfloat16, or int8 on a CPU"
    )
    history_cache_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="memory for histories of returning users, on the device; 0 keeps none"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that are let in; empty lets everybody in"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="web origins whose pages may call; empty closes CORS"
    )
    allow_register: bool = Field(True, description="whether /tokenize may register items")

    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1024, description="bytes of one request body")
    max_rows: int = Field(64, ge=1, description="rows of one batch request")
    max_num_results: int = Field(MAX_NUM_RESULTS, ge=1, le=MAX_NUM_RESULTS, description="items that may be asked for")
    max_history_items: int = Field(1000, ge=1, description="history items of one request")
    max_exclude_items: int = Field(1000, ge=0, description="excluded items of one request")
    max_beam_width: int = Field(256, ge=1, description="widest beam that may be asked for")
    max_tokenize_items: int = Field(256, ge=1, description="items of one /tokenize request")
    max_text_chars: int = Field(20_000, ge=1, description="characters of one text field of an item")
    max_domains: int = Field(256, ge=1, description="domains up to which registering may create a new one")

    max_queue: int = Field(512, ge=1, description="rows of /recommend that may wait; more get 429")
    max_batch: int = Field(32, ge=1, description="rows of /recommend computed together")
    max_tokenize_queue: int = Field(16, ge=1, description="requests of /tokenize that may wait; more get 429")
    deadline_ms: int = Field(10_000, ge=1, description="milliseconds until /recommend gives up with 504")
    tokenize_deadline_ms: int = Field(60_000, ge=1, description="milliseconds until /tokenize gives up with 504")

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if value.strip() and not parts:
            raise ValueError("the list holds nothing but commas; name at least one, or leave the variable out")
        return parts

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "SIDERA_PORT was set by a Kubernetes Service named sidera; set enableServiceLinks: false on the pod"
            )
        return value

    @model_validator(mode="after")
    def _queue_holds_a_batch_request(self) -> "Settings":
        if self.max_queue < self.max_rows:
            raise ValueError(
                f"max_queue ({self.max_queue}) is smaller than max_rows ({self.max_rows}), so a full batch request "
                "could never be accepted; raise max_queue or lower max_rows"
            )
        return self

    def limits(self) -> dict[str, int]:
        """The limits that a client has to know, by name."""
        names = (
            "max_body_bytes",
            "max_rows",
            "max_num_results",
            "max_history_items",
            "max_exclude_items",
            "max_beam_width",
            "max_tokenize_items",
            "max_text_chars",
            "max_domains",
            "deadline_ms",
            "tokenize_deadline_ms",
        )
        return {name: getattr(self, name) for name in names}
