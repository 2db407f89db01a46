"""Runs nodes with the real services behind ``ctx.sandbox.call`` and ``ctx.http``, on one event loop.

with real_services(tmp_path) as run:
    run(Notify(), {"to": ..., "text": ...}, FakeContext())
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.contracts import Node
from appliance.kernel.http import HttpClient
from appliance.sandbox import ProcessSandbox
from tests.support.context import PATIENCE, FakeContext, arun_node

Run = Callable[[Node[Any], Mapping[str, Any], FakeContext], Any]


@contextlib.contextmanager
def real_services(data: Path) -> Iterator[Run]:
    """A function that runs a node to its end; child processes stay warm from one run to the next."""
    sandbox, http = ProcessSandbox(data), HttpClient()
    sandbox.open()

    async def run(node: Node[Any], config: Mapping[str, Any], ctx: FakeContext) -> Any:
        ctx.sandbox, ctx.http = sandbox, http
        async with asyncio.timeout(PATIENCE):
            return await arun_node(node, config, None, ctx)

    with asyncio.Runner() as runner:
        try:
            yield lambda node, config, ctx: runner.run(run(node, config, ctx))
        finally:
            runner.run(http.aclose())
            sandbox.close()
