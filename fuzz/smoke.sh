#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a short time (15 s, or FUZZ_SECONDS) from the committed
# seeds. Needs the stable toolchain and a C++ compiler, nothing else: coverage without a sanitizer,
# with the flags that `cargo fuzz run --sanitizer none` sets. The build takes two to four minutes
# on two cores the first time. A crash ends it and names the input.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-15}
# With --target the flags are not for build scripts and procedural macros.
host=$(rustc -vV | sed -n 's/^host: //p')
coverage=(-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters
    -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares)
flags="--cfg fuzzing -Cpasses=sancov-module"
for option in "${coverage[@]}"; do flags+=" -Cllvm-args=$option"; done

for file in fuzz/fuzz_targets/*.rs; do
    grep -q "name = \"$(basename "$file" .rs)\"" fuzz/Cargo.toml || {
        echo "fuzz/Cargo.toml has no [[bin]] for $file: add one" >&2
        exit 1
    }
done

scratch=fuzz/target/smoke
echo "== fuzz: build"
RUSTFLAGS=$flags cargo build --locked --release --manifest-path fuzz/Cargo.toml \
    --target "$host" --target-dir "$scratch"

# One target; its output goes to a file, of which the last line is shown.
run() {
    local target=$1
    # What is found new goes to the scratch corpus, not to the committed seeds.
    local corpus=$scratch/corpus/$target artifacts=fuzz/artifacts/$target log=$scratch/$target.log
    mkdir -p "$corpus" "$artifacts"
    local arguments=("$corpus" "fuzz/seeds/$target" -max_total_time="$seconds" -timeout=10
        -rss_limit_mb=2048 -artifact_prefix="$artifacts/")
    [[ -f fuzz/seeds/$target.dict ]] && arguments+=(-dict="fuzz/seeds/$target.dict")
    # libFuzzer ends by itself; the limit is for a target that hangs where it cannot tell.
    if ! timeout "$((seconds + 60))" "$scratch/$host/release/$target" "${arguments[@]}" >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "$target failed; the input is in $artifacts, all output in $log" >&2
        return 1
    fi
    local done
    done=$(grep '^Done ' "$log") || { echo "$target did not report its runs: $log" >&2; return 1; }
    echo "$target: $done"
}

# As many at a time as there are CPUs; the first that fails ends it.
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
jobs=$(nproc) running=0
echo "== fuzz: each target for $seconds s, $jobs at a time"
for file in fuzz/fuzz_targets/*.rs; do
    if [ "$running" -ge "$jobs" ]; then
        wait -n
        running=$((running - 1))
    fi
    run "$(basename "$file" .rs)" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n
    running=$((running - 1))
done
