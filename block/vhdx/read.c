/*
 * VHDX: reads, and what is where
 *
 * A request is cut into pieces, each of which lies in one run of the file, or
 * of the parent of a differencing image, or reads as zeros; where a block has
 * both by turns, mixed.c tells of it.  If there is more than one, several are
 * read at the same time: in a chain each image cuts what is left to it.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/aio_task.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/mixed.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/read.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"

/* Pieces of a request that are read at the same time */
#define WORKERS     8

/* Blocks that are looked up under one lock for the status of a range */
#define STATUS_BLOCKS   ((uint64_t)64 * 1024)

/* Read what is not in its place in the file, if it is there at all. */
static int coroutine_fn GRAPH_RDLOCK __attribute__((noinline))
read_elsewhere(BlockDriverState *bs, VHDXSource source, uint64_t place,
               uint64_t offset, uint64_t bytes, QEMUIOVector *qiov,
               size_t qiov_offset)
{
    switch (source) {
    case VHDX_SOURCE_ZERO:
        if (vhdx_parent_is_lost(bs->opaque)) {
            return vhdx_parent_report_lost(bs);
        }
        qemu_iovec_memset(qiov, qiov_offset, 0, bytes);
        return 0;
    case VHDX_SOURCE_PARENT:
        return vhdx_extent_preadv_parent(bs, offset, bytes, qiov, qiov_offset);
    default:
        return vhdx_replay_readv(bs, place, bytes, qiov, qiov_offset);
    }
}

/*
 * Read @bytes bytes at @offset of the disk, which @source has, the file at
 * @place.
 */
static inline int coroutine_fn GRAPH_RDLOCK
piece_read(BlockDriverState *bs, VHDXSource source, uint64_t place,
           uint64_t offset, uint64_t bytes, QEMUIOVector *qiov,
           size_t qiov_offset)
{
    if (source != VHDX_SOURCE_FILE ||
        vhdx_replay_covers(bs->opaque, place, bytes)) {
        return read_elsewhere(bs, source, place, offset, bytes, qiov,
                              qiov_offset);
    }
    BLKDBG_CO_EVENT(bs->file, BLKDBG_READ_AIO);
    return vhdx_file_preadv(bs, place, bytes, qiov, qiov_offset);
}

/* One piece of several */
typedef struct ReadTask {
    AioTask task;
    BlockDriverState *bs;
    VHDXSource source;
    uint64_t place;
    uint64_t offset;
    uint64_t bytes;
    QEMUIOVector *qiov;
    size_t qiov_offset;
} ReadTask;

/* read_pieces() holds the graph lock for it. */
static int coroutine_fn GRAPH_RDLOCK read_entry(AioTask *task)
{
    ReadTask *t = container_of(task, ReadTask, task);

    return piece_read(t->bs, t->source, t->place, t->offset, t->bytes, t->qiov,
                      t->qiov_offset);
}

/* Start to read @e, at @offset of the disk.  Returns the first error so far. */
static int coroutine_fn GRAPH_RDLOCK
read_start(BlockDriverState *bs, AioTaskPool *pool, const VHDXExtent *e,
           uint64_t offset, QEMUIOVector *qiov, size_t qiov_offset)
{
    ReadTask *t = g_new(ReadTask, 1);

    *t = (ReadTask) {
        .task.func = read_entry,
        .bs = bs,
        .source = e->source,
        .place = e->file_offset,
        .offset = offset,
        .bytes = e->bytes,
        .qiov = qiov,
        .qiov_offset = qiov_offset,
    };
    aio_task_pool_start_task(pool, &t->task);
    return aio_task_pool_status(pool);
}

/*
 * Read @bytes bytes at @offset of the disk, of which @e is the first piece.
 * lock is held, and dropped for I/O.  Returns 0 or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK __attribute__((noinline))
read_pieces(BlockDriverState *bs, VHDXExtent *e, int64_t offset, int64_t bytes,
            QEMUIOVector *qiov, size_t qiov_offset)
{
    BDRVVHDXState *s = bs->opaque;
    bool mixed = s->params.has_parent;
    AioTaskPool *pool = aio_task_pool_new(WORKERS);
    int ret = 0;

    while (ret == 0) {
        int64_t n = 0;

        if (mixed && e->bytes < bytes) {
            n = vhdx_mixed_read(bs, offset, bytes, qiov, qiov_offset);
            mixed = n >= 0;
        }
        if (n <= 0) {
            n = e->bytes;
            vhdx_unlock(s);
            ret = read_start(bs, pool, e, offset, qiov, qiov_offset);
            vhdx_lock(s);
        }
        offset += n;
        qiov_offset += n;
        bytes -= n;
        if (!bytes) {
            break;
        }
        ret = ret ?: vhdx_extent_lookup(bs, offset, bytes, e);
    }
    vhdx_unlock(s);
    aio_task_pool_wait_all(pool);
    ret = ret ?: aio_task_pool_status(pool);
    aio_task_pool_free(pool);
    vhdx_lock(s);
    return ret;
}

int coroutine_fn vhdx_co_preadv_part(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, QEMUIOVector *qiov,
                                     size_t qiov_offset,
                                     BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXRequest req;
    VHDXExtent e;
    int ret;

    vhdx_lock(s);
    ret = vhdx_request_begin(s, &req, offset, bytes);
    if (ret < 0 || !bytes) {
        goto out;
    }
    ret = vhdx_extent_lookup(bs, offset, bytes, &e);
    if (ret < 0) {
        goto out;
    }
    if (e.bytes < bytes) {
        ret = read_pieces(bs, &e, offset, bytes, qiov, qiov_offset);
    } else {
        vhdx_unlock(s);
        ret = piece_read(bs, e.source, e.file_offset, offset, bytes, qiov,
                         qiov_offset);
        vhdx_lock(s);
    }
out:
    vhdx_request_end(s, &req);
    vhdx_unlock(s);
    return ret;
}

/*
 * What the file has of @e, a piece of the disk that lies there: BDRV_BLOCK_ZERO
 * where it is known to read as zeros, and @e gets shorter where only the
 * beginning is alike.  To let the block layer ask would be too late: when the
 * request has ended the block may move.
 */
static int coroutine_fn GRAPH_RDLOCK
status_in_file(BlockDriverState *bs, VHDXExtent *e)
{
    uint64_t align = bs->bl.request_alignment;
    int64_t n;
    int ret = vhdx_file_extent(bs, e->file_offset, e->bytes, &n);

    if (ret == BDRV_BLOCK_EOF) {
        return BDRV_BLOCK_ZERO;
    }
    if (n < e->bytes) {
        e->bytes = QEMU_ALIGN_DOWN(n, align);
    }
    if (!e->bytes) {
        e->bytes = align;
        return 0;
    }
    return ret & BDRV_BLOCK_ZERO;
}

int coroutine_fn vhdx_co_block_status(BlockDriverState *bs,
                                      VHDXStatusMode mode, int64_t offset,
                                      int64_t bytes, int64_t *pnum,
                                      int64_t *map, BlockDriverState **file)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXRequest req;
    VHDXExtent e = { .bytes = 0 };
    bool in_file = false;
    int ret, zero = 0;

    vhdx_lock(s);
    ret = vhdx_request_begin(s, &req, offset, bytes);
    if (ret == 0) {
        bytes = MIN(bytes, STATUS_BLOCKS << s->geo.block_bits);
        ret = vhdx_extent_lookup(bs, offset, bytes, &e);
    }
    if (ret == 0 && e.source == VHDX_SOURCE_FILE) {
        vhdx_unlock(s);
        in_file = !vhdx_replay_covers(s, e.file_offset, e.bytes);
        if (in_file && vhdx_status_wants_zero(mode)) {
            zero = status_in_file(bs, &e);
        }
        vhdx_lock(s);
    }
    vhdx_request_end(s, &req);
    vhdx_unlock(s);
    /*
     * Whether the image or its parent has it is not known.  Who takes it for
     * the image's, and can read it a moment later, would give it to the parent:
     * for HMP commit there is a node between both by then that is all zeros.
     */
    if (ret < 0 && (!e.bytes || s->params.has_parent)) {
        return ret;
    }
    *pnum = e.bytes;
    if (ret < 0) {
        /* Nobody knows what is there: those who read it get the error. */
        return BDRV_BLOCK_DATA;
    }
    if (e.source != VHDX_SOURCE_FILE && vhdx_parent_is_lost(s)) {
        return BDRV_BLOCK_DATA;
    }
    if (e.source == VHDX_SOURCE_ZERO) {
        return BDRV_BLOCK_ZERO;
    }
    if (e.source == VHDX_SOURCE_PARENT) {
        /* What has been detached may come back: not known, if not allocated. */
        return bs->backing ? 0 : BDRV_BLOCK_DATA;
    }
    if (!in_file) {
        return BDRV_BLOCK_DATA;
    }
    /* Where it lies is for those who only show it: it may be gone. */
    *map = e.file_offset;
    *file = bs->file->bs;
    return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | zero;
}
