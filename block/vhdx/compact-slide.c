/*
 * VHDX: sliding blocks together
 *
 * This is for files in which free places are shorter than a block, so that a
 * block from the end finds none.  Some blocks with such a gap before them are
 * moved out of the way, to the end, and then, as they lie in the file, those
 * behind them slide into the gap, which grows by each one they leave:
 *
 *   before   head BAT [1] [2] [3] [4]
 *                     head BAT     [2] [3] [4] [1]
 *                     head BAT [2][3]      [4] [1]
 *   after    head BAT [2][3][4][1]
 *
 * That ends where it is no use: with less than a block in the gaps behind.  So
 * a block moves once, or twice if it was in the way.  The order is found by
 * stretches of the file, with a pass through the BAT for each.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/move.h"
#include "block/vhdx/space.h"
#include "compact-int.h"

/* Progress is told in such parts of a phase. */
#define PROGRESS_PARTS  10000

/* The longest stretch of the file in which blocks are put in order at once */
#define STRETCH_BLOCKS  16384

typedef struct Place {
    uint64_t offset;                /* in the file, bytes */
    uint64_t index;                 /* of the BAT entry that names it */
    uint64_t bytes;
} Place;

/* The blocks in a stretch of the file */
typedef struct Stretch {
    uint64_t from, to;              /* those that begin here, bytes */
    GArray *places;                 /* Place, as they lie in the file */
    uint64_t end;                   /* of the last block in the file, bytes */
} Stretch;

void vhdx_compact_progress(BlockDriverState *bs, VHDXCompact *c)
{
    uint64_t parts = c->phase * PROGRESS_PARTS;

    if (c->total) {
        parts += PROGRESS_PARTS * MIN(c->done, c->total) / c->total;
    }
    c->told = MAX(c->told, parts);
    c->status_cb(bs, c->told, c->phases * PROGRESS_PARTS, c->cb_opaque);
}

static int add_to_stretch(BlockDriverState *bs, uint64_t index,
                          const uint64_t *entries, uint64_t count, void *opaque)
{
    BDRVVHDXState *s = bs->opaque;
    Stretch *st = opaque;

    for (uint64_t i = 0; i < count; i++) {
        Place p = { vhdx_bat_offset(entries[i]), index + i };
        bool bitmap;

        p.bytes = vhdx_compact_object(s, index + i, entries[i], &bitmap);
        if (!p.bytes) {
            continue;
        }
        if (p.offset >= st->from && p.offset < st->to) {
            g_array_append_val(st->places, p);
        }
        st->end = MAX(st->end, p.offset + p.bytes);
    }
    return 0;
}

static int place_compare(const void *a, const void *b)
{
    const Place *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/*
 * Whether a block or more is lost in gaps if the blocks from @offset on stay.
 * What is free before them is one piece, as blocks have slid there: it gets
 * filled with others, from the end of the file.
 */
static bool slide_is_worth_it(BDRVVHDXState *s, uint64_t offset, uint64_t end)
{
    uint64_t before, behind;

    VHDX_LOCK_GUARD(s);
    before = offset - vhdx_space_count_used(s, 0, offset);
    behind = end - offset - vhdx_space_count_used(s, offset, end);
    return before % s->geo.block_size + behind >= s->geo.block_size;
}

/* Move blocks from number @*next of @st on down, as far as there are places. */
static int coroutine_fn GRAPH_RDLOCK
slide_down(BlockDriverState *bs, VHDXCompact *c, Stretch *st, guint *next)
{
    BDRVVHDXState *s = bs->opaque;
    bool full = false;
    int ret;

    c->set.count = 0;
    while (*next < st->places->len && !full) {
        Place *p = &g_array_index(st->places, Place, *next);
        uint64_t to;

        WITH_VHDX_LOCK_GUARD(s) {
            to = vhdx_space_take_below(s, p->bytes, p->offset);
        }
        if (!to) {
            break;
        }
        full = vhdx_move_add(s, &c->set, p->index, p->offset, to);
        ++*next;
    }
    ret = vhdx_move_blocks(bs, &c->set);
    c->done += c->set.count;
    vhdx_compact_progress(bs, c);
    return ret;
}

/* Move some blocks from number @next of @st on out of the way, to the end. */
static int coroutine_fn GRAPH_RDLOCK
move_up(BlockDriverState *bs, VHDXCompact *c, Stretch *st, guint next)
{
    BDRVVHDXState *s = bs->opaque;
    bool full = false;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    if (ret < 0) {
        return ret;
    }
    c->set.count = 0;
    while (next < st->places->len && !full) {
        Place *p = &g_array_index(st->places, Place, next++);
        int64_t to;
        bool zero;

        WITH_VHDX_LOCK_GUARD(s) {
            to = vhdx_space_alloc(bs, p->bytes, &zero);
        }
        if (to < 0 && !c->set.count) {
            return to;
        }
        if (to < 0) {
            /* With those that there is space for */
            break;
        }
        full = vhdx_move_add(s, &c->set, p->index, p->offset, to);
    }
    return vhdx_move_blocks(bs, &c->set);
}

/*
 * Slide the blocks of @st down.  Returns 0 with @st->from where to go on, 1 if
 * the rest may stay, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
slide_stretch(BlockDriverState *bs, VHDXCompact *c, Stretch *st)
{
    BDRVVHDXState *s = bs->opaque;
    bool room = true;               /* there may be a place further down */
    int ret;

    for (guint i = 0; i < st->places->len;) {
        bool gap;

        st->from = g_array_index(st->places, Place, i).offset;
        gap = vhdx_space_is_free_before(s, st->from);
        if (!gap && !room) {
            c->done++;
            i++;
            continue;
        }
        if (!slide_is_worth_it(s, st->from, st->end)) {
            return 1;
        }
        ret = slide_down(bs, c, st, &i);
        if (ret < 0) {
            return ret;
        }
        if (!c->set.count) {
            room = false;
            if (gap) {
                /* They may get into the midst of the others. */
                return move_up(bs, c, st, i);
            }
        }
    }
    st->from = st->to;
    return 0;
}

int coroutine_fn vhdx_compact_slide(BlockDriverState *bs, VHDXCompact *c)
{
    BDRVVHDXState *s = bs->opaque;
    Stretch st = {
        .places = g_array_new(false, false, sizeof(Place)),
    };
    int ret;

    do {
        g_array_set_size(st.places, 0);
        st.to = st.from + ((uint64_t)STRETCH_BLOCKS << s->geo.block_bits);
        ret = vhdx_bat_walk(bs, 0, s->geo.bat_entries, add_to_stretch, &st);
        if (ret < 0) {
            break;
        }
        g_array_sort(st.places, place_compare);
        ret = slide_stretch(bs, c, &st);
    } while (ret == 0 && st.from < st.end);
    g_array_unref(st.places);
    return MIN(ret, 0);
}
