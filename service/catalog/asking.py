"""Hands a task to the engine of the live catalog, and waits for it on the event loop."""

from fastapi import Request

from service.bundles.generation import Generation
from service.catalog.tasks import CatalogTask, Tokenized
from service.context import ServiceContext
from service.waiting import collect, deadline_of


async def ask(
    task: CatalogTask,
    running: Generation,
    request: Request,
    context: ServiceContext,
    request_id: str,
    deadline_ms: int | None,
) -> Tokenized:
    """What became of a task.

    Args:
        deadline_ms: the client's own deadline.

    Raises:
        RequestError: what the client is told if it failed.
    """
    deadline = deadline_of(deadline_ms, context.settings.tokenize_deadline_ms)
    [outcome] = await collect(running.tokenizer.submit([task], deadline), deadline, request.receive)
    if isinstance(outcome, BaseException):
        raise context.blame(outcome, request_id)
    return outcome
