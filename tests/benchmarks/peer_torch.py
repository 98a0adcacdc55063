"""Time a train step here and the same in PyTorch, side by side: two processes that take turns, the ratio of medians.

    python tests/benchmarks/peer_torch.py [--what=step|predict] [--backbone=resnet50] [--batch=8] [--size=128x256]
        [--device=cpu|cuda] [--precision=float32|bfloat16] [--weighting=equal|each] [--compile] [--rounds=5] [--steps=2]

Both have the same network (the same number of parameters, which is checked), losses, optimizer (Adam) and shapes, and
a batch that lies on the device. PyTorch is eager with channels-last, or `torch.compile`d. With `--weighting=each`,
PyTorch takes a backward pass for each task and adds the gradients up, as LibMTL does for gradient balancings; this
package runs `mean`, which takes task gradients of the trunk too. With `--what=predict`, both make predictions of a
batch of 8-bit images: logits of classes, and depth. It needs torch and torchvision.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the command, or be one of its two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("step", "predict"), default="step")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="128x256")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--weighting", choices=("equal", "each"), default="equal")
    parser.add_argument("--compile", action="store_true", help="PyTorch by torch.compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each in a round")
    parser.add_argument("--worker", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve({"ours": ours, "peer": peer}[options.worker](options))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Start both, have them take turns, and print the ratio."""
    workers = {name: start(name) for name in ("ours", "peer")}
    parameters = {name: ask(worker) for name, worker in workers.items()}
    assert parameters["ours"]["parameters"] == parameters["peer"]["parameters"], parameters
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            times[name] += ask(worker, options.steps)["seconds"]
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]
        worker.wait()
    here, there = (median(times[name]) for name in workers)
    how = "torch.compile" if options.compile else "eager, channels-last"
    print(
        f"ratio {here / there:.2f}: {options.what}, here {here:.4g} s, PyTorch {there:.4g} s ({how}); "
        f"{options.backbone}, batch {options.batch} at {options.size}, {options.precision}, {options.weighting}, "
        f"{options.device}, {parameters['ours']['parameters']:,} parameters; medians of {len(times['ours'])}"
    )
    print(json.dumps({"times": times, "versions": {n: p["version"] for n, p in parameters.items()}, **vars(options)}))


def start(name: str) -> "subprocess.Popen[str]":
    """Start one of the two processes."""
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests:{Path(__file__).parent}"}
    # JAX would take three quarters of a GPU's memory at once, and the two processes share it.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], f"--worker={name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def ask(worker: "subprocess.Popen[str]", steps: int = 0) -> dict[str, Any]:
    """Have a process take some steps; with none, wait until it is ready."""
    if steps:
        worker.stdin.write(f"{steps}\n")  # type: ignore[union-attr]
        worker.stdin.flush()  # type: ignore[union-attr]
    while line := worker.stdout.readline():  # type: ignore[union-attr]
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise SystemExit("a process has ended, see above")


def serve(made: tuple[Any, int, str]) -> None:
    """Say what was made, then take as many steps as each line asks for, and say how long each took."""
    step, parameters, version = made
    for _ in range(2):
        step()
    print(json.dumps({"parameters": parameters, "version": version}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds}), flush=True)


def ours(options: argparse.Namespace) -> tuple[Any, int, str]:
    """The train step of this package, or its prediction."""
    import jax

    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    from configs import weighting
    from mtlflax import experiment
    from mtlflax.benchmark.step import made_up
    from mtlflax.run.predictor import Run, make_predict
    from mtlflax.training import parallel

    config = weighting.get_config(f"{'equal' if options.weighting == 'equal' else 'mean'},{options.backbone}")
    config.data.name, config.model.pretrained, config.batch_size = "streets", "", options.batch
    config.data.size = tuple(int(n) for n in options.size.split("x"))
    config.model.dtype = options.precision
    config.data.streets.train = options.batch
    built = experiment.build(config)
    mesh = parallel.make_mesh(1)
    run = built.make_train_step(mesh)
    state = jax.jit(built.init, out_shardings=parallel.replicated(mesh))(None)
    parameters, version = sum(x.size for x in jax.tree.leaves(state.params)), f"jax {jax.__version__}"
    batch = parallel.shard_batch(made_up(built.train_fields, built.size, options.batch), mesh)

    def step() -> None:
        nonlocal state
        state, metrics = run(state, batch)
        jax.block_until_ready((state, metrics))

    if options.what == "step":
        return step, parameters, version
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    predict = make_predict(Run(built, 0, variables))
    return lambda: jax.block_until_ready(predict(batch["image"])), parameters, version


def peer(options: argparse.Namespace) -> tuple[Any, int, str]:
    """The same in PyTorch."""
    import torch
    from peer_network import PeerUNet, losses

    torch.manual_seed(0)
    height, width = (int(n) for n in options.size.split("x"))
    network = PeerUNet(options.backbone, {"segmentation": 19, "depth": 1}).to(options.device)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    parameters = sum(p.numel() for p in network.parameters())
    run = torch.compile(network) if options.compile else network
    shape = (options.batch, height, width)
    images = torch.randn(options.batch, 3, height, width, device=options.device)
    images = images.to(memory_format=torch.channels_last)
    batch = {
        "segmentation": torch.randint(0, 19, shape, device=options.device),
        "depth": torch.rand(options.batch, 1, height, width, device=options.device) + 0.1,
    }
    half = torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bfloat16")

    def step() -> None:
        with half:
            found = losses(run(images), batch)
        optimizer.zero_grad(set_to_none=True)
        if options.weighting == "equal":
            sum(found).backward()
        else:
            each_backward(found)
        optimizer.step()
        if options.device == "cuda":
            torch.cuda.synchronize()

    mean = torch.tensor([0.485, 0.456, 0.406], device=options.device)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], device=options.device)[:, None, None]
    stored = (torch.rand(images.shape, device=options.device) * 255).to(torch.uint8)
    stored = stored.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def predict() -> None:
        with half:
            run((stored.float() / 255 - mean) / std)
        if options.device == "cuda":
            torch.cuda.synchronize()

    def each_backward(found: list[Any]) -> None:
        kept = []
        for i, loss in enumerate(found):
            optimizer.zero_grad(set_to_none=True)
            loss.backward(retain_graph=i + 1 < len(found))
            kept.append([None if p.grad is None else p.grad for p in network.parameters()])
        for p, *grads in zip(network.parameters(), *kept, strict=True):
            there = [g for g in grads if g is not None]
            p.grad = sum(there[1:], there[0]) / len(found) if len(there) > 1 else there[0]

    if options.what == "predict":
        network.eval()
    return predict if options.what == "predict" else step, parameters, f"torch {torch.__version__}"


if __name__ == "__main__":
    main()
