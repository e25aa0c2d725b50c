/*
 * VHDX crash test: the node below the driver
 *
 * A protocol driver over a CrashImage.  No operation completes when it is
 * issued: it waits in a list, from which one at random is taken whenever the
 * main loop has nothing else to do.  So requests overlap in every way that
 * their issuers allow, and the same way again for the same seed.  Some
 * operations are made slow: they are taken only when there is nothing else,
 * or rarely.
 *
 * A second driver is the parent of differencing images, not in VHDX format.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "block/vhdx/compat.h"
#include "vhdx-crash.h"

typedef struct PendingOp {
    Coroutine *co;
    bool slow;
} PendingOp;

typedef struct BDRVCrashState {
    CrashDisk *disk;
} BDRVCrashState;

/* The disk for which a node is being opened */
static CrashDisk *opening;

const CrashWatch *crash_watch;

/* Let one operation that waits complete. */
static void disk_step(void *opaque)
{
    CrashDisk *disk = opaque;
    bool any = rng_chance(&disk->rng, 4);
    PendingOp *chosen = disk->in_order && disk->pending->len ?
                        g_ptr_array_index(disk->pending, 0) : NULL;
    guint count = 0;

    for (int pass = 0; pass < 2 && !chosen; pass++) {
        for (guint i = 0; i < disk->pending->len; i++) {
            PendingOp *p = g_ptr_array_index(disk->pending, i);

            if ((any || pass || !p->slow) && !rng_below(&disk->rng, ++count)) {
                chosen = p;
            }
        }
    }
    if (chosen) {
        if (disk->in_order) {
            g_ptr_array_remove_index(disk->pending, 0);
        } else {
            g_ptr_array_remove_fast(disk->pending, chosen);
        }
        aio_co_wake(chosen->co);
    }
    if (disk->pending->len) {
        qemu_bh_schedule(disk->bh);
    }
}

/* Whether the operation that now completes is the one that is to fail. */
static bool disk_fails(CrashDisk *disk, const CrashOp *op)
{
    CrashFault *f = &disk->fault;

    if (op->kind == OP_FLUSH && disk->flush_broken) {
        return true;
    }
    if (!f->countdown || f->kind != op->kind ||
        (op->kind <= OP_DISCARD &&
         f->metadata != (op->offset < disk->payload)) || --f->countdown) {
        return false;
    }
    disk->fault_hit = true;
    disk->flush_broken = op->kind == OP_FLUSH && f->stick;
    return true;
}

/* A flush has failed: a part of what it was for is gone for good. */
static void disk_lose(CrashDisk *disk, const CrashOp *flush)
{
    uint32_t since = 0;

    for (guint i = 0; i < disk->ops->len; i++) {
        CrashOp *op = g_ptr_array_index(disk->ops, i);

        if (op->kind == OP_FLUSH && op->end != CRASH_NEVER && op->ret == 0) {
            since = MAX(since, op->start);
        }
    }
    for (guint i = 0; i < disk->ops->len; i++) {
        CrashOp *op = g_ptr_array_index(disk->ops, i);

        if (op->kind != OP_FLUSH && op->end >= since &&
            op->end < flush->start) {
            op->lost = rng_chance(&disk->rng, 50);
        }
    }
    disk->lose_from = since;
    disk->lose_to = flush->end;
}

/* Whether @op writes to where the file has a hole. */
static bool disk_in_hole(CrashDisk *disk, const CrashOp *op)
{
    for (uint64_t at = 0; op->kind == OP_WRITE && at < op->bytes;
         at += CRASH_PAGE) {
        if (image_zeros(disk->view, op->offset + at, 1)) {
            return true;
        }
    }
    return false;
}

/* What comes of @op, as errors go. */
static int disk_result(CrashDisk *disk, const CrashOp *op)
{
    uint64_t end = op->kind == OP_TRUNCATE ? op->offset :
                   op->kind <= OP_ZERO ? op->offset + op->bytes : 0;
    bool grows = end > disk->view->size;

    if (disk->instant) {
        return 0;
    }
    if (disk_fails(disk, op)) {
        return -EIO;
    }
    if (grows && ((disk->limit && end > disk->limit) || disk->full)) {
        return -ENOSPC;
    }
    if (disk->solid && (grows || disk_in_hole(disk, op))) {
        return -ENOSPC;
    }
    if (disk->full && op->kind <= OP_ZERO && rng_chance(&disk->rng, 25)) {
        return -ENOSPC;
    }
    if (op->kind <= OP_ZERO &&
        rng_chance(&disk->rng, op->offset >= disk->payload ? disk->unsure :
                   op->offset >= MiB && op->offset < 2 * MiB ?
                   disk->unsure_log : 0)) {
        return -ENOSPC;
    }
    return 0;
}

/*
 * Do an operation of which @op tells; it is recorded and no longer the
 * caller's.
 */
static int coroutine_fn disk_op(BlockDriverState *bs, CrashOp spec)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;
    CrashDisk *lead = disk->lead ?: disk;
    CrashOp *op = g_memdup2(&spec, sizeof(spec));
    unsigned id;
    int ret;

    /* An empty request is a waste, and not all nodes know what it means. */
    g_assert(op->bytes || op->kind == OP_FLUSH || op->kind == OP_TRUNCATE);
    if (disk->dead) {
        op_free(op);
        return -EIO;
    }
    op->start = ++lead->now;
    op->end = CRASH_NEVER;
    op->seed = rng_next(&lead->rng);
    id = disk->instant || !crash_watch ? 0 : crash_watch->op(op);
    disk->changes += op->kind != OP_READ && op->kind != OP_FLUSH;
    if (!disk->instant) {
        PendingOp pending = {
            .co = qemu_coroutine_self(),
            .slow = rng_chance(&lead->rng, 12),
        };

        if (op->kind != OP_READ) {
            g_ptr_array_add(disk->ops, op);
        }
        g_ptr_array_add(lead->pending, &pending);
        qemu_bh_schedule(lead->bh);
        qemu_coroutine_yield();
    }
    op->ret = ret = disk_result(disk, op);
    op->end = ++lead->now;
    op_apply(disk->view, op);
    if (id) {
        crash_watch->op_end(id, ret, disk->view->size);
    }
    if (op->kind == OP_FLUSH && ret < 0 && disk->fault.lose) {
        disk_lose(disk, op);
    }
    if (disk->instant || op->kind == OP_READ) {
        op_free(op);
    }
    return ret;
}

static int coroutine_fn disk_co_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, QEMUIOVector *qiov,
                                       BdrvRequestFlags flags)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;
    int ret = disk_op(bs, (CrashOp) {
        .kind = OP_READ,
        .offset = offset,
        .bytes = bytes,
    });

    for (int i = 0; ret == 0 && i < qiov->niov && bytes; i++) {
        int64_t n = MIN(bytes, qiov->iov[i].iov_len);

        image_read(disk->view, offset, n, qiov->iov[i].iov_base);
        offset += n;
        bytes -= n;
    }
    return ret;
}

static int coroutine_fn disk_co_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, QEMUIOVector *qiov,
                                        BdrvRequestFlags flags)
{
    uint8_t *data = g_malloc(bytes);

    g_assert(offset % CRASH_SECTOR == 0 && bytes % CRASH_SECTOR == 0);
    qemu_iovec_to_buf(qiov, 0, data, bytes);
    return disk_op(bs, (CrashOp) {
        .kind = OP_WRITE,
        .offset = offset,
        .bytes = bytes,
        .data = data,
    });
}

static int coroutine_fn
disk_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;

    if (disk->node.no_write_zeroes) {
        return -ENOTSUP;
    }
    return disk_op(bs, (CrashOp) {
        .kind = OP_ZERO,
        .offset = offset,
        .bytes = bytes,
    });
}

static int coroutine_fn disk_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes)
{
    if (((BDRVCrashState *)bs->opaque)->disk->node.no_discard) {
        return -ENOTSUP;
    }
    return disk_op(bs, (CrashOp) {
        .kind = OP_DISCARD,
        .offset = offset,
        .bytes = bytes,
    });
}

static int coroutine_fn
disk_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                 PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;
    int ret;

    if (disk->node.no_truncate) {
        error_setg(errp, "A node that has no such operation");
        return -ENOTSUP;
    }
    if (disk->node.fixed_size) {
        /* As for a block device: to be longer than asked for is all right. */
        if (offset > disk->view->size || exact) {
            error_setg(errp, "A node of fixed size");
            return -EINVAL;
        }
        return 0;
    }
    ret = disk_op(bs, (CrashOp) { .kind = OP_TRUNCATE, .offset = offset });
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not change the length");
    }
    return ret;
}

static int coroutine_fn disk_co_flush(BlockDriverState *bs)
{
    return disk_op(bs, (CrashOp) { .kind = OP_FLUSH });
}

static int64_t coroutine_mixed_fn disk_getlength(BlockDriverState *bs)
{
    return ((BDRVCrashState *)bs->opaque)->disk->view->size;
}

/* A file's tail takes space; what has a fixed size takes none. */
static int64_t coroutine_mixed_fn
disk_get_allocated_file_size(BlockDriverState *bs)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;

    return disk->node.fixed_size ? 0 : disk->view->size;
}

/* A file reads as zeros where it has got longer, and where it was discarded. */
static int disk_has_zero_init(BlockDriverState *bs)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;

    return !disk->node.fixed_size && !disk->node.no_zero_growth;
}

static int coroutine_fn
disk_co_block_status(BlockDriverState *bs, VHDXStatusMode mode, int64_t offset,
                     int64_t bytes, int64_t *pnum, int64_t *map,
                     BlockDriverState **file)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;

    *pnum = image_zeros(disk->view, offset, bytes);
    if (*pnum) {
        if (crash_watch) {
            crash_watch->zeros(offset, *pnum);
        }
        return BDRV_BLOCK_ZERO;
    }
    *pnum = MIN(bytes, CRASH_PAGE - offset % CRASH_PAGE);
    *map = offset;
    *file = bs;
    return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID;
}

static void disk_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = CRASH_SECTOR;
}

static int disk_open(BlockDriverState *bs, QDict *options, int flags,
                     Error **errp)
{
    BDRVCrashState *s = bs->opaque;

    s->disk = opening;
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    if (!opening->node.no_zero_growth && !opening->node.fixed_size) {
        bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    }
    return 0;
}

static BlockDriver crash_disk = {
    .format_name            = "vhdx-crash-disk",
    .instance_size          = sizeof(BDRVCrashState),

    .bdrv_open              = disk_open,
    .bdrv_refresh_limits    = disk_refresh_limits,
    .bdrv_co_getlength      = disk_getlength,
    .bdrv_co_get_allocated_file_size = disk_get_allocated_file_size,

    .bdrv_co_preadv         = disk_co_preadv,
    .bdrv_co_pwritev        = disk_co_pwritev,
    .bdrv_co_pwrite_zeroes  = disk_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = disk_co_pdiscard,
    .bdrv_co_truncate       = disk_co_truncate,
    .bdrv_co_flush_to_disk  = disk_co_flush,
    .bdrv_co_block_status   = disk_co_block_status,
    .bdrv_has_zero_init     = disk_has_zero_init,
};

/* The same with a path */
static BlockDriver crash_file;

static void file_refresh_filename(BlockDriverState *bs)
{
    pstrcpy(bs->exact_filename, sizeof(bs->exact_filename),
            ((BDRVCrashState *)bs->opaque)->disk->path);
}

/* -- The parent -- */

static int coroutine_fn parent_co_preadv(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, QEMUIOVector *qiov,
                                         BdrvRequestFlags flags)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;
    int ret = disk_op(bs, (CrashOp) { .kind = OP_READ, .bytes = bytes });

    for (int64_t done = 0; ret == 0 && done < bytes;) {
        int64_t at = (offset + done) % CRASH_PAGE;
        int64_t n = MIN(bytes - done, CRASH_PAGE - at);
        CrashPage *page = disk->parent_page(disk->parent_size,
                                            (offset + done) / CRASH_PAGE);

        if (page) {
            qemu_iovec_from_buf(qiov, done, page->data + at, n);
        } else {
            qemu_iovec_memset(qiov, done, 0, n);
        }
        done += n;
    }
    return ret;
}

/* It is known where the zeros are, but it takes a while to say so. */
static int coroutine_fn parent_co_block_status(BlockDriverState *bs,
                                               VHDXStatusMode mode,
                                               int64_t offset, int64_t bytes,
                                               int64_t *pnum, int64_t *map,
                                               BlockDriverState **file)
{
    CrashDisk *disk = ((BDRVCrashState *)bs->opaque)->disk;
    bool zero = !disk->parent_page(disk->parent_size, offset / CRASH_PAGE);
    int ret = disk_op(bs, (CrashOp) { .kind = OP_READ, .bytes = bytes });

    *pnum = MIN(bytes, CRASH_PAGE - offset % CRASH_PAGE);
    while (*pnum < bytes &&
           zero == !disk->parent_page(disk->parent_size,
                                      (offset + *pnum) / CRASH_PAGE)) {
        *pnum = MIN(bytes, *pnum + CRASH_PAGE);
    }
    return ret < 0 ? ret : zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA;
}

static int64_t coroutine_mixed_fn parent_getlength(BlockDriverState *bs)
{
    return ((BDRVCrashState *)bs->opaque)->disk->parent_size;
}

static BlockDriver crash_parent = {
    .format_name            = "vhdx-crash-parent",
    .instance_size          = sizeof(BDRVCrashState),

    .bdrv_open              = disk_open,
    .bdrv_refresh_limits    = disk_refresh_limits,
    .bdrv_co_getlength      = parent_getlength,
    .bdrv_co_preadv         = parent_co_preadv,
    .bdrv_co_block_status   = parent_co_block_status,
};

/* -- Making and freeing -- */

CrashDisk *disk_new(CrashImage *view, const CrashNode *node, uint64_t seed)
{
    return disk_new_beside(view, node, seed, "disk", NULL, NULL);
}

CrashDisk *disk_new_beside(CrashImage *view, const CrashNode *node,
                           uint64_t seed, const char *name, const char *path,
                           CrashDisk *lead)
{
    CrashDisk *disk = g_new(CrashDisk, 1);

    *disk = (CrashDisk) {
        .node = *node,
        .view = view,
        .path = path,
        .lead = lead,
        .ops = g_ptr_array_new_with_free_func(op_free),
        .pending = g_ptr_array_new(),
        .rng = { seed },
    };
    disk->bh = aio_bh_new(qemu_get_aio_context(), disk_step, disk);
    opening = disk;
    /* The driver takes a path only from a driver of this name. */
    crash_file = crash_disk;
    crash_file.format_name = "file";
    crash_file.bdrv_refresh_filename = file_refresh_filename;
    disk->bs = bdrv_new_open_driver(path ? &crash_file : &crash_disk, name,
                                    BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP,
                                    &error_abort);
    return disk;
}

void disk_add_parent(CrashDisk *disk, uint64_t bytes, CrashPageFunc *page_func)
{
    disk->parent_size = bytes;
    disk->parent_page = page_func;
    opening = disk;
    disk->parent = bdrv_new_open_driver(&crash_parent, "parent", 0,
                                        &error_abort);
}

void disk_free(CrashDisk *disk)
{
    bdrv_unref(disk->bs);
    bdrv_unref(disk->parent);
    g_assert(!disk->pending->len);
    qemu_bh_delete(disk->bh);
    g_ptr_array_unref(disk->pending);
    g_ptr_array_unref(disk->ops);
    image_free(disk->view);
    g_free(disk);
}
