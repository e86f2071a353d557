"""W&B as a mirror of the records; the only room that imports wandb.

No W&B call runs in the training thread. A tracker owns a daemon thread that imports wandb, opens the
run and works through a bounded queue; whatever fails there is said once, and training goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnistjax import checkpoints
from mnistjax.config import ConfigError, one_line, unknown

if TYPE_CHECKING:
    from mnistjax.run import Progress

MODES = {  # what wandb itself takes in WANDB_MODE
    "auto": "auto",
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RESUME")  # set by `wandb agent`
SHOWN = 32  # images of each kind
QUEUE = 10_000  # rows that may wait for W&B
EXIT_CODES = {"done": 0, "interrupted": 255}  # 255 is what wandb records for Ctrl-C; else 1

LOGIN_TIMEOUT = 10.0  # seconds
OPEN_RUNS = 32  # of this process at a time; the others wait, and lose nothing

_environment = threading.Lock()
_places = threading.BoundedSemaphore(OPEN_RUNS)


@dataclass(frozen=True, eq=False)
class Examples:
    """Test images with what the model made of them."""

    images: np.ndarray  # (N, H, W) uint8
    labels: np.ndarray  # (N,) int
    probabilities: np.ndarray  # (N, K) float
    class_names: Sequence[str]


def make_run_id(*parts: str) -> str:
    """The id of the W&B run that these name."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def leave_agent() -> str | None:
    """Removes from the environment what `wandb agent` says of its run; a line for the user if it was there.

    Under these variables the client gives every run of the process the agent's id, and the jobs of a sweep
    would overwrite one another.
    """
    found = [name for name in AGENT if os.environ.pop(name, None)]
    if not found:
        return None
    return f"the run of W&B's agent is not used: each job of a sweep has its own ({', '.join(found)} unset)"


def find_address(folder: Path, run_id: str, sibling: str | None) -> str | None:
    """Where the run of a folder lies: a URL like its sibling's, or a folder below; None where it has none."""
    if sibling and sibling.startswith("http"):
        return f"{sibling.rpartition('/')[0]}/{run_id}"
    found = sorted(folder.glob(f"wandb/offline-run-*-{run_id}"))
    return str(found[-1]) if found else None


def worst_errors(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most `count` misclassified images, the most confident error first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:count]


def resolve_mode(mode: str, *, timeout: float = 3.0) -> tuple[str, str | None]:
    """ "online", "offline" or "disabled" for `wandb.mode`, and a line for the user where `auto` went offline.

    `auto` is what WANDB_MODE says, else online if there is a key and the server answers within `timeout` s.
    """
    asked = os.environ.get("WANDB_MODE", "auto") if mode == "auto" else mode
    if asked not in MODES:
        raise unknown("WANDB_MODE" if mode == "auto" else "wandb.mode", asked, MODES)
    if MODES[asked] != "auto":
        return MODES[asked], None
    try:
        url, has_key = _server() if _may_have_key() else ("", False)
    except Exception as error:  # wandb's own errors can't be named without importing it
        return "offline", f"W&B is offline: {one_line(error)[:200]}"
    if not has_key:
        return "offline", "W&B is offline: no API key (`wandb login` sets one)"
    if not _answers(url, timeout):
        return "offline", f"W&B is offline: {url} did not answer within {timeout:g} s"
    return "online", None


def check_login() -> None:
    """ConfigError where there is no key for W&B's server, a wrong one, or no answer from it."""
    try:
        url, has_key = _server()
    except Exception as error:  # wandb's own errors can't be named without importing it
        raise ConfigError(f"W&B: {one_line(error)}") from None
    if not has_key:
        raise ConfigError("no API key for W&B; `wandb login` sets one")
    if not _answers(url, LOGIN_TIMEOUT):
        raise ConfigError(f"{url} did not answer within {LOGIN_TIMEOUT:g} s")


def default_entity() -> str:
    """The user or team that runs of the login belong to; ConfigError where it can't be had."""
    import wandb

    try:
        entity = wandb.Api().default_entity
    except Exception as error:
        raise ConfigError(f"W&B: {one_line(error)}") from None
    if not entity:
        raise ConfigError("the W&B login has no default entity; --entity says which")
    return str(entity)


class Tracker:
    """An observer that mirrors one run to W&B, in `<folder>/wandb/`; no method raises or waits for W&B.

    Only `finish` waits, at most `patience` seconds. `tell` gets the one line said when tracking stops.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        config: Mapping[str, Any],
        run_id: str,
        mode: str,
        project: str = "mnistjax",
        entity: str | None = None,
        tags: Sequence[str] = (),
        group: str | None = None,
        name: str | None = None,
        job_type: str | None = None,
        step_metric: str = "epoch",
        patience: float = 30.0,
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.address: str | None = None  # where the run lies: a URL, or a folder while offline
        self._folder = Path(folder).absolute()
        self._patience = patience
        self._tell = tell
        self._stopped = threading.Event()
        self.failed = False  # whether tracking stopped before its end, which was told
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(QUEUE)
        options = {"project": project, "entity": entity, "tags": list(tags), "group": group, "name": name}
        options |= {"job_type": job_type, "step_metric": step_metric}
        options |= {"config": dict(config), "id": run_id, "mode": mode}
        self._thread = threading.Thread(target=self._work, args=(options,), name="wandb", daemon=True)
        if mode == "disabled":
            self._stopped.set()
        else:
            self._thread.start()

    def __call__(self, moment: Progress) -> None:
        """W&B gets the moment's row, if an epoch ended; costs microseconds here."""
        if moment.row is not None:
            row = dict(moment.row)
            # Commit at once: a kill would lose a row that waits for the next one.
            self._send(lambda run: run.log(row, step=row["epoch"], commit=True))

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """W&B gets those of the rows, whose step is their epoch, that come after the last one it has."""

        def send(run: Any) -> None:
            for row in rows:
                if row["epoch"] >= run.starting_step:
                    run.log({k: _number(v) for k, v in row.items()}, step=row["epoch"], commit=True)

        self._send(send)

    def log(self, values: Mapping[str, Any]) -> None:
        """W&B gets these values as the next point of their curves."""
        self._send(lambda run: run.log(dict(values), commit=True))

    def log_tables(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """W&B gets these tables; their columns are the keys of all rows."""

        def send(run: Any) -> None:
            import wandb

            made = {}
            for name, rows in tables.items():
                columns: Any = list(dict.fromkeys(key for row in rows for key in row))
                cells = [[str(row.get(column, "")) for column in columns] for row in rows]
                made[name] = wandb.Table(columns=columns, data=cells)
            with _files_below(self._folder):
                run.log(made)

        self._send(send)

    def show(
        self, examples: Examples, summary: Mapping[str, Any], folder: Path, run_id: str, *, prefix: str = ""
    ) -> None:
        """W&B gets images of a run that is done, its confusion matrix, and its checkpoint as an artifact."""

        def send(run: Any) -> None:
            pictures = {f"{prefix}{key}": value for key, value in _pictures(summary, examples).items()}
            with _files_below(self._folder):
                run.log(pictures)
                if (folder / checkpoints.CHECKPOINT).exists():
                    run.log_artifact(_artifact(run_id, folder / checkpoints.CHECKPOINT))

        self._send(send)

    def finish(self, status: str, summary: Mapping[str, Any] | None = None, *, wait: bool = True) -> None:
        """The run is closed under `status`, with its summary."""

        def send(run: Any) -> None:
            plain = {k: _number(v) for k, v in (summary or {}).items() if isinstance(v, (int, float, str))}
            run.summary.update({**plain, "status": status})
            run.finish(exit_code=EXIT_CODES.get(status, 1))

        self._send(send)
        self._send(None)
        if wait:
            self.join()

    def join(self) -> None:
        """Waits for the end of a run that `finish` has closed."""
        if self._stopped.is_set():
            return
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._stop(f"it did not finish within {self._patience:g} s")
            _release_service(kill=True)
        self._stopped.set()

    def _send(self, job: Callable[[Any], None] | None) -> None:
        if not self._stopped.is_set():
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                self._stop(f"{QUEUE:,} rows wait for it")

    def _stop(self, reason: str) -> None:
        if not self._stopped.is_set():
            self.failed = True
            self._stopped.set()
            with contextlib.suppress(OSError, ValueError):  # a closed terminal
                self._tell(f"W&B tracking of {self._folder} stops ({reason}); the records go on")

    def _work(self, options: dict[str, Any]) -> None:
        run = None
        _places.acquire()
        try:
            run = _open(self._folder, options, self._patience)
            self.address = run.url if options["mode"] == "online" else str(Path(run.dir).parent)
            while (job := self._queue.get()) is not None and not self._stopped.is_set():
                job(run)
        except Exception as error:  # whatever it is, it must not reach training
            self._stop(one_line(error)[:200])
        finally:
            if self._stopped.is_set():
                with contextlib.suppress(Exception):
                    if run is not None:
                        run.finish(exit_code=1)
                _release_service(kill=False)
            _places.release()


def _open(folder: Path, options: dict[str, Any], patience: float) -> Any:
    import wandb

    options, step_metric = dict(options), options["step_metric"]
    del options["step_metric"]
    _, has_key = _server()
    if options["mode"] == "online" and not has_key:
        raise ValueError("no API key; `wandb login` sets one")  # wandb would ask at the terminal
    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=patience,
        finish_timeout=0.8 * patience,  # W&B's own giving up comes before ours
        finish_timeout_raises=True,
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    resume = "allow" if options["mode"] == "online" else None
    with _files_below(folder):
        run = wandb.init(dir=folder, reinit="create_new", resume=resume, settings=settings, **options)
    run.define_metric(step_metric)
    run.define_metric("*", step_metric=step_metric)
    return run


def _may_have_key() -> bool:
    """Whether any of the places where wandb looks for a key exists; without one the import is spared."""
    variables = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_CONFIG_DIR")
    files = (".netrc", "_netrc", ".config/wandb/settings")
    return any(map(os.environ.get, variables)) or any((Path.home() / file).exists() for file in files)


def _server() -> tuple[str, bool]:
    """The server's URL, and whether environment, netrc or wandb's settings hold credentials for it."""
    import wandb
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    url = wandb_setup.singleton().settings.base_url
    wandb.termsetup(wandb.Settings(silent=True), None)
    found = wbauth.authenticate_session(host=url, source="mnistjax", prompt=False, update_session=False)
    return url, found is not None


def _answers(url: str, timeout: float) -> bool:
    """Whether an HTTP server answers there within `timeout` seconds, name resolution included."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=timeout).close()
            answered.set()
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 407:  # a proxy speaks for a server it can't reach
                answered.set()
        except Exception:  # no answer, whatever the reason
            return

    # A look-up that hangs can't be interrupted, only left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


@contextlib.contextmanager
def _files_below(folder: Path) -> Iterator[None]:
    """wandb's staging and cache folders lie in the run folder meanwhile, not in the user's home.

    It reads them from the environment only.
    """
    with _environment:
        missing = {"WANDB_DATA_DIR", "WANDB_CACHE_DIR"} - os.environ.keys()
        os.environ.update(dict.fromkeys(missing, str(folder / "wandb")))
        try:
            yield
        finally:
            for name in missing:
                os.environ.pop(name, None)


def _pictures(summary: Mapping[str, Any], examples: Examples) -> dict[str, Any]:
    """The confusion matrix as W&B's own chart, the first test images, and the worst errors."""
    import wandb

    names = examples.class_names
    pictures: dict[str, Any] = {}
    if "test/confusion_matrix" in summary:
        counts = np.asarray(summary["test/confusion_matrix"])
        cells = [[names[i], names[j], int(count)] for (i, j), count in np.ndenumerate(counts)]
        fields = {column: column for column in ("Actual", "Predicted", "nPredictions")}
        pictures["test/confusion_matrix"] = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=[*fields], data=cells),
            fields,
            {"title": "Confusion matrix, test"},
        )
    worst = worst_errors(examples.labels, examples.probabilities, SHOWN)
    shown = {"test/samples": np.arange(min(SHOWN, len(examples.labels))), "test/misclassified": worst}
    for key, indices in shown.items():
        if len(indices):
            pictures[key] = [wandb.Image(examples.images[i], caption=_caption(examples, i)) for i in indices]
    return pictures


def _caption(examples: Examples, index: int) -> str:
    row = examples.probabilities[index]
    names, predicted = examples.class_names, int(row.argmax())
    return f"true {names[int(examples.labels[index])]}, predicted {names[predicted]} ({row[predicted]:.2f})"


def _artifact(run_id: str, checkpoint: Path) -> Any:
    import wandb

    artifact = wandb.Artifact(f"checkpoint-{run_id}", type="model")
    # The checkpoint of a run that is done never changes: no copy in the staging folder or the cache.
    artifact.add_file(str(checkpoint), policy="immutable", skip_cache=True)
    return artifact


def _number(value: Any) -> Any:
    """A number that the records keep as a word, as one again."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def _release_service(*, kill: bool) -> None:
    """W&B's process, killed first if asked, is forgotten if it is dead, and the next run starts a new one.

    Else wandb's exit hook would wait for it without end, or end with a traceback. There is no public way to
    the process; and wandb is looked up, not imported, because its import may be what hangs.
    """
    setup = getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None)
    service = getattr(getattr(setup, "_connection", None), "_proc", None)
    process = getattr(service, "_process", None)
    if process is None:
        return
    if kill:
        process.kill()
        process.wait()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)  # its connection breaks a moment before it is dead
    if process.poll() is not None:
        with contextlib.suppress(Exception):
            sys.modules["wandb"].teardown()
