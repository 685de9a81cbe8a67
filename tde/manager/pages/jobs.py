"""Jobs: how far one is, what its commands print, and ending it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.manager import language
from tde.manager.jobs.store import Job, State
from tde.manager.security.sessions import COOKIE
from tde.manager.web import checked_form, manager_of, page, to

_LOOK_SECONDS = 0.5


def _job_of(request: Request) -> Job:
    found = manager_of(request).jobs.find(request.path_params["job"])
    if found is None:
        raise HTTPException(404)
    return found


async def all_jobs(request: Request) -> Response:
    """Show the newest ones."""
    manager = manager_of(request)
    labels = {one.id: one.label for one in manager.registry.all()}
    return page(
        request,
        "jobs.html",
        jobs=await run_in_threadpool(manager.jobs.recent, None, 50),
        labels=labels,
    )


async def show(request: Request) -> Response:
    """Show one."""
    job = _job_of(request)
    manager = manager_of(request)
    return page(
        request,
        "job.html",
        job=job,
        server=manager.registry.find(job.server),
        output=manager.jobs.output(job.id),
    )


async def events(request: Request) -> Response:
    """Tell how far a job is, until it has ended or nobody listens."""
    job_id = _job_of(request).id
    manager = manager_of(request)
    language.choose(request)
    cookie = request.cookies.get(COOKIE, "")

    async def told() -> AsyncIterator[dict[str, str]]:
        before = ""
        while not await request.is_disconnected():
            if manager.sessions.find(cookie, is_used=False) is None:
                return
            job = await run_in_threadpool(manager.jobs.find, job_id)
            if job is None:
                return
            now = json.dumps({**_document(job), "output": manager.jobs.output(job_id)})
            if now != before:
                before = now
                yield {"event": "state", "data": now}
            if job.state is not State.RUNNING:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    return EventSourceResponse(told())


def _document(job: Job) -> dict[str, object]:
    speed = job.progress.get("per_second")
    return {
        "state": job.state.value,
        "fraction": job.fraction,
        "description": job.progress.get("description", ""),
        "done": language.size(job.progress.get("completed")),
        "total": language.size(job.progress.get("total")),
        "speed": language.size(speed),
        "left": language.duration(job.seconds_left),
    }


async def cancel(request: Request) -> Response:
    """End one, as Ctrl-C does."""
    await checked_form(request)
    job = _job_of(request)
    await run_in_threadpool(manager_of(request).jobs.cancel, job.id)
    return to(request, f"/jobs/{job.id}")


ROUTES = [
    Route("/jobs", all_jobs),
    Route("/jobs/{job}", show),
    Route("/jobs/{job}/events", events),
    Route("/jobs/{job}/cancel", cancel, methods=["POST"]),
]
