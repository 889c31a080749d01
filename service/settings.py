"""Every setting of the service. Each one is an environment variable: ``SIDERA_`` and the name in capitals.

Lists are comma-separated (``SIDERA_API_KEYS=first,second``) or a JSON list. A command-line flag of ``sidera serve``
wins over the variable.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.events.kinds import read_kinds
from sidera.model.weight_formats import WeightFormat

MAX_NUM_RESULTS = 100
"""The most items that one request may ask for; part of the API, so no setting raises it."""


class Settings(BaseSettings):
    """What an operator can set."""

    model_config = SettingsConfigDict(env_prefix="SIDERA_", extra="forbid", frozen=True)

    bundle: Path | None = Field(None, description="folder of the bundle to serve, where there is no bundle_store")
    bundle_store: Path | None = Field(
        None, description="folder that holds one bundle a folder, of which one serves and others can be swapped in"
    )
    watch_bundles: float = Field(
        0, ge=0, allow_inf_nan=False, description="seconds between looks for a newer bundle in bundle_store; 0: none"
    )
    drain_seconds: float = Field(
        60, ge=0, allow_inf_nan=False, description="seconds that an old bundle waits for its last requests after a swap"
    )
    database: str = Field(
        "sidera-items.db",
        repr=False,  # it may hold a password
        description="file, sqlite:/// URL or postgresql:// URL of the database that keeps changes of items",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    admin_host: str = Field("127.0.0.1", description="address of the admin port")
    admin_port: int | None = Field(
        None, ge=0, le=65535, description="port of the admin routes, 0 takes a free one; without it there are none"
    )
    probes_on: Literal["public", "admin", "both"] = Field(
        "public", description="port of /health and /metrics: public, admin or both"
    )
    shutdown_delay_seconds: float = Field(
        0, ge=0, allow_inf_nan=False, description="seconds after SIGTERM that it still accepts, not ready any more"
    )
    grace_seconds: float = Field(
        25, gt=0, allow_inf_nan=False, description="seconds from SIGTERM to the end, whatever runs; below Kubernetes'"
    )
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
    filter_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="memory for the fields that requests filter by; more are read again"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    environment: Literal["development", "production"] = Field(
        "production", description="development alone may listen beyond this machine without keys"
    )
    api_keys_file: Path | None = Field(
        None, description="YAML or JSON file of keys as 'sidera keys new' prints them; read again when it changes"
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="plain keys with every scope but admin; without any key everybody is let in"
    )
    rate_requests_per_second: float = Field(
        0, ge=0, allow_inf_nan=False, description="requests a second of one key to one replica; more get 429; 0: any"
    )
    rate_rows_per_second: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="rows of /recommend and /events and items of /tokenize a second of one key to one replica; 0: any",
    )
    rate_burst_seconds: float = Field(
        10, gt=0, allow_inf_nan=False, description="seconds of its rate that a silent key may send at once"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="web origins whose pages may call; empty closes CORS"
    )
    fold_items: int = Field(
        10_000,
        ge=0,
        description="items that may join and leave before a replica folds them into its tries; 0: any number",
    )
    allow_register: bool = Field(True, description="whether items may be registered, changed and deleted")
    playground: bool | None = Field(
        None, description="whether /playground/, a page to try the service in, is served; none: in development alone"
    )
    max_search_items: int = Field(
        5_000_000,
        ge=0,
        description="items up to which the words of titles are kept for /search, some 30 bytes an item; 0: no /search",
    )

    traces_endpoint: str = Field(
        "", description="URL of an OTLP collector, like http://collector:4318/v1/traces; empty makes no traces"
    )
    traces_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="share of the requests without a traceparent header that are traced"
    )

    event_weights: str = Field(
        "view=1,click=1,play=1,like=1,cart=1,purchase=1,skip=-0.5,dislike=-1,return=-1",
        description="types of events and what each counts, from -10 to 10; below 0: the user did not want the item",
    )
    event_skew_seconds: float = Field(
        300, ge=0, allow_inf_nan=False, description="how far in the future an event may lie; more is refused"
    )
    exclude_disliked: bool = Field(
        True, description="whether items whose newest event counts below 0 never come back for a user_id"
    )
    max_user_events: int = Field(1000, ge=2, description="newest events of a user that are kept and counted")
    event_memory_bytes: int = Field(
        512 * 1024 * 1024, ge=1024 * 1024, description="memory for what events taught since the bundle was trained"
    )
    event_memory_seconds: float = Field(
        1.0, ge=0.05, allow_inf_nan=False, description="seconds between looks for new events, which are learnt then"
    )

    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1024, description="bytes of one request body")
    max_header_bytes: int = Field(16 * 1024, ge=1024, description="bytes of request line and headers; more get 400")
    header_timeout_ms: int = Field(
        10_000,
        ge=1,
        description="milliseconds in which the headers of a request must be there, else its connection ends",
    )
    body_timeout_ms: int = Field(10_000, ge=1, description="milliseconds in which a body must be there, else 408")
    max_rows: int = Field(64, ge=1, description="rows of one batch request")
    max_num_results: int = Field(MAX_NUM_RESULTS, ge=1, le=MAX_NUM_RESULTS, description="items that may be asked for")
    max_history_items: int = Field(1000, ge=1, description="history items of one request")
    max_exclude_items: int = Field(1000, ge=0, description="excluded items of one request")
    max_allow_items: int = Field(1000, ge=1, description="items of the allow-list of one request")
    max_filters: int = Field(16, ge=0, description="filters of one request")
    max_filter_values: int = Field(1000, ge=1, description="values of all filters of one request together")
    max_explained_items: int = Field(20, ge=0, description="items that may be asked for with an explanation; 0: none")
    max_beam_width: int = Field(256, ge=1, description="widest beam that may be asked for")
    max_tokenize_items: int = Field(256, ge=1, description="items of one /tokenize request")
    max_events: int = Field(500, ge=1, description="rows of one /events request")
    max_text_chars: int = Field(20_000, ge=1, description="characters of one text field of an item")
    max_domains: int = Field(256, ge=1, description="domains up to which registering may create a new one")

    max_queue: int = Field(512, ge=1, description="rows of /recommend that may wait; more get 429")
    max_queue_tokens: int = Field(262_144, ge=1, description="tokens of the rows that may wait; more get 429")
    max_request_tokens: int = Field(
        65_536,
        ge=1,
        description="tokens of one /recommend request: of histories, and one a beam and level; more get 422",
    )
    max_batch_tokens: int = Field(
        8192, ge=1, description="tokens computed together, histories padded to the longest; a single row may be more"
    )
    batch_wait_ms: float = Field(
        2,
        ge=0,
        le=1000,
        description="longest pause between arrivals that a free engine waits out for company; 0: never",
    )
    stuck_ms: int = Field(
        300_000, ge=1000, description="milliseconds of one batch after which the service is no longer live"
    )
    max_event_queue: int = Field(20_000, ge=1, description="rows of /events that may wait; more get 429")
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

    @field_validator("traces_endpoint")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("traces go to an http:// or https:// URL, like http://collector:4318/v1/traces")
        return value

    @field_validator("event_weights")
    @classmethod
    def _is_a_list_of_weights(cls, value: str) -> str:
        read_kinds(value)
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _no_service_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "SIDERA_PORT was set by a Kubernetes Service named sidera; set enableServiceLinks: false on the pod"
            )
        return value

    @model_validator(mode="after")
    def _one_source_of_bundles(self) -> "Settings":
        if (self.bundle is None) == (self.bundle_store is None):
            raise ValueError(
                "set one of SIDERA_BUNDLE (the folder of a bundle) and SIDERA_BUNDLE_STORE (a folder of such folders)"
            )
        if self.watch_bundles and self.bundle_store is None:
            raise ValueError("SIDERA_WATCH_BUNDLES looks into SIDERA_BUNDLE_STORE; set that too, or leave it out")
        return self

    @model_validator(mode="after")
    def _admin_port_for_its_probes(self) -> "Settings":
        if self.probes_on != "public" and self.admin_port is None:
            raise ValueError("SIDERA_PROBES_ON names the admin port; set SIDERA_ADMIN_PORT too")
        if self.shutdown_delay_seconds >= self.grace_seconds:
            raise ValueError("SIDERA_SHUTDOWN_DELAY_SECONDS leaves nothing of SIDERA_GRACE_SECONDS; lower it")
        return self

    @model_validator(mode="after")
    def _queue_holds_a_batch_request(self) -> "Settings":
        if self.max_queue_tokens < self.max_request_tokens:
            raise ValueError(
                f"max_queue_tokens ({self.max_queue_tokens}) is smaller than max_request_tokens "
                f"({self.max_request_tokens}), so a large request could never be accepted; raise the one or lower the "
                "other"
            )
        if self.max_event_queue < self.max_events:
            raise ValueError(
                f"max_event_queue ({self.max_event_queue}) is smaller than max_events ({self.max_events}), so a full "
                "request could never be accepted; raise max_event_queue or lower max_events"
            )
        if self.max_queue < self.max_rows:
            raise ValueError(
                f"max_queue ({self.max_queue}) is smaller than max_rows ({self.max_rows}), so a full batch request "
                "could never be accepted; raise max_queue or lower max_rows"
            )
        return self

    @model_validator(mode="after")
    def _rate_lets_a_full_request_in(self) -> "Settings":
        most = max(self.max_rows, self.max_tokenize_items, self.max_events)
        if 0 < self.rate_rows_per_second * self.rate_burst_seconds < most:
            raise ValueError(
                f"rate_rows_per_second times rate_burst_seconds is below {most}, the rows of the largest request, so "
                "it could never be accepted; raise one of them or lower max_rows, max_tokenize_items and max_events"
            )
        return self

    @property
    def serves_playground(self) -> bool:
        """Whether the page is served."""
        return self.environment == "development" if self.playground is None else self.playground

    def limits(self) -> dict[str, int]:
        """The limits that a client has to know, by name."""
        names = (
            "max_body_bytes",
            "max_rows",
            "max_num_results",
            "max_history_items",
            "max_exclude_items",
            "max_allow_items",
            "max_filters",
            "max_filter_values",
            "max_explained_items",
            "max_request_tokens",
            "max_beam_width",
            "max_tokenize_items",
            "max_events",
            "max_text_chars",
            "max_domains",
            "deadline_ms",
            "tokenize_deadline_ms",
        )
        return {name: getattr(self, name) for name in names}
