/*
 * VHDX: opening and closing the log
 *
 * The first modification opens the log.  The last commit, with everything put
 * in place, closes it.  Where entries go, and when pages go in place, is told
 * in ring.c, what a commit does in commit.c, and what comes before the first
 * modification in begin.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/header.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/metadata.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/ring.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"
#include "trace.h"

/* How many places the closing of the log punches at the most */
#define PUNCH_CLOSE 4096

/* Make good what a failed flush may have lost. [resume-data] */
static int coroutine_fn GRAPH_RDLOCK resume_locked(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_assert_commit_locked(s);
    vhdx_assert_grow_locked(s);
    if (vhdx_change_is_ordered(s)) {
        /*
         * Blocks that are not in the log yet have their place where old data
         * may show, as theirs, or the zeros around it, may be gone.
         */
        error_report_once_cond(&s->doubt_told, "VHDX image '%s': data of new "
                               "blocks may have been lost; writes remain "
                               "disabled", bs->filename);
        return -EIO;
    }
    /* Where another program has written, nothing makes that good. */
    ret = vhdx_header_verify(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_space_assure(bs);
    if (ret < 0) {
        return ret;
    }
    vhdx_commit_forget_early(s);
    if (vhdx_change_log_is_open(s)) {
        ret = vhdx_ring_rewind(bs);
        if (ret < 0) {
            return ret;
        }
    }
    return vhdx_ring_flush_data(bs) ?: vhdx_header_settle(bs);
}

int coroutine_fn vhdx_log_resume(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    if (!vhdx_change_is_broken(s)) {
        return 0;
    }
    /* Those under way may have lost what they have prepared. */
    vhdx_request_freeze(s);
    qemu_co_mutex_lock(&s->commit_lock);
    qemu_co_mutex_lock(&s->grow_lock);
    if (vhdx_change_is_broken(s)) {
        ret = resume_locked(bs);
        if (ret == 0) {
            vhdx_change_unlatch(s);
            s->doubt_told = false;
        }
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    qemu_co_mutex_unlock(&s->commit_lock);
    vhdx_request_thaw(s);
    return ret;
}

/*
 * Put the replay in place, so that neither header names the old log.
 * [replay-stable] [replay-named]
 */
static int coroutine_fn GRAPH_RDLOCK
replay_finish(BlockDriverState *bs, VHDXHeader *header)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    /* The file is about to be modified: that shows first. */
    ret = vhdx_header_update(bs, header, 1);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_replay_apply(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_ring_flush(bs);
    if (ret < 0) {
        return ret;
    }
    header->log_guid = vhdx_guid_nil;
    ret = vhdx_header_update(bs, header, 2);
    if (ret < 0) {
        return ret;
    }
    vhdx_replay_set_done(s);

    /*
     * The file may have grown before the power cut, and lost writes may lie
     * in what it gained.
     */
    ret = vhdx_space_measure(bs);
    if (ret < 0) {
        return ret;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_space_replayed(s);
        if (s->keep_end) {
            return 0;
        }
    }
    if (vhdx_space_scan(bs) == 0) {
        vhdx_space_truncate(bs);
    }
    return 0;
}

/* [log-named] */
static int coroutine_fn GRAPH_RDLOCK first_entry(BlockDriverState *bs,
                                                 VHDXHeader *header)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    vhdx_ring_begin(s);
    ret = vhdx_ring_write(bs, 0, NULL, NULL);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_ring_flush(bs);
    if (ret < 0) {
        return ret;
    }
    header->log_guid = vhdx_ring_guid(s);
    ret = vhdx_header_update(bs, header, 2);
    if (ret < 0) {
        return ret;
    }
    VHDX_LOCK_GUARD(s);
    vhdx_change_opened(s);
    return 0;
}

/*
 * A header with the new GUIDs comes before anything else, and with LogGuid zero
 * in both copies, as the other one has had it or has been overwritten, the
 * log's space may be used again.  The log is named by a header only when it has
 * a valid entry, and used only when both name it. [log-kept]
 */
int coroutine_fn vhdx_log_open(BlockDriverState *bs, VHDXWriteState to,
                               const VHDXGuid *data_write_guid)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXWriteState from = vhdx_change_state(s);
    VHDXHeader header = s->header;
    int ret;

    vhdx_assert_commit_locked(s);
    /* An open log counts with what the first flush of a header makes stable. */
    ret = vhdx_header_verify(bs) ?: vhdx_commit_assure_length(bs);
    if (ret < 0) {
        return ret;
    }
    if (from < to && to == VHDX_DATA) {
        header.data_write_guid = *data_write_guid;
    }
    /* Without a log it may have been anything. */
    header.log_version = 0;
    if (from == VHDX_READING) {
        header.file_write_guid = vhdx_guid_new();
        if (vhdx_replay_active(s)) {
            ret = replay_finish(bs, &header);
        } else {
            bool clean = vhdx_guid_is_nil(&s->header.log_guid);

            header.log_guid = vhdx_guid_nil;
            ret = vhdx_header_update(bs, &header, clean ? 1 : 2);
        }
        if (ret < 0) {
            return ret;
        }
        vhdx_space_reserve_last_block(bs);
        ret = first_entry(bs, &header);
        trace_vhdx_log_open(s, ret);
    } else if (from < to) {
        ret = vhdx_header_update(bs, &header, 2);
    }
    if (ret < 0) {
        return ret;
    }
    /* Through the log, as all tables are changed. */
    ret = vhdx_region_table_mend(bs);
    if (ret == 0 && from < to && to == VHDX_DATA) {
        vhdx_change_data(s);
    }
    return ret;
}

/*
 * Put everything in place, and take the log's name out of the headers.  The
 * next log is going to have @length bytes at file offset @offset.
 * [close-applied] [log-named]
 */
static int coroutine_fn GRAPH_RDLOCK
close_locked(BlockDriverState *bs, uint64_t offset, uint32_t length)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXHeader header;
    int ret;

    vhdx_assert_commit_locked(s);
    ret = vhdx_header_verify(bs);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_commit_locked(bs);
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
    header = s->header;
    header.log_guid = vhdx_guid_nil;
    header.log_offset = offset;
    header.log_length = length;
    ret = vhdx_header_update(bs, &header, 2);

    /*
     * Now the current header may not name the log: use it no more.  The next
     * change is a first one again.
     */
    VHDX_LOCK_GUARD(s);
    vhdx_change_closed(s);
    return ret;
}

/* [cut-announced] */
int coroutine_fn vhdx_log_close(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    qemu_co_mutex_lock(&s->commit_lock);
    if (vhdx_change_log_is_open(s)) {
        ret = vhdx_change_is_broken(s) ? -EIO :
              close_locked(bs, s->header.log_offset, s->header.log_length);
        trace_vhdx_log_close(s, ret);
        if (ret == 0) {
            vhdx_space_reclaim(bs);
            vhdx_space_truncate(bs);
        }
    } else if (!vhdx_change_is_broken(s)) {
        ret = vhdx_header_settle(bs);
    }
    vhdx_commit_forget_early(s);
    qemu_co_mutex_unlock(&s->commit_lock);
    vhdx_space_punch(bs, PUNCH_CLOSE);
    return ret;
}

/*
 * The log could not be closed.  Let both headers say the same of its place, if
 * one may have got another.  Returns whether they do.
 */
static bool coroutine_fn GRAPH_RDLOCK place_settle(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXHeader header = s->header;

    if (vhdx_change_log_is_open(s)) {
        /* No header has been written. */
        return true;
    }
    /* Everything is in place. */
    header.log_guid = vhdx_guid_nil;
    return !vhdx_change_is_broken(s) && vhdx_header_verify(bs) == 0 &&
           vhdx_header_update(bs, &header, 2) == 0;
}

/* [log-kept] */
int coroutine_fn vhdx_log_move(BlockDriverState *bs, uint64_t offset,
                               uint32_t length)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t old_offset;
    uint32_t old_length, keep;
    bool settled, moved;
    int ret;

    qemu_co_mutex_lock(&s->commit_lock);
    WITH_VHDX_LOCK_GUARD(s) {
        assert(vhdx_request_frozen(s) && vhdx_change_log_is_open(s));
        old_offset = s->header.log_offset;
        old_length = s->header.log_length;
    }
    keep = offset == old_offset ? length : 0;
    ret = vhdx_change_is_broken(s) ? -EIO : close_locked(bs, offset, length);
    trace_vhdx_log_move(s, old_offset, offset, length, ret);
    settled = ret == 0 || place_settle(bs);
    WITH_VHDX_LOCK_GUARD(s) {
        moved = s->header.log_offset == offset &&
                s->header.log_length == length;
        if (settled && moved) {
            vhdx_space_return(s, old_offset + keep, old_length - keep, true);
        } else if (settled && !keep) {
            vhdx_space_return(s, offset, length, true);
        }
    }
    if (ret == 0) {
        vhdx_space_reclaim(bs);
        /* Flushes go on, and punch holes. */
        qemu_co_mutex_lock(&s->grow_lock);
        vhdx_space_truncate(bs);
        qemu_co_mutex_unlock(&s->grow_lock);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    vhdx_space_punch(bs, PUNCH_CLOSE);
    return ret;
}
