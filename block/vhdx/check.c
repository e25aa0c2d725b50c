/*
 * VHDX: check and repair
 *
 * What open refuses never gets here; check looks for all that open tolerates:
 * copies of headers and region tables, reserved fields, each BAT entry and
 * where its block is.  Each finding is told in words, and is one of three:
 *
 *   wrong, and what is right is certain    mended with -r all
 *   wrong, and only a guess would help     told and left alone
 *   odd, but no reader trips over it       a note, no error; put in order with
 *                                          -r all where that is certain
 *
 * Repair changes metadata through the log, as requests do, so a power cut
 * leaves each page as it was or as it is to be.  The first change opens the
 * log, which mends damaged copies and replays an old log by itself.
 *
 * What lies in the file behind the last object is free space, as other writers
 * leave it, but lost space ("leak") where a log is to be replayed: then it is
 * what a crash has left.  It is cut off by closing the log, but not while there
 * are errors that remain: it may be a block whose entry is damaged.  So a
 * replay, which cuts it otherwise, leaves it to the check.
 * Space between objects is free: new blocks are put there.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/change.h"
#include "block/vhdx/check.h"
#include "block/vhdx/check-bat.h"
#include "block/vhdx/check-dirty.h"
#include "block/vhdx/check-report.h"
#include "block/vhdx/check-tables.h"
#include "block/vhdx/compact-gain.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/dirty-store.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"

/* -- Space -- */

/*
 * Whether the file behind the image may get shorter.  A raw node may have been
 * given its length, and a device takes no space of a file system; others that
 * tell nothing may or may not, until one has refused it.
 */
static bool coroutine_fn GRAPH_RDLOCK tail_can_go(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    WITH_VHDX_LOCK_GUARD(s) {
        if (vhdx_space_only_grows(s)) {
            return false;
        }
    }
    return !qdict_haskey(bs->file->bs->options, "size") &&
           bdrv_co_get_allocated_file_size(bs->file->bs) != 0;
}

/* Tell of free space: the tail, of @tail bytes, and what is before. */
static void tell_space(BlockDriverState *bs, VHDXCheck *check, uint64_t tail,
                       bool tail_goes)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t inside = check->end - check->used + (tail_goes ? 0 : tail);
    /* A leak behind the last object is no matter of compacting. */
    uint64_t gain = vhdx_compact_gain(s, check->end, !check->leak,
                                      check->result->bfi.allocated_clusters,
                                      check->bitmaps);

    if (inside >= VHDX_MIB) {
        vhdx_check_note(check, "%" PRIu64 " MiB of the file are free: nothing "
                        "refers to them", inside / VHDX_MIB);
    }
    if (tail && tail_goes && !check->leak) {
        vhdx_check_note(check, "%" PRIu64 " byte%s behind the last object %s "
                        "free: nothing refers to %s", tail, vhdx_plural(tail),
                        tail == 1 ? "is" : "are", tail == 1 ? "it" : "them");
    }
    if (gain >= VHDX_MIB && !s->params.leave_allocated && !check->lost &&
        !check->result->corruptions && (tail_goes || !tail)) {
        vhdx_check_note(check, "Compacting would make the file up to %" PRIu64
                        " MiB shorter", gain / VHDX_MIB);
    }
}

/*
 * Tell of free space; count the tail as a leak if it is one, in payload blocks
 * as clusters are what the block layer counts in.  Returns whether it is to be
 * cut.
 */
static bool coroutine_fn GRAPH_RDLOCK
check_space(BlockDriverState *bs, VHDXCheck *check, bool live, uint64_t *tail)
{
    BDRVVHDXState *s = bs->opaque;
    BdrvCheckResult *result = check->result;
    uint64_t size = vhdx_file_size(s);
    bool goes = tail_can_go(bs);

    *tail = 0;
    if (result->check_errors) {
        /* Not all of the file was looked at. */
        return false;
    }
    result->image_end_offset = MIN(check->end, size);
    /* While the image is being written to, the tail is kept for growth. */
    if (size > check->end && !live) {
        *tail = size - check->end;
    }
    if (!result->corruptions_fixed) {
        tell_space(bs, check, *tail, goes);
    }
    if (s->params.leave_allocated &&
        result->bfi.allocated_clusters < result->bfi.total_clusters) {
        /* As QEMU once made them */
        vhdx_check_note(check, "Only %" PRIu64 " of the %" PRIu64 " block%s of "
                        "this fixed image %s a place in the file",
                        result->bfi.allocated_clusters,
                        result->bfi.total_clusters,
                        vhdx_plural(result->bfi.total_clusters),
                        result->bfi.allocated_clusters == 1 ? "has" : "have");
    }
    if (!goes) {
        *tail = 0;
    }
    if (!*tail || !(check->fix & BDRV_FIX_LEAKS)) {
        return false;
    }
    if (result->corruptions) {
        vhdx_check_note(check, "The %" PRIu64 " byte%s behind the last object "
                        "%s kept, as a damaged entry may have named %s", *tail,
                        vhdx_plural(*tail), *tail == 1 ? "is" : "are",
                        *tail == 1 ? "it" : "them");
        return false;
    }
    return true;
}

/* -- The check as a whole -- */

/*
 * The log may hold changes.  That is no error, but putting them in place, with
 * which any change begins, counts as a repair.
 */
static int coroutine_fn GRAPH_RDLOCK
check_replay(BlockDriverState *bs, VHDXCheck *check)
{
    static const char text[] = "The log has changes that are not applied yet";
    int ret;

    if (!check->replay) {
        return 0;
    }
    if (!check->fix) {
        vhdx_check_note(check, "%s; they are taken into account", text);
        return 0;
    }
    ret = vhdx_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        return ret;
    }
    vhdx_check_note(check, "Repairing: %s", text);
    check->result->corruptions_fixed++;
    return 0;
}

/* All that is looked at before the free space, in this order */
static int coroutine_fn GRAPH_RDLOCK
check_objects(BlockDriverState *bs, VHDXCheck *check)
{
    static int coroutine_fn (*const passes[])(BlockDriverState *bs,
                                              VHDXCheck *check) = {
        vhdx_check_copies,
        check_replay,
        vhdx_check_metadata,
        vhdx_check_bat,
        vhdx_check_dirty,
    };

    for (int i = 0; i < ARRAY_SIZE(passes); i++) {
        int ret = passes[i](bs, check);

        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Let what is behind the last object be cut when the log is closed. */
static int coroutine_fn GRAPH_RDLOCK
tail_release(BlockDriverState *bs, VHDXCheck *check)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = vhdx_begin(bs, VHDX_METADATA);

    WITH_VHDX_LOCK_GUARD(s) {
        /* Also where it is a fixed image's: that is what was asked for. */
        vhdx_space_set_end(s, check->end);
    }
    return ret;
}

/* The tail, of @tail bytes, has been cut off, or not. */
static void count_leaks(BDRVVHDXState *s, VHDXCheck *check, uint64_t tail,
                        bool cut)
{
    uint64_t blocks = DIV_ROUND_UP(tail, s->geo.block_size);
    uint64_t fixed = check->given_up + (cut ? blocks : 0);
    uint64_t left = check->lost + (check->leak && !cut ? blocks : 0);

    check->result->leaks_fixed = MIN(fixed, INT_MAX);
    check->result->leaks = MIN(left, INT_MAX);
}

/* From now on all that is wrong is told here, and the file keeps its end. */
static void check_begin(BDRVVHDXState *s, VHDXCheck *check)
{
    VHDX_LOCK_GUARD(s);
    s->reported = true;
    s->keep_end = true;
    /*
     * qemu-img looks twice: what the first check could not cut off is a leak
     * still.  A node that may be longer than asked for has refused nothing.
     */
    check->leak = check->replay ||
                  (vhdx_replay_is_done(s) && vhdx_space_cut_is_refused(s));
}

int coroutine_fn vhdx_co_check(BlockDriverState *bs, BdrvCheckResult *result,
                               BdrvCheckMode fix)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXCheck check = {
        .result = result,
        .fix = fix,
        .notes = bs->open_flags & BDRV_O_CHECK,
        .replay = vhdx_replay_active(s),
    };
    bool live = vhdx_change_log_is_open(s);
    bool cut = false;
    uint64_t tail = 0;
    Error *lost = NULL;
    int ret, closed;

    check_begin(s, &check);
    ret = check_objects(bs, &check);
    if (ret < 0) {
        goto out;
    }
    cut = check_space(bs, &check, live, &tail);
    /* What it has kept a replay from cutting, whatever the node */
    cut |= check.replay && fix && !result->corruptions && !result->check_errors;
    cut &= !check.doubt;
    if (cut) {
        ret = tail_release(bs, &check);
    }
out:
    if (vhdx_change_log_is_open(s) && !live) {
        closed = vhdx_dirty_settle(bs, &lost);
        ret = ret < 0 ? ret : closed;
        if (lost) {
            error_reportf_err(lost, "Lost persistent bitmaps: ");
            ret = ret < 0 ? ret : -EIO;
        }
    }
    WITH_VHDX_LOCK_GUARD(s) {
        s->keep_end = false;
    }
    if (ret < 0) {
        result->check_errors++;
        /* That would say that there are no checks for this format. */
        return ret == -ENOTSUP ? -EIO : ret;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        check.leak &= !vhdx_space_only_grows(s);
    }
    count_leaks(s, &check, tail, cut && vhdx_file_size(s) <= check.end);
    return 0;
}
