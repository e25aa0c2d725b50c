/*
 * VHDX: moving blocks while requests go on
 *
 * Blocks are watched while they are copied: what is written to one meanwhile is
 * copied again, and again, until it is little.  Then requests are held off
 * while that is copied, and while the entries change in memory, which is a
 * matter of milliseconds:
 *
 *   watch -> copy what is new -> flush -> ... -> hold -> copy -> entries -> let
 *             ^                   |                                        go
 *             +--- more than -----+                             -> commit
 *                  HELD_BYTES
 *
 * That the copies get stable, and then the entries, nobody has to wait for: a
 * power cut before that brings the old place back, where all is that had been
 * flushed when the entry changed, and no flush after that ends before the entry
 * is stable.
 *
 * A flush that fails takes copies with it that no entry names yet, and nothing
 * else would tell of it later.  So such a batch is given up, and so is one
 * whose caller has to wait for something: the copies were for nothing.
 *
 * A block that gets written to faster than it is copied stays where it is.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/move-live.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space-freed.h"
#include "move-int.h"
#include "trace.h"

/*
 * So many pieces at the same time, and so long, as requests share the storage
 * with them: a file system may let a write wait for another one to the file.
 */
#define LIVE_PIECES     2
#define LIVE_PIECE      ((uint64_t)256 * KiB)

/*
 * So much may be left to copy when requests are held off.  Nobody shares the
 * storage with that, so it is all copied at the same time, in however many
 * pieces it is: it takes a read and a write, ...
 */
#define HELD_BYTES      MiB
#define HELD_PIECES     (HELD_BYTES / VHDX_WATCH_UNIT)

/* ... and if it is more, it is copied before, so many times at the most. */
#define LIVE_ROUNDS     8

/* So often it is tried to hold requests off for a moment only. */
#define LIVE_ATTEMPTS   20

/* Watch the blocks of @set, all of each as if it had been written if @all. */
static void set_watch(BDRVVHDXState *s, VHDXMoveSet *set, bool all)
{
    VHDX_LOCK_GUARD(s);
    for (unsigned i = 0; i < set->count; i++) {
        VHDXMove *m = &set->moves[i];
        uint64_t units = DIV_ROUND_UP(m->bytes, VHDX_WATCH_UNIT);

        m->watch = (VHDXWatch) {
            .offset = m->from,
            .bytes = m->bytes,
            .written = bitmap_new(units),
        };
        if (all) {
            bitmap_set(m->watch.written, 0, units);
        }
        vhdx_file_watch(s, &m->watch);
    }
}

static void set_unwatch(BDRVVHDXState *s, VHDXMoveSet *set)
{
    VHDX_LOCK_GUARD(s);
    for (unsigned i = 0; i < set->count; i++) {
        vhdx_file_unwatch(s, &set->moves[i].watch);
        g_free(set->moves[i].watch.written);
    }
}

/* How many bytes of @m have been written. */
static uint64_t written_bytes(BDRVVHDXState *s, const VHDXMove *m)
{
    VHDX_LOCK_GUARD(s);
    return bitmap_count_one(m->watch.written,
                            DIV_ROUND_UP(m->bytes, VHDX_WATCH_UNIT)) *
           VHDX_WATCH_UNIT;
}

/*
 * Take what has been written of @m from @at on, in one piece, up to @most
 * bytes, as if it had not.  Returns its length in bytes, with @at where it
 * begins, or 0 if there is none.  [move-frozen]
 */
static uint64_t written_take(BDRVVHDXState *s, VHDXMove *m, uint64_t *at,
                             uint64_t most)
{
    unsigned long *written = m->watch.written;
    uint64_t units = DIV_ROUND_UP(m->bytes, VHDX_WATCH_UNIT), from, end;

    VHDX_LOCK_GUARD(s);
    from = find_next_bit(written, units, *at / VHDX_WATCH_UNIT);
    end = MIN(units, from + most / VHDX_WATCH_UNIT);
    if (from >= end) {
        return 0;
    }
    end = find_next_zero_bit(written, end, from);
    bitmap_clear(written, from, end - from);
    *at = from * VHDX_WATCH_UNIT;
    return MIN(end * VHDX_WATCH_UNIT, m->bytes) - *at;
}

/*
 * Copy up to @most bytes of what has been written of @set, but what is busy,
 * and so many @pieces at the same time.
 */
static int coroutine_fn GRAPH_RDLOCK
written_copy(BlockDriverState *bs, VHDXMoveSet *set, uint64_t most,
             unsigned pieces, uint64_t *copied)
{
    BDRVVHDXState *s = bs->opaque;
    AioTaskPool *pool = aio_task_pool_new(pieces);
    int ret;

    *copied = 0;
    for (unsigned i = 0; i < set->count; i++) {
        VHDXMove *m = &set->moves[i];
        uint64_t at = 0, n;

        while (!m->busy && *copied < most && aio_task_pool_status(pool) == 0 &&
               (n = written_take(s, m, &at, most - *copied))) {
            vhdx_move_pieces(bs, pool, vhdx_move_copy, m, at, at + n,
                             LIVE_PIECE);
            /* The rest of a unit that the disk ends in counts as taken. */
            at = ROUND_UP(at + n, VHDX_WATCH_UNIT);
            *copied += n;
        }
    }
    aio_task_pool_wait_all(pool);
    ret = aio_task_pool_status(pool);
    aio_task_pool_free(pool);
    return ret;
}

/* Make what has been copied stable, as a guest's flush would. */
static int coroutine_fn GRAPH_RDLOCK copies_flush(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_change_note(s);
    }
    return vhdx_commit(bs);
}

/* Whether the batch is to be given up, as others wait for that. */
static bool coroutine_fn is_enough(BlockDriverState *bs,
                                   const VHDXMoveUser *user)
{
    BDRVVHDXState *s = bs->opaque;
    bool wanted;

    WITH_VHDX_LOCK_GUARD(s) {
        wanted = vhdx_request_wanted(s);
    }
    return wanted || user->stop(bs, user->opaque);
}

/*
 * Copy what has been written of @set until it is little, or it is no use.
 * Returns 0 or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
set_copy_live(BlockDriverState *bs, VHDXMoveSet *set, const VHDXMoveUser *user)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t budget = 0, left, copied;
    int ret = 0;

    for (unsigned i = 0; i < set->count; i++) {
        budget += LIVE_ROUNDS * set->moves[i].held;
    }
    while (ret == 0 && budget) {
        left = 0;
        for (unsigned i = 0; i < set->count; i++) {
            left += written_bytes(s, &set->moves[i]);
        }
        if (left <= HELD_BYTES) {
            break;
        }
        if (is_enough(bs, user)) {
            return -EAGAIN;
        }
        ret = written_copy(bs, set, VHDX_LIVE_BYTES, LIVE_PIECES, &copied) ?:
              copies_flush(bs);
        budget -= MIN(budget, MAX(copied, VHDX_WATCH_UNIT));
    }
    return ret;
}

/*
 * Hold requests off, at attempt number @attempt.  Where they take very long
 * themselves there is no other way than to wait.  Returns whether they are.
 */
static bool coroutine_fn live_hold(BDRVVHDXState *s, const VHDXMoveUser *user,
                                   unsigned attempt)
{
    if (attempt < LIVE_ATTEMPTS) {
        return vhdx_request_try_hold(s, user->hold_ns);
    }
    vhdx_request_hold(s);
    return true;
}

/* Leave out of @set what is too much to be copied with requests held off. */
static void set_leave_busy(BDRVVHDXState *s, VHDXMoveSet *set)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < set->count; i++) {
        uint64_t bytes = written_bytes(s, &set->moves[i]);

        set->moves[i].busy = sum + bytes > HELD_BYTES;
        sum += set->moves[i].busy ? 0 : bytes;
    }
}

/*
 * Let entries of @set name the new places, where @failed flushes had failed
 * before anything was copied.  Requests are held.  [move-frozen]
 */
static int coroutine_fn GRAPH_RDLOCK
set_enter(BlockDriverState *bs, VHDXMoveSet *set, unsigned failed)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t copied;
    int ret;

    set_leave_busy(s, set);
    ret = written_copy(bs, set, UINT64_MAX, HELD_PIECES, &copied);
    if (ret < 0 || vhdx_file_flushes_failed(s) != failed) {
        /* In the latter case the copies may be gone. */
        return ret < 0 ? ret : -EIO;
    }
    for (unsigned i = 0; i < set->count; i++) {
        VHDXMove *m = &set->moves[i];

        if (!m->busy) {
            ret = vhdx_move_enter(bs, m);
            m->moved = ret == 0;
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Give back places that nothing has moved to, and commit the rest. */
static int coroutine_fn GRAPH_RDLOCK
set_end(BlockDriverState *bs, VHDXMoveSet *set, uint64_t *moved)
{
    BDRVVHDXState *s = bs->opaque;

    *moved = 0;
    WITH_VHDX_LOCK_GUARD(s) {
        for (unsigned i = 0; i < set->count; i++) {
            VHDXMove *m = &set->moves[i];

            if (m->moved) {
                ++*moved;
            } else if (m->to) {
                vhdx_space_return(s, m->to, m->held, true);
            }
        }
    }
    return *moved ? vhdx_commit(bs) : 0;
}

int coroutine_fn
vhdx_move_blocks_live(BlockDriverState *bs, VHDXMoveSet *set,
                      const VHDXMoveUser *user, uint64_t *moved)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned failed = vhdx_file_flushes_failed(s);
    bool held = false;
    int ret, committed;

    trace_vhdx_move_blocks(s, set->count);
    set_watch(s, set, true);
    ret = vhdx_begin(bs, VHDX_METADATA) ?: vhdx_move_zero_rests(bs, set);
    for (unsigned i = 0; ret == 0 && !held; i++) {
        ret = set_copy_live(bs, set, user);
        held = ret == 0 && live_hold(s, user, i);
    }
    if (ret == 0) {
        ret = set_enter(bs, set, failed);
        vhdx_request_let_go(s);
    }
    set_unwatch(s, set);
    committed = set_end(bs, set, moved);
    return ret < 0 ? ret : committed;
}

/* Look for data in the blocks of @set.  Returns 0 or -errno. */
static int coroutine_fn GRAPH_RDLOCK
set_look_live(BlockDriverState *bs, VHDXMoveSet *set, const VHDXMoveUser *user)
{
    uint64_t at = 0, end = VHDX_MOVE_LOOK_FIRST;
    int ret = 0;

    while (ret == 0 && at < set->moves[0].held) {
        if (is_enough(bs, user)) {
            return -EAGAIN;
        }
        ret = vhdx_move_set_pieces(bs, set, LIVE_PIECES, vhdx_move_look, at,
                                   end);
        at = end;
        end += VHDX_LIVE_BYTES;
    }
    return ret;
}

/* Drop blocks of @set that are zeros and have not been written to since. */
static int coroutine_fn GRAPH_RDLOCK
set_drop(BlockDriverState *bs, VHDXMoveSet *set)
{
    BDRVVHDXState *s = bs->opaque;

    for (unsigned i = 0; i < set->count; i++) {
        VHDXMove *m = &set->moves[i];
        int ret;

        if (m->data || written_bytes(s, m)) {
            continue;
        }
        ret = vhdx_move_drop(bs, m);
        if (ret < 0) {
            return ret;
        }
        m->moved = ret == 0;
    }
    return 0;
}

int coroutine_fn
vhdx_move_drop_zeroes_live(BlockDriverState *bs, VHDXMoveSet *set,
                           const VHDXMoveUser *user, uint64_t *moved)
{
    BDRVVHDXState *s = bs->opaque;
    bool any = false, held = false;
    int ret, committed;

    set_watch(s, set, false);
    ret = set_look_live(bs, set, user);
    for (unsigned i = 0; i < set->count; i++) {
        any |= !set->moves[i].data;
    }
    if (ret == 0 && any) {
        ret = vhdx_begin(bs, VHDX_METADATA);
    }
    for (unsigned i = 0; ret == 0 && any && !held; i++) {
        if (is_enough(bs, user)) {
            ret = -EAGAIN;
        } else {
            held = live_hold(s, user, i);
        }
    }
    if (held) {
        ret = set_drop(bs, set);
        vhdx_request_let_go(s);
    }
    set_unwatch(s, set);
    committed = set_end(bs, set, moved);
    return ret < 0 ? ret : committed;
}
