"""``credentials``: how any client connects to the servers of a running system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from marketprism_ray.commands.reading import DATA_DIR
from marketprism_ray.credentials import READER, WRITER
from marketprism_ray.running import read_run
from marketprism_ray.sinks.settings import reader_settings


@click.command()
@click.option("--writer", is_flag=True, help="Those of the user that may change everything.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@DATA_DIR
def credentials(writer: bool, as_json: bool, data_dir: Path) -> None:
    """Print addresses, users and passwords of NATS and ClickHouse, for clients of your own.

    The reader's, unless --writer is given. They are made anew at each start of the embedded servers; those of external
    servers are the ones that are configured.

    \b
    Examples:
      marketprism credentials
      curl -u reader:PASSWORD "http://127.0.0.1:PORT/?database=marketprism" -d "SELECT count() FROM trade"
    """
    nats, store = reader_settings(read_run(data_dir), data_dir, WRITER if writer else READER)
    scheme = "https" if store.secure else "http"
    found: dict[str, dict[str, Any]] = {
        "nats": {
            "servers": list(nats.servers),
            "stream": nats.stream,
            "user": nats.user,
            "password": nats.password.get_secret_value() if nats.password else None,
        },
        "clickhouse": {
            "url": f"{scheme}://{store.host}:{store.port}",
            "database": store.database,
            "user": store.user,
            "password": store.password.get_secret_value() if store.password else "",
        },
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, values in found.items():
        for key, value in values.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            click.echo(f"{name + ' ' + key:<20} {shown if shown is not None else '-'}")
