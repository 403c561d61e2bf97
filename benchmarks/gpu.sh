#!/usr/bin/env bash
# What a GPU changes, in at most eight minutes; each part ends at its own limit and keeps what it has.
#
#     bash benchmarks/gpu.sh FOLDER [PLAN]            on a GPU; PLAN is a name in notebooks/parameters or a file
#     DEVICE=cpu bash benchmarks/gpu.sh FOLDER [PLAN]  a short trial of the script itself, which says nothing about speed
#
# FOLDER gets: bfloat16 beside float32 and seeds side by side at the size of BERT-base; the step cost of all methods at
# that size; one, two and four notebooks at a time on one GPU; as many runs of PLAN as fit, and their table.
# The encoder of PLAN and FINETUNE_REG_GLUE must be there beforehand.
set -uo pipefail

folder=$1
plan=${2:-glue300_minilm}
device=${DEVICE:-cuda}
python=${PYTHON:-python}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
cd "$(dirname "$0")/.."
mkdir -p "$folder"

if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv | tee "$folder/gpu.csv"
    size=base seeds=4 updates=20 steps=7 slots="1 2 4" limits=(60 60 120 90 120)
else
    size=tiny seeds=2 updates=2 steps=1 slots="1" limits=(60 60 60 60 60)
fi

part() { # LIMIT FILE COMMAND...: a part that its limit ends is no error, any other failure is
    local limit=$1 file=$folder/$2
    shift 2
    timeout --signal=INT --kill-after=10 "$limit" "$@" >"$file" 2>&1
    local code=$?
    case $code in
        0) echo "$file" ;;
        124 | 130 | 137) echo "$file: ended by its limit of $limit s" ;;
        *) echo "$file: failed with code $code" && failed=1 ;;
    esac
}

failed=0
for precision in float32 bfloat16; do
    part "${limits[0]}" "seeds_$precision.txt" "$python" benchmarks/seeds_side_by_side.py --device "$device" \
        --precision $precision --size $size --seeds $seeds --updates $updates --rounds 2
done
part "${limits[2]}" step_cost.txt "$python" benchmarks/step_cost.py --device "$device" --steps $steps \
    --size "$([ "$device" = cuda ] && echo base || echo small)" $([ "$device" = cuda ] || echo --method Mixout)
part "${limits[3]}" slots.txt "$python" benchmarks/sweep_throughput.py --slots $slots --seeds 2 --part 4
part "${limits[4]}" sweep.txt "$python" -m finetune_reg sweep run "$plan" --slots 2 --output-dir "$folder/runs"
if [ -d "$folder/runs/records" ]; then
    part 60 collect.txt "$python" -m finetune_reg collect "$folder/runs" --out "$folder/records.parquet"
fi
exit $failed
