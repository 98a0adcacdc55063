#!/usr/bin/env bash
# Measure this package and its PyTorch peer on the GPU of this machine, and keep all figures.
#
#   tests/benchmarks/gpu.sh OUT
#
# It needs `pip install -e '.[cuda]'`, and torch and torchvision with CUDA for the comparison. Each line of OUT/ratios.txt is
# one comparison, taken in one run; OUT/*.json have the figures of this package alone, with date, device and versions.
set -euo pipefail
if [ $# -ne 1 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
out=$1
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out"
cd "$here"
export PYTHONPATH=$here
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$out/gpu.txt"

alone() { # NAME and the benchmark's arguments
  python -m mtlflax.benchmark "${@:2}" --out="$out/$1.json" | tee -a "$out/alone.txt"
}
beside() { # the arguments of peer_torch.py
  python tests/benchmarks/peer_torch.py --device=cuda --rounds=5 --steps=10 "$@" | tee -a "$out/ratios.txt"
}

for backbone in resnet50 densenet121; do
  for shape in "8 128 256" "64 128 256" "8 512 1024"; do
    read -r batch height width <<<"$shape"
    alone "step_${backbone}_${batch}_${height}x${width}" --config="configs/dwa.py:$backbone" --config.data.name=streets \
      --config.model.pretrained= --config.model.dtype=bfloat16 --config.batch_size="$batch" \
      "--config.data.size=($height,$width)" --steps=30
    for how in "" --compile; do
      beside --backbone="$backbone" --batch="$batch" --size="${height}x$width" --precision=bfloat16 $how
    done
  done
done
for how in "" --compile; do
  beside --batch=8 --precision=float32 $how
  beside --batch=8 --precision=bfloat16 --weighting=each $how
done
alone methods --config=configs/dwa.py --config.data.name=streets --config.model.pretrained= --weightings=all \
  --config.model.dtype=bfloat16 --steps=20
alone predict --what=predict --config=configs/dwa.py --config.data.name=streets --config.model.pretrained= \
  --config.model.dtype=bfloat16 --steps=30
