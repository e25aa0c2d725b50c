/*
 * VHDX: requests
 *
 * A request is cut into pieces, each of which lies in one run of the file, and
 * each piece goes straight to its place there with no lock held.
 *
 * Writing to a block that has no place yet is told in alloc.c.
 *
 * Freeing a block takes its BAT entry away, in memory, at once.  Requests that
 * looked it up before may still be using the place.  Each request therefore
 * has a ticket, and freed space waits until all older tickets are back; see
 * space.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/alloc.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/file.h"
#include "block/vhdx/io.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"

/* New blocks that one piece can span */
#define MAX_ALLOCS      16

/* So many blocks, or runs of them, are zeroed or discarded in one go. */
#define ZERO_PIECES     256

/* Blocks that are looked up under one lock for the status of a range */
#define STATUS_BLOCKS   ((uint64_t)64 * 1024)

/* A piece of a request. */
typedef struct Piece {
    bool present;
    uint64_t bytes;
    uint64_t file_offset;           /* bytes, if present */
    unsigned allocs;
    VHDXAlloc *alloc[MAX_ALLOCS];   /* blocks of it that are new */
} Piece;

/* Where in its block @offset is. */
static uint64_t in_block(BDRVVHDXState *s, uint64_t offset)
{
    return offset & (s->geo.block_size - 1);
}

/* Bytes from @offset to the end of its block, but no more than @bytes. */
static uint64_t to_block_end(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    return MIN(bytes, s->geo.block_size - in_block(s, offset));
}

/*
 * @entry, of the block at @offset, can't be used, or not be read: @error.
 * What the file has of the block can be read all the same if it is only too
 * short.  Returns 0 with that as @p, or @error, and in @p how many bytes can't
 * be read.  lock is held, and has been since the entry was looked up.
 */
static int piece_damaged(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
                         uint64_t entry, int error, Piece *p)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t rest = vhdx_bat_get_rest(s, offset >> s->geo.block_bits, entry);

    rest = QEMU_ALIGN_DOWN(rest, bs->bl.request_alignment);
    p->bytes = to_block_end(s, offset, bytes);
    if (error != -EIO || rest <= in_block(s, offset)) {
        return error;
    }
    p->present = true;
    p->file_offset = vhdx_bat_offset(entry) + in_block(s, offset);
    p->bytes = MIN(p->bytes, rest - in_block(s, offset));
    return 0;
}

/*
 * Find how much of [@offset, @offset + @bytes) is in one run of the file, or
 * not present at all.  Fewer bytes come back where the BAT can't be read later
 * on; that is for the next call to report.  If there is no more to be had than
 * an error, @p has the number of bytes for which it is known.  lock is held.
 */
static int coroutine_fn GRAPH_RDLOCK
piece_lookup(BlockDriverState *bs, uint64_t offset, uint64_t bytes, Piece *p)
{
    BDRVVHDXState *s = bs->opaque;

    *p = (Piece) { .present = false };
    while (p->bytes < bytes) {
        uint64_t at = offset + p->bytes;
        uint64_t block = at >> s->geo.block_bits;
        uint64_t last = (offset + bytes - 1) >> s->geo.block_bits;
        uint64_t entry, place, count;
        bool present;
        int ret;

        ret = vhdx_bat_get_run(bs, block, last - block + 1, &entry, &count);
        if (ret < 0) {
            return p->bytes ? 0 :
                   piece_damaged(bs, at, bytes, entry, ret, p);
        }
        present = vhdx_bat_state(entry) == VHDX_BLOCK_FULLY_PRESENT;
        place = vhdx_bat_offset(entry) + in_block(s, at);
        if (!p->bytes) {
            p->present = present;
            p->file_offset = place;
        } else if (present != p->present ||
                   (present && place != p->file_offset + p->bytes)) {
            break;
        }
        p->bytes += MIN(bytes - p->bytes, (count << s->geo.block_bits) -
                        in_block(s, at));
    }
    return 0;
}

int coroutine_fn vhdx_co_preadv_part(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, QEMUIOVector *qiov,
                                     size_t qiov_offset,
                                     BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXRequest req;
    int ret;

    vhdx_lock(s);
    ret = vhdx_request_begin(s, &req, offset, bytes);
    while (bytes && ret == 0) {
        Piece p;

        ret = piece_lookup(bs, offset, bytes, &p);
        if (ret < 0) {
            break;
        }
        vhdx_unlock(s);
        if (!p.present) {
            qemu_iovec_memset(qiov, qiov_offset, 0, p.bytes);
        } else if (vhdx_replay_covers(s, p.file_offset, p.bytes)) {
            ret = vhdx_replay_readv(bs, p.file_offset, p.bytes, qiov,
                                    qiov_offset);
        } else {
            BLKDBG_CO_EVENT(bs->file, BLKDBG_READ_AIO);
            ret = vhdx_file_preadv(bs, p.file_offset, p.bytes, qiov,
                                   qiov_offset);
        }
        vhdx_lock(s);
        offset += p.bytes;
        qiov_offset += p.bytes;
        bytes -= p.bytes;
    }
    vhdx_request_end(s, &req);
    vhdx_unlock(s);
    return ret;
}

/* Find, or make, the places for the beginning of a write. */
static int coroutine_fn GRAPH_RDLOCK
piece_allocate(BlockDriverState *bs, uint64_t offset, uint64_t bytes, Piece *p)
{
    BDRVVHDXState *s = bs->opaque;

    *p = (Piece) { .present = true };
    while (p->bytes < bytes && p->allocs < MAX_ALLOCS) {
        uint64_t at = offset + p->bytes;
        uint64_t place = 0;
        VHDXAlloc *alloc = NULL;
        int ret;

        ret = vhdx_alloc_get(bs, at >> s->geo.block_bits, &place, &alloc);
        if (ret < 0) {
            return p->bytes ? 0 : ret;
        }
        place += in_block(s, at);
        if (!p->bytes) {
            p->file_offset = place;
        } else if (place != p->file_offset + p->bytes) {
            if (alloc) {
                vhdx_alloc_unref(s, alloc);
            }
            break;
        }
        if (alloc) {
            p->alloc[p->allocs++] = alloc;
        }
        p->bytes += to_block_end(s, at, bytes - p->bytes);
    }
    return 0;
}

/* The data of @p has been written, or not: @ret. */
static int coroutine_fn GRAPH_RDLOCK
piece_complete(BlockDriverState *bs, Piece *p, int ret)
{
    BDRVVHDXState *s = bs->opaque;

    for (unsigned i = 0; i < p->allocs; i++) {
        if (ret == 0) {
            ret = vhdx_alloc_publish(bs, p->alloc[i]);
        }
        vhdx_alloc_unref(s, p->alloc[i]);
    }
    vhdx_change_note(s);
    return ret;
}

/*
 * There is no space for @req, which holds no place yet.  If blocks have been
 * freed, make their space available: commit that, and wait for the requests
 * that may still use it.  lock is held, and dropped meanwhile.  Returns 0 if
 * it is worth trying again with the rest, @bytes bytes at @offset.
 */
static int coroutine_fn GRAPH_RDLOCK
request_wait_space(BlockDriverState *bs, VHDXRequest *req, uint64_t offset,
                   uint64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;
    int ret, begun;

    if (!vhdx_space_pending(s) || vhdx_change_is_broken(s)) {
        return -ENOSPC;
    }
    vhdx_request_end(s, req);
    vhdx_unlock(s);
    ret = vhdx_commit(bs);
    vhdx_lock(s);
    while (ret == 0 && vhdx_space_waits(s)) {
        vhdx_request_wait(s);
    }
    vhdx_unlock(s);
    vhdx_space_reclaim(bs);
    vhdx_lock(s);
    begun = vhdx_request_begin(s, req, offset, bytes);
    return ret < 0 ? ret : begun;
}

/*
 * End @req, which has changed something, with the result @ret.  lock is held,
 * and dropped.
 */
static int coroutine_fn GRAPH_RDLOCK
request_changed(BlockDriverState *bs, VHDXRequest *req, int ret)
{
    BDRVVHDXState *s = bs->opaque;

    vhdx_request_end(s, req);
    if (ret < 0) {
        vhdx_unlock(s);
        return ret;
    }
    return vhdx_commit_unlock(bs);
}

int coroutine_fn vhdx_co_pwritev_part(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, QEMUIOVector *qiov,
                                      size_t qiov_offset,
                                      BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXRequest req;
    int ret;

    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    vhdx_lock(s);
    ret = vhdx_request_begin(s, &req, offset, bytes);
    while (bytes && ret == 0) {
        Piece p;

        /* Whoever held requests off may have closed the log. */
        if (vhdx_change_state(s) != VHDX_DATA) {
            vhdx_unlock(s);
            ret = vhdx_log_begin(bs, VHDX_DATA);
            vhdx_lock(s);
            continue;
        }
        ret = piece_allocate(bs, offset, bytes, &p);
        if (vhdx_file_no_space(ret)) {
            ret = request_wait_space(bs, &req, offset, bytes);
            continue;
        }
        if (ret < 0) {
            break;
        }
        for (unsigned i = 0; i < p.allocs; i++) {
            p.alloc[i]->touched = true;
        }
        vhdx_unlock(s);
        BLKDBG_CO_EVENT(bs->file, BLKDBG_WRITE_AIO);
        ret = vhdx_file_pwritev(bs, p.file_offset, p.bytes, qiov,
                                qiov_offset);
        vhdx_lock(s);
        ret = piece_complete(bs, &p, ret);
        offset += p.bytes;
        qiov_offset += p.bytes;
        bytes -= p.bytes;
    }
    return request_changed(bs, &req, ret);
}

/* -- Zeroes and discard -- */

/* Discard a part of a block, @bytes bytes at file offset @offset. */
static int coroutine_fn GRAPH_RDLOCK
place_discard(BlockDriverState *bs, uint64_t offset, uint64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;
    int ret;

    if (qatomic_read(&s->safe_discard)) {
        return vhdx_file_pdiscard(bs, offset, bytes);
    }
    /* A device may hold anything afterwards, so zero it if that is cheap. */
    if (!(bs->file->bs->open_flags & BDRV_O_UNMAP)) {
        return 0;
    }
    ret = vhdx_file_pwrite_zeroes(bs, offset, bytes, BDRV_REQ_MAY_UNMAP |
                                  BDRV_REQ_NO_FALLBACK);
    return ret == -ENOTSUP ? 0 : ret;
}

/* A request to zero or discard, or what is left of it. */
typedef struct ZeroRange {
    uint64_t offset;                /* bytes */
    uint64_t bytes;
    BdrvRequestFlags flags;
    bool discard;                   /* it may also stay as it is */
} ZeroRange;

/*
 * The first block of @z is not present, and reads as zeros.  Returns how many
 * bytes are done thereby, or -errno.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
zero_absent(BlockDriverState *bs, const ZeroRange *z)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = z->offset >> s->geo.block_bits;
    uint64_t last = (z->offset + z->bytes - 1) >> s->geo.block_bits;
    uint64_t n = to_block_end(s, z->offset, z->bytes);
    uint64_t entry, count;
    int ret;

    if (!z->discard && vhdx_request_allocates(s)) {
        ret = vhdx_alloc_zero(bs, block, in_block(s, z->offset), n, z->flags);
        return ret < 0 ? ret : n;
    }
    ret = vhdx_bat_get_run(bs, block, last - block + 1, &entry, &count);
    return ret < 0 ? ret : MIN(z->bytes, (count << s->geo.block_bits) -
                                         in_block(s, z->offset));
}

/*
 * Do the beginning of @z, of which the log has to be open for a block that is
 * present or damaged.  lock is held, and dropped for I/O.  Returns how many
 * bytes are done, 0 if it is to be called again, or -errno.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
zero_piece(BlockDriverState *bs, const ZeroRange *z)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = z->offset >> s->geo.block_bits;
    uint64_t n = to_block_end(s, z->offset, z->bytes);
    bool free = !in_block(s, z->offset) && (z->flags & BDRV_REQ_MAY_UNMAP) &&
                (n == s->geo.block_size ||
                 z->offset + n == s->geo.disk_size);
    uint64_t entry = 0, place;
    bool damaged;
    int ret;

    ret = vhdx_bat_get(bs, block, &entry);
    /* With its content goes what an entry has that can't be right. */
    damaged = free && ret == -EIO && vhdx_bat_is_loaded(s, block);
    if (ret < 0 && !damaged) {
        return ret;
    }
    if (!damaged && vhdx_bat_state(entry) != VHDX_BLOCK_FULLY_PRESENT) {
        return zero_absent(bs, z);
    }
    if (vhdx_change_state(s) != VHDX_DATA) {
        vhdx_unlock(s);
        ret = vhdx_log_begin(bs, VHDX_DATA);
        vhdx_lock(s);
        return ret;
    }
    if (damaged) {
        vhdx_bat_set(s, block, VHDX_BLOCK_ZERO);
        vhdx_space_note_damage(s);
        vhdx_change_note(s);
        return n;
    }
    if (free) {
        vhdx_alloc_free(s, block, vhdx_bat_offset(entry));
        return n;
    }
    place = vhdx_bat_offset(entry) + in_block(s, z->offset);
    vhdx_unlock(s);
    ret = z->discard ? place_discard(bs, place, n) :
                       vhdx_file_pwrite_zeroes(bs, place, n, z->flags);
    vhdx_lock(s);
    vhdx_change_note(s);
    return ret < 0 ? ret : n;
}

/*
 * Let others go on before @req does the rest, @bytes bytes at @offset: it ends,
 * so that they need not wait for it, and begins again.  With @due it relieves
 * the cache meanwhile.  lock is held, and dropped.  Returns 0 or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
request_pause(BlockDriverState *bs, VHDXRequest *req, uint64_t offset,
              uint64_t bytes, bool due)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0, begun;

    vhdx_request_end(s, req);
    vhdx_unlock(s);
    if (due) {
        ret = vhdx_commit_relieve(bs);
    } else {
        aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
        qemu_coroutine_yield();
    }
    vhdx_lock(s);
    begun = vhdx_request_begin(s, req, offset, bytes);
    return ret < 0 ? ret : begun;
}

/*
 * Make a range read as zeros.  Blocks that are not present do already.  With
 * BDRV_REQ_MAY_UNMAP in its flags, blocks that are covered whole lose their
 * place; everything else is zeroed, or discarded, in the file.  That is done in
 * parts, as there may be millions of blocks.
 */
static int coroutine_fn GRAPH_RDLOCK
zero_range(BlockDriverState *bs, ZeroRange z)
{
    BDRVVHDXState *s = bs->opaque;
    unsigned pieces = 0;
    VHDXRequest req;
    int ret;

    vhdx_lock(s);
    ret = vhdx_request_begin(s, &req, z.offset, z.bytes);
    while (z.bytes && ret == 0) {
        int64_t n = zero_piece(bs, &z);
        bool due;

        if (n < 0) {
            ret = n;
            break;
        }
        z.offset += n;
        z.bytes -= n;
        /* Something has been done since the last time in any case. */
        due = z.bytes && vhdx_commit_relief_due(s);
        if (due || ++pieces == ZERO_PIECES) {
            ret = request_pause(bs, &req, z.offset, z.bytes, due);
            pieces = 0;
        }
    }
    return request_changed(bs, &req, ret);
}

int coroutine_fn vhdx_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;

    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    flags &= BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    if (s->params.leave_allocated) {
        flags &= ~BDRV_REQ_MAY_UNMAP;
    }
    return zero_range(bs, (ZeroRange) {
        .offset = offset,
        .bytes = bytes,
        .flags = flags,
    });
}

int coroutine_fn vhdx_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;

    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    /* A fixed image keeps its space. */
    if (s->params.leave_allocated) {
        return 0;
    }
    return zero_range(bs, (ZeroRange) {
        .offset = offset,
        .bytes = bytes,
        .flags = BDRV_REQ_MAY_UNMAP,
        .discard = true,
    });
}

/* -- Status and flush -- */

int coroutine_fn vhdx_co_block_status(BlockDriverState *bs,
                                      VHDXStatusMode mode, int64_t offset,
                                      int64_t bytes, int64_t *pnum,
                                      int64_t *map, BlockDriverState **file)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXRequest req;
    Piece p = { .bytes = 0 };
    int ret;

    WITH_VHDX_LOCK_GUARD(s) {
        ret = vhdx_request_begin(s, &req, offset, bytes);
        if (ret == 0) {
            bytes = MIN(bytes, STATUS_BLOCKS << s->geo.block_bits);
            ret = piece_lookup(bs, offset, bytes, &p);
        }
        vhdx_request_end(s, &req);
    }
    if (ret < 0 && !p.bytes) {
        return ret;
    }
    *pnum = p.bytes;
    if (ret < 0) {
        /* Nobody knows what is there: those who read it get the error. */
        return BDRV_BLOCK_DATA;
    }
    if (!p.present) {
        return BDRV_BLOCK_ZERO;
    }
    if (vhdx_replay_covers(s, p.file_offset, p.bytes)) {
        return BDRV_BLOCK_DATA;
    }
    *map = p.file_offset;
    *file = bs->file->bs;
    return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID | BDRV_BLOCK_RECURSE;
}

/*
 * Whether the flush under way is not a guest's, but the block layer's before it
 * reopens the image, for example.  Nothing in a flush tells who asks for it, so
 * one of the guest's that is under way yet when the drain begins passes for the
 * block layer's.  It fails all the same if what was before it is not committed
 * and can't be.
 */
static bool flush_is_internal(BlockDriverState *bs)
{
    return qatomic_read(&bs->quiesce_counter) && bs->refcnt;
}

int coroutine_fn vhdx_co_flush(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;

    BLKDBG_CO_EVENT(bs->file, BLKDBG_FLUSH_TO_DISK);
    if (vhdx_change_is_broken(s) && flush_is_internal(bs)) {
        /* Where that fails and nothing is uncommitted, all is in the file. */
        (void)vhdx_log_resume(bs);
    }
    return vhdx_commit(bs);
}
