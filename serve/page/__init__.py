"""The web page at `/`: its files, read once, and the headers that keep what is pasted in the page.

The policy lets the page load its own files and ask its own server, nothing else: no inline script,
no other origin, no frame around it.
"""

from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
FILES: Mapping[str, tuple[str, str]] = {  # path → file and content type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/call.js": ("call.js", "text/javascript; charset=utf-8"),
    "/docs.css": ("docs.css", "text/css; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
PATHS = frozenset(FILES)
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def load(folder: Path = FOLDER) -> Mapping[str, tuple[str, bytes]]:
    """Path → content type and content. Raises OSError when a file is missing."""
    return {path: (kind, (folder / name).read_bytes()) for path, (name, kind) in FILES.items()}
