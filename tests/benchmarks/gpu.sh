#!/usr/bin/env bash
# Measure this package and its PyTorch peer on the GPU of this machine, and keep all figures.
#
#   tests/benchmarks/gpu.sh OUT [--short]
#
# It needs `pip install -e '.[cuda]'`, and torch and torchvision with CUDA for the comparison. Each line of OUT/ratios.txt is
# one comparison, taken in one run; OUT/*.json have the figures of this package alone, with date, device and versions.
# --short is the comparison of ResNet-50 in bfloat16 alone, for a machine that is lent for minutes. A measurement that
# fails, for lack of memory for example, is named at the end, and the others go on; the exit code is then 1.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${2:---short}" != --short ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
short=${2:-}
mkdir -p "$1"
out=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/../.." && pwd)
cd "$here"
export PYTHONPATH=$here
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"

failed=()
alone() { # NAME and the benchmark's arguments
  python -m mtlflax.benchmark "${@:2}" --out="$out/$1.json" | tee -a "$out/alone.txt" || failed+=("$1")
}
beside() { # the arguments of peer_torch.py
  python tests/benchmarks/peer_torch.py --device=cuda --rounds=5 --steps=10 "$@" | tee -a "$out/ratios.txt" ||
    failed+=("peer_torch.py $*")
}
end() {
  if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
  fi
  exit 0
}
shapes=("8 128 256" "64 128 256" "8 512 1024")

for backbone in resnet50 densenet121; do
  for shape in "${shapes[@]}"; do
    read -r batch height width <<<"$shape"
    for how in "" --compile; do
      beside --backbone="$backbone" --batch="$batch" --size="${height}x$width" --precision=bfloat16 $how
    done
  done
  if [ -n "$short" ]; then end; fi
done
for how in "" --compile; do
  beside --batch=8 --precision=float32 $how
  beside --batch=8 --precision=bfloat16 --weighting=each $how
done
common=(--config.data.name=streets --config.model.pretrained= --config.model.dtype=bfloat16)
for backbone in resnet50 densenet121; do
  for shape in "${shapes[@]}"; do
    read -r batch height width <<<"$shape"
    alone "step_${backbone}_${batch}_${height}x${width}" --config="configs/dwa.py:$backbone" "${common[@]}" \
      --config.batch_size="$batch" "--config.data.size=($height,$width)" --steps=30
  done
done
alone predict --what=predict --config=configs/dwa.py "${common[@]}" --steps=30
alone methods --config=configs/dwa.py "${common[@]}" --weightings=all --steps=20
end
