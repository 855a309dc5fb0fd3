#pragma once
/* Files and folders of a run: rank 0 acts, all ranks agree. Links to folders are followed; where a
 * file is to be written, a symbolic link is an error or is replaced: nothing else is written to.
 *
 * Every function takes the communicator of the ranks that call it together; NULL stands for one
 * process without MPI (plan, report, prepare, inspect). All arguments must be the same on all
 * ranks. */
#include "parallel/comm.h"

#include <stdio.h>

enum { LH_PATH_MAX = 4096 };

/* lh_files_agree - lh_agree, or st itself when comm is NULL. Collective on comm. */
LH_NODISCARD lh_status lh_files_agree(lh_comm *comm, lh_status st);

/* lh_read_small - a small file (at most 64 MiB) as bytes: rank 0 reads, all get them. Collective on
 * user, which is an lh_comm * (or NULL): the signature is the read callback of the YAML loader.
 * Ownership: the caller releases *bytes with lh_free; a NUL follows the last byte and is not
 * counted. A pipe is read to its end; nobody waits longer than 10 seconds for whoever writes it. Errors: agreed
 * LH_ERR_IO (missing, a folder, not readable, too large, a pipe that stays empty), LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_read_small(void *user, const char *path, char **bytes, size_t *count);

/* lh_write_small - replace a file by these bytes, all or nothing: written beside, synced, renamed. What is no
 * ordinary file (a link, a device, a pipe, a folder) is not replaced. Collective on comm. Errors: agreed
 * LH_ERR_IO; then what was there is untouched. */
LH_NODISCARD lh_status lh_write_small(lh_comm *comm, const char *path, const char *bytes,
                                      size_t count);

/* lh_folder_make - the folder and its missing parents; one that exists is fine.
 * Collective on comm. Errors: agreed LH_ERR_IO. */
LH_NODISCARD lh_status lh_folder_make(lh_comm *comm, const char *path);

/* lh_file_exists - is there a file or folder of this name, as rank 0 sees it? Collective on comm. */
bool lh_file_exists(lh_comm *comm, const char *path);

/* lh_file_rename - from takes the place of to; the folder of to is synced. Collective on comm.
 * Errors: agreed LH_ERR_IO. */
LH_NODISCARD lh_status lh_file_rename(lh_comm *comm, const char *from, const char *to);

/* lh_file_remove - a file; one that is missing is fine. Collective on comm. Errors: agreed
 * LH_ERR_IO. */
LH_NODISCARD lh_status lh_file_remove(lh_comm *comm, const char *path);

/* lh_file_aside - rename folder/stem.ext to the next free folder/stem-1.ext, -2, ... (no such file:
 * nothing). Collective on comm. Errors: agreed LH_ERR_IO. */
LH_NODISCARD lh_status lh_file_aside(lh_comm *comm, const char *folder, const char *stem,
                                     const char *ext);

/* lh_folder_list - the names in a folder, sorted by bytes, without "." and "..". A missing folder
 * is empty. Collective on comm. Ownership: the caller releases *names (count strings, each closed
 * by a NUL, one after the other) with lh_free. Errors: agreed LH_ERR_IO, LH_ERR_MEMORY. */
LH_NODISCARD lh_status lh_folder_list(lh_comm *comm, const char *path, char **names,
                                      int64_t *count);

/* lhi_file_aside_path - the next free folder/stem-K.ext. Local. Errors: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_file_aside_path(const char *folder, const char *stem, const char *ext,
                                           char path[LH_PATH_MAX]);

/* lhi_file_sync - what was written to this file or folder reaches the disk. Local. Errors:
 * LH_ERR_IO. */
LH_NODISCARD lh_status lhi_file_sync(const char *path);

/* lhi_file_reserve - is there room for a file of this size? A full disk, quota or file size limit shows
 * now. Makes the file if it is missing; its size stays. Local. try_disk false: only this process's
 * limits are looked at. Errors: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_file_reserve(const char *path, int64_t bytes, bool try_disk);

/* lhi_file_hold - hold room for a file that exists and is to grow to `bytes`: whoever writes it meets no
 * full disk any more. Where the file system cannot promise room the file is filled with zeros, each
 * rank a part, so that it may be longer afterwards. Collective on comm. Errors: agreed LH_ERR_IO. */
LH_NODISCARD lh_status lhi_file_hold(lh_comm *comm, const char *path, int64_t bytes);

/* lhi_file_append - open at its end, or make, a file that is no link and no pipe. lhi_file_read - a plain file
 * from its beginning. lhi_file_new - an empty file in the place of whatever has the name. Local. The caller
 * closes them. Errors: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_file_append(const char *path, int *fd);
LH_NODISCARD lh_status lhi_file_read(const char *path, FILE **file);
LH_NODISCARD lh_status lhi_file_new(const char *path, FILE **file);

/* lhi_file_move - lh_file_rename on this process alone. Local. Errors: LH_ERR_IO. */
LH_NODISCARD lh_status lhi_file_move(const char *from, const char *to);

/* lhi_write_all - all bytes at the descriptor's position. Local. Errors: LH_ERR_IO; path is for the
 * message. */
LH_NODISCARD lh_status lhi_write_all(int fd, const char *path, const void *bytes, size_t count);

/* lhi_file_error - LH_ERR_IO for what errno says: "cannot WHAT 'PATH': ...", and what to do about it. Local. */
lh_status lhi_file_error(const char *what, const char *path);

/* lhi_path - "folder/name" into path. Local. Errors: LH_ERR_USAGE when it is too long. */
LH_NODISCARD lh_status lhi_path(char path[LH_PATH_MAX], const char *folder, const char *name);

/* lhi_lead - does this process act for comm (rank 0, or no communicator)? Local. */
bool lhi_lead(const lh_comm *comm);
