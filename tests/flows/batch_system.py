"""A Slurm of one's own on loopback: munged, slurmctld and slurmd, one node of two cores."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "sinfo", "squeue")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
START_S, TRY_S = 60, 0.2

CONFIGURATION = """\
ClusterName=mammosift
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=2
MpiDefault=none
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000
PartitionName=night Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""Processes are tracked by their ancestry (no control groups), listeners stay on loopback."""


class Slurm:
    """The three daemons, from `start` to `stop`; what they need lies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.env = os.environ | {"SLURM_CONF": str(self.conf), "PATH": PATH}
        self.daemons: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir(mode=0o755)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self.conf.write_text(
            CONFIGURATION.format(user=getpass.getuser(), folder=folder, ports=_free_ports(2))
        )

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs."""
        munge = self.folder / "munge"
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
        self._until(lambda: (munge / "socket").exists())
        self._start("slurmctld", "-D", "-f", str(self.conf))
        self._start("slurmd", "-D", "-f", str(self.conf), "-N", "localhost")
        self._until(lambda: "idle" in self.ask("sinfo", "--noheader", "-o", "%T"))

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints; nothing where the controller is not up yet."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        return done.stdout

    def stop(self) -> None:
        """End the daemons; jobs that were left over end with them."""
        self.ask("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + START_S
        while self.ask("squeue", "--noheader").strip() and time.monotonic() < deadline:
            time.sleep(TRY_S)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, *command: str) -> None:
        program = shutil.which(command[0], path=PATH)
        assert program is not None
        with (self.folder / f"{command[0]}.out").open("wb") as log:
            self.daemons.append(
                subprocess.Popen(
                    [program, *command[1:]], env=self.env, stdout=log, stderr=log, cwd=self.folder
                )
            )

    def _until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not reached():
            said = [log.read_text()[-2000:] for log in sorted(self.folder.glob("*.out"))]
            assert all(daemon.poll() is None for daemon in self.daemons), said
            assert time.monotonic() < deadline, said
            time.sleep(TRY_S)


def _free_ports(n: int) -> list[int]:
    taken = [socket.socket() for _ in range(n)]
    try:
        for s in taken:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in taken]
    finally:
        for s in taken:
            s.close()
