"""What a process finds out about the others of its run, from flags, variables and what clusters set."""

import pytest

from mtlflax.errors import UserError
from mtlflax.training import cluster
from mtlflax.training.cluster import Cluster

pytestmark = pytest.mark.quick

NONE = ("", "", "")
GIVEN = {"JAX_COORDINATOR_ADDRESS": "host:12", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[001-003,007],other",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "5",
}
MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1,10.108.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}


def test_flags_come_before_variables_and_those_before_clusters():
    flags = ("first:99", "2", "1")
    assert cluster.find(flags, GIVEN | SLURM | MPI) == Cluster("flags", "first:99", 2, 1)
    assert cluster.find(NONE, GIVEN | SLURM | MPI) == Cluster("environment variables", "host:12", 4, 3)
    assert cluster.find(NONE, SLURM | MPI).found_by == "Slurm"
    assert cluster.find(NONE, MPI).found_by == "Open MPI"
    assert cluster.find(NONE, {}) is None
    with_devices = GIVEN | {"JAX_LOCAL_DEVICE_IDS": "1,2"}
    assert cluster.find(NONE, with_devices).local_devices == (1, 2)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("gpu-a-[3,5]", "gpu-a-3"),
        ("gpu-[1-2].cluster,other", "gpu-1.cluster"),
        ("rack[1-2]n[3-4]", "rack1n3"),
    ],
)
def test_the_first_host_of_a_slurm_step(nodes, first):
    found = cluster.find(NONE, SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert found.coordinator == f"{first}:{65535 - 4096 + 1 + 1}"
    assert (found.num_processes, found.process_id) == (5, 2)
    elsewhere = cluster.find(NONE, SLURM | {"JAX_COORDINATOR_PORT": "77"})
    assert elsewhere.coordinator.endswith(":77")


@pytest.mark.parametrize(
    ("nodes", "visible", "devices"),
    [
        ("5", "", None),  # one task a node: all of its GPUs
        ("5", "0,1,2,3", None),
        ("2", "0,1,2,3", (3,)),  # several tasks a node: one GPU each
        ("2", "", (3,)),
        ("2", "2", None),  # Slurm shows each task its own alone (--gpus-per-task)
    ],
)
def test_slurm_with_one_task_a_node_and_with_one_a_gpu(nodes, visible, devices):
    environment = SLURM | {"SLURM_STEP_NUM_NODES": nodes, "SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": visible}
    assert cluster.find(NONE, environment).local_devices == devices


def test_outside_a_step_and_for_a_single_task_a_run_is_one_process():
    assert cluster.find(NONE, SLURM | {"SLURM_NTASKS": "1"}) is None
    assert cluster.find(NONE, {k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}) is None  # salloc
    assert cluster.find(NONE, MPI | {"OMPI_COMM_WORLD_SIZE": "1"}) is None


def test_open_mpi():
    found = cluster.find(NONE, MPI)
    assert found.coordinator.startswith("10.96.0.1:")
    assert found[2:] == (8, 5, (1,))
    ports = set()
    for job in range(20):  # job numbers are multiples of 4096
        uri = f"{job * 4096}.0;tcp://10.96.0.1:34911"
        ports.add(cluster.find(NONE, MPI | {"OMPI_MCA_orte_hnp_uri": uri}).coordinator.rpartition(":")[2])
    assert len(ports) > 15
    assert all(61440 <= int(port) < 65536 for port in ports)
    assert cluster.find(NONE, MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}).local_devices is None
    six = cluster.find(NONE, MPI | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp6://[fe80::b9b,2620::2]:43370"})
    assert six.coordinator.startswith("[fe80::b9b]:")
    with pytest.raises(UserError, match="Open MPI, but the address of its first host is not known: set JAX_COORD"):
        cluster.find(NONE, MPI | {"OMPI_MCA_orte_hnp_uri": ""})


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID not given; give all of"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID is '4' and JAX_NUM_PROCESSES is '4'"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "JAX_COORDINATOR_ADDRESS is 'host': give host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "host:99999"}, "give host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "http://host:80"}, "give host:port"),
        ({"JAX_LOCAL_DEVICE_IDS": "a"}, "JAX_LOCAL_DEVICE_IDS is 'a'"),
    ],
)
def test_nonsense_is_said(environment, named):
    with pytest.raises(UserError, match=named):
        cluster.find(NONE, GIVEN | environment)
    with pytest.raises(UserError, match="--num_processes, --process_id not given; give all of --coordinator"):
        cluster.find(("host:1", "", ""), {})


def test_one_process():
    assert cluster.initialize(NONE, {}) == "one process: no cluster was found"
    assert cluster.initialize(("host:1", "2", "0"), {"MTLFLAX_DISTRIBUTED": "0"}).startswith("one process: ")
    with pytest.raises(UserError, match=r"no cluster was found .*: set JAX_COORDINATOR_ADDRESS"):
        cluster.initialize(NONE, {"MTLFLAX_DISTRIBUTED": "1"})
    assert cluster.initialize(("host:1", "1", "0"), {}) == "one process, by flags"
    with pytest.raises(UserError, match="JAX_COORDINATOR_PORT is 'abc'"):
        cluster.find(NONE, SLURM | {"JAX_COORDINATOR_PORT": "abc"})
    with pytest.raises(UserError, match="MTLFLAX_DISTRIBUTED is 'yes'"):
        cluster.initialize(NONE, {"MTLFLAX_DISTRIBUTED": "yes"})
    with pytest.raises(UserError, match="MTLFLAX_START_TIMEOUT is 'soon'"):
        cluster.initialize(NONE, {"MTLFLAX_START_TIMEOUT": "soon"})


def test_a_cloud_tpu_is_told_by_its_variables():
    assert cluster.on_cloud_tpu({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert not cluster.on_cloud_tpu({})
