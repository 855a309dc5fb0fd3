# longhaul-sim: parallel/ once more, against SimGrid's SMPI, and the libraries that know nothing of MPI as they are. It is
# left out without SimGrid, in double and under sanitizers (SimGrid switches stacks).
set(SIMGRID_ROOT "$ENV{SIMGRID_ROOT}" CACHE PATH "Where SimGrid is installed, if not in a usual place")
find_path(LH_SMPI_INCLUDE_DIR mpi.h HINTS ${SIMGRID_ROOT}/include PATHS /usr/include /usr/local/include
          PATH_SUFFIXES smpi NO_DEFAULT_PATH)
find_path(LH_SIMGRID_INCLUDE_DIR simgrid/engine.h HINTS ${SIMGRID_ROOT}/include)
find_library(LH_SIMGRID_LIBRARY simgrid HINTS ${SIMGRID_ROOT}/lib)
mark_as_advanced(LH_SMPI_INCLUDE_DIR LH_SIMGRID_INCLUDE_DIR LH_SIMGRID_LIBRARY)

if(LH_PRECISION STREQUAL "double" OR LH_SANITIZE)
    message(STATUS "longhaul-sim is left out: it is built with real = float and without sanitizers")
elseif(NOT LH_SIMGRID_LIBRARY OR NOT LH_SIMGRID_INCLUDE_DIR OR NOT LH_SMPI_INCLUDE_DIR MATCHES "/smpi$")
    message(STATUS "longhaul-sim is left out: SimGrid was not found (Debian: apt-get install libsimgrid-dev)")
else()
    message(STATUS "Found SimGrid: ${LH_SIMGRID_LIBRARY}")
    get_target_property(sim_parallel lh_parallel SOURCES)
    list(REMOVE_ITEM sim_parallel parallel/wall.c parallel/host.c) # smpi.c has them
    lh_add_program(longhaul-sim experiments/simulate.c experiments/simulate_rates.c io/h5_none.c
        ${sim_parallel} parallel/smpi.c parallel/smpi_sum.c)
    set_target_properties(longhaul-sim PROPERTIES ENABLE_EXPORTS ON) # SimGrid calls MPI_... of ours
    target_include_directories(longhaul-sim SYSTEM PRIVATE ${LH_SMPI_INCLUDE_DIR} ${LH_SIMGRID_INCLUDE_DIR})
    add_dependencies(longhaul-sim lh_core lh_attention lh_models lh_io lh_experiments)
    # the archives alone: what they name (MPI, HDF5) is another one here, or nothing
    target_link_libraries(longhaul-sim PRIVATE
        $<TARGET_FILE:lh_experiments> $<TARGET_FILE:lh_models> $<TARGET_FILE:lh_attention> $<TARGET_FILE:lh_io>
        $<TARGET_FILE:lh_core> OpenMP::OpenMP_C lh_blis lh_yaml ${LH_SIMGRID_LIBRARY} m)
    target_compile_definitions(longhaul-sim PRIVATE LH_VERSION="${PROJECT_VERSION}")
    set(LH_SIM_BUILT TRUE)
endif()
