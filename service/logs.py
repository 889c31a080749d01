"""Structured logs: one JSON object a line on standard error. No request body, query string or header is ever logged."""

import logging
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
            "uvicorn": {"handlers": ["stderr"], "level": max(_number(level), logging.WARNING), "propagate": False}
        },
    }


def _tracebacks() -> Processor:
    # Local variables would put request bodies and keys into the log.
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
