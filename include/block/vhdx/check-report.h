/*
 * VHDX: what a check tells, and counts
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CHECK_REPORT_H
#define BLOCK_VHDX_CHECK_REPORT_H

#include "block/vhdx/state.h"

/* Findings that are told in words; further ones are only counted. */
#define VHDX_CHECK_REPORTS  100

/* A check under way. */
typedef struct VHDXCheck {
    BdrvCheckResult *result;
    BdrvCheckMode fix;
    bool notes;                     /* tell of what is no error, too */
    bool replay;                    /* the log held changes at open */
    bool leak;                      /* ... so that a tail counts as leaked */
    bool doubt;                     /* blocks may be longer than is said */
    bool entries_mended;            /* what the guest reads may have changed */
    unsigned reports;               /* findings told so far */
    uint64_t end;                   /* of the last object, bytes */
    uint64_t used;                  /* bytes that something refers to */
    uint64_t bitmaps;               /* sector bitmap blocks of use */
    uint64_t lost;                  /* blocks named behind the last one */
    uint64_t given_up;              /* ... and no longer, as they were zeros */
} VHDXCheck;

/* Tell of something wrong that is left as it is, and count it. */
void G_GNUC_PRINTF(2, 3)
vhdx_check_error(VHDXCheck *check, const char *format, ...);

/* Tell of something that could not be checked, and count it. */
void G_GNUC_PRINTF(2, 3)
vhdx_check_failed(VHDXCheck *check, const char *format, ...);

/* Tell of something that is not wrong, if a person asked. */
void G_GNUC_PRINTF(2, 3)
vhdx_check_note(VHDXCheck *check, const char *format, ...);

/*
 * Something is found that can be mended.  Returns 1 if that is to be done now:
 * the log is open then, and it counts as fixed.  Returns 0 if not, or -errno of
 * opening the log.
 */
int coroutine_fn GRAPH_RDLOCK
vhdx_check_begin_mend(BlockDriverState *bs, VHDXCheck *check);

/*
 * Tell of something wrong that can be mended without guessing, and count it.
 * Returns 1 if it is to be mended now, by vhdx_commit_put(): the log is open
 * then.  Returns 0 if not, or -errno of opening the log.
 */
int coroutine_fn GRAPH_RDLOCK G_GNUC_PRINTF(3, 4)
vhdx_check_mend(BlockDriverState *bs, VHDXCheck *check, const char *format,
                ...);

/* The same for something that is no error, if a person asked. */
int coroutine_fn GRAPH_RDLOCK G_GNUC_PRINTF(3, 4)
vhdx_check_odd(BlockDriverState *bs, VHDXCheck *check, const char *format,
               ...);

#endif
