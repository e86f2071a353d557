"""W&B mirrors the records; whatever fails there, training neither ends nor waits."""

import http.server
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mnistjax import checks, tracking
from mnistjax.config import ConfigError
from mnistjax.tracking import login, private

KEY = "0123456789abcdef" * 3
NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home folder without key or settings, which wandb reads again."""
    import wandb

    wandb.teardown()  # a session of another test; first, or its dead WANDB_SERVICE comes back
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("NETRC", raising=False)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    wandb.teardown()


@pytest.fixture
def lines():
    return []


def track(folder, lines, **options):
    folder.mkdir(exist_ok=True)
    options = {"mode": "offline", "config": {}, "run_id": "abc", **options}
    return tracking.Tracker(folder, tell=lines.append, **options)


def moment(epoch) -> Any:
    return SimpleNamespace(row={"epoch": epoch, "train/loss": 1 / epoch, "val/loss": 2 / epoch})


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def service():
    """W&B's process."""
    process = private.find_process()
    assert process is not None
    return process


def read_back(folder):
    """The records of the only offline run in the folder, by wandb's own reader."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def of_type(items, kind):
    return [item[kind] for item in items if item["type"] == kind]


def examples(count=40):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (count, 28, 28), dtype=np.uint8)
    return tracking.Examples(
        images, random.integers(0, 10, count), random.dirichlet(np.ones(10), count), NAMES
    )


def test_an_offline_run_has_everything_that_the_records_have(tmp_path, home, lines):
    folder = tmp_path / "run"
    config = {"model": {"name": "mlp", "hidden": [64]}, "seed": 3}
    within_an_epoch: Any = SimpleNamespace(row=None)
    tracker = track(folder, lines, config=config, project="p", tags=["a"], group="g", name="n")
    (folder / "checkpoint.safetensors").write_bytes(b"weights")
    for epoch in (1, 2, 3):
        tracker(moment(epoch))
        tracker(within_an_epoch)
    summary = {
        "test/accuracy": 0.75,
        "test/confusion_matrix": np.eye(10, dtype=int).tolist(),
        "device": "cpu",
    }
    tracker.show(examples(), summary)
    card = {"test_accuracy": 0.75}
    tracker.log_model(tracking.Model("a b", folder / "checkpoint.safetensors", card, ["job-3"], "mine"))
    tracker.use_data({"name": "mnist", "sha256": "12ab"})
    tracker.finish("done", summary)
    assert lines == []
    assert str(tracker.address).startswith(str(folder / "wandb" / "offline-run-"))
    assert list(home.iterdir()) == []
    assert "WANDB_DATA_DIR" not in os.environ

    items = read_back(folder)
    run = of_type(items, "run")[0]
    assert run["config"]["update"].items() >= config.items()
    assert {key: run[key] for key in ("run_id", "project", "run_group", "display_name", "tags")} == {
        "run_id": "abc",
        "project": "p",
        "run_group": "g",
        "display_name": "n",
        "tags": ["a"],
    }
    assert of_type(items, "run")[-1]["tags"] == ["a", "done"]
    history = [row["item"] for row in of_type(items, "history")]
    rows = [{k: v for k, v in item.items() if not k.startswith("_")} for item in history]
    assert rows[:3] == [moment(epoch).row for epoch in (1, 2, 3)]
    assert [item["_step"] for item in history[:3]] == [1, 2, 3]
    metrics = of_type(items, "metric")
    assert metrics[1]["glob_name"] == "*"
    assert metrics[1]["step_metric"] == "epoch"
    last = {}
    for update in of_type(items, "summary"):
        last |= update["update"]
    assert (last["test/accuracy"], last["device"], last["status"], last["epoch"]) == (0.75, "cpu", "done", 3)
    assert last["test/samples.count"] == 32
    assert last["test/misclassified.captions"][0].startswith("true ")
    assert last["test/confusion_matrix_table.nrows"] == 100
    artifacts = {artifact["name"]: artifact for artifact in of_type(items, "artifact")}
    (content,) = artifacts["a-b"]["manifest"]["contents"]
    assert content["local_path"] == str(folder / "checkpoint.safetensors")
    assert sorted(artifacts["a-b"]["aliases"]) == ["job-3", "latest"]
    assert json.loads(artifacts["a-b"]["metadata"]) == card
    (content,) = artifacts["mnist"]["manifest"]["contents"]
    assert content["ref"] == "sha256:12ab"
    assert artifacts["mnist"]["use_after_commit"]
    assert "use_after_commit" not in artifacts["a-b"]
    assert of_type(items, "exit")[0].get("exit_code", 0) == 0


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("diverged", 1), ("interrupted", 255)])
def test_a_failed_run_is_not_shown_as_finished(tmp_path, lines, status, code):
    tracker = track(tmp_path / "run", lines)
    tracker(moment(1))
    tracker.finish(status)
    assert lines == []
    assert of_type(read_back(tmp_path / "run"), "exit")[0]["exit_code"] == code


def test_the_training_thread_does_not_wait(tmp_path, lines):
    start = time.perf_counter()
    tracker = track(tmp_path / "run", lines)
    costs = []
    for epoch in range(1, 301):
        before = time.perf_counter()
        tracker(moment(epoch))
        costs.append(time.perf_counter() - before)
    assert time.perf_counter() - start < 1  # less than it takes to open the run
    assert sorted(costs)[150] < 1e-3
    tracker.finish("done")
    assert len(of_type(read_back(tmp_path / "run"), "history")) == 300


def test_runs_of_a_sweep_are_open_at_once(tmp_path, lines):
    trackers = [track(tmp_path / name, lines, run_id=name) for name in "ab"]
    for epoch in (1, 2):
        for tracker in trackers:
            tracker(moment(epoch))
    for tracker in trackers:
        tracker.finish("done")
    assert lines == []
    for name in "ab":
        items = read_back(tmp_path / name)
        assert of_type(items, "run")[0]["run_id"] == name
        assert len(of_type(items, "history")) == 2


def assert_harmless(tmp_path, tracker, lines, reason):
    wait_for(lambda: lines)
    start = time.perf_counter()
    for epoch in range(1, 100):
        tracker(moment(epoch))
    tracker.show(examples(), {"test/loss": 1.0})
    tracker.finish("done", {"test/loss": 1.0})
    assert time.perf_counter() - start < 0.5
    assert len(lines) == 1
    assert reason in lines[0]
    assert "\n" not in lines[0]


def test_the_private_parts_of_wandb_are_where_we_use_them(tmp_path, lines):
    import wandb

    missing = private.QUIET.keys() - wandb.Settings.model_fields.keys()
    assert not missing, f"wandb {wandb.__version__} has no settings {missing}, see tracking/private.py"
    settings = private.find_settings()
    assert {"base_url", "mode", "silent"} <= settings.model_fields_set | type(settings).model_fields.keys()
    tracker = track(tmp_path / "run", lines)
    wait_for(lambda: tracker.address)
    process = private.find_process()
    assert process, f"wandb {wandb.__version__} keeps its process elsewhere, see tracking/private.py"
    assert "wandb-core" in Path(f"/proc/{process.pid}/cmdline").read_text()
    telemetry = importlib.import_module("wandb.analytics.opentelemetry.opentelemetry_proxy")
    assert telemetry.get_open_telemetry_proxy() is None
    tracker.finish("done")
    assert process.poll() is None
    process.kill()
    private.release_service(kill=False)
    assert private.find_process() is None


def test_no_thread_sees_settings_without_the_server_of_the_environment(monkeypatch):
    """Else the run of a job would go to W&B's own server."""
    from wandb.sdk.wandb_settings import Settings

    read = Settings.update_from_system_settings
    monkeypatch.setattr(Settings, "update_from_system_settings", lambda self: (time.sleep(0.3), read(self)))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    with ThreadPoolExecutor(4) as pool:
        seen = [pool.submit(lambda: private.find_settings().base_url) for _ in range(4)]
    assert {future.result() for future in seen} == {"http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("setting", "check", "value"),
    [
        *(("run_tags", checks.TAGS, ["a", "x" * length]) for length in (0, 1, 64, 65)),
        *(("project", checks.PROJECT, "x" * length) for length in (1, 128, 129)),
        *(("project", checks.PROJECT, f"a{character}b") for character in " ,;/\\#?%:é字"),
    ],
)
def test_the_limits_are_those_of_wandb(setting, check, value):
    import wandb
    from wandb.errors import UsageError

    try:
        wandb.Settings(**{setting: value})
        taken = True
    except (ValueError, UsageError):
        taken = False
    assert check.holds(value) == taken


@pytest.mark.parametrize("length", [50, 1000])
def test_names_fit_and_stay_different(tmp_path, lines, length):
    """Names of jobs that differ in the middle, in letters of several bytes, as W&B gets them."""
    names = [f"{'ä' * length}{number}{'字' * length} seed=1" for number in range(100)]
    short = [tracking.shorten_name(name) for name in names]
    assert len({*short}) == 100
    assert all(len(name.encode()) <= 128 and name.endswith(" seed=1") for name in short)
    assert tracking.shorten_name("x" * 128) == "x" * 128
    assert tracking.shorten_name("\udcff") == "\\udcff"
    tracker = track(tmp_path / "run", lines, name=names[0], group=names[1])
    tracker.finish("done")
    assert lines == []
    run = of_type(read_back(tmp_path / "run"), "run")[-1]
    assert (run["display_name"], run["run_group"]) == (short[0], short[1])


def test_a_failing_import_is_reported_once(tmp_path, lines, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert_harmless(tmp_path, track(tmp_path / "run", lines), lines, "ModuleNotFoundError")


def test_a_failing_init_is_reported_once(tmp_path, lines, monkeypatch):
    def fail(**options):
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr("wandb.init", fail)
    assert_harmless(tmp_path, track(tmp_path / "run", lines), lines, "RuntimeError: no luck at all")


def test_an_unwritable_folder_is_reported_once(tmp_path, lines):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb").write_text("a file where a folder should be")
    assert_harmless(tmp_path, track(tmp_path / "run", lines), lines, "stops")


def test_online_without_a_key_does_not_ask(tmp_path, lines):
    assert_harmless(tmp_path, track(tmp_path / "run", lines, mode="online"), lines, "no API key")


@pytest.mark.usefixtures("with_key")
def test_a_server_that_is_not_wandbs_ends_tracking(tmp_path, lines, server):
    server.status = 404
    tracker = track(tmp_path / "run", lines, mode="online", patience=2.0)
    tracker(moment(1))
    start = time.perf_counter()
    tracker.finish("done")
    assert time.perf_counter() - start < 5
    assert len(lines) == 1


def test_a_failing_picture_is_reported_once(tmp_path, lines):
    tracker = track(tmp_path / "run", lines)
    broken = tracking.Examples(np.zeros((1, 28, 28)), np.array([99]), np.ones((1, 10)), NAMES)
    tracker.show(broken, {})
    tracker.finish("done")
    assert len(lines) == 1
    assert "IndexError" in lines[0]
    assert of_type(read_back(tmp_path / "run"), "exit")[0]["exit_code"] == 1


def test_a_refused_addition_does_not_end_the_run(tmp_path, lines):
    tracker = track(tmp_path / "run", lines)
    tracker.log_model(tracking.Model("m", tmp_path / "missing.safetensors", {}))
    tracker.use_data({"name": "mnist"})
    tracker(moment(1))
    tracker.finish("done")
    assert [line.partition(" of ")[0] for line in lines] == [
        "W&B did not take the model",
        "W&B did not take the data set",
    ]
    assert "missing.safetensors" in lines[0]
    assert tracker.failed
    items = read_back(tmp_path / "run")
    assert len(of_type(items, "history")) == 1
    assert of_type(items, "exit")[0].get("exit_code", 0) == 0


def test_a_full_queue_ends_tracking_not_training(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(tracking, "QUEUE", 2)
    called, release = threading.Event(), threading.Event()

    def hang(**options):
        called.set()
        release.wait(20)

    monkeypatch.setattr("wandb.init", hang)
    tracker = track(tmp_path / "run", lines)
    assert called.wait(20)
    for epoch in range(1, 5):
        tracker(moment(epoch))
    assert_harmless(tmp_path, tracker, lines, "2 rows wait")
    release.set()


def test_a_killed_service_is_reported_once_and_the_next_run_has_a_new_one(tmp_path, lines):
    tracker = track(tmp_path / "one", lines)
    tracker(moment(1))
    wait_for(lambda: tracker.address)
    service().kill()
    for epoch in range(2, 200):
        tracker(moment(epoch))
        time.sleep(0.005)
    assert_harmless(tmp_path, tracker, lines, "Connection")

    lines.clear()
    tracker = track(tmp_path / "two", lines)
    tracker(moment(1))
    tracker.finish("done")
    assert lines == []
    assert len(of_type(read_back(tmp_path / "two"), "history")) == 1


def test_a_hanging_service_is_killed(tmp_path, lines):
    tracker = track(tmp_path / "run", lines, patience=2.0)
    wait_for(lambda: tracker.address)
    process = service()
    process.send_signal(signal.SIGSTOP)
    start = time.perf_counter()
    tracker(moment(1))
    tracker.finish("done")
    assert 1.5 < time.perf_counter() - start < 5
    assert len(lines) == 1
    assert "did not finish within 2 s" in lines[0]
    assert process.poll() is not None


def test_disabled_does_nothing(tmp_path, lines):
    tracker = track(tmp_path / "run", lines, mode="disabled")
    tracker(moment(1))
    tracker.finish("done")
    assert lines == []
    assert list((tmp_path / "run").iterdir()) == []


@pytest.fixture
def server():
    """A real HTTP server at `url` that answers with `status`, after `delay` seconds, and counts requests."""
    state = SimpleNamespace(status=200, delay=0.0, asked=0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked += 1
            time.sleep(state.delay)
            self.send_response(state.status)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=instance.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{instance.server_port}"
    yield state
    instance.shutdown()
    instance.server_close()


@pytest.fixture
def with_key(server, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(
    ("mode", "variable", "expected"),
    [
        ("online", "offline", "online"),
        ("offline", "online", "offline"),
        ("disabled", None, "disabled"),
        ("auto", "disabled", "disabled"),
        ("auto", "online", "online"),
        ("auto", "dryrun", "offline"),
    ],
)
def test_the_setting_and_the_variable_decide_the_mode(mode, variable, expected, monkeypatch):
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert tracking.resolve_mode(mode) == (expected, None)


def test_an_unknown_mode_names_the_nearest(monkeypatch):
    with pytest.raises(ConfigError, match="nearest is 'online'"):
        tracking.resolve_mode("onlin")
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(ConfigError, match="WANDB_MODE 'of'"):
        tracking.resolve_mode("auto")


@pytest.mark.parametrize("settings", [None, "[default]\n"])
def test_no_key_is_offline(home, monkeypatch, settings):
    if settings is None:
        monkeypatch.setitem(sys.modules, "wandb", None)  # not even imported
    else:
        (home / ".config" / "wandb").mkdir(parents=True)
        (home / ".config" / "wandb" / "settings").write_text(settings)
    mode, line = tracking.resolve_mode("auto")
    assert mode == "offline"
    assert "no API key" in str(line)


@pytest.mark.parametrize(("status", "expected"), [(200, "online"), (404, "online"), (503, "offline")])
@pytest.mark.usefixtures("with_key")
def test_a_server_that_answers_is_online(server, status, expected):
    server.status = status
    mode, line = tracking.resolve_mode("auto")
    assert mode == expected
    assert (line is None) == (expected == "online")


@pytest.mark.usefixtures("with_key")
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_key_is_found_whatever_the_mode_without_a_process_or_a_request(server, home, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)  # wandb.mode=online overrides it
    assert login.find_server() == (server.url, True)
    assert private.find_process() is None
    assert server.asked == 0
    assert not [*home.iterdir()]


@pytest.mark.usefixtures("with_key")
def test_a_key_in_netrc_counts(server, home, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    (home / ".netrc").write_text(f"machine {server.url[7:]}\nlogin user\npassword {KEY}\n")
    assert tracking.resolve_mode("auto") == ("online", None)


def resolve_in_time():
    start = time.perf_counter()
    mode, line = tracking.resolve_mode("auto", timeout=0.5)
    assert time.perf_counter() - start < 1.5
    assert mode == "offline"
    assert "did not answer within 0.5 s" in str(line)


@pytest.mark.usefixtures("with_key")
def test_a_silent_server_is_offline_in_time(server):
    server.delay = 3
    resolve_in_time()


@pytest.mark.usefixtures("with_key")
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_an_address_without_a_server_is_offline_in_time(url, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", url)
    resolve_in_time()


@pytest.mark.usefixtures("with_key")
def test_a_hanging_name_look_up_is_offline_in_time(monkeypatch):
    import wandb  # noqa: F401  (because its import looks up names)

    release = threading.Event()

    def hang(*arguments, **options):
        release.wait(20)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    resolve_in_time()
    release.set()


def test_worst_errors_come_most_confident_first():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    examples = tracking.Examples(np.zeros((4, 28, 28)), np.array([1, 0, 1, 1]), probabilities, ["no", "yes"])
    assert examples.errors().tolist() == [0, 3, 1]


def test_tracking_imports_without_wandb():
    code = "import sys, mnistjax.tracking; assert not {'jax', 'wandb'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
