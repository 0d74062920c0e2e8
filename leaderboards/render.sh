#!/usr/bin/env bash
# Render the pages of this folder from its results; with --check, say whether they are up to date (exit 1 if not).
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
page() {  # NAME, then what the page selects
    local name=$1
    shift
    dtbench leaderboard leaderboards/results --out "leaderboards/$name.md" "$@" "${check[@]}" || status=1
}
check=("$@")
page d4rl-short --suite d4rl-short
page medium --suite d4rl-short --preset quick --task hopper-medium,halfcheetah-medium,walker2d-medium
page pointmaze --suite d4rl-long --preset quick --task pointmaze-dtma-u,pointmaze-dtma-medium,pointmaze-dtma-large
page pointmaze-large --suite d4rl-long --preset learn --task pointmaze-dtma-large
page backbones --preset quick --task hopper-medium,walker2d-medium
exit $status
