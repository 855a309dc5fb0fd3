# cmake -D CTEST=ctest -D WORK=folder -P check_harness.cmake: what the test run relies on. ctest must count a failing
# test, a crash, a missing program and a hang as failures (a hang also where failure is expected), and expect.cmake must
# accept the announced failure only.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${WORK})
file(WRITE ${WORK}/CTestTestfile.cmake "
add_test(good \"${CMAKE_COMMAND}\" -E true)
add_test(bad \"${CMAKE_COMMAND}\" -E false)
add_test(missing \"${WORK}/no-such-program\")
add_test(hang \"${CMAKE_COMMAND}\" -E sleep 30)
set_tests_properties(hang PROPERTIES TIMEOUT 1)
add_test(hang_expected \"${CMAKE_COMMAND}\" -E sleep 30)
set_tests_properties(hang_expected PROPERTIES TIMEOUT 1 WILL_FAIL TRUE)
add_test(skipped bash -c \"exit 77\")
set_tests_properties(skipped PROPERTIES SKIP_RETURN_CODE 77)
")
execute_process(COMMAND ${CTEST} -j2 --output-junit ${WORK}/junit.xml WORKING_DIRECTORY ${WORK}
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(code EQUAL 0 OR NOT out MATCHES "4 tests failed out of 6")
    message(FATAL_ERROR "expected 4 of 6 to fail:\n${out}")
endif()
foreach(name bad missing hang hang_expected)
    if(NOT out MATCHES "- ${name} \\(")
        message(FATAL_ERROR "${name} is not reported as failed:\n${out}")
    endif()
endforeach()

# tests/run.sh counts from this file: a skipped or missing test is neither passed nor forgotten.
execute_process(COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/run.sh --count ${WORK}/junit.xml
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(NOT code EQUAL 0 OR NOT out MATCHES "^1 passed, 4 failed, 1 skipped\n$")
    message(FATAL_ERROR "run.sh --count: code ${code}, expected '1 passed, 4 failed, 1 skipped':\n${out}")
endif()

function(expect want)
    execute_process(COMMAND ${CMAKE_COMMAND} ${ARGN} -P ${CMAKE_CURRENT_LIST_DIR}/expect.cmake
        RESULT_VARIABLE code OUTPUT_QUIET ERROR_QUIET)
    if(want AND NOT code EQUAL 0 OR NOT want AND code EQUAL 0)
        message(FATAL_ERROR "expect.cmake ${ARGN}: exit code ${code}")
    endif()
endfunction()
expect(TRUE "-DCOMMAND=bash|-c|echo FAILED: 1 && exit 1" -DCODE=1 -DREGEX=FAILED)
expect(FALSE "-DCOMMAND=bash|-c|echo FAILED: 1" -DCODE=1 -DREGEX=FAILED)
expect(FALSE "-DCOMMAND=bash|-c|echo fine && exit 1" -DCODE=1 -DREGEX=FAILED)
expect(FALSE "-DCOMMAND=bash|-c|echo FAILED && kill -9 $$" -DCODE=1 -DREGEX=FAILED)
expect(FALSE "-DCOMMAND=${WORK}/no-such-program" -DCODE=1 -DREGEX=FAILED)
message("the harness counts as it should")
