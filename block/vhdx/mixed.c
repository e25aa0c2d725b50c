/*
 * VHDX: reading what a child and its parent have by turns
 *
 * A block that is PARTIALLY_PRESENT may change from the child's sectors to the
 * parent's and back at each sector.  To read each run by itself would take a
 * request for each.  Where there are more than a few of them, or a few short
 * ones, all of the range is read from the parent, and from the file, aside, and
 * the child's sectors are put in their places: two requests, whatever the bits
 * are.
 *
 * The bits that count are those of one moment, while lock was held and after
 * the request had begun.  A write that had ended by then has its bits set, so
 * nothing older than it comes back, and the place is not used for anything else
 * before the request has ended.  Of a write that ends later, old data may come
 * back, as with any read that began before it ended.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "block/aio_task.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/mixed.h"
#include "block/vhdx/replay.h"

/* So many runs are read one by one, and more if they are longer on average. */
#define FEW_RUNS    4
#define SHORT_RUN   (64 * KiB)

/* What lies between runs of the parent costs little if it is not more. */
#define SMALL_SPAN  (16 * KiB)

/*
 * What a range has of one source, in bytes from its start: from the beginning
 * of the first run to the end of the last
 */
typedef struct Span {
    uint32_t first;
    uint32_t end;
} Span;

/* What there is of the file, or with !@in_block of the parent; some of each */
static Span runs_span(const VHDXBitmapRuns *runs, bool in_block)
{
    unsigned last = runs->count - 1;

    if (runs->in_block == in_block) {
        last -= last % 2;
        return (Span) { 0, runs->end[last] };
    }
    last -= !(last % 2);
    return (Span) { runs->end[0], runs->end[last] };
}

/*
 * Whether to read both sources as a whole: where there are many runs, and where
 * a little of the block lies within what the parent has.  The parent's request
 * stays in one piece then, and so it does in each image below.
 */
static bool runs_are_short(const VHDXBitmapRuns *runs)
{
    Span own;

    if (runs->count > FEW_RUNS) {
        return runs->end[runs->count - 1] / runs->count <= SHORT_RUN;
    }
    if (runs->count <= 2) {
        return false;
    }
    own = runs_span(runs, true);
    return own.end - own.first <= SMALL_SPAN;
}

/*
 * Find the runs at @offset, and where in the file the block has what is there.
 * Returns 1, 0 if there are not many or the block is not PARTIALLY_PRESENT, or
 * -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
runs_find(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
          VHDXBitmapRuns *runs, uint64_t *place)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t entry;
    int ret;

    bytes = MIN(vhdx_to_block_end(&s->geo, offset, bytes), VHDX_RUNS_BYTES);
    /* The entry may be another one when a page of bits has been read. */
    do {
        ret = vhdx_bat_get(bs, offset >> s->geo.block_bits, &entry);
        if (ret < 0 || vhdx_bat_state(entry) != VHDX_BLOCK_PARTIALLY_PRESENT) {
            return ret;
        }
        ret = vhdx_bitmap_get_runs(bs, offset, bytes, runs);
    } while (ret > 0);
    *place = vhdx_bat_offset(entry) + vhdx_in_block(&s->geo, offset);
    return ret < 0 ? ret : runs_are_short(runs);
}

/* Put what @buf, with the file's @span, has of the block into @qiov. */
static void runs_copy(const VHDXBitmapRuns *runs, Span span, const uint8_t *buf,
                      QEMUIOVector *qiov, size_t qiov_offset)
{
    for (unsigned i = !runs->in_block; i < runs->count; i += 2) {
        uint32_t first = i ? runs->end[i - 1] : 0;

        qemu_iovec_from_buf(qiov, qiov_offset + first, buf + first - span.first,
                            runs->end[i] - first);
    }
}

/* What the file has is read, into @qiov. */
typedef struct OwnTask {
    AioTask task;
    BlockDriverState *bs;
    uint64_t place;
    QEMUIOVector *qiov;
} OwnTask;

/* runs_read() holds the graph lock for it. */
static int coroutine_fn GRAPH_RDLOCK own_entry(AioTask *task)
{
    OwnTask *t = container_of(task, OwnTask, task);
    uint64_t bytes = t->qiov->size;

    if (vhdx_replay_covers(t->bs->opaque, t->place, bytes)) {
        return vhdx_replay_readv(t->bs, t->place, bytes, t->qiov, 0);
    }
    BLKDBG_CO_EVENT(t->bs->file, BLKDBG_READ_AIO);
    return vhdx_file_preadv(t->bs, t->place, bytes, t->qiov, 0);
}

/* Start to read what the file has at @place: @bytes bytes, to @qiov. */
static void coroutine_fn GRAPH_RDLOCK
own_start(BlockDriverState *bs, AioTaskPool *pool, uint64_t place,
          uint64_t bytes, QEMUIOVector *qiov)
{
    uint8_t *buf = qemu_try_blockalign(bs->file->bs, bytes);
    OwnTask *t;

    qemu_iovec_init_buf(qiov, buf, buf ? bytes : 0);
    if (buf) {
        t = g_new(OwnTask, 1);
        *t = (OwnTask) {
            .task.func = own_entry,
            .bs = bs,
            .place = place,
            .qiov = qiov,
        };
        aio_task_pool_start_task(pool, &t->task);
    }
}

/*
 * Read @runs, at @offset of the disk and at @place in the file: from both at
 * once, if that does not take much memory in each image of a chain.
 */
static int coroutine_fn GRAPH_RDLOCK
runs_read(BlockDriverState *bs, uint64_t offset, uint64_t place,
          const VHDXBitmapRuns *runs, QEMUIOVector *qiov, size_t qiov_offset)
{
    Span parents = runs_span(runs, false), own = runs_span(runs, true);
    uint64_t bytes = own.end - own.first;
    QEMUIOVector own_qiov = QEMU_IOVEC_INIT_BUF(own_qiov, NULL, 0);
    AioTaskPool *pool = aio_task_pool_new(1);
    void *buf;
    int ret;

    if (bytes <= SMALL_SPAN) {
        own_start(bs, pool, place + own.first, bytes, &own_qiov);
    }
    ret = vhdx_extent_preadv_parent(bs, offset + parents.first,
                                    parents.end - parents.first, qiov,
                                    qiov_offset + parents.first);
    if (bytes > SMALL_SPAN && ret == 0) {
        own_start(bs, pool, place + own.first, bytes, &own_qiov);
    }
    aio_task_pool_wait_all(pool);
    ret = ret ?: aio_task_pool_status(pool);
    buf = own_qiov.local_iov.iov_base;
    if (ret == 0 && !buf) {
        ret = -ENOMEM;
    }
    if (ret == 0) {
        runs_copy(runs, own, buf, qiov, qiov_offset);
    }
    qemu_vfree(buf);
    aio_task_pool_free(pool);
    return ret;
}

int64_t coroutine_fn vhdx_mixed_read(BlockDriverState *bs, uint64_t offset,
                                     uint64_t bytes, QEMUIOVector *qiov,
                                     size_t qiov_offset)
{
    BDRVVHDXState *s = bs->opaque;
    /* Images of a chain read on one stack. */
    g_autofree VHDXBitmapRuns *runs = g_new(VHDXBitmapRuns, 1);
    uint64_t place = 0;
    int ret;

    vhdx_assert_locked(s);
    ret = runs_find(bs, offset, bytes, runs, &place);
    if (ret <= 0) {
        return ret;
    }
    vhdx_unlock(s);
    ret = runs_read(bs, offset, place, runs, qiov, qiov_offset);
    vhdx_lock(s);
    if (ret < 0) {
        return ret;
    }
    return runs->end[runs->count - 1];
}
