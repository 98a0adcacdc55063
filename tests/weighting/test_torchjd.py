"""Against TorchJD's aggregators, in its conventions, where it is installed: `pip install torchjd` (see .ci/run)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlflax import weighting

torch = pytest.importorskip("torch")
aggregation = pytest.importorskip("torchjd.aggregation")

COUNT = 12


def jacobians(num_tasks, seed=0, size=9):
    """Random task gradients that conflict about as often as not, of unlike lengths, well conditioned."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < COUNT:
        J = rng.normal(size=(num_tasks, size)) + rng.normal(size=size) * 0.5
        J *= np.exp(rng.normal(size=(num_tasks, 1)) * 0.5)
        if np.linalg.cond(J @ J.T) < 1e3:
            found.append(J.astype(np.float32))
    return found


# Ours, its options, TorchJD's, for how many tasks, relative tolerance. TorchJD's PCGrad and GradVac draw an order for
# more than two tasks; its MGDA is an approximation, made finer here; its Nash-MTL stops at most random Jacobians
# before it has solved G a = 1/a, and is compared at its golden only (test_gradient_solvers).
CASES = {
    "sum": ("sum", {}, lambda k: aggregation.Sum(), (2, 3, 5), 1e-5),
    "mean": ("mean", {}, lambda k: aggregation.Mean(), (2, 3, 5), 1e-5),
    "pcgrad": ("pcgrad", {}, lambda k: aggregation.PCGrad(), (2,), 1e-4),
    "imtl_g": ("imtl_g", {}, lambda k: aggregation.IMTLG(), (2, 3, 5), 1e-3),
    "config": ("config", {}, lambda k: aggregation.ConFIG(), (2, 3, 5), 1e-3),
    **{
        f"aligned_mtl {scale}": (
            "aligned_mtl",
            {"scale": scale},
            lambda k, scale=scale: aggregation.AlignedMTL(scale_mode=scale),
            (2, 3, 5),
            1e-3,
        )
        for scale in ("min", "median", "rmse")
    },
    "mgda": ("mgda", {}, lambda k: aggregation.MGDA(epsilon=1e-6, max_iters=3000), (2, 3, 5), 1e-2),
    "cagrad": ("cagrad", {"alpha": 0.5}, lambda k: aggregation.CAGrad(c=0.5), (2, 3, 5), 2e-3),
    "fairgrad": ("fairgrad", {"alpha": 2.0}, lambda k: aggregation.FairGrad(alpha=2.0), (2, 3, 5), 1e-3),
    "upgrad": ("upgrad", {}, lambda k: aggregation.UPGrad(), (2, 3, 5), 1e-3),
    "dualproj": ("dualproj", {}, lambda k: aggregation.DualProj(), (2, 3, 5), 1e-3),
}


def relative_error(given, expected):
    return np.linalg.norm(np.asarray(given) - expected) / np.linalg.norm(expected)


@pytest.mark.filterwarnings("ignore")  # of cvxpy's and torch's own
@pytest.mark.parametrize("case", CASES)
def test_random_jacobians(case):
    name, options, theirs, numbers, tolerance = CASES[case]
    for num_tasks in numbers:
        transform = weighting.get(name, num_tasks=num_tasks, **options)
        state = transform.init(jnp.zeros(9))
        update = jax.jit(transform.update)
        for J in jacobians(num_tasks, seed=num_tasks):
            direction, _ = update(J, state, losses=jnp.ones(num_tasks))
            expected = theirs(num_tasks)(torch.tensor(J)).numpy()
            assert relative_error(direction, expected) < tolerance


@pytest.mark.filterwarnings("ignore")
def test_gradvac_over_several_updates():
    theirs, ours = aggregation.GradVac(beta=0.5), weighting.get("gradvac", num_tasks=2)
    state = ours.init(jnp.zeros(9))
    update = jax.jit(ours.update)
    for J in jacobians(2, seed=7)[:10]:
        direction, state = update(J, state)
        assert relative_error(direction, theirs(torch.tensor(J)).numpy()) < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_excess_mtl_over_several_updates():
    theirs = aggregation.ExcessMTL(robust_step_size=1.0, n_warmup_steps=0)
    ours = weighting.get("excess_mtl", num_tasks=3, step_size=1.0, total=1.0, warmup_steps=0)
    state = ours.init(jnp.zeros(9))
    for J in jacobians(3, seed=8)[:5]:
        direction, state = ours.update(J, state, losses=jnp.ones(3))
        assert relative_error(direction, theirs(torch.tensor(J)).numpy()) < 1e-3
