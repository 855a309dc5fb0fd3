#pragma once
/* Status codes and the error record.
 *
 * What can fail returns lh_status. The message (what, where, what was expected, what to do) is kept
 * in one record per thread, written where the failure is found and extended on the way up. Checks
 * are never compiled out. A broken promise of our own code is LH_ERR_BUG. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LH_STATUS_LIST(X)                                                                          \
    X(LH_OK, "success")                                                                            \
    X(LH_ERR_USAGE, "bad usage or configuration")                                                  \
    X(LH_ERR_RANGE, "value out of range")                                                          \
    X(LH_ERR_UNSUP, "not supported")                                                               \
    X(LH_ERR_MEMORY, "out of memory")                                                              \
    X(LH_ERR_IO, "file error")                                                                     \
    X(LH_ERR_FORMAT, "file content not as expected")                                               \
    X(LH_ERR_NONFINITE, "not a finite number")                                                     \
    X(LH_ERR_STOPPED, "stopped on request")                                                        \
    X(LH_ERR_BUG, "internal error, please report")

typedef enum lh_status_code {
#define LH_STATUS_ENUM(code, text) code,
    LH_STATUS_LIST(LH_STATUS_ENUM)
#undef LH_STATUS_ENUM
        LH_STATUS_COUNT
} lh_status_code;

/* warn_unused_result: an ignored status is a compile-time warning (an error in preset ci). */
typedef lh_status_code lh_status;
#define LH_NODISCARD __attribute__((warn_unused_result))
#define LH_PRINTF(f, a) __attribute__((format(printf, f, a)))

enum { LH_ERROR_TEXT_MAX = 4096 };

/* The one way out of a function that can fail: handles start NULL, `done:` releases. */
#define LH_TRY(call)                                                                               \
    do {                                                                                           \
        st = (call);                                                                               \
        if (st != LH_OK) goto done;                                                                \
    } while (0)
#define LH_CHECK(cond, code, ...)                                                                  \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            st = LH_RAISE(code, __VA_ARGS__);                                                      \
            goto done;                                                                             \
        }                                                                                          \
    } while (0)
#define LH_RAISE(code, ...) lh_error_raise((code), __FILE__, __LINE__, __func__, __VA_ARGS__)

/* lh_error_raise - replace this thread's error record and return code (use LH_RAISE).
 * Local. fmt: what happened, with the offending values, what was expected, what to do. */
lh_status lh_error_raise(lh_status code, const char *file, int line, const char *func,
                         const char *fmt, ...) LH_PRINTF(5, 6);

/* lh_error_context - put "fmt: " before this thread's error text, on the way up.
 * Local. Returns code, so that `return lh_error_context(st, ...)` reads well. */
lh_status lh_error_context(lh_status code, const char *fmt, ...) LH_PRINTF(2, 3);

/* lh_error_text - this thread's error text ("" when none). Local. Borrowed until the next raise. */
const char *lh_error_text(void);

/* lh_error_where - "file:line function" of the first raise. Local. Borrowed until the next raise. */
const char *lh_error_where(void);

/* lh_error_set - install a record that came from another rank. Local. Returns code. */
lh_status lh_error_set(lh_status code, const char *where, const char *text);

/* lh_error_clear - forget the record. Local. */
void lh_error_clear(void);

/* lh_status_text - the code's fixed text. Local. */
const char *lh_status_text(lh_status code);

/* lh_new - zeroed host memory for bookkeeping (never for tensor data).
 * Local. *out NULL on error; bytes 0 gives a valid pointer. The caller releases it with lh_free.
 * Errors: LH_ERR_MEMORY, local. A test can make the n-th call fail: lh_new_fail_at. */
LH_NODISCARD lh_status lh_new(size_t bytes, void *out);

/* lh_new_text - a copy of a string, as lh_new makes it. */
LH_NODISCARD lh_status lh_new_text(const char *text, char **out);

/* lh_free - release what lh_new made and null the pointer. Local. ptr: address of the pointer. */
void lh_free(void *ptr);

/* lh_new_probe - can so many bytes be had now? For libraries that crash where they get no memory: asked for
 * and given back, not touched. Local. Errors: LH_ERR_MEMORY, local. */
LH_NODISCARD lh_status lh_new_probe(size_t bytes);

/* lh_grow - make *array hold at least need items of item bytes (doubling; new items zeroed). Local.
 * array: address of the pointer; *capacity is updated. Errors: LH_ERR_MEMORY, array unchanged. */
LH_NODISCARD lh_status lh_grow(void *array, int64_t *capacity, int64_t need, size_t item);

/* lh_new_count - number of allocations (lh_new, lh_grow, device and host memory) this thread made
 * so far. Local. */
int64_t lh_new_count(void);

/* lh_new_note - count one allocation made by other means (device or host memory), and tell whether
 * it must fail now because of lh_new_fail_at. Local. */
LH_NODISCARD lh_status lh_new_note(size_t bytes);

/* lh_new_fail_at - for tests: the n-th allocation from now fails (0: none). Local. */
void lh_new_fail_at(int64_t n);
