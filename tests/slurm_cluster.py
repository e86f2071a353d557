"""A real Slurm on this host, for tests: its controller and one node, without accounts and without munge."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from test_sweep import wait_until

MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "squeue") if not shutil.which(name)]
PATIENCE = 60  # seconds that Slurm has to start or stop

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=tests Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def running_cluster(folder: Path, cores: int = 2) -> Iterator[str]:
    """Runs Slurm; gives the path of its configuration, the value of SLURM_CONF. Cancels what is left."""
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    host = socket.gethostname().partition(".")[0]
    values = {"host": host, "folder": folder, "user": _user(), "cores": cores}
    ports = {"controller_port": _free_port(), "node_port": _free_port()}
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(**values, **ports), "utf-8")
    with contextlib.ExitStack() as stack:
        for daemon in ("slurmctld", "slurmd"):
            stack.enter_context(_running([daemon, "-D", "-f", str(config)]))
        wait_until(lambda: call("sinfo", "-h", "-o", "%T", config=config).strip() == "idle")
        yield str(config)
        call("scancel", f"--user={_user()}", config=config)
        wait_until(lambda: not call("squeue", "-h", config=config).strip())


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def call(*command: str, config: Path | None = None) -> str:
    """What a command of Slurm prints; nothing if it fails."""
    variables = {**os.environ, **({"SLURM_CONF": str(config)} if config else {})}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    return "" if done.returncode else done.stdout


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
