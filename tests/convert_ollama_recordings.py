"""Turn raw exchanges with an Ollama server into cassettes, without touching a request.

Usage: python tests/convert_ollama_recordings.py FOLDER

FOLDER holds one JSON file an exchange: `request_json` (or `request_text`), `request_headers`, `status`,
`response_headers`, `response_body`, perhaps a `note`. What our own calls can meet becomes
`cassettes/ollama/<name>.yaml`; what only other clients meet becomes data for the fault server; what says
nothing new is left out, with a reason (`tests/data/ollama/left_out.yaml`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from testronaut_llm.testing.cassette_format import VERSION, body_to_field, from_yaml, to_yaml
from testronaut_llm.testing.scrub import REQUEST_HEADERS, allowed_response_header, clean_uri

ROOT = Path(__file__).parent.parent
CASSETTES = ROOT / "cassettes" / "ollama"
DATA = ROOT / "tests" / "data" / "ollama"
SERVER = "Ollama, built from its public source of 2026-08-21 (it calls itself 0.0.0), on CPU"


def main(folder: Path) -> None:
    """Convert every exchange in `folder`."""
    plan = from_yaml((DATA / "left_out.yaml").read_text())
    left_out, as_data = plan["left out"], plan["data for the fault server"]
    CASSETTES.mkdir(parents=True, exist_ok=True)
    others = {}
    for file in sorted(folder.glob("*.json")):
        exchange = json.loads(file.read_text())
        if file.stem in as_data:
            others[file.stem] = interaction(exchange)
        elif file.stem not in left_out:
            text = to_yaml({"version": VERSION, **notes(exchange), "interactions": [interaction(exchange)]})
            (CASSETTES / f"{file.stem}.yaml").write_text(text)
    (DATA / "exchanges.yaml").write_text(to_yaml({"recorded_from": SERVER, "exchanges": others}))


def notes(exchange: dict[str, Any]) -> dict[str, str]:
    """Where the cassette came from, for its reader."""
    client = exchange["request_headers"].get("client", "an unnamed client")
    known = {"recorded_from": SERVER, "request": f"as {client} really sent it"}
    return known | ({"note": exchange["note"]} if exchange.get("note") else {})


def interaction(exchange: dict[str, Any]) -> dict[str, Any]:
    """The exchange in the form that cassettes have."""
    asked = exchange.get("request_json")
    body = json.dumps(asked) if asked is not None else exchange.get("request_text", "")
    headers = {name: value for name, value in exchange["request_headers"].items() if name in REQUEST_HEADERS}
    request = {"method": exchange["method"], "uri": clean_uri(exchange["url"]), "headers": headers}
    kept = {name: value for name, value in exchange["response_headers"].items() if allowed_response_header(name)}
    response = {"status": exchange["status"], "headers": kept}
    return {
        "request": {**request, **body_to_field(body)},
        "response": {**response, **body_to_field(exchange["response_body"])},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
