/*
 * VHDX: which dirty bitmaps are to be stored, and where
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_DIRTY_COLLECT_H
#define BLOCK_VHDX_DIRTY_COLLECT_H

#include "block/vhdx/dirty-load.h"

/* So many pages of bits are written at once. */
#define VHDX_DIRTY_RUN_PAGES    256

/* What a map has for a page that has no place yet */
#define VHDX_DIRTY_UNPLACED     2

typedef struct VHDXDirtyStore {
    BlockDriverState *bs;
    GPtrArray *list;                /* VHDXDirtyBitmap, with their maps */
    GPtrArray *from;                /* BdrvDirtyBitmap, or NULL: no bits */
    uint32_t page;                  /* the head's */
    VHDXDirtyHead head;
    uint8_t *buf;                   /* VHDX_DIRTY_RUN_PAGES pages */
} VHDXDirtyStore;

/* Fill @buf, VHDX_PAGE_SIZE bytes, with those bits of @bitmap. */
void vhdx_dirty_part_read(BdrvDirtyBitmap *bitmap, const VHDXDirtyPart *part,
                          uint8_t *buf);

/* Begin with an empty list. */
void vhdx_dirty_store_init(VHDXDirtyStore *st, BlockDriverState *bs);
void vhdx_dirty_store_free(VHDXDirtyStore *st);

/*
 * Add what is to be told of @bitmap, or if that is NULL the name of @old, as
 * one that is inconsistent.
 */
void vhdx_dirty_store_add(VHDXDirtyStore *st, const VHDXDirtyBitmap *old,
                          BdrvDirtyBitmap *bitmap);

/*
 * Add the bitmaps that the file has, and new ones behind them.  One that the
 * node has not, or will not have stored, is inconsistent.
 */
void vhdx_dirty_store_collect(VHDXDirtyStore *st);

/*
 * Whether the file has all that already: what counts, as it is, and the names
 * of what does not, be it for the GUIDs alone.
 */
bool vhdx_dirty_store_is_same(VHDXDirtyStore *st);

/* Whether the limits of the format are kept. */
bool vhdx_dirty_store_check(VHDXDirtyStore *st, Error **errp);

/* How many pages all of it takes, but for the head. */
uint32_t vhdx_dirty_store_pages(VHDXDirtyStore *st);

/*
 * Round pages of bits up, of the bitmaps that have most of them first, until
 * all takes no more than @most pages, or there are none left.  Returns whether
 * it does.
 */
bool vhdx_dirty_store_round_up(VHDXDirtyStore *st, uint32_t most);

/* Give all of it places.  Returns false if there are too few. */
bool vhdx_dirty_store_place(VHDXDirtyStore *st, VHDXDirtyPlaces *places);

#endif
