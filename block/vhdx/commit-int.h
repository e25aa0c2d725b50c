/*
 * VHDX: commits, private to commit*.c
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_COMMIT_INT_H
#define BLOCK_VHDX_COMMIT_INT_H

#include "block/vhdx/state.h"

/* What a commit has taken from the cache, in order of the pages' offsets. */
struct VHDXCommit {
    GPtrArray *pages;               /* VHDXPage */
    uint8_t **data;                 /* what they held when taken */
    uint64_t *offsets;
    uint32_t written;               /* pages [0, written) are in the log */
    uint32_t stable;                /* pages [0, stable) are stable there */
};

/* Take all dirty pages.  lock is held. */
void vhdx_commit_take(BDRVVHDXState *s, VHDXCommit *c);

/* What is written of the commit is stable: apply may have it. */
void vhdx_commit_stable(BDRVVHDXState *s, VHDXCommit *c);

/* Give back what has not become stable, and free what @c has. */
void vhdx_commit_end(BDRVVHDXState *s, VHDXCommit *c);

#endif
