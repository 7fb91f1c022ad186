"""The container's health check: exit 0 when the gateway in it can score, else 1.

Run by path with the gateway's Python, which knows nothing of this project then. It prints what
`/health/ready` says, so that `docker inspect` tells the phase of a start.
"""

import http.client
import ssl
import sys

HOST, PORT = "127.0.0.1", 8000  # the port of the image's ENTRYPOINT
TIMEOUT_S = 4.0  # for each of two tries; Docker waits 10 s


def main(port: int = PORT) -> int:
    """Asks over plain HTTP, then over TLS, which alone is spoken with a certificate.

    It is not checked: it is for the name that clients use, and this is loopback. No urllib, which
    would send the question to a proxy where the environment names one.
    """
    try:
        status, body = ask(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S))
    except (http.client.HTTPException, ConnectionResetError):
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        tls = http.client.HTTPSConnection(HOST, port, timeout=TIMEOUT_S, context=trusting)
        status, body = ask(tls)
    print(body)
    return 0 if status == http.client.OK else 1


def ask(connection: http.client.HTTPConnection) -> tuple[int, str]:
    """Status and body of `/health/ready`. Raises OSError and HTTPException."""
    connection.request("GET", "/health/ready")
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


if __name__ == "__main__":
    try:
        sys.exit(main(*map(int, sys.argv[1:])))
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer: {error}")
