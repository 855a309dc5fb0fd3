#!/usr/bin/env bash
# Installs what Longhaul is built with. On Debian and its relatives by apt-get, as root or with sudo; elsewhere it says
# what is needed. When everything is there it does nothing. --all: also what only tests/run.sh --all uses.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1

packages=(
    gcc libc6-dev make cmake pkg-config     # the compiler and the build
    patch                                   # tests: the mutants
    openmpi-bin libopenmpi-dev              # MPI
    libblis-openmp-dev                      # BLIS: matrix products
    libhdf5-openmpi-dev                     # parallel HDF5: checkpoints
    libyaml-dev                             # experiment files
    libjansson-dev                          # reading JSON: metrics, sweeps, reports
    libcmocka-dev                           # tests
    bible-kjv gzip                          # the quickstart's text, and what it is compared with
)
optional=(                                  # plots and tests; not in every release, parts that miss them are left out
    clang-format-14                         # the format check
    clang-14 libclang-rt-14-dev             # fuzzing
    hdf5-tools                              # h5dump, which reads a checkpoint
    libsimgrid-dev                          # longhaul-sim: simulated clusters
    gnuplot-nox                             # plots: longhaul report, figures (without it there are tables)
)
thorough=(                                  # what tests/run.sh --all alone uses; as optional as those
    libomp-14-dev                           # the build by clang
    clang-tidy-14                           # clang-tidy with the static analyzer (also run.sh --tidy)
    valgrind                                # memcheck, which sees reads of what was never written
    slurmctld slurmd slurm-client munge     # a Slurm of one node: job arrays, jobs that are put back
    chromium                                # the test that looks at a report in a browser
)

case ${1-} in
'') ;;
--all) optional+=("${thorough[@]}") ;;
-h | --help)
    echo 'usage: bash setup.sh [--all]'
    echo "Installs, where missing: ${packages[*]} ${optional[*]}"
    echo "With --all also: ${thorough[*]}"
    exit 0 ;;
*)
    echo 'usage: bash setup.sh [--all]' >&2
    exit 2 ;;
esac

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# can_build: all that the build needs is there, wherever it came from (modules, Spack, by hand): CMake finds it.
can_build() {
    local folder code
    command -v cmake >/dev/null || { echo 'cmake (3.25 or later) is not installed'; return 1; }
    folder=$(mktemp -d) || return 1
    cmake -S . -B "$folder" >"$folder/log" 2>&1
    code=$?
    [ "$code" = 0 ] || grep -vE '^(-- |$)' "$folder/log" | head -n 20
    rm -rf "$folder"
    return "$code"
}

needs() {
    cat <<'EOF'
Longhaul needs
  a C17 compiler with OpenMP, make, CMake 3.25 or later, pkg-config
  MPI 3.1 or later (mpicc, mpirun)
  BLIS, HDF5 built with MPI, libyaml, Jansson, cmocka (tests)
  for the quickstart: gzip, and the program `bible` of Debian's bible-kjv
From modules or Spack: load them and set CMAKE_PREFIX_PATH to their prefixes, or MPI_HOME, BLIS_ROOT, HDF5_ROOT, YAML_ROOT,
JANSSON_ROOT, CMOCKA_ROOT one by one.
EOF
}

elsewhere() {
    if can_build; then
        echo "$1. CMake finds everything that the build needs, so there is nothing to do."
        exit 0
    fi
    echo "$1."
    needs
    exit 1
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    elsewhere 'This system has no apt-get'
fi

missing=()
for p in "${packages[@]}"; do installed "$p" || missing+=("$p"); done
required=${#missing[@]}
for p in "${optional[@]}"; do
    installed "$p" || ! apt-cache show "$p" >/dev/null 2>&1 || missing+=("$p")
done
if [ ${#missing[@]} = 0 ]; then
    echo 'setup: everything is installed'
    exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null; then as_root=(sudo); else
        [ "$required" = 0 ] && { echo "setup: everything needed is installed (missing but optional: ${missing[*]})"; exit 0; }
        elsewhere "Not installed: ${missing[*]} (neither root nor sudo is at hand to install them)"
    fi
fi

echo "setup: installing ${missing[*]}"
run() {
    echo "+ ${as_root[*]-} $*"
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive "$@"
}
run apt-get update -q || echo 'setup: the package lists could not be renewed, going on with the old ones'
if ! run apt-get install -q -y --no-install-recommends "${missing[@]}"; then
    echo "setup: apt-get could not install ${missing[*]}; see its message above" >&2
    exit 1
fi
echo 'setup: done'
