#!/usr/bin/env bash
# Runs each fuzz target for a short time (20 s, or FUZZ_SECONDS) from the committed seeds.
# Works on the stable toolchain: no sanitizer, only coverage. A crash ends it and names the input.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-20}
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

for file in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$file" .rs)
    grep -q "name = \"$target\"" fuzz/Cargo.toml || {
        echo "fuzz/Cargo.toml has no [[bin]] for $file: add one" >&2
        exit 1
    }
    # What is found new goes to the scratch corpus, not to the committed seeds.
    corpus=fuzz/target/corpus/$target
    mkdir -p "$corpus" "fuzz/seeds/$target"
    arguments=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0)
    [[ -f fuzz/seeds/$target.dict ]] && arguments+=(-dict="fuzz/seeds/$target.dict")
    echo "== fuzz $target for $seconds s"
    cargo fuzz run --sanitizer none "$target" "$corpus" "fuzz/seeds/$target" -- "${arguments[@]}" 2>&1 |
        grep -v -E '^#[0-9]+\s+(NEW|REDUCE|RELOAD|pulse)|^NEW_FUNC|^\s+NEW_' || [[ ${PIPESTATUS[0]} == 0 ]]
done
