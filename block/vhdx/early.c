/*
 * VHDX: log entries beside their data
 *
 * A write to a new block, and the flush that follows, wait three times: for the
 * data, for the log entry that names the block, and for the flush of both.
 * Where the block's place is known to read as zeros, and the block has read as
 * zeros so far, it does no harm if the entry becomes stable first: a power cut
 * leaves zeros then, or what came through of a write that has not ended.  So
 * where a flush is sure to follow, the entry is written beside the data, and
 * the flush has only itself to wait for.
 *
 * That a flush follows is known of a request with FUA, of its last part, and
 * taken for granted of a guest that has flushed after each write for a while.
 * With other requests under way the entries of many go into one write, which is
 * better still.  And on quick storage a second coroutine costs what it saves,
 * so it is for such where the log's writes take their time.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/aio_task.h"
#include "block/vhdx/alloc.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/early.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "block/vhdx/ring.h"

void vhdx_early_note_write(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    s->unflushed++;
}

void vhdx_early_note_flush(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    if (s->unflushed) {
        s->by_turns = s->unflushed > 1 ? 0 :
                      MIN(s->by_turns + 1, s->turns_needed);
    }
    s->unflushed = 0;
}

bool vhdx_early_pays(BDRVVHDXState *s, const VHDXExtent *e,
                     BdrvRequestFlags flags)
{
    bool follows = (flags & BDRV_REQ_FUA) || s->by_turns == s->turns_needed;

    vhdx_assert_locked(s);
    if (!s->early_ns) {
        return vhdx_alloc_is_zero(s, e);
    }
    return follows && vhdx_request_next(s) - vhdx_request_oldest(s) == 1 &&
           vhdx_ring_write_ns(s) >= s->early_ns && vhdx_alloc_is_zero(s, e);
}

/* The write of the data */
typedef struct DataTask {
    AioTask task;
    BlockDriverState *bs;
    const VHDXExtent *e;
    QEMUIOVector *qiov;
    size_t qiov_offset;
} DataTask;

/* vhdx_early_pwritev() holds the graph lock for it. */
static int coroutine_fn GRAPH_RDLOCK data_entry(AioTask *task)
{
    DataTask *t = container_of(task, DataTask, task);

    return vhdx_file_pwritev(t->bs, t->e->file_offset, t->e->bytes, t->qiov,
                             t->qiov_offset);
}

int coroutine_fn vhdx_early_pwritev(BlockDriverState *bs, const VHDXExtent *e,
                                    QEMUIOVector *qiov, size_t qiov_offset)
{
    BDRVVHDXState *s = bs->opaque;
    AioTaskPool *pool = aio_task_pool_new(1);
    DataTask *t = g_new(DataTask, 1);
    int ret;

    vhdx_assert_unlocked(s);
    *t = (DataTask) {
        .task.func = data_entry,
        .bs = bs,
        .e = e,
        .qiov = qiov,
        .qiov_offset = qiov_offset,
    };
    aio_task_pool_start_task(pool, &t->task);

    qemu_co_mutex_lock(&s->commit_lock);
    vhdx_lock(s);
    if (vhdx_alloc_publish_early(bs, e) == 0) {
        vhdx_commit_early(bs);
    } else {
        vhdx_unlock(s);
    }
    qemu_co_mutex_unlock(&s->commit_lock);

    aio_task_pool_wait_all(pool);
    ret = aio_task_pool_status(pool);
    aio_task_pool_free(pool);
    return ret;
}
