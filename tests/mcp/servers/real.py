"""A server made with the official Python SDK, over stdio or streamable HTTP."""

import os
import socket
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.types import ToolAnnotations

server = MCPServer("real", version="1")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
def describe(name: str, tags: list[str]) -> dict[str, object]:
    """Describes a thing."""
    return {"name": name, "tags": tags, "count": len(tags)}


@server.tool(name="odd.name/tool")
def odd(text: str) -> str:
    """Has a name that no model provider takes."""
    return text[::-1]


@server.tool()
def fail(reason: str) -> str:
    """Always fails."""
    raise ValueError(reason)


@server.tool()
def picture() -> Image:
    """Gives a picture."""
    return Image(data=b"\x89PNG" + bytes(96), format="png")


@server.tool()
def environment() -> list[str]:
    """Names its variables."""
    return sorted(os.environ)


@server.tool()
def key(context: Context) -> str:
    """Gives the idempotency key of the call."""
    meta = context.request_context.meta or {}
    return str(dict(meta).get("agentic-fleet/idempotency-key"))


def serve_http() -> None:
    import uvicorn

    wanted = os.environ.get("EXPECTED_AUTHORIZATION")
    app = server.streamable_http_app(json_response=sys.argv[1] == "http-json")

    async def guarded(scope, receive, send):
        if scope["type"] == "http" and wanted:
            given = dict(scope["headers"]).get(b"authorization", b"").decode()
            if given != wanted:
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b"who are you"})
                return
        await app(scope, receive, send)

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[2])))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(guarded, log_level="warning")).run(sockets=[listener])


if sys.argv[1] == "stdio":
    server.run()
else:
    serve_http()
