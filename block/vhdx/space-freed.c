/*
 * VHDX: freed space, and giving it back to the host
 *
 * Space below the end becomes free when a block is discarded.  Until the BAT
 * change is stable the block must stay as it is, as a power cut would bring it
 * back, and even then a request that began before may still read or write it.
 * So space goes from the list of the freed, through the list of the committed,
 * to the map of used MiBs, from which it is given out again before the file
 * grows.  What is not known to be free counts as used.  What has come into the
 * map like this is punched later, if nobody has taken it before: a few places
 * at a time, which are out of the map meanwhile, so that no request waits for
 * all of them.
 *
 * In a fixed image (LeaveBlockAllocated) nothing is given back unasked: no cut
 * gets below the length that the file had when it was opened.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-map.h"
#include "block/vhdx/space-scan.h"
#include "space-int.h"
#include "trace.h"

/* Places that go into the map under one lock */
#define RECLAIM_PLACES  1024

/* The longest place that is punched at once, and such at one hold of a lock */
#define PUNCH_BYTES     GiB
#define PUNCH_SLICE     16

/* Add a place to @list, from which all requests of now are still kept away. */
static void freed_add(BDRVVHDXState *s, GArray *list, uint64_t offset,
                      uint64_t bytes)
{
    VHDXFreed freed = {
        .offset = offset,
        .length = bytes,
        .ticket = vhdx_request_next(s),
    };

    if (list->len) {
        VHDXFreed *last = &g_array_index(list, VHDXFreed, list->len - 1);

        if (last->offset + last->length == offset) {
            last->length += bytes;
            last->ticket = freed.ticket;
            return;
        }
    }
    g_array_append_val(list, freed);
}

/* [touched-old] */
void vhdx_space_return(BDRVVHDXState *s, uint64_t offset, uint64_t bytes,
                       bool touched)
{
    VHDXSpace *sp = s->space;

    vhdx_assert_locked(s);
    trace_vhdx_space_return(s, offset, bytes, touched);
    if (touched) {
        /* The host may have given space to it, and get that back. */
        freed_add(s, sp->committed, offset, bytes);
    } else if (offset + bytes == sp->end && !sp->used) {
        sp->end = offset;
    } else {
        vhdx_space_map_free(s, offset, bytes);
    }
}

/* [freed-wait] */
void vhdx_space_release(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    vhdx_assert_locked(s);
    freed_add(s, s->space->freed, offset, bytes);
    /* There is something to commit. */
    vhdx_change_note(s);
}

/* Move all of @from to @to. */
static void freed_move(GArray *from, GArray *to)
{
    g_array_append_vals(to, from->data, from->len);
    g_array_set_size(from, 0);
}

void vhdx_space_commit_begin(BDRVVHDXState *s)
{
    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    freed_move(s->space->freed, s->space->committing);
}

/* [freed-wait] */
void vhdx_space_commit_end(BDRVVHDXState *s, bool stable)
{
    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    freed_move(s->space->committing,
               stable ? s->space->committed : s->space->freed);
}

bool vhdx_space_pending(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->space->freed->len || s->space->committing->len ||
           s->space->committed->len > s->space->taken;
}

/*
 * Whether vhdx_space_reclaim() would find something.  Tickets are handed out in
 * order, so what waits for one that is not back yet has all the younger ones
 * behind it.  lock is held.
 */
static bool reclaimable(BDRVVHDXState *s)
{
    VHDXSpace *sp = s->space;

    return sp->committed->len > sp->taken &&
           g_array_index(sp->committed, VHDXFreed, sp->taken).ticket <=
           vhdx_request_oldest(s);
}

unsigned vhdx_space_count_freed(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->space->freed->len;
}

unsigned vhdx_space_count_committed(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->space->committed->len;
}

bool vhdx_space_cut_is_refused(BDRVVHDXState *s)
{
    return s->space->cut_told;
}

bool vhdx_space_only_grows(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->space->only_grows;
}

bool vhdx_space_waits(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->space->committed->len > s->space->taken && !reclaimable(s);
}

/*
 * To how many bytes the file is cut where the last object ends at @end.  A
 * fixed image keeps what it had when it was opened.
 */
static uint64_t cut_size(BDRVVHDXState *s, uint64_t end)
{
    return s->params.leave_allocated ? MAX(end, s->space->keep) : end;
}

/* Whether anything is free at the end of the file that can be cut off. */
static bool free_end_is_there(BDRVVHDXState *s)
{
    VHDXSpace *sp = s->space;

    return sp->used && sp->scanned && !sp->damaged && !vhdx_file_is_fixed(s) &&
           cut_size(s, vhdx_space_map_end(sp)) < vhdx_file_size(s);
}

/* Whether so much is free at the end of the file that it is cut off now. */
static bool free_end_is_large(BDRVVHDXState *s)
{
    VHDXSpace *sp = s->space;
    uint64_t end;

    if (vhdx_file_is_fixed(s) || sp->uncut || !sp->used ||
        test_bit(sp->end / VHDX_MIB - 1, sp->used)) {
        return false;
    }
    end = cut_size(s, vhdx_space_map_end(sp));
    return MIN(sp->end, vhdx_file_size(s)) >=
           end + vhdx_space_grow_step(s, end);
}

/* What is free at the end of the file by now is the host's. */
static void free_end_punch(BDRVVHDXState *s)
{
    VHDXSpace *sp = s->space;
    uint64_t end;

    if (test_bit(sp->end / VHDX_MIB - 1, sp->used)) {
        return;
    }
    end = vhdx_space_map_end(sp);
    if (end < sp->free_end) {
        vhdx_space_map_punch(sp, end, MIN(sp->free_end, sp->end) - end);
        sp->free_end = end;
    }
}

/*
 * Put some places that wait for nobody any more into the map, or forget them
 * if it is not @known what is free.  lock is held.  Returns whether there are
 * more. [freed-old]
 */
static bool reclaim_some(BDRVVHDXState *s, bool known)
{
    VHDXSpace *sp = s->space;

    for (unsigned i = 0; i < RECLAIM_PLACES && reclaimable(s); i++) {
        VHDXFreed *f = &g_array_index(sp->committed, VHDXFreed, sp->taken++);

        if (known) {
            vhdx_space_map_free(s, f->offset, f->length);
            /* It does not read as zeros, though it may lie behind those. */
            sp->zero_from = MAX(sp->zero_from, f->offset + f->length);
            vhdx_space_map_punch(sp, f->offset, f->length);
        }
    }
    if (sp->taken > sp->committed->len / 2) {
        g_array_remove_range(sp->committed, 0, sp->taken);
        sp->taken = 0;
    }
    return reclaimable(s);
}

bool coroutine_fn vhdx_space_reclaim(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    bool known, more, large = false;

    vhdx_assert_unlocked(s);
    /* The disk may hold the names of places that were given up. */
    if (vhdx_change_is_broken(s)) {
        return false;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        if (!reclaimable(s)) {
            return false;
        }
    }
    /* What is on no list must not be found free by a scan. */
    qemu_co_mutex_lock(&s->grow_lock);
    known = vhdx_space_know(bs) == 0 && !s->space->overlap;
    do {
        VHDX_LOCK_GUARD(s);
        more = reclaim_some(s, known);
        if (!more && known) {
            free_end_punch(s);
            large = free_end_is_large(s);
        }
    } while (more);
    trace_vhdx_space_reclaim(s, known);
    qemu_co_mutex_unlock(&s->grow_lock);
    return large;
}

/* -- Giving space back to the host -- */

/*
 * Take the next place to be punched, @bytes bytes at @offset, out of the map so
 * that nobody else does.  @zero is set where it lies at the end of the file.
 * lock is held.  Returns false if there is none.
 */
static bool punch_take(BDRVVHDXState *s, uint64_t *offset, uint64_t *bytes,
                       bool *zero)
{
    VHDXSpace *sp = s->space;
    uint64_t first, end;

    if (sp->punch_from >= sp->punch_bits) {
        return false;
    }
    first = find_next_bit(sp->punch, sp->punch_bits, sp->punch_from);
    if (first >= sp->punch_bits) {
        sp->punch_from = UINT64_MAX;
        return false;
    }
    end = MIN(sp->punch_bits, first + PUNCH_BYTES / VHDX_MIB);
    end = find_next_zero_bit(sp->punch, end, first);
    *offset = first * VHDX_MIB;
    *bytes = (end - first) * VHDX_MIB;
    if (*offset < sp->free_end && *offset + *bytes > sp->free_end) {
        *bytes = sp->free_end - *offset;
    }
    *zero = *offset >= sp->free_end && !vhdx_file_is_fixed(s);
    vhdx_space_map_unpunch(sp, *offset, *offset + *bytes);
    bitmap_set(sp->used, first, *bytes / VHDX_MIB);
    sp->punch_from = first;
    return true;
}

/*
 * The host may keep the space if it likes, as it is zeroed on reuse.  But in
 * what lies behind the last object another reader may expect zeros.
 */
static void coroutine_fn GRAPH_RDLOCK
punch(BlockDriverState *bs, uint64_t offset, uint64_t bytes, bool zero)
{
    trace_vhdx_space_punch(bs->opaque, offset, bytes);
    BLKDBG_CO_EVENT(bs->file, BLKDBG_CLUSTER_FREE);
    (void)vhdx_file_pdiscard(bs, offset, bytes);
    if (zero) {
        (void)vhdx_space_zero(bs, offset, bytes, BDRV_REQ_MAY_UNMAP |
                              BDRV_REQ_NO_FALLBACK);
    }
}

/* Punch up to @most places.  grow_lock is held.  Returns how many it were. */
static unsigned coroutine_fn GRAPH_RDLOCK
punch_slice(BlockDriverState *bs, unsigned most)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = s->space;
    uint64_t offset, bytes, size;
    bool zero;
    unsigned n;

    vhdx_assert_grow_locked(s);
    for (n = 0; n < most; n++) {
        WITH_VHDX_LOCK_GUARD(s) {
            if (!punch_take(s, &offset, &bytes, &zero)) {
                return n;
            }
            size = vhdx_file_size(s);
        }
        if (offset < size) {
            punch(bs, offset, MIN(bytes, size - offset), zero);
        }
        WITH_VHDX_LOCK_GUARD(s) {
            vhdx_space_map_free(s, offset, bytes);
            sp->zero_from = MAX(sp->zero_from, offset + bytes);
        }
    }
    return n;
}

void coroutine_fn vhdx_space_punch(BlockDriverState *bs, unsigned most)
{
    BDRVVHDXState *s = bs->opaque;
    /*
     * A fixed image keeps its space; what was free in an inactive one another
     * process may be using.
     */
    bool any = !s->params.leave_allocated &&
               !(bs->open_flags & BDRV_O_INACTIVE);

    vhdx_assert_unlocked(s);
    while (most && any) {
        unsigned slice = MIN(most, PUNCH_SLICE);

        WITH_VHDX_LOCK_GUARD(s) {
            any = s->space->punch_from < s->space->punch_bits;
        }
        if (any && !vhdx_change_is_broken(s)) {
            qemu_co_mutex_lock(&s->grow_lock);
            any = punch_slice(bs, slice) == slice;
            qemu_co_mutex_unlock(&s->grow_lock);
        }
        most -= slice;
    }
}

/* -- A shorter file -- */

bool vhdx_space_cut_begin(BDRVVHDXState *s, bool any, uint64_t *size)
{
    vhdx_assert_commit_locked(s);
    vhdx_assert_grow_locked(s);
    VHDX_LOCK_GUARD(s);
    if (any ? !free_end_is_there(s) : !free_end_is_large(s)) {
        return false;
    }
    /* Nothing is taken behind this from now on. */
    *size = vhdx_file_size(s);
    s->space->cut_from = s->space->end;
    s->space->end = vhdx_space_map_end(s->space);
    vhdx_file_set_size(s, cut_size(s, s->space->end));
    trace_vhdx_space_cut_begin(s, *size, vhdx_file_size(s));
    return true;
}

/*
 * What was to be cut is as it was before vhdx_space_cut_begin(): free, below
 * the end, and some of it to be punched.
 */
static void cut_keep(VHDXSpace *sp)
{
    sp->end = MAX(sp->end, sp->cut_from);
    sp->cut_from = 0;
}

void vhdx_space_cut_undo(BDRVVHDXState *s, uint64_t size)
{
    vhdx_assert_commit_locked(s);
    vhdx_assert_grow_locked(s);
    VHDX_LOCK_GUARD(s);
    trace_vhdx_space_cut_undo(s, size);
    vhdx_file_set_size(s, size);
    /* Blocks that are gone may have been anywhere up to there. */
    s->space->zero_from = MAX(s->space->zero_from, size);
    cut_keep(s->space);
}

/*
 * The file has not been cut: @ret.  A raw node that was given a length keeps
 * that, and nothing is lost by it.
 */
static void GRAPH_RDLOCK cut_failed(BlockDriverState *bs, int ret)
{
    BDRVVHDXState *s = bs->opaque;
    bool told;

    WITH_VHDX_LOCK_GUARD(s) {
        told = s->space->cut_told;
        s->space->cut_told = true;
    }
    if (!told && !qdict_haskey(bs->file->bs->options, "size")) {
        warn_report("VHDX image '%s': the unused end of the file could not be "
                    "cut off: %s", bs->filename, strerror(-ret));
    }
}

void coroutine_fn vhdx_space_cut(BlockDriverState *bs, uint64_t end,
                                 uint64_t size)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = s->space;
    int ret = vhdx_file_truncate(bs, end, PREALLOC_MODE_OFF, 0);
    int known = vhdx_space_measure(bs);
    bool cut;

    trace_vhdx_space_cut(s, size, end, ret);
    WITH_VHDX_LOCK_GUARD(s) {
        cut = known == 0 && vhdx_file_size(s) <= end;
        sp->uncut = !cut;
        if (cut) {
            vhdx_space_map_unpunch(sp, end, UINT64_MAX);
            sp->cut_from = 0;
        } else {
            cut_keep(sp);
            /* Nothing is lost either where no file ever gets shorter. */
            sp->only_grows = vhdx_file_length_refused(ret);
        }
        /* What is left of the tail is not known to be zero. */
        sp->zero_from = UINT64_MAX;
        if (known < 0) {
            vhdx_file_set_size(s, end);
            sp->zero_from = size;
        }
    }
    if (ret < 0 && !cut && !vhdx_file_length_refused(ret)) {
        cut_failed(bs, ret);
    }
}

int coroutine_fn vhdx_space_assure(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t size = vhdx_file_size(s);
    int ret = vhdx_space_measure(bs);

    vhdx_assert_commit_locked(s);
    vhdx_assert_grow_locked(s);
    if (ret < 0 || !vhdx_file_is_unsure(s)) {
        return ret;
    }
    /* Blocks may lie where the file ends no more. */
    size = MAX(size, vhdx_file_size(s));
    ret = vhdx_file_truncate(bs, size, PREALLOC_MODE_OFF, 0);
    if (vhdx_file_length_refused(ret) && size == vhdx_file_size(s)) {
        /* What can't be made longer has not got shorter either. */
        ret = 0;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_file_set_size(s, size);
    }
    if (ret < 0) {
        return ret;
    }
    vhdx_file_set_sure(s);
    return 0;
}

void coroutine_fn vhdx_space_truncate(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXSpace *sp = s->space;
    uint64_t end;
    int ret;

    vhdx_assert_commit_locked(s);
    if (vhdx_file_is_fixed(s)) {
        return;
    }
    if (sp->scanned ? !sp->damaged && !sp->overlap &&
                      !test_bit(sp->end / VHDX_MIB - 1, sp->used)
                    : !s->keep_end && !s->params.leave_allocated) {
        /*
         * There may be more below it that was freed in the past, or is a tail
         * that another writer has left.
         */
        ret = vhdx_space_scan(bs);
        if (ret < 0) {
            /* No map is kept of a file so long. */
            if (ret != -EOVERFLOW) {
                cut_failed(bs, ret);
            }
            return;
        }
    }
    end = cut_size(s, sp->end);
    if (end < vhdx_file_size(s)) {
        vhdx_space_cut(bs, end, vhdx_file_size(s));
    }
}
