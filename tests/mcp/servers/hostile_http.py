"""The same over HTTP: misbehaves as its first argument says, notes in its second. Needs no package."""

import json
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

mode, place = sys.argv[1], sys.argv[2]


def note(name, text):
    with open(os.path.join(place, name), "a") as file:
        file.write(text + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(405)

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, params = message.get("method"), message.get("params") or {}
        note("paths", f"{self.path} {method} {self.headers.get('Authorization')}")
        if method == "notifications/cancelled":
            note("cancelled", str(params.get("requestId")))
        if mode == "redirect" and self.path != "/elsewhere":
            return self.answer(307, Location=f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        if mode == "silent":
            time.sleep(600)
        if mode == "html":
            return self.answer(200, b"<html>welcome</html>")
        if "id" not in message:
            return self.answer(202)
        result = {}
        if method == "initialize":
            result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}}
            result["serverInfo"] = {"name": "hostile", "version": "1"}
        elif method == "tools/list":
            names = ["echo", "hang", "huge", "slam"]
            result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
        elif params["name"] == "hang":
            time.sleep(600)
        elif params["name"] == "slam":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        else:
            words = "x" * (4_000_000 if params["name"] == "huge" else 1)
            result = {"content": [{"type": "text", "text": words}]}
        self.answer(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
