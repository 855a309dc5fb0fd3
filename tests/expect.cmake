# cmake -D COMMAND="program|argument|..." -D CODE=n -D REGEX=text -P expect.cmake: the command's exit code must be n and
# its output must match.
string(REPLACE "|" ";" command "${COMMAND}")
execute_process(COMMAND ${command} RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
if(NOT code STREQUAL CODE)
    message(FATAL_ERROR "exit code ${code}, expected ${CODE}; output:\n${out}")
endif()
if(NOT out MATCHES "${REGEX}")
    message(FATAL_ERROR "the output does not match '${REGEX}':\n${out}")
endif()
