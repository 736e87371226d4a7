#!/bin/sh
# The whole way on this machine: measure three real models, place them on devices of one core each, check the
# plan, write one model repository per device, run them on a real Triton, and report.
# Everything is written below examples/cpu/demo; a run after an interruption goes on where it stopped.
set -u
cd "$(dirname "$0")" || exit 1
trap 'exit 130' INT TERM

# step CODES COMMAND...: show and run a command; go on with one of these exit codes only.
step() {
    good=" $1 "
    shift
    printf '\n$ %s\n' "$*"
    code=0
    "$@" || code=$?
    case "$good" in
        *" $code "*) ;;
        *)
            echo "demo: stopped by exit code $code of: $*" >&2
            exit "$code"
            ;;
    esac
}

step 0 python build_models.py -o models
step 0 planner doctor --install-triton
mkdir -p demo && cd demo || exit 1
# 5: the budget of 4 minutes ended first; what was measured is enough to plan with, or solve says what is missing.
# The built-in load generator: what planner verify uses too, and nothing to install for it.
step '0 5' planner measure text_direction file_type speech_activity --load-generator builtin \
    --model-repository ../models --config ../measure.yaml --workload ../demo-workload.yaml
step 0 planner solve --gpus 4xcpu-1 --workload ../demo-workload.yaml
step 0 planner check plan
step 0 planner emit plan -o servers --model-repository ../models
# 4: a model missed its bound. The verdicts stand as they are.
step '0 4' planner verify plan --model-repository ../models
step 0 planner report plan -o report.html
