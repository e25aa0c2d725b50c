/*
 * VHDX: the map of used MiBs
 *
 * lock is held by all of it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_SPACE_MAP_H
#define BLOCK_VHDX_SPACE_MAP_H

#include "block/vhdx/state.h"

/*
 * No map is kept of files longer than this: twice the largest disk.  It takes
 * 16 MiB, and twice as much while it is made larger.
 */
#define VHDX_MAX_MAP_BYTES  (128 * (uint64_t)TiB)

/* Let all up to @end bytes be used, if the last object ends before. */
void vhdx_space_map_reach(VHDXSpace *sp, uint64_t end);

/* Mark @bytes bytes at @offset as free, in a new map if there is none yet. */
void vhdx_space_map_free(BDRVVHDXState *s, uint64_t offset, uint64_t bytes);

/* The host is to have @bytes bytes at @offset back, which the map has free. */
void vhdx_space_map_punch(VHDXSpace *sp, uint64_t offset, uint64_t bytes);

/* It stays as it is between @offset and @end, bytes. */
void vhdx_space_map_unpunch(VHDXSpace *sp, uint64_t offset, uint64_t end);

/*
 * Take the first free place of @bytes bytes by the map that begins at MiB @from
 * or behind it and ends before MiB @limit, and in the file, which may have no
 * more of its last block than what the disk needs.  Returns its offset, or 0.
 */
uint64_t vhdx_space_map_take(BDRVVHDXState *s, uint64_t bytes, uint64_t from,
                             uint64_t limit);

/* Where the last object ends by the map, bytes. */
uint64_t vhdx_space_map_end(VHDXSpace *sp);

#endif
