#!/bin/bash
# What runs in a rented instance, in place of the image's own entry point. What it says begins with
# "rerank-serve: "; the launcher reads that in the instance's log.
set -uo pipefail
umask 077
[ -z "${RERANK_OUTPUT:-}" ] || exec >"$RERANK_OUTPUT" 2>&1
home=${RERANK_HOME:-/var/lib/rerank-serve}
say() { echo "rerank-serve: $*"; }
# The last words. With an end set, the container must live to see it: an instance whose container
# is gone still costs its disk. Unless it was told to stop.
end() {
  say "ended with status $1"
  [ -n "${stopping:-}" ] || [ -z "${RERANK_TTL:-}" ] || wait "$clock"
  exit "$1"
}
mkdir -p "$home" && cd "$home" || end 1

# Its end: the instance destroys itself, with the key that Vast.ai gives each instance for itself.
# By its own clock, from its first start on.
if [ -n "${RERANK_TTL:-}" ]; then
  [ -s until ] || echo $(($(date +%s) + RERANK_TTL)) >until
  python3 - <<'PY' &
import os, time, urllib.request as web
say = lambda *words: print("rerank-serve clock:", *words, flush=True)
def ask(method):
    env = os.environ
    try:
        url = env.get("VAST_URL", "https://console.vast.ai") + "/api/v0/instances/%s/" % env["CONTAINER_ID"]
        headers = {"Authorization": "Bearer " + env["CONTAINER_API_KEY"],
                   "Content-Type": "application/json", "User-Agent": "rerank-serve"}
        data = b"{}" if method == "DELETE" else None
        web.urlopen(web.Request(url, data, headers, method=method), timeout=60)
    except Exception as error:
        say("cannot end it:", repr(error))
until = float(open("until").read())
ask("GET")  # tells now whether it will be able to
while time.time() < until:
    time.sleep(min(60, max(0.1, until - time.time())))
while True:
    say("its time is over")
    ask("DELETE")
    time.sleep(20)
PY
  clock=$!
fi

# The certificate: made here, so that its key leaves this machine never; kept while the address
# stays. The log may hold earlier runs, so each says which it is. The key usage is what strict
# verifiers (Python 3.13) ask of one that vouches for itself.
ip=$(echo "${PUBLIC_IPADDR:-127.0.0.1}" | tr -d '[:space:]')
if ! openssl x509 -in certificate.pem -noout -checkip "$ip" 2>/dev/null | grep -q 'does match'; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj /CN=rerank-serve -addext "subjectAltName=IP:$ip,IP:127.0.0.1,DNS:localhost" \
    -addext keyUsage=critical,digitalSignature,keyCertSign \
    -keyout key.pem -out certificate.pem 2>/dev/null || end 1
fi
say "fingerprint sha256:$(openssl x509 -in certificate.pem -outform DER | sha256sum | cut -c1-64) run $(date +%s%N)"

# Our program: sent by the launcher over this certificate, and taken only with the API key and with
# the digest that the environment names.
if ! echo "$RERANK_BUNDLE  program.tgz" | sha256sum -c --status 2>/dev/null; then
  say "waiting for the program"
  python3 - <<'PY' || end 1
import hashlib, http.server as http, os, ssl, threading
env = os.environ
digest = lambda data: hashlib.sha256(data).hexdigest()
# Strangers come before any key is asked for: so many connections at once, for so long.
slots = threading.BoundedSemaphore(64)
class Server(http.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128
    def process_request(self, *client):
        if slots.acquire(blocking=False):
            return super().process_request(*client)
        self.shutdown_request(client[0])
    def process_request_thread(self, *client):
        try:
            super().process_request_thread(*client)
        finally:
            slots.release()
    def handle_error(self, *_): # their broken handshakes would fill the log
        pass
class Handler(http.BaseHTTPRequestHandler):
    timeout = 15
    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_PUT(self):
        key = self.headers.get("x-api-key", "").encode("latin-1")
        size = int(self.headers.get("content-length") or 0)
        self.close_connection = True
        if "sha256:" + digest(key) != env["RERANK_API_KEY"] or size > 1 << 23:
            return self.answer(403)
        body = self.rfile.read(size)
        if digest(body) != env["RERANK_BUNDLE"]:
            return self.answer(400)
        with open("program.tgz", "wb") as file:
            file.write(body)
        self.answer(204)
        threading.Thread(target=server.shutdown).start()
    def do_GET(self):
        self.answer(503)
    def log_message(self, *_):
        pass
server = Server((env["RERANK_HOST"], int(env["RERANK_PORT"])), Handler)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("certificate.pem", "key.pem")
server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
PY
fi
rm -rf program && mkdir program && tar -xzf program.tgz -C program || end 1

# What it needs, beside vLLM's own packages and never among them; by the image's own pip, so that
# the new environment needs none.
lock=program/deploy/lock/gateway.txt
if ! cmp -s $lock venv/lock.txt; then
  say "installing"
  rm -rf venv
  python3 -m venv --without-pip venv || end 1
  python3 -m pip --python venv/bin/python install -q --no-deps -r $lock || end 1
  cp $lock venv/lock.txt
fi

say "starting"
cd program || end 1
../venv/bin/python -m serve up "$RERANK_MODEL" --device "$RERANK_DEVICE" \
  --host "$RERANK_HOST" --port "$RERANK_PORT" --run-dir ../run \
  --tls-certificate ../certificate.pem --tls-key ../key.pem \
  --vllm "${RERANK_VLLM:-python3 -m vllm.entrypoints.launchers.api_server.entry}" &
server=$!
# Vast.ai ends a container with TERM to this script: the gateway finishes what is in flight.
trap 'stopping=1; kill -TERM $server' TERM INT
wait $server
status=$?
# A wait that a signal ends says so with more than 128, and the server is still at it.
while kill -0 $server 2>/dev/null; do wait $server; status=$?; done
end $status
