/*
 * VHDX: commits
 *
 * All metadata but the headers is changed through the log: first an entry with
 * the new content of the pages is written there and made stable, then, at
 * leisure, the pages are written in place.  A power cut at any instant leaves
 * either the entry, which the next open replays, or the state before it.
 *
 * A commit takes the pages that are dirty when it begins, and makes them and
 * all data written until then stable with one flush.  So a guest flush costs
 * one write and one flush of the file, and one flush only when no metadata has
 * changed.  The exception are new blocks in space that is not known to read as
 * zeros: their data must be stable before the entry that names them can be, so
 * then there is a flush before the entry as well ("barrier").
 *
 * Where entries go, and when pages go in place, is told in ring.c; log.c opens
 * and closes the log.
 *
 * Above a function that keeps a rule of crash safety the rule's name stands in
 * brackets, here and in all files of the driver.  Its tests know the rules by
 * these names.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/header.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "block/vhdx/ring.h"
#include "block/vhdx/space-freed.h"
#include "trace.h"
#include "commit-int.h"

/* So many pieces of freed space, not yet committed, are 1.5 MiB of memory. */
#define FREED_MAX   65536

/* An entry that is written early has so many pages at the most. */
#define EARLY_PAGES 8

/*
 * If something else changes before the flush that was to follow, such an entry
 * costs a flush.  After each time it takes so many times as many turns of a
 * write and a flush to believe a guest again, up to that.
 */
#define TURNS_FACTOR    4
#define TURNS_MOST      64

/* How many places a flush punches, new ones or what others have left */
#define PUNCH_FLUSH 64

/* The entry that was written early is @stable, or is to count for nothing. */
static void early_end(BDRVVHDXState *s, bool stable)
{
    VHDXCommit *c = s->early;

    vhdx_assert_commit_locked(s);
    if (!c) {
        return;
    }
    s->early = NULL;
    if (stable) {
        vhdx_commit_stable(s, c);
    }
    vhdx_commit_end(s, c);
    g_free(c);
}

void vhdx_commit_forget_early(BDRVVHDXState *s)
{
    early_end(s, false);
}

/*
 * Whether something that is not in the log yet, or is going to be, relies on
 * data that was written before: new blocks in space that is not known to read
 * as zeros, and what is done with requests frozen.
 */
static bool data_is_named(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    return vhdx_change_is_ordered(s) || vhdx_request_alloc_barrier(s) ||
           vhdx_request_frozen(s);
}

/*
 * Flush what was written to the log, and with it all data.  If there is only
 * data, an error is the guest's to deal with, as it is with a raw file.
 * [flush-stable] [early-latched]
 */
static int coroutine_fn GRAPH_RDLOCK
commit_flush(BlockDriverState *bs, VHDXCommit *c)
{
    BDRVVHDXState *s = bs->opaque;
    bool entries = c->written > c->stable || s->early;
    bool data_only = !entries && vhdx_ring_applied_is_stable(s);
    int ret = data_only ? vhdx_ring_flush_data(bs) : vhdx_ring_flush(bs);

    if (ret < 0 && data_only && data_is_named(s)) {
        vhdx_change_latch(bs, "failed to flush the data of new blocks");
    }
    early_end(s, ret == 0);
    if (ret == 0 && entries) {
        vhdx_commit_stable(s, c);
        vhdx_ring_release(s);
    }
    return ret;
}

/*
 * Let an entry that was written early be one like all others: stable, so that
 * its pages may be put in place, or taken once more. [early-settled]
 */
static int coroutine_fn GRAPH_RDLOCK early_settle(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCommit none = { 0 };

    return s->early ? commit_flush(bs, &none) : 0;
}

/*
 * Empty the ring, all entries of which are stable.  Returns 0 or -errno.
 * [checkpoint-applied] [checkpoint-stable]
 */
static int coroutine_fn GRAPH_RDLOCK
checkpoint(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_assert_commit_locked(s);
    trace_vhdx_checkpoint(s);
    ret = vhdx_header_verify(bs);
    if (ret < 0) {
        return ret;
    }
    ret = early_settle(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_ring_apply(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_ring_flush(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_ring_write(bs, 0, NULL, NULL);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_ring_flush(bs);
    if (ret < 0) {
        return ret;
    }
    vhdx_ring_release(s);
    return 0;
}

/* Make room in the ring for the next entry, of @count pages. [ring-room] */
static int coroutine_fn GRAPH_RDLOCK
commit_make_room(BlockDriverState *bs, VHDXCommit *c, uint32_t count)
{
    int ret;

    if (vhdx_log_entry_size(count) <= vhdx_ring_room(bs->opaque)) {
        return 0;
    }
    if (c->written > c->stable) {
        ret = commit_flush(bs, c);
        if (ret < 0) {
            return ret;
        }
    }
    return checkpoint(bs);
}

/* Write the pages to the log, in as many entries as it takes. */
static int coroutine_fn GRAPH_RDLOCK
commit_write_entries(BlockDriverState *bs, VHDXCommit *c)
{
    BDRVVHDXState *s = bs->opaque;
    uint32_t quarter = s->header.log_length / VHDX_LOG_SECTOR / 4;
    uint32_t most = quarter - vhdx_log_desc_sectors(quarter);
    int ret;

    /*
     * An entry that was given up may be in the file all the same, and a reader
     * may have found pages there.  It knows their sectors by the entry's number
     * alone.  So an entry without pages gets that number: what is written to
     * these sectors has a higher one, and then the reader looks in place, where
     * all is by now that was ever stable.
     */
    while (c->pages->len && vhdx_ring_has_given_up(s)) {
        ret = checkpoint(bs);
        if (ret < 0) {
            return ret;
        }
    }
    while (c->written < c->pages->len) {
        uint32_t count = MIN(most, c->pages->len - c->written);

        ret = commit_make_room(bs, c, count);
        if (ret < 0) {
            return ret;
        }
        ret = vhdx_ring_write(bs, count, c->offsets + c->written,
                              c->data + c->written);
        if (ret < 0) {
            return ret;
        }
        c->written += count;
    }
    return 0;
}

/* Write the pages to the log, and flush. */
static int coroutine_fn GRAPH_RDLOCK
commit_write(BlockDriverState *bs, VHDXCommit *c)
{
    int ret = commit_write_entries(bs, c), flushed;

    if (vhdx_change_is_broken(bs->opaque) ||
        (ret < 0 && c->written == c->stable)) {
        return ret;
    }
    /* Even if no more fits, what has been written is part of the log now. */
    flushed = commit_flush(bs, c);
    return ret < 0 ? ret : flushed;
}

int coroutine_fn vhdx_commit_assure_length(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    vhdx_assert_commit_locked(s);
    if (vhdx_file_is_unsure(s)) {
        qemu_co_mutex_lock(&s->grow_lock);
        ret = vhdx_space_assure(bs);
        qemu_co_mutex_unlock(&s->grow_lock);
    }
    return ret;
}

/*
 * Put pages in place in good time, while two of the largest entries still fit
 * into the log.
 */
static int coroutine_fn GRAPH_RDLOCK apply_if_due(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    bool full = vhdx_cache_count_logged(s) > vhdx_cache_limit(s) / 4;
    int ret;

    if (!full && !vhdx_ring_is_half_full(s)) {
        return 0;
    }
    ret = vhdx_header_verify(bs) ?: vhdx_ring_apply(bs);
    if (ret == 0 && full) {
        /* Pages are kept until they are stable in place. */
        ret = vhdx_ring_flush(bs);
    }
    return ret;
}

/*
 * Whether the entry that was written early stands in the way of a commit of
 * what has been changed by now.  lock is held.
 */
static bool early_hinders(BDRVVHDXState *s)
{
    return s->early &&
           (vhdx_cache_count_dirty(s) || vhdx_change_is_ordered(s));
}

/* [data-barrier] */
int coroutine_fn vhdx_commit_locked(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t last;
    bool barrier;
    VHDXCommit commit;
    int ret = 0;

    vhdx_assert_commit_locked(s);
    vhdx_assert_unlocked(s);
    if (vhdx_cache_count_logged(s) > vhdx_cache_limit(s) / 2) {
        /* The commits before this one could not put their pages in place. */
        ret = early_settle(bs) ?: apply_if_due(bs);
        if (ret < 0) {
            return ret;
        }
    }
    vhdx_lock(s);
    while (early_hinders(s)) {
        s->turns_needed = MIN(s->turns_needed * TURNS_FACTOR, TURNS_MOST);
        s->by_turns = 0;
        vhdx_unlock(s);
        ret = early_settle(bs);
        if (ret < 0) {
            return ret;
        }
        vhdx_lock(s);
    }
    barrier = vhdx_change_take(s, &last);
    vhdx_space_commit_begin(s);
    vhdx_commit_take(s, &commit);
    vhdx_unlock(s);
    trace_vhdx_commit_start(s, last, commit.pages->len, barrier);
    /* If it fails, FlushedFileOffset stays what it was, which is as good. */
    (void)vhdx_commit_assure_length(bs);
    if (barrier) {
        /* Once and for all: what fails later leaves the data stable. */
        ret = vhdx_ring_flush(bs);
        barrier = ret < 0;
    }
    ret = ret ?: commit_write(bs, &commit);
    vhdx_commit_end(s, &commit);
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_space_commit_end(s, ret == 0);
        if (barrier) {
            vhdx_change_order(s);
        }
        if (ret == 0) {
            vhdx_change_stable(s, last);
        }
    }
    trace_vhdx_commit_end(s, last, ret);
    if (ret < 0) {
        return ret;
    }
    /*
     * If that fails, as where there is no space, this commit is stable all the
     * same: a caller must not take back what it has made so.  But it may be
     * that another program has written to the file: then nothing goes on.
     */
    ret = apply_if_due(bs);
    return vhdx_change_is_broken(s) ? ret : 0;
}

/*
 * Cut a free tail off the file, if it is a large one, or @any.  Nothing may say
 * any more that the file is longer before it gets shorter: the checkpoint's
 * entry tells the new end twice, as what it has for certain and as what it
 * needs.  If that can't be had now, the image's closing will do it.
 * [cut-announced] [cut-stable]
 */
static void coroutine_fn GRAPH_RDLOCK
cut_free_end(BlockDriverState *bs, bool any)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t size;

    qemu_co_mutex_lock(&s->commit_lock);
    qemu_co_mutex_lock(&s->grow_lock);
    if (vhdx_change_log_is_open(s) && !vhdx_change_is_broken(s) &&
        vhdx_space_cut_begin(s, any, &size)) {
        if (checkpoint(bs) < 0) {
            vhdx_space_cut_undo(s, size);
        } else {
            vhdx_space_cut(bs, vhdx_file_size(s), size);
            (void)vhdx_ring_flush(bs);
        }
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    qemu_co_mutex_unlock(&s->commit_lock);
}

int coroutine_fn vhdx_commit(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t last;
    bool done;
    int ret = 0;

    vhdx_assert_unlocked(s);
    WITH_VHDX_LOCK_GUARD(s) {
        last = vhdx_change_last(s);
        done = vhdx_change_is_stable(s, last);
    }
    if (!done) {
        qemu_co_mutex_lock(&s->commit_lock);
        WITH_VHDX_LOCK_GUARD(s) {
            done = vhdx_change_is_stable(s, last);
        }
        if (!done) {
            ret = vhdx_change_is_broken(s) ? -EIO : vhdx_commit_locked(bs);
        }
        qemu_co_mutex_unlock(&s->commit_lock);
        if (vhdx_space_reclaim(bs)) {
            cut_free_end(bs, false);
        }
    }
    vhdx_space_punch(bs, PUNCH_FLUSH);
    return ret;
}

void coroutine_fn vhdx_commit_cut(BlockDriverState *bs)
{
    vhdx_assert_unlocked((BDRVVHDXState *)bs->opaque);
    cut_free_end(bs, true);
}

/*
 * Whether an entry may be written now for which nobody waits.  lock and
 * commit_lock are held. [early-ordered] [ring-room]
 */
static bool early_may_begin(BDRVVHDXState *s)
{
    unsigned dirty = vhdx_cache_count_dirty(s);

    return !s->early && vhdx_change_log_is_open(s) &&
           !vhdx_change_is_broken(s) && !vhdx_change_is_ordered(s) &&
           !vhdx_file_is_unsure(s) && !vhdx_ring_has_given_up(s) &&
           dirty && dirty <= EARLY_PAGES &&
           vhdx_log_entry_size(dirty) <= vhdx_ring_room(s);
}

/* [early-locked] */
void coroutine_fn vhdx_commit_early(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCommit *c;
    int ret;

    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    if (!early_may_begin(s)) {
        vhdx_unlock(s);
        return;
    }
    c = g_new(VHDXCommit, 1);
    vhdx_commit_take(s, c);
    vhdx_unlock(s);
    trace_vhdx_commit_early(s, c->pages->len);
    ret = vhdx_ring_write(bs, c->pages->len, c->offsets, c->data);
    if (ret < 0) {
        vhdx_commit_end(s, c);
        g_free(c);
        return;
    }
    c->written = c->pages->len;
    s->early = c;
}

bool vhdx_commit_relief_due(BDRVVHDXState *s)
{
    unsigned changed = vhdx_cache_count_changed(s);
    unsigned limit = vhdx_cache_limit(s);

    vhdx_assert_locked(s);
    if ((changed < limit / 2 && vhdx_space_count_freed(s) < FREED_MAX) ||
        (s->relieving && changed < limit)) {
        return false;
    }
    s->relieving = true;
    return true;
}

int coroutine_fn vhdx_commit_relieve(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_assert_unlocked(s);
    trace_vhdx_relieve(s);
    ret = vhdx_commit(bs);

    VHDX_LOCK_GUARD(s);
    s->relieving = false;
    return ret;
}

int coroutine_fn vhdx_commit_unlock(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    bool due = vhdx_commit_relief_due(s);

    vhdx_unlock(s);
    return due ? vhdx_commit_relieve(bs) : 0;
}

int coroutine_fn vhdx_commit_put(BlockDriverState *bs, uint64_t offset,
                                 uint64_t bytes, const void *buf)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_cache_write(bs, offset, bytes, buf);

    if (ret < 0) {
        return ret;
    }
    vhdx_lock(s);
    return vhdx_commit_unlock(bs);
}

int coroutine_fn vhdx_commit_checkpoint_locked(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_assert_commit_locked(s);
    vhdx_assert_unlocked(s);
    if (!vhdx_change_log_is_open(s)) {
        /* Whoever has closed it has put everything in place. */
        return 0;
    }
    ret = vhdx_change_is_broken(s) ? -EIO : vhdx_commit_locked(bs);
    return ret < 0 ? ret : checkpoint(bs);
}

int coroutine_fn vhdx_commit_checkpoint(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    qemu_co_mutex_lock(&s->commit_lock);
    ret = vhdx_commit_checkpoint_locked(bs);
    qemu_co_mutex_unlock(&s->commit_lock);
    return ret;
}
