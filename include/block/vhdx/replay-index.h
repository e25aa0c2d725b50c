/*
 * VHDX: index of what a log holds
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REPLAY_INDEX_H
#define BLOCK_VHDX_REPLAY_INDEX_H

/* A range of the file: one page whose data lies in the log, or zeros. */
typedef struct VHDXReplayRange {
    uint64_t start;                 /* bytes, file offset */
    uint64_t end;
    bool zero;
    uint32_t log_offset;            /* of the data sector */
    uint32_t entry;                 /* it is of: 0 is the sequence's first */
    uint8_t leading[8];
    uint8_t trailing[4];
} VHDXReplayRange;

typedef struct VHDXReplayIndex VHDXReplayIndex;

VHDXReplayIndex *vhdx_replay_index_new(void);
void vhdx_replay_index_free(VHDXReplayIndex *index);

/*
 * Put @range into the index, over what is there.  Returns 0, or -E2BIG when the
 * index has become larger than it may.
 */
int vhdx_replay_index_add(VHDXReplayIndex *index, VHDXReplayRange range);

/*
 * Find the first range that ends behind file offset @offset, in bytes.  Returns
 * false where there is none.
 */
bool vhdx_replay_index_find(const VHDXReplayIndex *index, uint64_t offset,
                            VHDXReplayRange *range);

#endif
