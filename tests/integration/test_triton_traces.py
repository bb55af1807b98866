"""A frame that carries a trace context appears as a span of the server in that trace."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.data import ORACLE, shared
from support.otlp import running_collector
from support.triton import SharedFrame, running_triton, triton_config
from support.waiting import wait_for
from tridetr.triton.client import TritonClient

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_a_traced_frame_becomes_spans(tmp_path: Path) -> None:
    base = triton_config(tmp_path, shared(*ORACLE))
    with running_collector() as collector:
        otel = base.otel.model_copy(update={"endpoint": collector.endpoint})
        config = base.model_copy(update={"otel": otel})
        with running_triton(config) as triton:
            await asyncio.to_thread(triton.endpoint)
            async with TritonClient(config) as client:
                with SharedFrame(config.instance, 64, 48) as slot:
                    await client.register(slot.frame.region)
                    await client.infer(slot.frame)
                    # Triton 2.51 loses the parents of some gRPC requests, so more than one is sent.
                    for number in range(12):
                        parent = f"00-{TRACE}-{number + 1:016x}-01"
                        await client.infer(slot.frame, request_id=TRACE, traceparent=parent)
                    await client.unregister(slot.frame.region)
            await asyncio.to_thread(wait_for, lambda: collector.spans, 20, "spans")
        assert {span.trace for span in collector.spans} == {TRACE}
