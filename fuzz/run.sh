#!/bin/sh
# Builds every fuzz target and runs all of them for FUZZ_SECONDS in total (60 by default).
# A crash, hang or excess of memory fails the run; its input stays in fuzz/artifacts/.
set -eu
cd "$(dirname "$0")"

targets="header read ros split index side write log"
seconds=${FUZZ_SECONDS:-60}
each=$((seconds / 8))
[ "$each" -gt 0 ] || each=1

if ! command -v cargo-fuzz >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi
# Sanitizers need the unstable options of the compiler: a nightly, or a stable one that is told to have them.
if cargo +nightly --version >/dev/null 2>&1; then
    toolchain=+nightly
else
    toolchain=
    export RUSTC_BOOTSTRAP=1
fi

for target in $targets; do
    cargo $toolchain fuzz build --fuzz-dir . "$target"
done
failed=
for target in $targets; do
    mkdir -p "corpus/$target"
    # Inputs to start from: each format forced upon noise, which is long enough to hold damage and recovery.
    for format in 0 1 2 3 4 8 9 10 13 14; do
        [ -e "corpus/$target/noise-$format" ] ||
            { printf "\\$(printf %03o "$format")"; head -c 1500 /dev/urandom; } >"corpus/$target/noise-$format"
    done
    # And small files of the formats that say what they are, behind what the target reads of its own.
    case $target in split) own=15 ;; index) own=7 ;; *) own=0 ;; esac
    for seed in seeds/*; do
        [ -d "$seed" ] || { printf '\037'; head -c "$own" /dev/zero; cat "$seed"; } >"corpus/$target/$(basename "$seed")"
    done
    # Files of logs as they are, and with the checksums of what is changed put right.
    [ "$target" != log ] || for seed in seeds/log/*; do
        case $seed in *.blog) place=3 ;; *foreign*) place=2 ;; *) place=0 ;; esac
        for options in "$place" $((place + 4)) $((place + 12)); do
            { printf "\\$(printf %03o "$options")"; cat "$seed"; } >"corpus/$target/$(basename "$seed")-$options"
        done
    done
    echo "fuzzing $target for $each s"
    cargo $toolchain fuzz run --fuzz-dir . "$target" -- \
        -max_total_time="$each" -max_len=4096 -len_control=0 -verbosity=0 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 || failed="$failed $target"
done
if [ -n "$failed" ]; then
    echo "FUZZING FAILED:$failed; inputs are in fuzz/artifacts/" >&2
    exit 1
fi
echo "fuzzing found nothing in $seconds s"
