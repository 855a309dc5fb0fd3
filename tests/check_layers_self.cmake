# cmake -D WORK=folder -P check_layers_self.cmake: check_layers.cmake reports each seeded violation, with its line, and
# nothing else.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})

# Allowed: what only looks like a violation.
file(WRITE ${WORK}/core/good.c [=[
#include "core/good.h"

#include <stdio.h>
/* exit(1) in a comment; #include "parallel/comm.h" too
 * abort() */
static const char *text = "system(\"x\") /* ";
int lh_exit_code(int on_exit);   // assert(0)
int f(void) { return lh_exit_code(text[0] == '"') + (int)sizeof(int); }
]=])
file(WRITE ${WORK}/core/kernels_f32.c "unsigned long f(void)\n{\n    return sizeof(float);\n}\n")
file(WRITE ${WORK}/parallel/fatal.c "#include <mpi.h>\nvoid f(void)\n{\n    MPI_Abort(MPI_COMM_WORLD, 1);\n}\n")
file(WRITE ${WORK}/io/checkpoint.c "#include \"parallel/mpi_handle.h\"\n#include <hdf5.h>\n#include <yaml.h>\n#include <jansson.h>\n")
file(WRITE ${WORK}/io/gnuplot.c "int f(int *p, char **a) { return posix_spawnp(p, a[0], 0, 0, a, a); }\n")
file(WRITE ${WORK}/experiments/main.c "#include \"models/decoder.h\"\nint main(void)\n{\n    exit(2);\n}\n")
file(WRITE ${WORK}/tests/fuzz/shape.c "#include <hdf5.h>\nint f_exec(int executed);\n")
file(WRITE ${WORK}/attention/full.c "#include \"attention/plan.h\"\n")
file(WRITE ${WORK}/attention/registry.def "LH_ATTN(full)\nLH_ATTN(wheel)\n")
file(WRITE ${WORK}/tests/lh_test.h "#include <cmocka.h>\n")
execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${WORK} -P ${CMAKE_CURRENT_LIST_DIR}/check_layers.cmake
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(NOT code EQUAL 0)
    message(FATAL_ERROR "violations reported where there are none:\n${out}")
endif()

# Seeded: file, first lines, the line that offends.
set(seeds "")
macro(seed file lines offender)
    file(WRITE ${WORK}/${file} "${lines}${offender}\n")
    string(REGEX MATCHALL "\n" before "${lines}")
    list(LENGTH before number)
    math(EXPR number "${number} + 1")
    list(APPEND seeds "${file}:${number}:")
endmacro()
seed(core/up.c "/* two\n * lines */\n\n" "#include \"parallel/comm.h\"")
seed(parallel/up.c "" "#include \"attention/plan.h\"")
seed(attention/up.c "\n\n" "#include \"models/decoder.h\"")
seed(models/up.c "\n" "#include \"io/yaml.h\"")
seed(io/up.c "" "# include \"models/decoder.h\"")
seed(attention/io.c "" "#include \"io/yaml.h\"")
seed(models/up2.c "" "#include \"experiments/task.h\"")
seed(experiments/up.c "" "#include \"tests/lh_test.h\"")
seed(attention/wheel.c "\n" "#include \"attention/full.h\"")
seed(core/message.c "" "#include <mpi.h>")
seed(tests/mpi/message.c "" "#include <mpi.h>")
seed(models/handle.c "" "#include \"parallel/mpi_handle.h\"")
seed(experiments/file.c "" "#include <hdf5.h>")
seed(experiments/file2.c "" "#include <yaml.h>")
seed(experiments/file3.c "" "#include <jansson.h>")
seed(parallel/gpu.c "" "#include <cuda_runtime.h>")
seed(attention/product.c "" "#include <blis.h>")
seed(tests/unit/mocka.c "" "#include <cmocka.h>")
seed(core/call.c "int x = 0; /* a */\nint y = 0;\n" "void f(void) { exit(1); }")
seed(core/call2.c "" "void f(int i) { assert(i); }")
seed(io/call3.c "" "void f(void) { abort (); }")
seed(tests/unit/call4.c "" "void f(void) { (void)system(\"true\"); }")
seed(experiments/call5.c "" "void *f(void) { return popen(\"true\", \"r\"); }")
seed(experiments/call6.c "" "int f(char **a) { return execvp(a[0], a); }")
seed(io/call7.c "\n" "int f(void) { return fork(); }")
seed(core/call8.c "" "void *f(const char *n) { return dlopen(n, 1); }")
seed(parallel/call9.c "" "int f(int *p, char **a) { return posix_spawnp(p, a[0], 0, 0, a, a); }")
seed(experiments/gnuplot.c "" "int f(int *p, char **a) { return posix_spawnp(p, a[0], 0, 0, a, a); }")
seed(io/gnuplot.c "int f(int *p, char **a) { return posix_spawnp(p, a[0], 0, 0, a, a); }\n" "int g(void) { return system(0); }")
seed(parallel/comm.c "" "void f(void) { MPI_Abort(MPI_COMM_WORLD, 1); }")
seed(io/bytes.c "" "unsigned long f(void) { return 4 * sizeof(float); }")

execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${WORK} -P ${CMAKE_CURRENT_LIST_DIR}/check_layers.cmake
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(code EQUAL 0)
    message(FATAL_ERROR "the seeded violations were not reported:\n${out}")
endif()
foreach(where IN LISTS seeds)
    string(FIND "${out}" "${where}" at)
    if(at EQUAL -1)
        message(FATAL_ERROR "not reported: ${where}\n${out}")
    endif()
endforeach()
list(LENGTH seeds count)
if(NOT out MATCHES "${count} violations in")
    message(FATAL_ERROR "expected ${count} violations:\n${out}")
endif()

# A source that nobody builds.
file(WRITE ${WORK}/CMakeLists.txt "core/good.c")
execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${WORK} -P ${CMAKE_CURRENT_LIST_DIR}/check_layers.cmake
    OUTPUT_VARIABLE out ERROR_VARIABLE out)
string(FIND "${out}" "core/message.c:1: not listed" at)
string(FIND "${out}" "core/good.c:1: not listed" good)
if(at EQUAL -1 OR NOT good EQUAL -1)
    message(FATAL_ERROR "unlisted sources are not reported as such:\n${out}")
endif()
message("${count} seeded violations reported")
