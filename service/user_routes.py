"""``/users``: what is stored of a user is read, or forgotten; on the admin port, the list of those who were."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response

from service.context import Context, RequestId
from service.description import EVENT_ERRORS, error_answers
from service.errors import DatabaseDownError
from service.event_schemas import (
    DeletedUserAnswer,
    DeletedUserRow,
    DeletedUsers,
    HistoryEvent,
    UserHistoryAnswer,
    UserId,
)
from service.responses import json_response
from service.security.scopes import needs
from service.waiting import DeadlineHeader, collect, deadline_of

_UserId = Annotated[UserId, Path(description="may hold slashes")]
_MOST_LISTED = 1000


class _WholeUser(PathConvertor):
    """A user id in a path, of any characters, up to the ``/history`` that ends the path of a user's history."""

    regex = r"(?s:(?:(?!/history\Z).)*)"


register_url_convertor("user", _WholeUser())


def user_router() -> APIRouter:
    """The routes of the public port."""
    router = APIRouter(tags=["users"], dependencies=[needs("events")], responses=error_answers(*EVENT_ERRORS))

    @router.get(
        "/users/{user_id:user}/history",
        operation_id="user_history",
        summary="What is stored of a user",
        response_model=UserHistoryAnswer,
    )
    async def user_history(
        user_id: _UserId,
        request: Request,
        context: Context,
        request_id: RequestId,
        deadline_ms: DeadlineHeader = None,
    ) -> Response:
        """Return the newest stored events of a user, of all domains, oldest first; of an unknown user none."""
        request.state.charge(1)
        deadline = deadline_of(deadline_ms, context.settings.deadline_ms)
        [found] = await collect(context.runtime.events.ask([user_id], deadline), deadline, request.receive)
        if isinstance(found, BaseException):
            raise context.blame(found, request_id)
        events = [
            HistoryEvent(
                domain=event.domain, item_id=event.item_id, type=event.kind, timestamp=event.happened_us / 1_000_000
            )
            for event in found
        ]
        return context.answer(UserHistoryAnswer(user_id=user_id, events=events))

    @router.delete(
        "/users/{user_id:user}",
        operation_id="delete_user",
        summary="Forget a user",
        response_model=DeletedUserAnswer,
    )
    async def delete_user(user_id: _UserId, request: Request, context: Context) -> Response:
        """Remove a user's events for good, and what they taught this replica since its bundle was trained.

        Every other replica has forgotten within seconds. What the bundle itself learnt from the user goes with the next
        training, which leaves out the users of the list at `/admin/users/deleted`. Events that happened before this and
        come later are refused; later ones are those of a new user. Deleting again forgets what came in between, too.
        """
        request.state.charge(1)
        context.runtime.running()
        desk = context.runtime.events

        def delete() -> tuple[int, int]:
            done = desk.delete(user_id)
            for generation in context.runtime.serving_now():
                if generation.learning is not None:
                    generation.learning.memory.forget(user_id)
            return done

        removed, deleted_us = await run_in_threadpool(delete)
        context.metrics.events.user_deleted()
        return context.answer(
            DeletedUserAnswer(user_id=user_id, deleted_at=deleted_us / 1_000_000, removed_events=removed)
        )

    return router


def deleted_router() -> APIRouter:
    """The route of the admin port."""
    router = APIRouter(tags=["users"], dependencies=[needs("admin")])

    @router.get(
        "/admin/users/deleted",
        operation_id="deleted_users",
        summary="Users whom training must forget",
        response_model=DeletedUsers,
        responses=error_answers(*EVENT_ERRORS, DatabaseDownError),
    )
    async def deleted_users(
        context: Context,
        after: Annotated[str, Query(max_length=256, description="`next` of the page before")] = "",
        limit: Annotated[int, Query(ge=1, le=_MOST_LISTED, description="users of one page")] = _MOST_LISTED,
    ) -> Response:
        """List the users that were deleted, and when: one a line, they are the file `data.forget` of training."""
        found = await run_in_threadpool(context.runtime.events.deleted, after, limit)
        users = [DeletedUserRow(user_id=user.user_id, deleted_at=user.deleted_us / 1_000_000) for user in found]
        return json_response(DeletedUsers(users=users, next=users[-1].user_id if len(users) == limit else None))

    return router
