"""The processes of a run on several hosts: what each finds out about the others, and how they meet.

Looked at in this order:

1. flags of the command: --coordinator, --num_processes, --process_id;
2. the environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID;
3. Slurm (inside `srun`), and Open MPI (inside `mpirun`);
4. Cloud TPU, also on GKE, which JAX knows itself;
5. else the run is one process.

MTLFLAX_DISTRIBUTED=0 makes it one process wherever it is; MTLFLAX_DISTRIBUTED=1 makes it an error to find no others.
"""

import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from mtlflax.errors import UserError
from mtlflax.training import meeting

FLAGS = ("--coordinator", "--num_processes", "--process_id")
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_PORTS = (65535 - 2**12 + 1, 2**12)  # the first of those that a job's number chooses among, and how many


class Cluster(NamedTuple):
    """The processes of a run, as one of them sees them."""

    found_by: str  # where this was found
    coordinator: str  # host:port of process 0
    num_processes: int
    process_id: int
    local_devices: tuple[int, ...] | None = None  # the numbers of the devices that are this process's; None: all


def initialize(flags: tuple[str, ...] = ("", "", ""), environment: Mapping[str, str] = os.environ) -> str:
    """Join the other processes of the run, if there are any, before anything touches a device.

    `flags` are the values of `FLAGS`, empty where not given. Waits for the others, and says for whom; for how many
    seconds is in the environment variable MTLFLAX_START_TIMEOUT (300).

    Returns:
        A line that says what was found; for process 0 to print.

    Raises:
        UserError: only some of the flags or variables are given, or they make no sense; the others did not come in
            time; MTLFLAX_DISTRIBUTED is 1 and there are no others.
    """
    wanted = environment.get("MTLFLAX_DISTRIBUTED", "")
    seconds = _seconds(environment)
    if wanted not in ("", "0", "1"):
        raise UserError(f"MTLFLAX_DISTRIBUTED is {wanted!r}: give 0, 1, or nothing")
    if wanted == "0":
        return "one process: MTLFLAX_DISTRIBUTED is 0"
    found = find(flags, environment)
    if found and found.num_processes == 1:
        return f"one process, by {found.found_by}"
    if found:
        meeting.meet(found.coordinator, found.num_processes, found.process_id, seconds)
        _join(found, seconds)
        return f"{_several(found.num_processes)}, by {found.found_by}; process 0 is at {found.coordinator}"
    if on_cloud_tpu(environment):
        try:
            jax.distributed.initialize(initialization_timeout=int(seconds))
        except (RuntimeError, ValueError, ImportError) as error:
            raise UserError(
                f"this is a Cloud TPU, but the processes did not find each other: {error}\nStart the command on all "
                "workers at once, set MTLFLAX_DISTRIBUTED=0 for a run on this one alone, or give "
                f"{', '.join(FLAGS)}"
            ) from error
        return f"{_several(jax.process_count())}, by Cloud TPU"
    if wanted == "1":
        raise UserError(
            f"MTLFLAX_DISTRIBUTED is 1, but no cluster was found (looked for Slurm, Open MPI and Cloud TPU): set "
            f"{', '.join(VARIABLES)}"
        )
    return "one process: no cluster was found"


def find(flags: tuple[str, ...], environment: Mapping[str, str]) -> Cluster | None:
    """Return the cluster that flags, variables, Slurm or Open MPI tell of; None if none does.

    UserError if only some of the flags or variables are given, or any makes no sense.
    """
    for names, values, found_by in (
        (FLAGS, flags, "flags"),
        (VARIABLES, tuple(environment.get(name, "") for name in VARIABLES), "environment variables"),
    ):
        if all(values):
            return _given(names, values, found_by, environment)
        if any(values):
            missing = [name for name, value in zip(names, values, strict=True) if not value]
            raise UserError(
                f"several processes: {', '.join(missing)} not given; give all of {', '.join(names)}, or none"
            )
    return _slurm(environment) or _open_mpi(environment)


def on_cloud_tpu(environment: Mapping[str, str], devices: Path = Path("/dev")) -> bool:
    """Whether this is a worker of a Cloud TPU: JAX's library for it is installed, and there is such a device."""
    if "TPU_WORKER_HOSTNAMES" in environment or "TPU_PROCESS_ADDRESSES" in environment:
        return True
    try:
        import libtpu  # type: ignore[import-not-found]  # noqa: F401 (of the extra `tpu`)
    except ImportError:
        return False
    return any(devices.glob("accel*")) or any(devices.glob("vfio/[0-9]*"))


def _given(names: tuple[str, ...], values: tuple[str, ...], found_by: str, environment: Mapping[str, str]) -> Cluster:
    address, count, index = values
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"{names[2]} is {index!r} and {names[1]} is {count!r}: give numbers, counted from 0 and below the count"
        )
    if not re.fullmatch(r"[^\s/]+:\d+", address) or not 0 < int(address.rpartition(":")[2]) < 65536:
        raise UserError(f"{names[0]} is {address!r}: give host:port of process 0, such as node1:1234")
    local = environment.get("JAX_LOCAL_DEVICE_IDS", "")
    if local and not re.fullmatch(r"\d+(,\d+)*", local):
        raise UserError(f"JAX_LOCAL_DEVICE_IDS is {local!r}: give numbers of devices, such as 0,1")
    devices = tuple(int(number) for number in local.split(",")) if local else None
    return Cluster(found_by, address, int(count), int(index), devices)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    """The tasks of a step that `srun` has started; None for a single task, and outside a step, as in `salloc`."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if not all(environment.get(name) for name in needed) or environment["SLURM_NTASKS"] == "1":
        return None
    job, nodes, count, index, local = (environment[name] for name in needed)
    # "node[001-003,007],other": the first is node001; of each bracket, the first counts.
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None or not (job.isdecimal() and count.isdecimal() and index.isdecimal() and local.isdecimal()):
        raise UserError("Slurm's variables make no sense: set MTLFLAX_DISTRIBUTED=0, or JAX_COORDINATOR_ADDRESS, …")
    # One task a node has all of its GPUs. Several share them, unless Slurm shows each task its own alone.
    alone = int(environment.get("SLURM_STEP_NUM_NODES", "0")) == int(count)
    own = len([d for d in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]) == 1
    host = re.sub(r"\[([^,\-\]]*)[^\]]*\]", r"\1", first[0])
    return Cluster("Slurm", f"{host}:{_port(environment, job)}", int(count), int(index), _own(alone or own, local))


def _open_mpi(environment: Mapping[str, str]) -> Cluster | None:
    """The processes of `mpirun`; None for a single one."""
    uri = environment.get("OMPI_MCA_orte_hnp_uri") or environment.get("PMIX_SERVER_URI41", "")
    count, index, local = (environment.get(f"OMPI_COMM_WORLD_{name}", "") for name in ("SIZE", "RANK", "LOCAL_RANK"))
    if not (count.isdecimal() and index.isdecimal() and local.isdecimal()) or count == "1":
        return None
    # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", or "tcp6://[fe80::1,...]:43370"
    address = re.search(r"tcp4?://([^,:]+)|tcp6://\[([^,\]]+)", uri)
    if address is None:
        raise UserError(f"this is Open MPI, but the address of its first host is not known: set {', '.join(VARIABLES)}")
    host = address[1] or f"[{address[2]}]"
    job = str(zlib.crc32(uri.partition(";")[0].encode()))  # its number is always a multiple of 4096
    alone = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    return Cluster("Open MPI", f"{host}:{_port(environment, job)}", int(count), int(index), _own(alone, local))


def _own(alone: bool, local: str) -> tuple[int, ...] | None:
    return None if alone else (int(local),)


def _port(environment: Mapping[str, str], job: str) -> str:
    """A port that all processes of a job agree on, and those of another job on the same host do not share."""
    first, count = _PORTS
    port = environment.get("JAX_COORDINATOR_PORT") or str(first + int(job) % count)
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"JAX_COORDINATOR_PORT is {port!r}: give the number of a port")
    return port


def _several(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"


def _seconds(environment: Mapping[str, str]) -> float:
    given = environment.get("MTLFLAX_START_TIMEOUT", "300")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0
    if not 1 <= seconds < 1e6:
        raise UserError(f"MTLFLAX_START_TIMEOUT is {given!r}: give seconds")
    return seconds


def _join(found: Cluster, seconds: float) -> None:
    try:
        jax.distributed.initialize(
            found.coordinator,
            found.num_processes,
            found.process_id,
            local_device_ids=found.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=int(seconds),
        )
    except RuntimeError as error:  # jaxlib's errors are of this kind
        raise UserError(f"process {found.process_id} cannot join the others at {found.coordinator}: {error}") from error
