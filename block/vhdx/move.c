/*
 * VHDX: moving blocks
 *
 * What compacting does with blocks, several of them at a time ("batch"): look
 * whether there is anything in them, turn those without into the state ZERO,
 * and move them to other places in the file.
 *
 * A move copies all blocks of the batch into places that are taken for them.
 * Then the BAT entries change, in memory, and one commit makes the copies
 * stable ("barrier") and after them the entries.  Until it has ended the old
 * places are kept.  So a power cut or an error at any moment leaves each block
 * in one place or the other, whole.
 *
 * A sector bitmap block of a child moves in the same way.  As a replay writes
 * to it, the log holds nothing of it when it is copied: all is put in place
 * before.
 *
 * Holes in the file are not read, and are holes again in the new place.
 *
 * Requests are frozen, so that blocks stay as they have been seen; move-live.c
 * does without that.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/memalign.h"
#include "block/aio_task.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/move.h"
#include "block/vhdx/space-freed.h"
#include "move-int.h"
#include "trace.h"

/* A batch has as many blocks as make up so many bytes, if it has room. */
#define BATCH_BYTES     (64 * MiB)

/* What is read at once, and so many times at the same time */
#define PIECE_BYTES     MiB
#define PIECES          8

/* -- Pieces of a block -- */

typedef struct Piece {
    AioTask task;
    BlockDriverState *bs;
    VHDXMove *block;
    uint64_t at;                    /* bytes from the start of the block */
    uint64_t bytes;
    bool zero;                      /* nothing there in the file */
} Piece;

/* How a task with @p has ended, which was with @ret. */
static int piece_end(Piece *p, int ret)
{
    p->block->failed |= ret < 0;
    return ret;
}

/* Read @p, which is no longer than PIECE_BYTES.  Returns NULL with @ret set. */
static uint8_t *coroutine_fn GRAPH_RDLOCK piece_read(Piece *p, int *ret)
{
    uint64_t from = p->block->from + p->at;
    uint8_t *buf = qemu_try_blockalign(p->bs->file->bs, p->bytes);

    trace_vhdx_move_piece(p->bs->opaque, from,
                          p->block->to ? p->block->to + p->at : 0, p->bytes);
    *ret = buf ? vhdx_file_pread(p->bs, from, p->bytes, buf) : -ENOMEM;
    if (*ret < 0) {
        qemu_vfree(buf);
        return NULL;
    }
    return buf;
}

int coroutine_fn vhdx_move_copy(AioTask *task)
{
    Piece *p = container_of(task, Piece, task);
    uint64_t to = p->block->to + p->at;
    uint8_t *buf;
    int ret;

    if (p->zero) {
        ret = vhdx_file_pwrite_zeroes(p->bs, to, p->bytes, BDRV_REQ_MAY_UNMAP);
        return piece_end(p, ret);
    }
    buf = piece_read(p, &ret);
    if (buf) {
        ret = vhdx_file_pwrite(p->bs, to, p->bytes, buf);
        qemu_vfree(buf);
    }
    return piece_end(p, ret);
}

int coroutine_fn vhdx_move_look(AioTask *task)
{
    Piece *p = container_of(task, Piece, task);
    uint8_t *buf;
    int ret;

    if (p->zero || p->block->data) {
        return 0;
    }
    buf = piece_read(p, &ret);
    if (buf) {
        p->block->data |= !buffer_is_zero(buf, p->bytes);
        qemu_vfree(buf);
    }
    return piece_end(p, ret);
}

void coroutine_fn
vhdx_move_pieces(BlockDriverState *bs, AioTaskPool *pool, AioTaskFunc func,
                 VHDXMove *b, uint64_t at, uint64_t end, uint64_t most)
{
    int64_t n;

    for (; at < end && !b->data && aio_task_pool_status(pool) == 0; at += n) {
        int status = vhdx_file_extent(bs, b->from + at, end - at, &n);
        bool zero = status & BDRV_BLOCK_ZERO;
        Piece *p = g_new(Piece, 1);

        if (!zero) {
            n = MIN(n, most);
        }
        *p = (Piece) {
            .task.func = func,
            .bs = bs,
            .block = b,
            .at = at,
            .bytes = n,
            .zero = zero,
        };
        aio_task_pool_start_task(pool, &p->task);
    }
}

int coroutine_fn
vhdx_move_set_pieces(BlockDriverState *bs, VHDXMoveSet *set, int pieces,
                     AioTaskFunc func, uint64_t at, uint64_t end)
{
    uint64_t most = PIECE_BYTES / PIECES * MIN(pieces, PIECES);
    AioTaskPool *pool = aio_task_pool_new(pieces);
    int ret;

    for (unsigned i = 0; i < set->count && aio_task_pool_status(pool) == 0;
         i++) {
        vhdx_move_pieces(bs, pool, func, &set->moves[i], at,
                         MIN(end, set->moves[i].bytes), most);
    }
    aio_task_pool_wait_all(pool);
    ret = aio_task_pool_status(pool);
    aio_task_pool_free(pool);
    return ret;
}

/* -- Sets of blocks -- */

bool vhdx_move_add(BDRVVHDXState *s, VHDXMoveSet *set, uint64_t index,
                   uint64_t from, uint64_t to)
{
    VHDXMove *m = &set->moves[set->count++];

    *m = (VHDXMove) { .from = from, .to = to, .held = s->geo.block_size };
    if (vhdx_bat_index_is_bitmap(&s->geo, index, &m->block)) {
        m->bitmap = true;
        m->block = index / vhdx_bat_stride(&s->geo);
        m->bytes = m->held = VHDX_BITMAP_SIZE;
    } else {
        m->bytes = vhdx_block_bytes(&s->geo, m->block);
    }
    return set->count == ARRAY_SIZE(set->moves) ||
           (uint64_t)set->count << s->geo.block_bits >= BATCH_BYTES;
}

/*
 * Let go of @m's old place, as its entry has changed in memory.  lock is held.
 */
static void place_leave(BDRVVHDXState *s, const VHDXMove *m)
{
    vhdx_space_release(s, m->from, m->held);
    vhdx_change_note(s);
}

int coroutine_fn vhdx_move_drop(BlockDriverState *bs, const VHDXMove *m)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t old;
    int ret;

    VHDX_LOCK_GUARD(s);
    ret = vhdx_bat_get(bs, m->block, &old);
    if (ret < 0) {
        return ret;
    }
    if (old != vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT, m->from)) {
        return 1;
    }
    trace_vhdx_block_move(s, vhdx_bat_index(&s->geo, m->block), m->from, 0);
    vhdx_bat_set(s, m->block, vhdx_bat_entry(VHDX_BLOCK_ZERO, 0));
    place_leave(s, m);
    return 0;
}

/* The data has to be stable before the entry. [move-barrier] */
int coroutine_fn vhdx_move_enter(BlockDriverState *bs, const VHDXMove *m)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t old;
    int ret;

    VHDX_LOCK_GUARD(s);
    if (m->bitmap) {
        do {
            ret = vhdx_bat_get_bitmap(bs, m->block, &old);
        } while (ret > 0);
    } else {
        ret = vhdx_bat_get(bs, m->block, &old);
    }
    if (ret < 0) {
        return ret;
    }
    if (m->bitmap) {
        /* Requests are frozen throughout. */
        vhdx_bat_set_bitmap(s, m->block, m->to);
        vhdx_bitmap_forget_new(s, m->from);
        vhdx_cache_drop(s, m->from, VHDX_BITMAP_SIZE);
    } else {
        if (!vhdx_bat_is_present(s, old) || vhdx_bat_offset(old) != m->from) {
            return 1;
        }
        trace_vhdx_block_move(s, vhdx_bat_index(&s->geo, m->block), m->from,
                              m->to);
        vhdx_bat_set(s, m->block, vhdx_bat_entry(vhdx_bat_state(old), m->to));
    }
    place_leave(s, m);
    vhdx_change_order(s);
    return 0;
}

int coroutine_fn vhdx_move_drop_zeroes(BlockDriverState *bs,
                                       VHDXMoveSet *set, uint64_t *dropped)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    ret = vhdx_move_set_pieces(bs, set, PIECES, vhdx_move_look, 0,
                               VHDX_MOVE_LOOK_FIRST);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_move_set_pieces(bs, set, PIECES, vhdx_move_look,
                               VHDX_MOVE_LOOK_FIRST, UINT64_MAX);
    if (ret < 0) {
        return ret;
    }
    for (unsigned i = 0; i < set->count; i++) {
        if (set->moves[i].data) {
            continue;
        }
        ret = vhdx_begin(bs, VHDX_METADATA);
        if (ret < 0) {
            return ret;
        }
        ret = vhdx_move_drop(bs, &set->moves[i]);
        if (ret < 0) {
            return ret;
        }
        *dropped += ret == 0;
    }
    vhdx_lock(s);
    return vhdx_commit_unlock(bs);
}

int coroutine_fn vhdx_move_zero_rests(BlockDriverState *bs, VHDXMoveSet *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        VHDXMove *m = &set->moves[i];
        int ret;

        if (m->bytes == m->held) {
            continue;
        }
        ret = vhdx_file_pwrite_zeroes(bs, m->to + m->bytes, m->held - m->bytes,
                                      BDRV_REQ_MAY_UNMAP);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static bool set_has_bitmap(const VHDXMoveSet *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (set->moves[i].bitmap) {
            return true;
        }
    }
    return false;
}

/* [move-applied] [move-replay] */
int coroutine_fn vhdx_move_blocks(BlockDriverState *bs, VHDXMoveSet *set)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned moved = 0;
    int ret;

    if (!set->count) {
        return 0;
    }
    trace_vhdx_move_blocks(s, set->count);
    ret = vhdx_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        goto out;
    }
    if (set_has_bitmap(set)) {
        ret = vhdx_commit_checkpoint(bs);
        if (ret < 0) {
            goto out;
        }
    }
    ret = vhdx_move_zero_rests(bs, set) ?:
          vhdx_move_set_pieces(bs, set, PIECES, vhdx_move_copy, 0,
                               UINT64_MAX);
    if (ret < 0) {
        goto out;
    }
    for (; moved < set->count; moved++) {
        ret = vhdx_move_enter(bs, &set->moves[moved]);
        if (ret < 0) {
            goto out;
        }
    }
out:
    /* Blocks that have not moved stay, and what was taken for them is free. */
    WITH_VHDX_LOCK_GUARD(s) {
        for (unsigned i = moved; i < set->count; i++) {
            vhdx_space_return(s, set->moves[i].to, set->moves[i].held, true);
        }
    }
    return ret < 0 ? ret : vhdx_commit(bs);
}

void vhdx_move_tell(const VHDXMoveSet *set, int ret, Error **errp)
{
    const VHDXMove *m = set->moves, *end = m + set->count;
    const char *what;

    while (m < end && !m->failed) {
        m++;
    }
    if (m == end) {
        error_setg(errp, "%s", strerror(-ret));
        return;
    }
    what = m->bitmap ? "sector bitmap" : "block";
    if (m->to) {
        error_setg_errno(errp, -ret, "%s %" PRIu64 " could not be copied from "
                         "offset %" PRIu64 " to %" PRIu64, what, m->block,
                         m->from, m->to);
    } else {
        error_setg_errno(errp, -ret, "%s %" PRIu64 " could not be read at "
                         "offset %" PRIu64, what, m->block, m->from);
    }
}
