"""Structured logs: one JSON object a line on standard error. No request body, query string or header is ever logged.

As a second line of defence, what looks like a secret is blanked in every line, whoever wrote it: keys that
``sidera keys new`` made, bearer tokens, and passwords in URLs.
"""

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor


def make_logger(level: str, stream: TextIO | None = None) -> FilteringBoundLogger:
    """A logger of its own, so that two services in one process do not share one."""
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _tracebacks(),
        structlog.processors.JSONRenderer(default=str),
        _blank_secrets,
    ]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
        cache_logger_on_first_use=True,
    )
    return logger


def server_log_config(level: str) -> dict[str, Any]:
    """The same form for what uvicorn itself logs."""
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
            _blank_secrets,
        ],
        "foreign_pre_chain": [
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _tracebacks(),
        ],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "loggers": {
            name: {"handlers": ["stderr"], "level": max(_number(level), logging.WARNING), "propagate": False}
            for name in ("uvicorn", "opentelemetry")
        },
    }


_SECRETS = (
    (re.compile(r"sidera_[A-Za-z0-9_-]{43}"), "sidera_***"),
    (re.compile(r"(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=-]+"), r"\1 ***"),
    (re.compile(r"(://[^:/@\s\"]*):[^/\s\"]+@"), r"\1:***@"),
)


def _blank_secrets(logger: Any, method: str, line: Any) -> Any:
    for pattern, blank in _SECRETS:
        line = pattern.sub(blank, line)
    return line


def _tracebacks() -> Processor:
    # Local variables would put request bodies and keys into the log.
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
