/*
 * VHDX: requests that change something, and flushes
 *
 * A request is cut into pieces, each of which lies in one run of the file, and
 * each piece goes straight to its place there with no lock held.  read.c has
 * reads.
 *
 * Writing to a block that has no place yet is told in alloc-place.c.
 *
 * Freeing a block takes its BAT entry away, in memory, at once.  Requests that
 * looked it up before may still be using the place.  Each request therefore
 * has a ticket, and freed space waits until all older tickets are back; see
 * space-freed.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/alloc.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/early.h"
#include "block/vhdx/extent.h"
#include "block/vhdx/file.h"
#include "block/vhdx/io.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"

/* So many blocks, or runs of them, are zeroed or discarded in one go. */
#define ZERO_PIECES     256

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

/*
 * Write @e, which vhdx_alloc_extent() has found for the rest of a request,
 * @bytes bytes at @offset: from @qiov or, if that is NULL, as zeros, by @flags.
 * lock is held, and dropped for I/O.  Returns 0 or -errno; @e has no bytes if
 * it is to be done again.
 */
static int coroutine_fn GRAPH_RDLOCK
extent_write(BlockDriverState *bs, uint64_t offset, uint64_t bytes,
             VHDXExtent *e, QEMUIOVector *qiov, size_t qiov_offset,
             BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    /* If more of the request follows, so do more changes before the flush. */
    bool early = qiov && e->bytes == bytes && vhdx_early_pays(s, e, flags);
    int ret;

    for (unsigned i = 0; i < e->allocs; i++) {
        e->alloc[i]->touched = true;
    }
    vhdx_unlock(s);
    BLKDBG_CO_EVENT(bs->file, BLKDBG_WRITE_AIO);
    ret = early ? vhdx_early_pwritev(bs, e, qiov, qiov_offset) :
          qiov ? vhdx_file_pwritev(bs, e->file_offset, e->bytes, qiov,
                                   qiov_offset) :
                 vhdx_file_pwrite_zeroes(bs, e->file_offset, e->bytes, flags);
    vhdx_lock(s);
    return vhdx_alloc_complete(bs, offset, e, ret);
}

/*
 * What a write with @flags has to begin with.  A copy of what the parent has
 * changes nothing that the image reads as, so that its own children go on to
 * fit: if its locator tells of this very parent.
 */
static VHDXWriteState GRAPH_RDLOCK
write_needs(BlockDriverState *bs, BdrvRequestFlags flags)
{
    return (flags & BDRV_REQ_WRITE_UNCHANGED) && vhdx_parent_linked(bs) ?
           VHDX_METADATA : VHDX_DATA;
}

int coroutine_fn vhdx_co_pwritev_part(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, QEMUIOVector *qiov,
                                      size_t qiov_offset,
                                      BdrvRequestFlags flags)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXWriteState needs = write_needs(bs, flags);
    VHDXRequest req;
    int ret;

    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    vhdx_lock(s);
    ret = vhdx_request_begin(s, &req, offset, bytes);
    vhdx_early_note_write(s);
    while (bytes && ret == 0) {
        VHDXExtent e;

        /* Whoever held requests off may have closed the log. */
        if (vhdx_change_state(s) != VHDX_DATA &&
            vhdx_change_state(s) != needs) {
            vhdx_unlock(s);
            ret = vhdx_begin(bs, needs);
            vhdx_lock(s);
            continue;
        }
        ret = vhdx_alloc_extent(bs, offset, bytes, &e);
        if (vhdx_file_no_space(ret)) {
            ret = request_wait_space(bs, &req, offset, bytes);
            continue;
        }
        if (ret < 0) {
            break;
        }
        ret = extent_write(bs, offset, bytes, &e, qiov, qiov_offset, flags);
        offset += e.bytes;
        qiov_offset += e.bytes;
        bytes -= e.bytes;
    }
    ret = request_changed(bs, &req, ret);
    return ret == 0 && (flags & BDRV_REQ_FUA) ? vhdx_co_flush(bs) : ret;
}

int coroutine_fn vhdx_block_place(BlockDriverState *bs, uint64_t block)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t offset = block << s->geo.block_bits;
    VHDXRequest req;
    VHDXExtent e = { 0 };
    int ret;

    vhdx_lock(s);
    ret = vhdx_request_begin(s, &req, offset, 1);
    while (ret == 0 && !e.bytes) {
        if (vhdx_change_state(s) == VHDX_READING) {
            vhdx_unlock(s);
            ret = vhdx_begin(bs, VHDX_METADATA);
            vhdx_lock(s);
            continue;
        }
        ret = vhdx_alloc_extent(bs, offset, 1, &e);
        if (vhdx_file_no_space(ret)) {
            ret = request_wait_space(bs, &req, offset, 1);
        } else if (ret == 0) {
            ret = vhdx_alloc_complete(bs, offset, &e, 0);
        }
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
    VHDXWriteState needs;           /* before anything is changed */
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
    uint64_t n = vhdx_to_block_end(&s->geo, z->offset, z->bytes);
    uint64_t entry, count;
    int ret;

    if (!z->discard && vhdx_request_allocates(s)) {
        ret = vhdx_alloc_zero(bs, block, vhdx_in_block(&s->geo, z->offset), n,
                              z->flags);
        return ret < 0 ? ret : n;
    }
    ret = vhdx_bat_get_run(bs, block, last - block + 1, &entry, &count);
    return ret < 0 ? ret : MIN(z->bytes, (count << s->geo.block_bits) -
                                         vhdx_in_block(&s->geo, z->offset));
}

/*
 * Whether the parent of @bs, as long as it is one, is known to read as zeros in
 * @bytes bytes at @offset of the disk.  No lock is held.
 */
static bool coroutine_fn GRAPH_RDLOCK
parent_is_zero(BlockDriverState *bs, uint64_t offset, uint64_t bytes)
{
    vhdx_assert_unlocked(bs->opaque);
    while (bytes) {
        int64_t n = 0;
        int ret = bdrv_co_block_status_above(bs->backing->bs, NULL, offset,
                                             bytes, &n, NULL, NULL);

        if (ret < 0) {
            return false;
        }
        if (!n) {
            /* Behind its end */
            return true;
        }
        if (!(ret & BDRV_BLOCK_ZERO)) {
            return false;
        }
        offset += n;
        bytes -= n;
    }
    return true;
}

/*
 * Whether the block that has @bytes bytes at @offset of the disk, and reads as
 * the parent, reads as zeros in all the rest.  lock is held, and dropped.
 */
static bool coroutine_fn GRAPH_RDLOCK
rest_is_zero(BlockDriverState *bs, uint64_t offset, uint64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t head = vhdx_in_block(&s->geo, offset);
    uint64_t end = offset - head + vhdx_block_bytes(&s->geo, offset >>
                                                    s->geo.block_bits);
    bool zero;

    vhdx_unlock(s);
    zero = bs->backing && !vhdx_parent_is_lost(s) &&
           parent_is_zero(bs, offset - head, head) &&
           parent_is_zero(bs, offset + bytes, end - offset - bytes);
    vhdx_lock(s);
    return zero;
}

/*
 * The first block of @z, in a differencing image, has the entry @entry: it
 * reads as the parent, or some of its sectors do.  All of it is to read as
 * zeros if @whole.  The log is open.  lock is held, and dropped for I/O.
 * Returns how many bytes are done, 0 if it is to be called again, or -errno.
 *
 * A part of a block that is NOT_PRESENT and reads as zeros otherwise makes it
 * ZERO as well: zeros that are copied from a sparse parent would fill the file.
 * What the parent reads as does not change while it has a child in use, but
 * others may have written to the block when the parent has been asked.
 * [zeros-whole]
 */
static int64_t coroutine_fn GRAPH_RDLOCK
zero_child(BlockDriverState *bs, const ZeroRange *z, uint64_t entry, bool whole)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t block = z->offset >> s->geo.block_bits;
    uint64_t n = vhdx_to_block_end(&s->geo, z->offset, z->bytes);
    uint64_t now = entry;
    VHDXExtent e;
    int ret;

    if (!whole && !z->discard &&
        vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT) {
        whole = rest_is_zero(bs, z->offset, n);
        ret = vhdx_bat_get(bs, block, &now);
        if (ret < 0 || now != entry) {
            return ret;
        }
    }
    if (whole && vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT) {
        vhdx_alloc_cover(s, block);
        return n;
    }
    if (whole && (z->flags & BDRV_REQ_MAY_UNMAP)) {
        vhdx_alloc_free(s, block, vhdx_bat_offset(entry));
        return n;
    }
    if (!z->discard) {
        ret = vhdx_alloc_extent(bs, z->offset, n, &e);
        if (ret == 0) {
            ret = extent_write(bs, z->offset, z->bytes, &e, NULL, 0, z->flags);
        }
        return ret < 0 ? ret : e.bytes;
    }
    ret = vhdx_extent_lookup(bs, z->offset, n, &e);
    if (ret == 0 && e.source == VHDX_SOURCE_FILE) {
        vhdx_unlock(s);
        ret = place_discard(bs, e.file_offset, e.bytes);
        vhdx_lock(s);
        vhdx_change_note(s);
    }
    return ret < 0 ? ret : e.bytes;
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
    uint64_t n = vhdx_to_block_end(&s->geo, z->offset, z->bytes);
    bool whole = vhdx_is_whole_block(&s->geo, z->offset, n);
    bool free = whole && (z->flags & BDRV_REQ_MAY_UNMAP);
    uint64_t entry = 0, place;
    bool damaged, child;
    int ret;

    ret = vhdx_bat_get(bs, block, &entry);
    /* With its content goes what an entry has that can't be right. */
    damaged = free && ret == -EIO && vhdx_bat_is_loaded(s, block);
    if (ret < 0 && !damaged) {
        return ret;
    }
    child = s->params.has_parent && !damaged &&
            (vhdx_bat_state(entry) == VHDX_BLOCK_NOT_PRESENT ||
             vhdx_bat_state(entry) == VHDX_BLOCK_PARTIALLY_PRESENT);
    if (!damaged && !child &&
        vhdx_bat_state(entry) != VHDX_BLOCK_FULLY_PRESENT) {
        return zero_absent(bs, z);
    }
    if (vhdx_change_state(s) != VHDX_DATA &&
        vhdx_change_state(s) != z->needs) {
        vhdx_unlock(s);
        ret = vhdx_begin(bs, z->needs);
        vhdx_lock(s);
        return ret;
    }
    if (child) {
        return zero_child(bs, z, entry, whole);
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
    place = vhdx_bat_offset(entry) + vhdx_in_block(&s->geo, z->offset);
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
        int64_t n;
        bool due;

        if (s->params.leave_allocated) {
            /* A fixed image keeps its space. */
            if (z.discard) {
                break;
            }
            z.flags &= ~BDRV_REQ_MAY_UNMAP;
        }
        n = zero_piece(bs, &z);
        if (vhdx_file_no_space(n) && s->params.has_parent) {
            ret = request_wait_space(bs, &req, z.offset, z.bytes);
            continue;
        }
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
    VHDXWriteState needs = write_needs(bs, flags);

    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    return zero_range(bs, (ZeroRange) {
        .offset = offset,
        .bytes = bytes,
        .flags = flags & (BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK),
        .needs = needs,
    });
}

int coroutine_fn vhdx_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;

    if (vhdx_change_is_broken(s)) {
        return -EIO;
    }
    return zero_range(bs, (ZeroRange) {
        .offset = offset,
        .bytes = bytes,
        .flags = BDRV_REQ_MAY_UNMAP,
        .needs = VHDX_DATA,
        .discard = true,
    });
}

/* -- Flush -- */

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
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_early_note_flush(s);
    }
    return vhdx_commit(bs);
}
