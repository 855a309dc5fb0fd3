# cmake -D PATCH=FILE -D SOURCE=FILE -D OUT=FILE -P apply.cmake: OUT = SOURCE with PATCH; fails if the patch does not apply.
get_filename_component(folder ${OUT} DIRECTORY)
file(MAKE_DIRECTORY ${folder})
file(REMOVE ${OUT})
find_program(PATCH_PROGRAM patch)
find_program(GIT_PROGRAM git)
if(PATCH_PROGRAM)
    execute_process(COMMAND ${PATCH_PROGRAM} --batch --forward --ignore-whitespace --reject-file=- --output=${OUT} ${SOURCE} ${PATCH}
        RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_VARIABLE text)
elseif(GIT_PROGRAM)
    # outside any repository, with the path that the patch names
    file(STRINGS ${PATCH} line REGEX "^\\+\\+\\+ b/")
    string(REGEX REPLACE "^\\+\\+\\+ b/" "" path "${line}")
    set(scratch ${folder}/apply)
    get_filename_component(inner ${scratch}/${path} DIRECTORY)
    file(MAKE_DIRECTORY ${inner})
    configure_file(${SOURCE} ${scratch}/${path} COPYONLY)
    execute_process(COMMAND ${CMAKE_COMMAND} -E env GIT_CEILING_DIRECTORIES=${folder}
            ${GIT_PROGRAM} apply --ignore-whitespace ${PATCH}
        WORKING_DIRECTORY ${scratch} RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_VARIABLE text)
    configure_file(${scratch}/${path} ${OUT} COPYONLY)
else()
    message(FATAL_ERROR "mutants need patch or git (Debian: apt-get install patch)")
endif()
if(NOT code EQUAL 0)
    file(REMOVE ${OUT})
    message(FATAL_ERROR "${PATCH} does not apply to ${SOURCE}: write it anew for the source as it is\n${text}")
endif()
