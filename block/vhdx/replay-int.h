/*
 * VHDX: the replay, as its parts share it
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REPLAY_INT_H
#define BLOCK_VHDX_REPLAY_INT_H

#include "block/vhdx/replay-index.h"
#include "block/vhdx/state.h"

/*
 * What the active log sequence says that the file should hold.  Fixed once
 * built, but for @done, so it is read under no lock.
 */
struct VHDXReplay {
    VHDXReplayIndex *index;
    uint64_t sequence;              /* of the oldest entry */
    uint64_t last_file_offset;      /* of the newest entry, bytes */
    bool done;                      /* atomic: all of it is in place */
};

#endif
