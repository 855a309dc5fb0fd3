# Sourced by scripts that start ranks themselves: the array `launch`, which wants `-n RANKS PROGRAM`. Open MPI wants to be told about
# root, and that ranks may be more than cores; unbound, so that each rank has the threads that it was given.
launch=(mpirun)
if mpirun --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
    launch+=(--bind-to none --oversubscribe)
    if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
    if [ -e /.dockerenv ] || [ -e /run/.containerenv ] || grep -qE 'Seccomp:[[:space:]]+2' /proc/self/status 2>/dev/null; then
        export OMPI_MCA_btl_vader_single_copy_mechanism=none
    fi
fi
