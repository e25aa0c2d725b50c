/*
 * VHDX: opening and closing the log
 *
 * The first modification opens the log; see begin_locked().  The last commit,
 * with everything put in place, closes it.  Where entries go, and when pages go
 * in place, is told in ring.c, what a commit does in commit.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/header.h"
#include "block/vhdx/log.h"
#include "block/vhdx/metadata.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/ring.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"
#include "block/vhdx/space.h"

/* How many places the closing of the log punches at the most */
#define PUNCH_CLOSE 4096

/* Make good what a failed flush may have lost. */
static int coroutine_fn GRAPH_RDLOCK resume_locked(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    if (s->barrier) {
        /*
         * Blocks that are not in the log yet have their place where old data
         * may show, as theirs, or the zeros around it, may be gone.
         */
        error_report("VHDX image '%s': data of new blocks may be lost; writes "
                     "stay stopped", bs->filename);
        return -EIO;
    }
    /* Where another program has written, nothing makes that good. */
    ret = vhdx_header_verify(bs);
    if (ret == 0) {
        ret = vhdx_space_assure(bs);
    }
    if (ret == 0 && s->log.open) {
        ret = vhdx_ring_rewind(bs);
    }
    return ret < 0 ? ret : vhdx_ring_flush_data(bs);
}

int coroutine_fn vhdx_log_resume(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    if (!qatomic_read(&s->broken)) {
        return 0;
    }
    /* Those under way may have lost what they have prepared. */
    vhdx_request_freeze(s);
    qemu_co_mutex_lock(&s->commit_lock);
    qemu_co_mutex_lock(&s->grow_lock);
    if (qatomic_read(&s->broken)) {
        ret = resume_locked(bs);
        qatomic_set(&s->broken, ret < 0);
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    qemu_co_mutex_unlock(&s->commit_lock);
    vhdx_request_thaw(s);
    return ret;
}

int coroutine_fn vhdx_log_flush(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    qemu_co_mutex_lock(&s->commit_lock);
    ret = qatomic_read(&s->broken) ? -EIO : vhdx_ring_flush(bs);
    qemu_co_mutex_unlock(&s->commit_lock);
    return ret;
}

/* Put the replay in place, so that neither header names the old log. */
static int coroutine_fn GRAPH_RDLOCK
replay_finish(BlockDriverState *bs, VHDXHeader *header)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    /* The file is about to be modified: that shows first. */
    ret = vhdx_header_update(bs, header, 1);
    if (ret == 0) {
        ret = vhdx_replay_apply(bs);
    }
    if (ret == 0) {
        ret = vhdx_ring_flush(bs);
    }
    if (ret < 0) {
        return ret;
    }
    header->log_guid = vhdx_guid_nil;
    ret = vhdx_header_update(bs, header, 2);
    if (ret < 0) {
        return ret;
    }
    qatomic_set(&s->replay_done, true);

    /*
     * The file may have grown before the power cut, and lost writes may lie
     * in what it gained.
     */
    ret = vhdx_space_measure(bs);
    if (ret < 0) {
        return ret;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->space.end = ROUND_UP(s->space.size, VHDX_MIB);
        s->space.keep = s->space.size;
        if (s->keep_tail) {
            return 0;
        }
    }
    if (vhdx_space_scan(bs) == 0) {
        vhdx_space_trim(bs);
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK log_open(BlockDriverState *bs,
                                              VHDXHeader *header)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXGuid guid = vhdx_guid_new();
    int ret;

    s->log = (VHDXLog) {
        .guid = guid,
        /*
         * Below 2^62, and random: readers that opened the image under another
         * log tell by their numbers that its sectors are gone.
         */
        .sequence = ldq_be_p(guid.id) >> 2,
        .spans = g_queue_new(),
        .stable_size = s->space.size,
    };
    ret = vhdx_ring_write(bs, 0, NULL, NULL);
    if (ret == 0) {
        ret = vhdx_ring_flush(bs);
    }
    if (ret == 0) {
        header->log_guid = s->log.guid;
        ret = vhdx_header_update(bs, header, 2);
    }
    if (ret < 0) {
        vhdx_log_free(s);
        return ret;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        s->log.open = true;
    }
    return 0;
}

/*
 * The first modification.  A header with the new GUIDs comes before anything
 * else, and with LogGuid zero in both copies, as the other one has had it or
 * has been overwritten, the log's space may be used again.  The log is named
 * by a header only when it has a valid entry, and used only when both name it.
 */
static int coroutine_fn GRAPH_RDLOCK
begin_locked(BlockDriverState *bs, bool data)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXHeader header = s->header;
    int ret;

    /* An open log counts with what the first flush of a header makes stable. */
    ret = vhdx_header_verify(bs) ?: vhdx_commit_assure_length(bs);
    if (ret < 0) {
        return ret;
    }
    if (!s->file_guid_new) {
        header.file_write_guid = vhdx_guid_new();
    }
    if (data && !s->data_guid_new) {
        header.data_write_guid = vhdx_guid_new();
    }
    /* Without a log it may have been anything. */
    header.log_version = 0;
    if (s->log.open) {
        ret = vhdx_header_update(bs, &header, 2);
    } else {
        if (vhdx_replay_active(s)) {
            ret = replay_finish(bs, &header);
        } else {
            bool clean = vhdx_guid_is_nil(&s->header.log_guid);

            header.log_guid = vhdx_guid_nil;
            ret = vhdx_header_update(bs, &header, clean ? 1 : 2);
        }
        if (ret == 0) {
            vhdx_space_begin(bs);
            ret = log_open(bs, &header);
        }
    }
    if (ret == 0) {
        /* Through the log, as all tables are changed. */
        ret = vhdx_region_table_mend(bs);
    }
    if (ret < 0) {
        return ret;
    }
    s->file_guid_new = true;
    s->data_guid_new |= data;
    qatomic_set(&s->writable, s->data_guid_new);
    return 0;
}

int coroutine_fn vhdx_log_begin(BlockDriverState *bs, bool data)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    if (qatomic_read(&s->broken)) {
        return -EIO;
    }
    if (qatomic_read(&s->writable)) {
        return 0;
    }
    if (bs->open_flags & BDRV_O_INACTIVE) {
        /* Another process may be writing to it. */
        return -EPERM;
    }
    qemu_co_mutex_lock(&s->commit_lock);
    if (qatomic_read(&s->broken)) {
        ret = -EIO;
    } else if (!s->file_guid_new || (data && !s->data_guid_new)) {
        ret = begin_locked(bs, data);
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    return ret;
}

/* The next change is a first one again, and opens a new log. */
static void log_forget(BDRVVHDXState *s)
{
    vhdx_log_free(s);
    s->file_guid_new = s->data_guid_new = false;
    qatomic_set(&s->writable, false);
}

/* Put everything in place, and take the log's name out of the headers. */
static int coroutine_fn GRAPH_RDLOCK close_locked(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXHeader header;
    int ret;

    ret = vhdx_header_verify(bs);
    if (ret == 0) {
        ret = vhdx_commit_locked(bs);
    }
    if (ret == 0) {
        ret = vhdx_ring_apply(bs);
    }
    if (ret == 0) {
        ret = vhdx_ring_flush(bs);
    }
    if (ret == 0) {
        header = s->header;
        header.log_guid = vhdx_guid_nil;
        ret = vhdx_header_update(bs, &header, 2);
        /* Now the current header may not name the log: use it no more. */
        log_forget(s);
    }
    return ret;
}

int coroutine_fn vhdx_log_close(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    qemu_co_mutex_lock(&s->commit_lock);
    if (s->log.open) {
        ret = qatomic_read(&s->broken) ? -EIO : close_locked(bs);
        if (ret == 0) {
            vhdx_space_reclaim(bs);
            vhdx_space_trim(bs);
        }
    }
    qemu_co_mutex_unlock(&s->commit_lock);
    vhdx_space_punch(bs, PUNCH_CLOSE);
    return ret;
}

void vhdx_log_free(BDRVVHDXState *s)
{
    if (s->log.spans) {
        g_queue_free_full(s->log.spans, g_free);
        s->log.spans = NULL;
    }
    QEMU_LOCK_GUARD(&s->lock);
    s->log.open = false;
}
