#!/bin/sh
# Run every benchmark of a GPU in under eight minutes and write the records.
#
#   benchmarks/gpu.sh                                     # records go to benchmarks/records
#   DEVICE=cpu OUTPUT=/tmp/records benchmarks/gpu.sh      # try the script without a GPU, at small sizes
#
# PYTHON is the interpreter (python), VLLS_DATA the folder with MNIST and CIFAR-10. A benchmark that fails, or takes more
# than its share of the eight minutes, is named at the end, and the others go on.
set -u
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python} DEVICE=${DEVICE:-cuda} OUTPUT=${OUTPUT:-records}
failed=

bench() {
    limit=$1 began=$(date +%s)
    shift
    if [ "$DEVICE" = cpu ]; then limit=600; fi
    echo "== $*"
    timeout "$limit" "$PYTHON" "$@" --device "$DEVICE" --output "$OUTPUT" || failed="$failed $1"
    echo "== $(($(date +%s) - began)) s"
}

missing() { ! "$PYTHON" -c "import $1" 2>/dev/null; }

skip=
if missing laplace || missing backpack; then skip="speed memory"; fi

if [ "$DEVICE" = cpu ]; then
    bench 60 bench_optimizer.py --rounds 2 --only "adamw fused" "ivon default, context" ivon-opt
    bench 15 bench_optimizer.py --host --rounds 20
    bench 45 bench_evon.py --network cnn3 --rounds 2
    bench 110 bench_noise.py --quick --skip resnet throughput memory $skip
    bench 140 bench_training.py --quick --side-by-side 2 --compile
    bench 110 bench_sweep.py --cells 2 --rounds 1 --side-by-side 2
else
    bench 60 bench_optimizer.py --rounds 5
    bench 15 bench_optimizer.py --host --rounds 100
    bench 45 bench_evon.py --network resnet34 --rounds 5
    bench 110 bench_noise.py --rounds 2 --draws 1024 --skip resnet throughput memory $skip
    bench 140 bench_training.py --rounds 2 --seconds 2
    bench 110 bench_sweep.py --protocol reduced --cells 2 --rounds 1 --side-by-side 2
fi

"$PYTHON" -c 'import sys; from read_records import benchmark_records, goals_met; print(goals_met(benchmark_records(sys.argv[1])))' "$OUTPUT"
if [ -n "$failed" ]; then echo "failed:$failed" >&2; exit 1; fi
