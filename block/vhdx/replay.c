/*
 * VHDX: log replay
 *
 * An image whose header names a log may hold metadata that is stable in the
 * log only.  Open finds the active sequence, that is, the run of valid entries
 * with the highest sequence number whose tail lies within the run, and makes
 * an index of what it would change in the file.  From then on every read looks
 * as if the log had been replayed, while nothing has been written: a read-only
 * image stays as it is.  The first modification writes it all to the file.
 * Another process may be writing to an image that is opened with force-share:
 * what the log held then is looked for in its place when it has gone from the
 * log.  A run of zeros stays what it was at open.
 *
 * The index (replay-index.c) holds disjoint ranges of the file, one for
 * each 4 KiB page with the place of its data sector, and one for each run of
 * zeros.  The data stays in the log, so a log of 4 GiB needs no more than some
 * dozen bytes a page.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/iov.h"
#include "qemu/memalign.h"
#include "qemu/range.h"
#include "block/aio_task.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/replay-index.h"
#include "replay-int.h"
#include "trace.h"

/* Pages that one task puts in place, and such tasks at a time */
#define APPLY_PAGES         64
#define APPLY_TASKS         8

void vhdx_replay_free(BDRVVHDXState *s)
{
    if (s->replay) {
        vhdx_replay_index_free(s->replay->index);
        g_clear_pointer(&s->replay, g_free);
    }
}

bool vhdx_replay_active(BDRVVHDXState *s)
{
    return s->replay && !qatomic_read(&s->replay->done);
}

bool vhdx_replay_is_done(BDRVVHDXState *s)
{
    return s->replay && qatomic_read(&s->replay->done);
}

void coroutine_fn vhdx_replay_set_done(BDRVVHDXState *s)
{
    vhdx_assert_commit_locked(s);
    assert(vhdx_replay_active(s));
    qatomic_set(&s->replay->done, true);
}

uint64_t vhdx_replay_last_file_offset(BDRVVHDXState *s)
{
    return s->replay ? s->replay->last_file_offset : 0;
}

/*
 * Make the page of its data sector @sector, which @range tells of.  Returns
 * false if something else is there by now.
 */
static bool range_decode(BDRVVHDXState *s, const VHDXReplayRange *range,
                         uint8_t *sector)
{
    VHDXLogDesc desc = { .type = VHDX_LOG_DESC_DATA };

    if (!vhdx_log_data_valid(sector, s->replay->sequence + range->entry)) {
        return false;
    }
    memcpy(desc.leading, range->leading, sizeof(desc.leading));
    memcpy(desc.trailing, range->trailing, sizeof(desc.trailing));
    vhdx_log_data_decode(sector, &desc, sector);
    return true;
}

int coroutine_fn vhdx_replay_log_read(BlockDriverState *bs, uint64_t pos,
                                      uint32_t bytes, uint8_t *buf)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t length = s->header.log_length;
    uint32_t first;
    int ret;

    pos %= length;
    first = MIN(bytes, length - pos);
    ret = vhdx_file_pread(bs, s->header.log_offset + pos, first, buf);
    if (ret < 0 || first == bytes) {
        return ret;
    }
    return vhdx_file_pread(bs, s->header.log_offset, bytes - first,
                           buf + first);
}

/*
 * Get the page that @range, not a run of zeros, stands for out of the log.
 * Returns 0, 1 if its sector holds something else by now, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
page_from_log(BlockDriverState *bs, const VHDXReplayRange *range,
              uint8_t *page)
{
    uint8_t end[4] = { 0 }, end_now[4] = { 0 };
    uint64_t end_at = range->log_offset + VHDX_LOG_SECTOR - sizeof(end);
    int ret = vhdx_replay_log_read(bs, range->log_offset, VHDX_LOG_SECTOR,
                                   page);

    if (ret < 0) {
        return ret;
    }
    if (bs->force_share) {
        /*
         * A sector that was being written then may have been new in its first
         * part and old in its last: the end shows it now.
         */
        memcpy(end, page + VHDX_LOG_SECTOR - sizeof(end), sizeof(end));
        ret = vhdx_replay_log_read(bs, end_at, sizeof(end_now), end_now);
        if (ret < 0) {
            return ret;
        }
    }
    return !range_decode(bs->opaque, range, page) ||
           memcmp(end, end_now, sizeof(end));
}

/*
 * The same for a reader, beside whom another process may be writing.  Whoever
 * writes uses a sector of the log again only after the page it held is stable
 * in place, in this version or a later one.  So it is read there then, and not
 * before the log has been looked at.
 */
static int coroutine_fn GRAPH_RDLOCK
page_read(BlockDriverState *bs, const VHDXReplayRange *range, uint8_t *page)
{
    int ret = page_from_log(bs, range, page);
    int64_t length;

    if (ret <= 0) {
        return ret;
    }
    length = vhdx_file_length(bs);
    if (length < 0) {
        return length;
    }
    return vhdx_file_pread(bs, range->start, VHDX_PAGE_SIZE, page);
}

bool vhdx_replay_covers(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    VHDXReplayRange range;

    return vhdx_replay_active(s) &&
           vhdx_replay_index_find(s->replay->index, offset, &range) &&
           range.start < offset + bytes;
}

int coroutine_fn vhdx_replay_readv(BlockDriverState *bs, uint64_t offset,
                                   uint64_t bytes, QEMUIOVector *qiov,
                                   size_t qiov_offset)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXReplay *replay = vhdx_replay_active(s) ? s->replay : NULL;
    uint64_t end = offset + bytes;
    uint64_t pos = offset;
    VHDXReplayRange range;
    uint8_t *page;
    int ret;

    ret = vhdx_file_preadv(bs, offset, bytes, qiov, qiov_offset);
    if (ret < 0 || !replay) {
        return ret;
    }

    page = qemu_blockalign(bs->file->bs, VHDX_PAGE_SIZE);
    while (pos < end && vhdx_replay_index_find(replay->index, pos, &range) &&
           range.start < end) {
        uint64_t from = MAX(range.start, offset);
        uint64_t to = MIN(range.end, end);
        size_t at = qiov_offset + (from - offset);

        if (range.zero) {
            qemu_iovec_memset(qiov, at, 0, to - from);
        } else {
            ret = page_read(bs, &range, page);
            if (ret < 0) {
                break;
            }
            qemu_iovec_from_buf(qiov, at, page + (from - range.start),
                                to - from);
        }
        pos = to;
    }
    qemu_vfree(page);
    if (!vhdx_replay_active(s)) {
        /* The log may be another now, but all is in place. */
        ret = vhdx_file_preadv(bs, offset, bytes, qiov, qiov_offset);
    }
    return ret;
}

int coroutine_fn vhdx_replay_read(BlockDriverState *bs, uint64_t offset,
                                  uint64_t bytes, void *buf)
{
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);

    return vhdx_replay_readv(bs, offset, bytes, &qiov, 0);
}

int coroutine_fn vhdx_replay_find_data(BlockDriverState *bs, uint64_t *offset,
                                       uint64_t end, void *buf,
                                       uint64_t *budget)
{
    BDRVVHDXState *s = bs->opaque;

    for (int64_t n = 0; *offset < end; *offset += n) {
        int ret = vhdx_file_extent(bs, *offset, end - *offset, &n);

        if ((ret & BDRV_BLOCK_ZERO) && !vhdx_replay_covers(s, *offset, n)) {
            continue;
        }
        n = MIN(MIN(end - *offset, VHDX_MIB), *budget);
        if (!n) {
            return 0;
        }
        *budget -= n;
        ret = vhdx_replay_read(bs, *offset, n, buf);
        if (ret < 0) {
            return ret;
        }
        if (!buffer_is_zero(buf, n)) {
            return 1;
        }
    }
    return 0;
}

/*
 * Zero [@start, @end) of the file, but for holes: a crafted log may name the
 * whole of a very long file.
 */
static int coroutine_fn GRAPH_RDLOCK
zeros_apply(BlockDriverState *bs, uint64_t start, uint64_t end)
{
    int64_t bytes;

    for (; start < end; start += bytes) {
        int status = vhdx_file_extent(bs, start, end - start, &bytes);
        int ret;

        if (status & BDRV_BLOCK_ZERO) {
            continue;
        }
        ret = vhdx_file_pwrite_zeroes(bs, start, bytes, 0);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/*
 * Make the file as long as the log says.  On a node that can't grow, that may
 * be more than it ever had, where nothing is: older versions of this driver
 * rounded its length up. [replay-length]
 */
static int coroutine_fn GRAPH_RDLOCK length_apply(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t size = vhdx_file_length(bs);
    VHDXReplayRange range;
    int ret;

    if (size < 0 || size >= s->replay->last_file_offset) {
        return MIN(size, 0);
    }
    ret = vhdx_file_truncate(bs, s->replay->last_file_offset,
                             PREALLOC_MODE_OFF, 0);
    if (vhdx_file_length_refused(ret)) {
        return vhdx_replay_index_find(s->replay->index, size, &range) ?
               -ENOSPC : 0;
    }
    return ret;
}

/* Pages that are read, and then written in place, one after the other */
typedef struct ApplyTask {
    AioTask task;
    BlockDriverState *bs;
    unsigned count;
    VHDXReplayRange pages[APPLY_PAGES];     /* in order of their places */
} ApplyTask;

/*
 * Read all pages of @t into @buf: those whose data sectors lie next to each
 * other in the log at once, as an entry's do that are in one order with them.
 */
static int coroutine_fn GRAPH_RDLOCK apply_read(ApplyTask *t, uint8_t *buf)
{
    for (unsigned i = 0, n; i < t->count; i += n) {
        uint32_t first = t->pages[i].log_offset;
        int ret;

        for (n = 1; i + n < t->count && t->pages[i + n].log_offset ==
             first + n * VHDX_LOG_SECTOR; n++) {
            ;
        }
        ret = vhdx_replay_log_read(t->bs, first, n * VHDX_LOG_SECTOR,
                                   buf + i * VHDX_PAGE_SIZE);
        if (ret < 0) {
            return ret;
        }
    }
    for (unsigned i = 0; i < t->count; i++) {
        if (!range_decode(t->bs->opaque, &t->pages[i],
                          buf + i * VHDX_PAGE_SIZE)) {
            /* Another process is writing to the image. */
            return -EIO;
        }
    }
    return 0;
}

/* vhdx_replay_apply() holds the graph lock for it. */
static int coroutine_fn GRAPH_RDLOCK apply_entry(AioTask *task)
{
    ApplyTask *t = container_of(task, ApplyTask, task);
    uint8_t *buf = qemu_try_blockalign(t->bs->file->bs,
                                       t->count * VHDX_PAGE_SIZE);
    int ret = buf ? apply_read(t, buf) : -ENOMEM;

    if (ret < 0) {
        goto out;
    }
    for (unsigned i = 0, n; i < t->count; i += n) {
        uint64_t first = t->pages[i].start;

        for (n = 1; i + n < t->count && t->pages[i + n].start ==
             first + n * VHDX_PAGE_SIZE; n++) {
            ;
        }
        ret = vhdx_file_pwrite(t->bs, first, n * VHDX_PAGE_SIZE,
                               buf + i * VHDX_PAGE_SIZE);
        if (ret < 0) {
            goto out;
        }
    }
out:
    qemu_vfree(buf);
    return ret;
}

/* Put all ranges of the index in place, which do not overlap. */
static int coroutine_fn GRAPH_RDLOCK index_apply(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    AioTaskPool *pool = aio_task_pool_new(APPLY_TASKS);
    VHDXReplayRange range;
    ApplyTask *t = NULL;
    int ret = 0;

    for (uint64_t pos = 0; ret == 0 && aio_task_pool_status(pool) == 0 &&
         vhdx_replay_index_find(s->replay->index, pos, &range);
         pos = range.end) {
        if (range.zero) {
            ret = zeros_apply(bs, range.start, range.end);
            continue;
        }
        if (!t) {
            t = g_new(ApplyTask, 1);
            t->task.func = apply_entry;
            t->bs = bs;
            t->count = 0;
        }
        t->pages[t->count++] = range;
        if (t->count == APPLY_PAGES) {
            aio_task_pool_start_task(pool, &t->task);
            t = NULL;
        }
    }
    if (t) {
        aio_task_pool_start_task(pool, &t->task);
    }
    aio_task_pool_wait_all(pool);
    ret = ret ?: aio_task_pool_status(pool);
    aio_task_pool_free(pool);
    return ret;
}

int coroutine_fn vhdx_replay_apply(BlockDriverState *bs)
{
    int ret;

    vhdx_assert_commit_locked((BDRVVHDXState *)bs->opaque);
    trace_vhdx_replay_apply(bs->opaque);
    ret = length_apply(bs);
    return ret < 0 ? ret : index_apply(bs);
}
