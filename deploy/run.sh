#!/usr/bin/env bash
# Runs a command for a scheduler: `deploy/run.sh python -m tessy_jax.synthesize …`
#
# Hands SIGTERM on, upon which our commands finish the dispatch and write the journal (exit code 130). Ends with 0 where
# the command is done but rejected rows (3): for a scheduler that is no failure. Other exit codes stay: 2 is a wrong
# configuration, with which no new start will fare better.
set -um

# In a process group of its own (-m): Slurm and Ctrl-C signal the whole group, and the command would take the signal that
# is handed on for a second one, upon which it stops at once.
"$@" &
child=$!
trap 'kill -TERM "$child"' TERM INT

# A signal ends `wait` before the command has ended.
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
done

[ "$code" = 3 ] && code=0
exit "$code"
