"""The panels of the dashboard, and a page with them that Prometheus serves."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from monitoring.prometheus import COMPONENT

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="30">
<title>mnist-kserve</title>
<link rel="stylesheet" href="/classic/static/rickshaw/rickshaw.min.css">
<link rel="stylesheet" href="/classic/static/css/prom_console.css">
<script src="/classic/static/d3/d3.min.js"></script>
<script src="/classic/static/rickshaw/rickshaw.min.js"></script>
<script src="/classic/static/jquery/jquery.min.js"></script>
<script>var PATH_PREFIX = "";</script>
<script src="/classic/static/js/prom_console.js"></script>
<style>
  body { font-family: sans-serif; margin: 1rem; }
  section { display: grid; grid-template-columns: repeat(auto-fill, 28rem); gap: 1rem; }
  h2 { font-size: 1rem; margin: 0; }
</style>
<h1>mnist-kserve</h1>
<p>The last 15 minutes; loaded again every 30 seconds. <a href="/">Alerts, targets, queries</a></p>
"""


class Panel(NamedTuple):
    """A panel, with its queries by their legends."""

    row: str
    title: str
    queries: dict[str, str]


def panels(interval: str) -> Iterator[Panel]:
    """The panels, with Grafana's variables replaced as Grafana would.

    ``interval`` is the time over which rates are taken, such as ``1m``.
    """
    row = ""
    text = (COMPONENT / "dashboard.json").read_text(encoding="utf-8")
    for panel in json.loads(text)["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        queries = {
            target["legendFormat"]: target["expr"]
            .replace("$namespace", "default")
            .replace("$__rate_interval", interval)
            for target in panel["targets"]
        }
        yield Panel(row, panel["title"], queries)


def write_console(folder: Path, *, interval: str) -> None:
    """Write the page to ``folder``, which is Prometheus's ``--web.console.templates``."""
    page = HEAD
    row = ""
    for index, panel in enumerate(panels(interval)):
        if panel.row != row:
            page += f"{'</section>' if row else ''}<h1>{panel.row}</h1><section>\n"
            row = panel.row
        graph = {
            "expr": list(panel.queries.values()),
            # Mustache, but with brackets in place of Grafana's braces.
            "name": [re.sub(r"{{(\w+)}}", r"[[ \1 ]]", name) for name in panel.queries],
            "duration": 900,
        }
        page += (
            f'<div><h2>{html.escape(panel.title)}</h2><div id="panel{index}"></div></div>\n'
            f'<script>new PromConsole.Graph({{node: document.getElementById("panel{index}"), '
            f"...{json.dumps(graph)}}})</script>\n"
        )
    (folder / "index.html").write_text(page + "</section>\n", encoding="utf-8")
