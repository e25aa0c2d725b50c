/*
 * VHDX: log replay
 *
 * An image whose header names a log may hold metadata that is stable in the
 * log only.  Open finds the active sequence, that is, the run of valid entries
 * with the highest sequence number whose tail lies within the run, and makes
 * an index of what it would change in the file.  From then on every read looks
 * as if the log had been replayed, while nothing has been written: a read-only
 * image stays as it is.  The first modification writes it all to the file.
 *
 * The index holds disjoint ranges of the file, one for each 4 KiB page with
 * the place of its data sector, and one for each run of zeros.  The data stays
 * in the log, so a log of 4 GiB needs no more than some dozen bytes a page.
 *
 * The log may hold anything.  An entry counts only with the right checksum,
 * and finding out takes time in proportion to its length; so that entries that
 * pretend to overlap cannot make that quadratic, the sum is bounded.
 *
 * SPDX-License-Identifier: LGPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/memalign.h"
#include "qemu/range.h"
#include "block/vhdx.h"

/* What is read of the log at a time */
#define READ_BYTES          MiB

/* Bytes to checksum at the most, in lengths of the log */
#define CHECKSUM_LAPS       16

/* Runs of zeros and pages to remember at the most */
#define MAX_RANGES          (2 * 1024 * 1024)

typedef struct VHDXReplayRange {
    uint64_t start;                 /* bytes, file offset */
    uint64_t end;
    bool zero;
    uint32_t log_offset;            /* of the data sector */
    uint8_t leading[8];
    uint8_t trailing[4];
} VHDXReplayRange;

typedef struct FoundEntry {
    VHDXLogEntry entry;
    uint32_t offset;                /* bytes from the start of the log */
    bool follows;                   /* another entry comes before it */
} FoundEntry;

/* -- The index -- */

/* Ranges in the tree are disjoint, so those that overlap compare as equal. */
static int ranges_order(const void *a, const void *b, void *opaque)
{
    const VHDXReplayRange *x = a, *y = b;

    return x->end <= y->start ? -1 : x->start >= y->end ? 1 : 0;
}

typedef struct RangeFinder {
    uint64_t offset;
    VHDXReplayRange *found;
} RangeFinder;

static int range_find(const void *key, const void *opaque)
{
    VHDXReplayRange *range = (VHDXReplayRange *)key;
    RangeFinder *finder = (RangeFinder *)opaque;

    if (range->end > finder->offset) {
        finder->found = range;
        return -1;
    }
    return 1;
}

/* The first range that ends behind @offset, or NULL. */
static VHDXReplayRange *range_from(VHDXReplay *replay, uint64_t offset)
{
    RangeFinder finder = { .offset = offset };

    g_tree_search(replay->ranges, range_find, &finder);
    return finder.found;
}

static void range_insert(VHDXReplay *replay, const VHDXReplayRange *range)
{
    VHDXReplayRange *copy = g_memdup2(range, sizeof(*range));

    g_tree_insert(replay->ranges, copy, copy);
}

/* Put @range into the index, over what is there. */
static void range_add(VHDXReplay *replay, VHDXReplayRange range)
{
    VHDXReplayRange *old;

    while ((old = range_from(replay, range.start)) &&
           old->start < range.end) {
        VHDXReplayRange left = *old, right = *old;

        g_tree_remove(replay->ranges, old);
        if (left.zero && range.zero) {
            range.start = MIN(range.start, left.start);
            range.end = MAX(range.end, left.end);
            continue;
        }
        /* Pages are cut only by ranges that cover them. */
        left.end = range.start;
        right.start = range.end;
        if (left.start < left.end) {
            range_insert(replay, &left);
        }
        if (right.start < right.end) {
            range_insert(replay, &right);
        }
    }
    range_insert(replay, &range);
}

void vhdx_replay_free(VHDXReplay *replay)
{
    if (replay) {
        g_tree_destroy(replay->ranges);
        g_free(replay);
    }
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
 * Whether @found, whose header is good, is valid as a whole.  Returns 1 if it
 * is, 0 if not, or -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
entry_verify(BlockDriverState *bs, const FoundEntry *found, uint32_t checksum,
             uint8_t *buf)
{
    const VHDXLogEntry *e = &found->entry;
    uint32_t desc_bytes = vhdx_log_desc_sectors(e->descriptors) *
                          VHDX_LOG_SECTOR;
    uint32_t descs = 0, data_descs = 0, crc = 0;

    for (uint32_t pos = 0; pos < e->length; pos += READ_BYTES) {
        uint32_t bytes = MIN(READ_BYTES, e->length - pos);
        int ret = log_read(bs, (uint64_t)found->offset + pos, bytes, buf);

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
        FoundEntry found = { .offset = pos };
        uint32_t checksum;

        if (window_at != at) {
            ret = log_read(bs, at, READ_BYTES, window);
            window_at = at;
            if (ret < 0) {
                break;
            }
        }
        if (!vhdx_log_entry_decode(window + (pos - at), length,
                                   &s->header.log_guid, &found.entry,
                                   &checksum)) {
            pos += VHDX_LOG_SECTOR;
            continue;
        }
        if (found.entry.length > budget) {
            error_setg(errp, "The log holds entries that overlap; first at "
                       "log offset %" PRIu64, pos);
            ret = -EINVAL;
            break;
        }
        budget -= found.entry.length;
        ret = entry_verify(bs, &found, checksum, buf);
        if (ret > 0) {
            g_array_append_val(entries, found);
            pos += found.entry.length;
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

static FoundEntry *entry_at(GArray *entries, GHashTable *by_offset,
                            uint32_t offset)
{
    void *value = g_hash_table_lookup(by_offset, GUINT_TO_POINTER(offset));

    return value ? &g_array_index(entries, FoundEntry,
                                  GPOINTER_TO_UINT(value) - 1) : NULL;
}

/* The entry that continues the run after @e, or NULL. */
static FoundEntry *entry_next(GArray *entries, GHashTable *by_offset,
                              const FoundEntry *e, uint32_t log_length)
{
    uint64_t offset = ((uint64_t)e->offset + e->entry.length) % log_length;
    FoundEntry *next = entry_at(entries, by_offset, offset);

    return next && next->entry.sequence == e->entry.sequence + 1 ? next : NULL;
}

/*
 * The entries of the active sequence from its tail to its head, or NULL where
 * no sequence counts.
 */
static GArray *sequence_find(GArray *entries, uint32_t log_length)
{
    g_autoptr(GHashTable) by_offset = g_hash_table_new(NULL, NULL);
    GArray *active = NULL;
    FoundEntry *e, *next, *tail = NULL;
    uint64_t best = 0;

    for (guint i = 0; i < entries->len; i++) {
        e = &g_array_index(entries, FoundEntry, i);
        g_hash_table_insert(by_offset, GUINT_TO_POINTER(e->offset),
                            GUINT_TO_POINTER(i + 1));
    }
    for (guint i = 0; i < entries->len; i++) {
        e = &g_array_index(entries, FoundEntry, i);
        next = entry_next(entries, by_offset, e, log_length);
        if (next) {
            next->follows = true;
        }
    }
    for (guint i = 0; i < entries->len; i++) {
        FoundEntry *first = &g_array_index(entries, FoundEntry, i);
        FoundEntry *head = first;

        if (first->follows) {
            continue;
        }
        while ((next = entry_next(entries, by_offset, head, log_length))) {
            head = next;
        }
        e = first;
        while (e && e->offset != head->entry.tail) {
            e = entry_next(entries, by_offset, e, log_length);
        }
        if (e && head->entry.sequence > best) {
            best = head->entry.sequence;
            tail = e;
        }
    }
    if (tail) {
        active = g_array_new(false, false, sizeof(FoundEntry));
        for (e = tail; e;
             e = entry_next(entries, by_offset, e, log_length)) {
            g_array_append_vals(active, e, 1);
        }
    }
    return active;
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
    };

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
    range_add(replay, range);
    if (g_tree_nnodes(replay->ranges) > MAX_RANGES) {
        error_setg(errp, "The log changes more than %d separate places",
                   MAX_RANGES);
        return -EINVAL;
    }
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
entry_index(BlockDriverState *bs, VHDXReplay *replay, const FoundEntry *found,
            uint64_t limit, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t desc_sectors = vhdx_log_desc_sectors(found->entry.descriptors);
    uint64_t data_at = found->offset + desc_sectors * VHDX_LOG_SECTOR;
    uint32_t descs = found->entry.descriptors;
    uint8_t *buf = qemu_blockalign(bs->file->bs, VHDX_LOG_SECTOR);
    int ret = 0;

    for (uint64_t sector = 0; sector < desc_sectors && ret == 0; sector++) {
        uint32_t i = sector ? 0 : VHDX_LOG_HEADER_SIZE;

        ret = log_read(bs, found->offset + sector * VHDX_LOG_SECTOR,
                       VHDX_LOG_SECTOR, buf);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "Could not read the log");
            break;
        }
        for (; i < VHDX_LOG_SECTOR && descs && ret == 0;
             i += VHDX_LOG_DESC_SIZE, descs--) {
            VHDXLogDesc desc;

            vhdx_log_desc_decode(buf + i, found->entry.sequence, &desc);
            ret = desc_index(s, replay, &desc,
                             data_at % s->header.log_length, limit, errp);
            if (desc.type == VHDX_LOG_DESC_DATA) {
                data_at += VHDX_LOG_SECTOR;
            }
        }
    }
    qemu_vfree(buf);
    return ret;
}

int coroutine_fn vhdx_replay_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autoptr(GArray) entries = g_array_new(false, false, sizeof(FoundEntry));
    g_autoptr(GArray) active = NULL;
    const VHDXLogEntry *head;
    VHDXReplay *replay;
    int64_t size;
    uint64_t limit;
    int ret;

    size = bdrv_co_getlength(bs->file->bs);
    if (size < 0) {
        error_setg_errno(errp, -size, "Could not get the file's length");
        return size;
    }
    ret = entries_find(bs, entries, errp);
    if (ret < 0) {
        return ret;
    }
    active = sequence_find(entries, s->header.log_length);
    if (!active) {
        char guid[UUID_STR_LEN];

        uuid_unparse_lower(s->header.log_guid.id, guid);
        error_setg(errp, "The header names the log %s, but there is no valid "
                   "sequence of entries with this LogGuid", guid);
        return -EINVAL;
    }
    head = &g_array_index(active, FoundEntry, active->len - 1).entry;
    if (head->flushed_file_offset > size) {
        error_setg(errp, "The file was cut off: it has %" PRId64 " bytes, but "
                   "its log has FlushedFileOffset %" PRIu64, size,
                   head->flushed_file_offset);
        return -EINVAL;
    }
    limit = MAX(head->last_file_offset, size);

    replay = g_new0(VHDXReplay, 1);
    replay->sequence = head->sequence;
    replay->last_file_offset = head->last_file_offset;
    replay->ranges = g_tree_new_full(ranges_order, NULL, g_free, NULL);
    for (guint i = 0; i < active->len && ret == 0; i++) {
        ret = entry_index(bs, replay, &g_array_index(active, FoundEntry, i),
                          limit, errp);
    }
    if (ret < 0) {
        vhdx_replay_free(replay);
        return ret;
    }
    s->replay = replay;
    return 0;
}

/* -- Reading through the index, and applying it -- */

/* Get the page that @range, not a run of zeros, stands for. */
static int coroutine_fn GRAPH_RDLOCK
range_read(BlockDriverState *bs, const VHDXReplayRange *range, uint8_t *page)
{
    VHDXLogDesc desc = { .type = VHDX_LOG_DESC_DATA };
    int ret;

    memcpy(desc.leading, range->leading, sizeof(desc.leading));
    memcpy(desc.trailing, range->trailing, sizeof(desc.trailing));
    ret = log_read(bs, range->log_offset, VHDX_LOG_SECTOR, page);
    if (ret == 0) {
        vhdx_log_data_decode(page, &desc, page);
    }
    return ret;
}

bool vhdx_replay_covers(BDRVVHDXState *s, uint64_t offset, uint64_t bytes)
{
    VHDXReplayRange *range;

    if (!vhdx_replay_active(s)) {
        return false;
    }
    range = range_from(s->replay, offset);
    return range && range->start < offset + bytes;
}

int coroutine_fn vhdx_replay_readv(BlockDriverState *bs, uint64_t offset,
                                   uint64_t bytes, QEMUIOVector *qiov,
                                   size_t qiov_offset)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXReplay *replay = vhdx_replay_active(s) ? s->replay : NULL;
    uint64_t end = offset + bytes;
    uint64_t pos = offset;
    VHDXReplayRange *range;
    uint8_t *page;
    int ret;

    ret = bdrv_co_preadv_part(bs->file, offset, bytes, qiov, qiov_offset, 0);
    if (ret < 0 || !replay) {
        return ret;
    }

    page = qemu_blockalign(bs->file->bs, VHDX_PAGE_SIZE);
    while (ret == 0 && pos < end && (range = range_from(replay, pos)) &&
           range->start < end) {
        uint64_t from = MAX(range->start, offset);
        uint64_t to = MIN(range->end, end);
        size_t at = qiov_offset + (from - offset);

        if (range->zero) {
            qemu_iovec_memset(qiov, at, 0, to - from);
        } else {
            ret = range_read(bs, range, page);
            qemu_iovec_from_buf(qiov, at, page + (from - range->start),
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

int coroutine_fn vhdx_replay_apply(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint8_t *page = qemu_blockalign(bs->file->bs, VHDX_PAGE_SIZE);
    VHDXReplayRange *range;
    int64_t size;
    int ret = 0;

    for (uint64_t pos = 0; ret == 0 && (range = range_from(s->replay, pos));
         pos = range->end) {
        if (range->zero) {
            ret = bdrv_co_pwrite_zeroes(bs->file, range->start,
                                        range->end - range->start, 0);
            continue;
        }
        ret = range_read(bs, range, page);
        if (ret == 0) {
            ret = bdrv_co_pwrite(bs->file, range->start, VHDX_PAGE_SIZE, page,
                                 0);
        }
    }
    qemu_vfree(page);
    if (ret < 0) {
        return ret;
    }

    size = bdrv_co_getlength(bs->file->bs);
    if (size < 0) {
        return size;
    }
    if (size < s->replay->last_file_offset) {
        ret = bdrv_co_truncate(bs->file, s->replay->last_file_offset, false,
                               PREALLOC_MODE_OFF, 0, NULL);
    }
    return ret;
}
