/*
 * VHDX: what an image knows of its parent and its children
 *
 * Private to parent*.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_INT_H
#define BLOCK_VHDX_PARENT_INT_H

#include "block/vhdx/state.h"

/* So many DataWriteGuids that an image has had are remembered. */
#define VHDX_PAST_GUIDS     16

/* Changed where nodes are attached or reopened, in the main loop. */
struct VHDXParent {
    /* Of this image */
    uint64_t open_id;               /* which opening of an image this is */
    bool inactive;                  /* another process may be changing it */
    bool reopening;                 /* the user is giving it another parent */
    bool got_writable;              /* a reopen has made it so */
    bool held_writable;             /* for its parent's sake only */

    /* Of its parent */
    uint64_t id;                    /* open_id of the one that was judged */
    bool given;                     /* one is given by the options of open */
    bool opened;                    /* open has attached it */
    bool guessed;                   /* found by the last part of a path */
    Error *error;                   /* why it was not found, or NULL */

    /* Atomic */
    bool relink;                    /* the locator has to tell its GUID */
    bool lost;                      /* it is not what it is taken for */
    bool reported;                  /* ... and that was reported */
    uintptr_t children;             /* a hash of those that are in use */

    /* Changed under lock */
    VHDXGuid past[VHDX_PAST_GUIDS]; /* the latest DataWriteGuids that ended */
    unsigned past_count;            /* ... all of them */
};

#endif
