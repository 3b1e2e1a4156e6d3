"""What a user does beyond one chat: a conversation, each mode, tools, no settings at all. Each is one server, asked by `run --server`.

A check that fails is the product's; what the model made of it is a line that begins with `model`.
"""
import http.server, json, os, subprocess, threading, time, uuid

from .served import MODEL, is_repair, line_with, messages, said, signature

TIMES = """sessions: { run_timeout_ms: 900000, run_idle_timeout_ms: 400000 }
"""
LLM = f"llm: {{ model: {MODEL}, output_tokens_max: 160, request_timeout_ms: 300000, stream_idle_timeout_ms: 240000 }}\n" + TIMES
ALONE = "pipeline: { analysis: false, routing: false, progress: false, quality: false, agent_timeout_ms: 300000, tool_rounds_max: 3 }\n"
PHASES = ("pipeline: { phase_timeout_ms: 240000, agent_timeout_ms: 300000, quality_in_background: false, refinement: false, "
          "max_rounds: 2 }\n")
TASK = "Write two sentences about the sea for a child."
# A fact of the first turn, talk about other things, and two questions that only the first turn answers.
TALK = ["Hello! My name is Ada and I have a dog called Rex.", "What is the sea?", "What is the name of my dog?", "And what is my name?"]
PAGE = b"<html><title>Harbour</title><body><h1>Harbour</h1><p>The harbour master is called Tomasz. The harbour has 41 boats.</p></body></html>"


class Trial:
    """A server with its settings, and what was asked of it."""

    def __init__(self, name, settings, binary, recorder, started, checks, work):
        self.name, self.binary, self.recorder, self.started, self.checks = name, binary, recorder, started, checks
        self.work, self.data, self.calls = work, work / f"trial-{name}", []
        self.log, file = work / f"trial-{name}.log", work / f"trial-{name}.yaml"
        file.write_text(settings)
        print(f"\n== trial {name}", flush=True)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("FLEET_", "OPENAI_"))}
        env["OPENAI_BASE_URL"] = recorder.url
        recorder.calls.clear()
        command = [binary, "serve", "--port", "0", "--data-dir", self.data, "--config", file]
        self.fleet = started.start(command, self.log, env=env)
        found = line_with(self.fleet, r"^browser: (http://\S+?)/docs", 30)
        self.url = found and found.group(1)
        checks.that(found, f"{name}: the server starts", self.log.read_text()[-1500:])

    def run(self, title, message, *more, may_fail=False):
        """One run in a terminal: its text, what --verbose told, the calls it made."""
        self.recorder.calls.clear()
        began = time.time()
        made = subprocess.run([self.binary, "run", "--server", self.url, "--verbose", "-m", message, *more], capture_output=True, text=True)
        took, calls = time.time() - began, list(self.recorder.calls)
        self.calls += [{"title": title, **call} for call in calls]
        asked = [signature(call) + (" (again)" if is_repair(call) else "") if signature(call) else "agent" for call in calls]
        print(f"  {title}: {took:.1f} s, exit {made.returncode}, {len(calls)} calls: {', '.join(asked)}")
        print(f"    said: {made.stdout.strip()[:500]!r}")
        for line in made.stderr.strip().splitlines():
            print(f"    told: {line[:240]}")
        if made.returncode != 0 and may_fail:
            self.checks.that("error: " in made.stderr, f"{title} ends with an error that has a name", made.stderr[-400:])
        else:
            self.checks.that(made.returncode == 0, f"{title} exits 0", made.stderr[-400:])
            self.checks.that(made.stdout.strip(), f"{title} has a text")
        return made.stdout, made.stderr, calls

    def end(self):
        (self.work / f"trial-{self.name}.json").write_text(json.dumps(self.calls, indent=1))
        code = self.started.stop(self.fleet)
        self.checks.that(code == 0, f"{self.name}: the server drained and ended with 0", code)
        self.checks.that("panicked" not in self.log.read_text(), f"{self.name}: no panic in the log")


def talk(make, checks):
    trial = make("conversation", LLM + ALONE)
    conversation = str(uuid.uuid4())
    answers = []
    for at, message in enumerate(TALK, 1):
        text, _, calls = trial.run(f"turn {at}", message, "--conversation", conversation)
        shown = json.dumps(messages(calls[-1])) if calls else ""
        checks.that(all(earlier in shown for earlier in TALK[:at]), f"turn {at} shows the model all turns before it", shown[:600])
        answers.append(text)
    print(f"  model: turn 3 {'knows' if 'Rex' in answers[2] else 'does not know'} the dog, "
          f"turn 4 {'knows' if 'Ada' in answers[3] else 'does not know'} the name")
    trial.end()


def modes(make, checks, name, settings, which):
    trial = make(name, settings)
    for mode in which:
        trial.run(mode, TASK, "--mode", mode)
    trial.end()


def tools(make, checks):
    fetched = []

    class Page(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            fetched.append(self.path)
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{site.server_address[1]}"
    trial = make("tools", LLM + ALONE + f"""tools:
  policy: [{{ principal: "*", tool: fetch_page, access: allow }}, {{ principal: "*", tool: python, access: allow }}]
  fetch_page: {{ allow_hosts: ["{place}"] }}
agents:
  assistant: {{ tools: [fetch_page, python] }}
""")
    def dictated(tool, arguments):
        # A model of this size calls nothing by its own choice, but it repeats.
        return f"Repeat:\n<tool_call>\n{json.dumps({'name': tool, 'arguments': arguments})}\n</tool_call>"

    asks = [("fetch_page, asked for", "fetch_page", f"Fetch http://{place}/harbour and say who the harbour master is.", "Tomasz"),
            ("python, asked for", "python", "Use python to compute 1234 * 5678 and tell me the result.", "7006652"),
            ("fetch_page, dictated", "fetch_page", dictated("fetch_page", {"url": f"http://{place}/harbour"}), "Tomasz"),
            ("python, dictated", "python", dictated("python", {"code": "print(1234 * 5678)"}), "7006652")]
    for title, tool, message, fact in asks:
        text, told, calls = trial.run(title, message)
        offered = [[t["function"]["name"] for t in call["request"].get("tools", [])] for call in calls]
        made = [c["function"] for call in calls for m in messages(call) for c in m.get("tool_calls") or []]
        results = [m["content"] for call in calls for m in messages(call) if m["role"] == "tool"]
        checks.that(calls and tool in offered[0], f"{title}: it is offered", offered)
        if made:
            checks.that(results, f"{title}: the model is shown what its call gave", calls[-1]["request"])
            print(f"  model: called {made[0]}, was shown {results[:1]}")
        print(f"  model: made {len(made)} calls; the answer {'has' if fact in text else 'does not have'} the fact ({fact})")
    print(f"  the page was read {len(fetched)} times: {fetched[:5]}")
    site.shutdown()
    trial.end()


def defaults(make, checks):
    """As somebody begins: a base URL, the model's name, and nothing else. Without a limit of tokens it may never stop."""
    trial = make("defaults", f"llm: {{ model: {MODEL} }}\n")
    trial.run("a task", TASK, may_fail=True)
    trial.end()


TRIALS = {
    "conversation": talk,
    "modes": lambda make, checks: modes(make, checks, "modes", LLM + PHASES, ["delegated", "sequential", "parallel"]),
    "modes-alone": lambda make, checks: modes(make, checks, "modes-alone", LLM + ALONE,
                                              ["delegated", "sequential", "parallel", "handoff", "discussion"]),
    "tools": tools,
    "defaults": defaults,
}
