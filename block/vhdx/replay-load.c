/*
 * VHDX: finding in the log what is to be replayed
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
#include "qemu/memalign.h"
#include "qemu/range.h"
#include "block/vhdx/file.h"
#include "block/vhdx/replay-index.h"
#include "block/vhdx/replay-load.h"
#include "block/vhdx/replay.h"
#include "replay-int.h"
#include "trace.h"

/* What is read of the log at a time */
#define READ_BYTES          MiB

/* Bytes to checksum at the most, in lengths of the log */
#define CHECKSUM_LAPS       16

/* An entry that was found: what is needed to tell which sequence counts. */
typedef struct FoundEntry {
    uint64_t sequence;
    uint32_t offset;                /* bytes from the start of the log */
    uint32_t length;                /* bytes */
    uint32_t tail;                  /* bytes from the start of the log */
    bool follows;                   /* another entry comes before it */
} FoundEntry;

/* -- Finding the active sequence -- */

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
        int ret = vhdx_replay_log_read(bs, offset + pos, bytes, buf);

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
    int64_t n;
    int status = vhdx_file_extent(bs, s->header.log_offset + pos, rest, &n);

    if (status & BDRV_BLOCK_ZERO) {
        return QEMU_ALIGN_DOWN(n, VHDX_LOG_SECTOR);
    }
    /* Behind the end of the file there is nothing. */
    return status == BDRV_BLOCK_EOF ? rest : 0;
}

/* The log being gone through */
typedef struct Finder {
    GArray *entries;                /* FoundEntry, valid, as they lie there */
    uint8_t *window;                /* READ_BYTES of the log ... */
    uint64_t window_at;             /* ... from this offset in it on */
    uint8_t *buf;                   /* READ_BYTES, to verify an entry with */
    uint64_t budget;                /* bytes that may yet be verified */
} Finder;

/*
 * Have log offset @pos in the window.  Returns 0, how many bytes to go on by
 * because a hole begins there, or -errno.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
window_read(BlockDriverState *bs, Finder *f, uint64_t pos)
{
    uint64_t at = QEMU_ALIGN_DOWN(pos, READ_BYTES);
    uint64_t hole;

    if (f->window_at == at) {
        return 0;
    }
    hole = log_hole(bs, pos);
    if (hole) {
        return hole;
    }
    f->window_at = at;
    return vhdx_replay_log_read(bs, at, READ_BYTES, f->window);
}

/*
 * Collect the entry at log offset @pos, which is in the window, if there is a
 * valid one.  Returns how many bytes to go on by, or -errno.
 */
static int64_t coroutine_fn GRAPH_RDLOCK
entry_find(BlockDriverState *bs, Finder *f, uint64_t pos, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXLogEntry entry;
    FoundEntry found;
    uint32_t checksum;
    int ret;

    if (!vhdx_log_entry_decode(f->window + (pos - f->window_at),
                               s->header.log_length, &s->header.log_guid,
                               &entry, &checksum)) {
        return VHDX_LOG_SECTOR;
    }
    if (entry.length > f->budget) {
        error_setg(errp, "The log holds entries that overlap; first at log "
                   "offset %" PRIu64, pos);
        return -EINVAL;
    }
    f->budget -= entry.length;
    ret = entry_verify(bs, &entry, pos, checksum, f->buf);
    if (ret < 0) {
        return ret;
    }
    if (!ret) {
        return VHDX_LOG_SECTOR;
    }
    found = (FoundEntry) {
        .sequence = entry.sequence,
        .offset = pos,
        .length = entry.length,
        .tail = entry.tail,
    };
    g_array_append_val(f->entries, found);
    return entry.length;
}

/* Collect the valid entries of the log, in order of their offsets. */
static int coroutine_fn GRAPH_RDLOCK
entries_find(BlockDriverState *bs, GArray *entries, Error **errp)
{
    ERRP_GUARD();
    BDRVVHDXState *s = bs->opaque;
    uint64_t length = s->header.log_length;
    Finder f = {
        .entries = entries,
        .window = qemu_try_blockalign(bs->file->bs, READ_BYTES),
        .window_at = UINT64_MAX,
        .buf = qemu_try_blockalign(bs->file->bs, READ_BYTES),
        .budget = length * CHECKSUM_LAPS,
    };
    int64_t n = -ENOMEM;

    if (!f.window || !f.buf) {
        goto out;
    }
    for (uint64_t pos = 0; pos < length; pos += n) {
        n = window_read(bs, &f, pos);
        if (n == 0) {
            n = entry_find(bs, &f, pos, errp);
        }
        if (n < 0) {
            goto out;
        }
    }
out:
    if (n < 0 && !*errp) {
        error_setg_errno(errp, -n, "Could not read the log");
    }
    qemu_vfree(f.window);
    qemu_vfree(f.buf);
    return MIN(n, 0);
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

/* -- Making the index -- */

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
    int ret = vhdx_replay_log_read(bs, found->offset, VHDX_LOG_SECTOR, buf);

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
            ret = vhdx_replay_log_read(bs, offset + sector * VHDX_LOG_SECTOR,
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
        if (ret < 0) {
            goto out;
        }
        ret = entry_index(bs, replay, &entry, found.offset, limit, buf, errp);
        if (ret < 0 || found.sequence == head->sequence) {
            goto out;
        }
        found.offset = ((uint64_t)found.offset + entry.length) %
                       s->header.log_length;
        found.sequence++;
    }
out:
    qemu_vfree(buf);
    return ret;
}

/* Find the @tail and the @head of the active sequence, which there must be. */
static int coroutine_fn GRAPH_RDLOCK
log_search(BlockDriverState *bs, FoundEntry *tail, FoundEntry *head,
           Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autoptr(GArray) entries = g_array_new(false, false, sizeof(FoundEntry));
    char guid[UUID_STR_LEN];
    int ret;

    ret = entries_find(bs, entries, errp);
    if (ret < 0) {
        return ret;
    }
    if (!sequence_find(entries, s->header.log_length, tail, head)) {
        uuid_unparse_lower(s->header.log_guid.id, guid);
        error_setg(errp, "The header names the log %s, but there is no valid "
                   "sequence of entries with this LogGuid", guid);
        return -EINVAL;
    }
    return 0;
}

int coroutine_fn vhdx_replay_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    FoundEntry tail, head;
    int ret;

    /* The index may need the memory that the search has freed at its end. */
    ret = log_search(bs, &tail, &head, errp);
    if (ret < 0) {
        return ret;
    }
    s->replay = g_new0(VHDXReplay, 1);
    s->replay->index = vhdx_replay_index_new();
    ret = sequence_index(bs, s->replay, &tail, &head, errp);
    if (ret < 0) {
        vhdx_replay_free(s);
        return ret;
    }
    trace_vhdx_replay_index(s, tail.sequence, head.sequence,
                            s->replay->last_file_offset);
    return 0;
}
