"""Routes of the HTTP API: cameras, events, arming, snapshots, health probes and metrics."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Blueprint, Quart, Response, jsonify, request

from tridetr.control_socket import ControllerAwayError, ask_controller
from tridetr.controller.history import read_history
from tridetr.gateway.disk_reader import DiskReader
from tridetr.gateway.hub import Hub
from tridetr.gateway.node_metrics import render_node
from tridetr.gateway.openapi import description
from tridetr.gateway.parameters import flag, integer
from tridetr.gateway.security import Answer, problem
from tridetr.gateway.snapshot import take_snapshot
from tridetr.gateway.stream import refuse_old

_SNAPSHOTS = 2  # snapshots taken at the same time
_WAITING = 16  # snapshot requests in progress, including those that wait


def add_api(app: Quart, hub: Hub) -> None:
    """Add the API routes to the application."""
    api = Blueprint("api", __name__)
    cameras = hub.config.cameras
    state = DiskReader("state_dir")
    busy = asyncio.Semaphore(_SNAPSHOTS)
    waiting = 0

    @api.get("/api/cameras")
    async def list_cameras() -> Answer:
        return jsonify({"cameras": [hub.camera_facts(name) for name in cameras]})

    @api.get("/api/events")
    async def list_events() -> Answer:
        limit, after = integer("limit", 1, 500, 100), integer("after", 0, 2**62, 0)
        camera = request.args.get("camera")
        if camera is not None and camera not in cameras:
            return problem(404, "no such camera")
        read = partial(read_history, hub.config.state_dir, limit=limit, after=after, camera=camera)
        try:
            rows = await state.read(read)
        except sqlite3.Error as error:
            return problem(503, f"the events cannot be read now: {error}", Retry_After="5")
        return jsonify(
            {
                "events": [
                    {
                        "seq": row.seq,
                        "unix_ms": row.unix_ns / 1e6,
                        "camera": row.camera,
                        "kind": row.kind,
                        "details": row.details,
                    }
                    for row in rows
                ]
            }
        )

    async def ask(**request: object) -> Answer:
        try:
            armed = (await ask_controller(hub.config.run_dir, request))["armed"]
        except ControllerAwayError as error:
            return problem(503, str(error), Retry_After="5")
        node = armed.pop("")
        return jsonify({"armed": node, "cameras": armed})

    @api.get("/api/armed")
    async def armed() -> Answer:
        return await ask()

    @api.put("/api/armed")
    @api.put("/api/armed/<camera>")
    async def arm(camera: str = "") -> Answer:
        if camera and camera not in cameras:
            return problem(404, "no such camera")
        try:
            wanted = json.loads(await request.get_data())
        except (ValueError, RecursionError):
            wanted = None
        on = wanted.get("armed") if isinstance(wanted, dict) else None
        if not isinstance(on, bool):
            return problem(400, 'the body must be {"armed": true} or {"armed": false}')
        return await ask(switch=camera, on=on)

    @api.get("/snapshot/<camera>.jpg")
    async def snapshot(camera: str) -> Answer:
        nonlocal waiting
        with_boxes, small = flag("boxes"), flag("small")
        if camera not in cameras:
            return problem(404, "no such camera")
        if waiting >= _WAITING:
            return problem(503, "too many snapshot requests: try again later", Retry_After="1")
        waiting += 1
        try:
            async with busy:
                refused = refuse_old(hub, camera)
                if refused is not None:
                    return refused
                taken = await take_snapshot(hub, camera, with_boxes=with_boxes, small=small)
        finally:
            waiting -= 1
        if taken is None:
            return problem(503, "the camera has not delivered a frame yet", Retry_After="1")
        response = Response(taken.jpeg, content_type="image/jpeg")
        response.headers["X-Frame-Number"] = str(taken.frame_number)
        response.headers["X-Capture-Unix-Ns"] = str(taken.capture_unix_ns)
        return response

    @api.get("/healthz")
    async def alive() -> Answer:
        # Liveness only: the event loop answers. Whether frames and results arrive is the job of /readyz.
        return Response("ok\n", content_type="text/plain; charset=utf-8")

    @api.get("/readyz")
    async def ready() -> Answer:
        need_all = flag("all")
        each = {name: hub.readiness(name) for name in cameras}
        fresh = [item["ready"] for item in each.values()]
        is_ready = all(fresh) if need_all else any(fresh)
        response = jsonify({"ready": is_ready, "cameras": each})
        response.status_code = 200 if is_ready else 503
        return response

    @api.get("/metrics")
    async def metrics() -> Answer:
        if not (hub.config.run_dir / "metrics").is_dir():
            return problem(503, "there are no metrics yet: no process of this node has written any")
        text = await asyncio.to_thread(render_node, hub.config)
        return Response(text, content_type=CONTENT_TYPE_LATEST)

    @api.get("/api/openapi.json")
    async def openapi() -> Answer:
        return jsonify(description())

    app.register_blueprint(api)
