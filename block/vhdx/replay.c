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
 * The log may hold anything.  An entry counts only with the right checksum,
 * and finding out takes time in proportion to its length; so that entries that
 * pretend to overlap cannot make that quadratic, the sum is bounded.  Holes in
 * the file are not read.  Of an entry no more than 24 bytes are kept, as a log
 * of 4 GiB may have a million of them; when the sequence is known, the index is
 * made by reading its entries once more.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/memalign.h"
#include "qemu/range.h"
#include "block/aio_task.h"
#include "block/vhdx/replay-index.h"
#include "block/vhdx/replay.h"

/* What is read of the log at a time */
#define READ_BYTES          MiB

/* Bytes to checksum at the most, in lengths of the log */
#define CHECKSUM_LAPS       16

/* Pages that one task puts in place, and such tasks at a time */
#define APPLY_PAGES         64
#define APPLY_TASKS         8

/* An entry that was found: what is needed to tell which sequence counts. */
typedef struct FoundEntry {
    uint64_t sequence;
    uint32_t offset;                /* bytes from the start of the log */
    uint32_t length;                /* bytes */
    uint32_t tail;                  /* bytes from the start of the log */
    bool follows;                   /* another entry comes before it */
} FoundEntry;

void vhdx_replay_free(VHDXReplay *replay)
{
    if (replay) {
        vhdx_replay_index_free(replay->index);
        g_free(replay);
    }
}

/* Ask @node and all below it, from the lowest up, for their lengths. */
static int coroutine_fn GRAPH_RDLOCK length_refresh(BlockDriverState *node)
{
    BlockDriverState *below = bdrv_primary_bs(node);
    int ret = below ? length_refresh(below) : 0;

    return ret < 0 ? ret :
           bdrv_co_refresh_total_sectors(node, node->total_sectors);
}

int64_t coroutine_fn vhdx_file_length(BlockDriverState *bs)
{
    BlockDriverState *node = bdrv_skip_filters(bs->file->bs);
    int64_t length, bytes;
    int ret = length_refresh(bs->file->bs);

    if (ret < 0) {
        return ret;
    }
    length = bdrv_co_getlength(bs->file->bs);
    if (length > 0 && node->drv->bdrv_co_getlength) {
        /* The block layer has made whole sectors of it. */
        bytes = node->drv->bdrv_co_getlength(node);
        if (bytes < length && length - bytes < BDRV_SECTOR_SIZE) {
            return bytes;
        }
    }
    return length;
}

/* -- Finding the active sequence -- */

/* Read @bytes bytes of the log at @pos, which may go round its end. */
static int coroutine_fn GRAPH_RDLOCK
log_read(BlockDriverState *bs, uint64_t pos, uint32_t bytes, uint8_t *buf)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t length = s->header.log_length;
    uint32_t first;
    int ret;

    pos %= length;
    first = MIN(bytes, length - pos);
    ret = bdrv_co_pread(bs->file, s->header.log_offset + pos, first, buf, 0);
    if (ret == 0 && first < bytes) {
        ret = bdrv_co_pread(bs->file, s->header.log_offset, bytes - first,
                            buf + first, 0);
    }
    return ret;
}

/*
 * Whether @e, an entry at log offset @offset whose header is good, is valid as
 * a whole.  Returns 1 if it is, 0 if not, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
entry_verify(BlockDriverState *bs, const VHDXLogEntry *e, uint64_t offset,
             uint32_t checksum, uint8_t *buf)
{
    uint32_t desc_bytes = vhdx_log_desc_sectors(e->descriptors) *
                          VHDX_LOG_SECTOR;
    uint32_t descs = 0, data_descs = 0, crc = 0;

    for (uint32_t pos = 0; pos < e->length; pos += READ_BYTES) {
        uint32_t bytes = MIN(READ_BYTES, e->length - pos);
        int ret = log_read(bs, offset + pos, bytes, buf);

        if (ret < 0) {
            return ret;
        }
        crc = vhdx_log_checksum_update(crc, buf, bytes, pos == 0);
        for (uint32_t i = pos ? 0 : VHDX_LOG_HEADER_SIZE; i < bytes;) {
            if (pos + i >= desc_bytes) {
                if (!vhdx_log_data_valid(buf + i, e->sequence)) {
                    return 0;
                }
                i += VHDX_LOG_SECTOR;
                continue;
            }
            if (descs < e->descriptors) {
                VHDXLogDesc desc;

                vhdx_log_desc_decode(buf + i, e->sequence, &desc);
                if (desc.type == VHDX_LOG_DESC_INVALID) {
                    return 0;
                }
                data_descs += desc.type == VHDX_LOG_DESC_DATA;
                descs++;
            }
            i += VHDX_LOG_DESC_SIZE;
        }
    }
    return crc == checksum &&
           e->length - desc_bytes == (uint64_t)data_descs * VHDX_LOG_SECTOR;
}

/* How many bytes of the log from @pos on are known to be a hole in the file. */
static uint64_t coroutine_fn GRAPH_RDLOCK
log_hole(BlockDriverState *bs, uint64_t pos)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t rest = s->header.log_length - pos;
    int64_t pnum;
    int ret;

    ret = bdrv_co_block_status(bs->file->bs, s->header.log_offset + pos, rest,
                               &pnum, NULL, NULL);
    if (ret < 0) {
        return 0;
    }
    if (ret & BDRV_BLOCK_ZERO) {
        return QEMU_ALIGN_DOWN(pnum, VHDX_LOG_SECTOR);
    }
    /* Behind the end of the file there is nothing. */
    return pnum ? 0 : rest;
}

/* Collect the valid entries of the log, in order of their offsets. */
static int coroutine_fn GRAPH_RDLOCK
entries_find(BlockDriverState *bs, GArray *entries, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    uint32_t length = s->header.log_length;
    uint64_t budget = (uint64_t)length * CHECKSUM_LAPS;
    uint8_t *window = qemu_try_blockalign(bs->file->bs, READ_BYTES);
    uint8_t *buf = qemu_try_blockalign(bs->file->bs, READ_BYTES);
    uint64_t window_at = UINT64_MAX;
    int ret = window && buf ? 0 : -ENOMEM;

    for (uint64_t pos = 0; pos < length && ret >= 0;) {
        uint64_t at = QEMU_ALIGN_DOWN(pos, READ_BYTES);
        VHDXLogEntry entry;
        uint32_t checksum;

        if (window_at != at) {
            uint64_t hole = log_hole(bs, pos);

            if (hole) {
                pos += hole;
                continue;
            }
            ret = log_read(bs, at, READ_BYTES, window);
            window_at = at;
            if (ret < 0) {
                break;
            }
        }
        if (!vhdx_log_entry_decode(window + (pos - at), length,
                                   &s->header.log_guid, &entry, &checksum)) {
            pos += VHDX_LOG_SECTOR;
            continue;
        }
        if (entry.length > budget) {
            error_setg(errp, "The log holds entries that overlap; first at "
                       "log offset %" PRIu64, pos);
            ret = -EINVAL;
            break;
        }
        budget -= entry.length;
        ret = entry_verify(bs, &entry, pos, checksum, buf);
        if (ret > 0) {
            FoundEntry found = {
                .sequence = entry.sequence,
                .offset = pos,
                .length = entry.length,
                .tail = entry.tail,
            };

            g_array_append_val(entries, found);
            pos += entry.length;
        } else {
            pos += VHDX_LOG_SECTOR;
        }
    }
    if (ret < 0 && !*errp) {
        error_setg_errno(errp, -ret, "Could not read the log");
    }
    qemu_vfree(window);
    qemu_vfree(buf);
    return MIN(ret, 0);
}

static int offset_compare(const void *a, const void *b)
{
    const FoundEntry *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The entry that continues the run after @e, or NULL. */
static FoundEntry *entry_next(GArray *entries, const FoundEntry *e,
                              uint32_t log_length)
{
    FoundEntry key = {
        .offset = ((uint64_t)e->offset + e->length) % log_length,
    };
    FoundEntry *next = bsearch(&key, entries->data, entries->len, sizeof(key),
                               offset_compare);

    return next && next->sequence == e->sequence + 1 ? next : NULL;
}

/*
 * Find the @tail and the @head of the active sequence.  Returns false where no
 * sequence counts.
 */
static bool sequence_find(GArray *entries, uint32_t log_length,
                          FoundEntry *tail, FoundEntry *head)
{
    FoundEntry *e, *next;
    uint64_t best = 0;

    for (guint i = 0; i < entries->len; i++) {
        e = &g_array_index(entries, FoundEntry, i);
        next = entry_next(entries, e, log_length);
        if (next) {
            next->follows = true;
        }
    }
    for (guint i = 0; i < entries->len; i++) {
        FoundEntry *first = &g_array_index(entries, FoundEntry, i);
        FoundEntry *last = first;

        if (first->follows) {
            continue;
        }
        while ((next = entry_next(entries, last, log_length))) {
            last = next;
        }
        e = first;
        while (e && e->offset != last->tail) {
            e = entry_next(entries, e, log_length);
        }
        if (e && last->sequence > best) {
            best = last->sequence;
            *tail = *e;
            *head = *last;
        }
    }
    return best;
}

/*
 * Put what one descriptor says into the index, of a file that is @limit bytes
 * long after the replay.
 */
static int desc_index(BDRVVHDXState *s, VHDXReplay *replay,
                      const VHDXLogDesc *desc, uint32_t log_offset,
                      uint64_t limit, Error **errp)
{
    VHDXReplayRange range = {
        .start = desc->file_offset,
        .end = desc->file_offset + VHDX_PAGE_SIZE,
        .log_offset = log_offset,
        .entry = desc->sequence - replay->sequence,
    };
    int ret;

    if (desc->type == VHDX_LOG_DESC_ZERO) {
        if (!desc->zero_length) {
            return 0;
        }
        range.end = desc->file_offset + desc->zero_length;
        range.zero = true;
    } else {
        memcpy(range.leading, desc->leading, sizeof(range.leading));
        memcpy(range.trailing, desc->trailing, sizeof(range.trailing));
    }
    /* An object that once was here has gone since, and the file got shorter. */
    if (range.start >= limit) {
        return 0;
    }
    if (range.zero) {
        range.end = MIN(range.end, ROUND_UP(limit, VHDX_PAGE_SIZE));
    }
    if (range.start < VHDX_REGION_TABLE_OFFSET(0) ||
        ranges_overlap(range.start, range.end - range.start,
                       s->header.log_offset, s->header.log_length)) {
        error_setg(errp, "A log entry with SequenceNumber %" PRIu64 " updates "
                   "%" PRIu64 " bytes at FileOffset %" PRIu64 ", which is "
                   "outside of what a log may change", desc->sequence,
                   range.end - range.start, range.start);
        return -EINVAL;
    }
    ret = vhdx_replay_index_add(replay->index, range);
    if (ret < 0) {
        error_setg(errp, "The log changes too many separate places in the "
                   "file; no room is left at the log entry with "
                   "SequenceNumber %" PRIu64, desc->sequence);
    }
    return ret;
}

static int entry_changed(uint64_t sequence, Error **errp)
{
    error_setg(errp, "The log entry with SequenceNumber %" PRIu64
               " has changed while it was read", sequence);
    return -EINVAL;
}

/* Read the header of @found once more. */
static int coroutine_fn GRAPH_RDLOCK
entry_load(BlockDriverState *bs, const FoundEntry *found, uint8_t *buf,
           VHDXLogEntry *entry, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint32_t checksum;
    int ret = log_read(bs, found->offset, VHDX_LOG_SECTOR, buf);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the log");
    } else if (!vhdx_log_entry_decode(buf, s->header.log_length,
                                      &s->header.log_guid, entry, &checksum) ||
               entry->sequence != found->sequence) {
        ret = entry_changed(found->sequence, errp);
    }
    return ret;
}

/*
 * Put what the entry at log offset @offset says into the index.  @buf, a
 * sector, holds its first one and is used for the others.
 */
static int coroutine_fn GRAPH_RDLOCK
entry_index(BlockDriverState *bs, VHDXReplay *replay,
            const VHDXLogEntry *entry, uint64_t offset, uint64_t limit,
            uint8_t *buf, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t desc_sectors = vhdx_log_desc_sectors(entry->descriptors);
    uint64_t data_at = offset + desc_sectors * VHDX_LOG_SECTOR;
    uint32_t descs = entry->descriptors;
    int ret = 0;

    for (uint64_t sector = 0; sector < desc_sectors; sector++) {
        uint32_t i = sector ? 0 : VHDX_LOG_HEADER_SIZE;

        if (sector) {
            ret = log_read(bs, offset + sector * VHDX_LOG_SECTOR,
                           VHDX_LOG_SECTOR, buf);
            if (ret < 0) {
                error_setg_errno(errp, -ret, "Could not read the log");
                return ret;
            }
        }
        for (; i < VHDX_LOG_SECTOR && descs; i += VHDX_LOG_DESC_SIZE,
             descs--) {
            VHDXLogDesc desc;

            vhdx_log_desc_decode(buf + i, entry->sequence, &desc);
            if (desc.type == VHDX_LOG_DESC_INVALID) {
                return entry_changed(entry->sequence, errp);
            }
            ret = desc_index(s, replay, &desc,
                             data_at % s->header.log_length, limit, errp);
            if (ret < 0) {
                return ret;
            }
            if (desc.type == VHDX_LOG_DESC_DATA) {
                data_at += VHDX_LOG_SECTOR;
            }
        }
    }
    return 0;
}

/* Make the index from the sequence of entries from @tail to @head. */
static int coroutine_fn GRAPH_RDLOCK
sequence_index(BlockDriverState *bs, VHDXReplay *replay,
               const FoundEntry *tail, const FoundEntry *head, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint8_t *buf = qemu_blockalign(bs->file->bs, VHDX_LOG_SECTOR);
    FoundEntry found = *tail;
    VHDXLogEntry entry;
    uint64_t limit;
    int64_t size;
    int ret;

    ret = entry_load(bs, head, buf, &entry, errp);
    if (ret < 0) {
        goto out;
    }
    /* If somebody is writing, the file has grown before this entry says so. */
    size = vhdx_file_length(bs);
    if (size < 0) {
        error_setg_errno(errp, -size, "Could not get the file's length");
        ret = size;
        goto out;
    }
    if (entry.flushed_file_offset > size) {
        error_setg(errp, "The file was cut off: it has %" PRId64 " bytes, but "
                   "its log has FlushedFileOffset %" PRIu64, size,
                   entry.flushed_file_offset);
        ret = -EINVAL;
        goto out;
    }
    replay->sequence = tail->sequence;
    replay->last_file_offset = entry.last_file_offset;
    limit = MAX(entry.last_file_offset, size);

    for (;;) {
        ret = entry_load(bs, &found, buf, &entry, errp);
        if (ret == 0) {
            ret = entry_index(bs, replay, &entry, found.offset, limit, buf,
                              errp);
        }
        if (ret < 0 || found.sequence == head->sequence) {
            break;
        }
        found.offset = ((uint64_t)found.offset + entry.length) %
                       s->header.log_length;
        found.sequence++;
    }
out:
    qemu_vfree(buf);
    return ret;
}

int coroutine_fn vhdx_replay_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    GArray *entries = g_array_new(false, false, sizeof(FoundEntry));
    FoundEntry tail, head;
    VHDXReplay *replay;
    int ret;

    ret = entries_find(bs, entries, errp);
    if (ret == 0 && !sequence_find(entries, s->header.log_length, &tail,
                                   &head)) {
        char guid[UUID_STR_LEN];

        uuid_unparse_lower(s->header.log_guid.id, guid);
        error_setg(errp, "The header names the log %s, but there is no valid "
                   "sequence of entries with this LogGuid", guid);
        ret = -EINVAL;
    }
    /* The index may need that memory. */
    g_array_unref(entries);
    if (ret < 0) {
        return ret;
    }

    replay = g_new0(VHDXReplay, 1);
    replay->index = vhdx_replay_index_new();
    ret = sequence_index(bs, replay, &tail, &head, errp);
    if (ret < 0) {
        vhdx_replay_free(replay);
        return ret;
    }
    s->replay = replay;
    return 0;
}

/* -- Reading through the index, and applying it -- */

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
    int ret = log_read(bs, range->log_offset, VHDX_LOG_SECTOR, page);

    if (ret == 0 && bs->force_share) {
        /*
         * A sector that was being written then may have been new in its first
         * part and old in its last: the end shows it now.
         */
        memcpy(end, page + VHDX_LOG_SECTOR - sizeof(end), sizeof(end));
        ret = log_read(bs, end_at, sizeof(end_now), end_now);
    }
    if (ret == 0 && (!range_decode(bs->opaque, range, page) ||
                     memcmp(end, end_now, sizeof(end)))) {
        return 1;
    }
    return ret;
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

    if (ret > 0) {
        int64_t length = vhdx_file_length(bs);

        ret = length < 0 ? length :
              bdrv_co_pread(bs->file, range->start, VHDX_PAGE_SIZE, page, 0);
    }
    return ret;
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

    ret = bdrv_co_preadv_part(bs->file, offset, bytes, qiov, qiov_offset, 0);
    if (ret < 0 || !replay) {
        return ret;
    }

    page = qemu_blockalign(bs->file->bs, VHDX_PAGE_SIZE);
    while (ret == 0 && pos < end &&
           vhdx_replay_index_find(replay->index, pos, &range) &&
           range.start < end) {
        uint64_t from = MAX(range.start, offset);
        uint64_t to = MIN(range.end, end);
        size_t at = qiov_offset + (from - offset);

        if (range.zero) {
            qemu_iovec_memset(qiov, at, 0, to - from);
        } else {
            ret = page_read(bs, &range, page);
            qemu_iovec_from_buf(qiov, at, page + (from - range.start),
                                to - from);
        }
        pos = to;
    }
    qemu_vfree(page);
    if (!vhdx_replay_active(s)) {
        /* The log may be another now, but all is in place. */
        ret = bdrv_co_preadv_part(bs->file, offset, bytes, qiov, qiov_offset,
                                  0);
    }
    return ret;
}

int coroutine_fn vhdx_replay_read(BlockDriverState *bs, uint64_t offset,
                                  uint64_t bytes, void *buf)
{
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);

    return vhdx_replay_readv(bs, offset, bytes, &qiov, 0);
}

/*
 * Zero [@start, @end) of the file, but for holes: a crafted log may name the
 * whole of a very long file.
 */
static int coroutine_fn GRAPH_RDLOCK
zeros_apply(BlockDriverState *bs, uint64_t start, uint64_t end)
{
    int64_t bytes = 0;
    int ret = 0;

    for (; start < end && ret >= 0; start += bytes) {
        ret = bdrv_co_block_status(bs->file->bs, start, end - start, &bytes,
                                   NULL, NULL);
        if (ret >= 0 && bytes && (ret & BDRV_BLOCK_ZERO)) {
            continue;
        }
        if (ret < 0 || !bytes) {
            bytes = end - start;
        }
        ret = bdrv_co_pwrite_zeroes(bs->file, start, bytes, 0);
    }
    return MIN(ret, 0);
}

/*
 * Make the file as long as the log says.  On a node that can't grow, that may
 * be more than it ever had, where nothing is: older versions of this driver
 * rounded its length up.
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
    ret = bdrv_co_truncate(bs->file, s->replay->last_file_offset, false,
                           PREALLOC_MODE_OFF, 0, NULL);
    if (vhdx_length_refused(ret)) {
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
    int ret = 0;

    for (unsigned i = 0, n; i < t->count && ret == 0; i += n) {
        uint32_t first = t->pages[i].log_offset;

        for (n = 1; i + n < t->count && t->pages[i + n].log_offset ==
             first + n * VHDX_LOG_SECTOR; n++) {
            ;
        }
        ret = log_read(t->bs, first, n * VHDX_LOG_SECTOR,
                       buf + i * VHDX_PAGE_SIZE);
    }
    for (unsigned i = 0; i < t->count && ret == 0; i++) {
        if (!range_decode(t->bs->opaque, &t->pages[i],
                          buf + i * VHDX_PAGE_SIZE)) {
            /* Another process is writing to the image. */
            ret = -EIO;
        }
    }
    return ret;
}

/* vhdx_replay_apply() holds the graph lock for it. */
static int coroutine_fn GRAPH_RDLOCK apply_entry(AioTask *task)
{
    ApplyTask *t = container_of(task, ApplyTask, task);
    uint8_t *buf = qemu_try_blockalign(t->bs->file->bs,
                                       t->count * VHDX_PAGE_SIZE);
    int ret = buf ? apply_read(t, buf) : -ENOMEM;

    for (unsigned i = 0, n; i < t->count && ret == 0; i += n) {
        uint64_t first = t->pages[i].start;

        for (n = 1; i + n < t->count && t->pages[i + n].start ==
             first + n * VHDX_PAGE_SIZE; n++) {
            ;
        }
        ret = bdrv_co_pwrite(t->bs->file, first, n * VHDX_PAGE_SIZE,
                             buf + i * VHDX_PAGE_SIZE, 0);
    }
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
    int ret = length_apply(bs);

    return ret < 0 ? ret : index_apply(bs);
}
