"""Runs of a stranger who puts markup into every text."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from mnistjax.records.fields import CURVES
from small import SUMMARY, made_run

DATA = SUMMARY["data"]
MARKUP = [
    "<img src=x onerror=window.pwned=1>",
    "</script><script>window.pwned=2</script>",
    "&lt;img src=x onerror=window.pwned=3&gt;",
    "\"onmouseover='window.pwned=4'",
    '<a href="javascript:window.pwned=5">go</a><b>bold</b>',
    "javascript:window.pwned=6",
    "<img src=x onerror=window.pwned=7 a=&amp;",  # never closed
    "<svg onload=window.pwned=8>",
    "${window.pwned=9}%{x}{{x}}%data%",
]
NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "<i>key</i>.<b>name</b>", "a&amp;b"]


def hostile(number, **changes):
    """A run with markup in each of its texts, and keys that objects have of their own."""
    evil = MARKUP[number % len(MARKUP)]
    own: dict[str, Any] = dict.fromkeys(NAMES, f"{evil}{number % 3}")
    run = made_run(number % 2, accuracy=0.5 + number / 100, **own)
    summary: Any = run.summary
    summary["data"] = {**DATA, "class_names": [evil, f"__proto__{evil}"], "name": evil, "sha256": evil}
    facts = {"folder": Path("/runs") / evil.replace("/", "|"), "reason": evil, "identity": f"{evil}{number}"}
    facts |= {"sweep": evil, "name": evil, "started": evil}
    config = {
        **run.config,
        "list": [evil, evil],
        "mapping": {evil: [evil, {evil: evil}]},
        "nan": float("nan"),
    }
    return dataclasses.replace(run, **{**facts, "config": config, **changes})


def list_hostile():
    runs = [hostile(number) for number in range(len(MARKUP) * 2)]
    odd = [{**runs[0].config, "seed": evil} for evil in MARKUP]
    runs += [hostile(0, status=evil, config=config) for evil, config in zip(MARKUP, odd, strict=True)]
    rows = [{"epoch": MARKUP[0], **dict.fromkeys(CURVES, MARKUP[0])}]
    runs += [hostile(1, rows=rows), hostile(2, summary=dict.fromkeys(runs[0].summary, MARKUP[0]))]
    return [*runs, hostile(3, status="waiting", started=None, summary={}, rows=[])]


def poison(path):
    """Put markup in place of every text, and beside every key, of a file."""

    def change(value):
        if isinstance(value, dict):
            return {key: change(item) for key, item in value.items()} | dict.fromkeys(NAMES, MARKUP[0])
        if isinstance(value, list):
            return [change(item) for item in value]
        return MARKUP[1] if isinstance(value, str) else value

    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        changed = [dict.fromkeys(row, MARKUP[0]) for row in rows]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    else:
        read, write = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
        path.write_text(write(change(read(path.read_text()))))
