"""launch.sh: starts the servers of one node, and stops them together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from planner.emit.places import Place

_HEAD = """\
#!/bin/sh
# Starts the Triton servers of node {node}, one per device, as planned. They live and die together: when one
# ends, or this script is told to (Ctrl-C, SIGTERM), all are stopped. Written by planner emit; it will be
# overwritten, so settings come from the environment:
#
#   TRITON_SERVER   the tritonserver binary                                        [tritonserver]
#   TRITON_ADDRESS  where the servers listen. 0.0.0.0 opens them to other hosts; Triton checks nobody's
#                   identity, and whoever reaches it may load models               [127.0.0.1]
#   TRITON_ARGS     more arguments for every server, separated by spaces           []
{settings}
set -u
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
server=${{TRITON_SERVER:-tritonserver}}
address=${{TRITON_ADDRESS:-127.0.0.1}}
seconds_to_stop=40
pids=""

# start FOLDER HTTP_PORT GRPC_PORT METRICS_PORT COMMAND... : one server, its models loaded and nothing else
start() {{
    folder=$1 http=$2 grpc=$3 metrics=$4
    shift 4
    # shellcheck disable=SC2086  # TRITON_ARGS is a list of words
    "$@" \\
        --model-repository="$here/$folder/models" \\
        --model-control-mode=explicit \\
        --disable-auto-complete-config \\
        --http-address="$address" --http-port="$http" \\
        --grpc-address="$address" --grpc-port="$grpc" \\
        --metrics-address="$address" --metrics-port="$metrics" \\
        --backend-config="python,shm-region-prefix-name=planner_${{grpc}}_" \\
        ${{TRITON_ARGS:-}} &
    pids="$pids $!"
    names="${{names:-}} $folder"
}}

# Waiting, unlike sleeping, lets a signal through at once, and collects servers that ended.
pause() {{
    sleep 1 &
    wait $!
}}

any_alive() {{
    for pid in $pids; do
        kill -0 "$pid" 2>/dev/null && return 0
    done
    return 1
}}

# $! may be a server that a signal kept from being counted.
stop() {{
    trap '' INT TERM HUP
    pids="$pids ${{!:-}}"
    # shellcheck disable=SC2086  # one word per server
    kill -TERM $pids 2>/dev/null
    while [ "$seconds_to_stop" -gt 0 ] && any_alive; do
        pause
        seconds_to_stop=$((seconds_to_stop - 1))
    done
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null
    exit "$1"
}}

trap 'stop 130' INT
trap 'stop 143' TERM HUP

"""

_TAIL = """\

while :; do
    pause
    # shellcheck disable=SC2086  # one word per server
    set -- $names
    for pid in $pids; do
        if ! kill -0 "$pid" 2>/dev/null; then
            wait "$pid"
            echo "launch.sh: the server of $1 ended with code $?; stopping the others" >&2
            stop 1
        fi
        shift
    done
done
"""


def launch_script(node: str, places: Sequence[Place]) -> str:
    """The text of a node's launch.sh, for a plain POSIX sh."""
    settings = "\n".join(_setting(place) for place in places)
    return _HEAD.format(node=node, settings=settings) + "\n".join(map(_start, places)) + _TAIL


def device_variable(place: Place) -> str:
    """The environment variable that says which GPU, slice or cores a device has on this very host."""
    stem = re.sub(r"[^A-Z0-9]", "_", place.folder.upper())
    return f"{stem}_CORES" if place.cores is not None else f"{stem}_UUID"


def core_list(cores: Sequence[int]) -> str:
    """ "0-3" for cores that follow on each other."""
    return f"{cores[0]}-{cores[-1]}" if len(cores) > 1 else str(cores[0])


def _setting(place: Place) -> str:
    name = device_variable(place)
    if place.cores is not None:
        return f"#   {name:<15} cores of {place.device.device}  [{core_list(place.cores)}]"
    if place.is_slice:
        return f"#   {name:<15} MIG-... of {place.device.device}, as `nvidia-smi -L` prints it  [must be set]"
    if len(place.gpus) > 1:
        names = ", ".join(place.replicas[0].devices)
        return f"#   {name:<15} indices or GPU-... of {names}, separated by commas  [{_visible(place)}]"
    return f"#   {name:<15} index or GPU-... of {place.device.device}  [{_visible(place)}]"


def _visible(place: Place) -> str:
    return ",".join(map(str, place.gpus))


def _start(place: Place) -> str:
    ports = place.device.endpoint
    loads = "".join(f" \\\n    {shlex.quote(f'--load-model={model}')}" for model in (*place.models, *place.ensembles))
    head = f"start {place.folder} {ports.http_port} {ports.grpc_port} {ports.metrics_port}"
    return f'{head} \\\n    {_runner(place)} "$server"{loads}\n'


def _runner(place: Place) -> str:
    name = device_variable(place)
    if place.cores is not None:
        pinned = f'taskset -c "${{{name}:-{core_list(place.cores)}}}"'
        return f"env CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS={len(place.cores)} {pinned}"
    if place.is_slice:
        visible = f"${{{name}:?set it to the MIG device of {place.device.device}, see nvidia-smi -L}}"
    else:
        visible = f"${{{name}:-{_visible(place)}}}"
    # Without the order, CUDA counts the fastest GPU first, and nvidia-smi by place.
    return f'env CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES="{visible}"'
