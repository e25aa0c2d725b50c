/*
 * VHDX: the ring of log entries
 *
 * An entry's sectors may be overwritten once its pages are in place (applied),
 * that is stable (safe), and an entry whose Tail has gone past it is stable
 * too; until then a replay would begin at it.  Each commit's flush makes stable
 * what was applied before it, so the tail moves with commits and at no cost of
 * its own.  Only when the ring is too full for the next entry is there a
 * checkpoint: apply, flush, and an empty entry, flushed, that is its own tail.
 * One sector is held back for it.
 *
 *        safe       applied               sequence
 *          v           v                     v
 *   [ may be reused ][ in place ][ in the log ]  head ->
 *   ^ tail of the last stable entry: spans begin here
 *
 * Entries have space in the file before they are needed: where the log is a
 * hole, zeros are written there, the first MiB before any header names the log
 * and the next one before the head comes to it.  So lack of space is met by
 * whoever commits.  Pages may go to a hole: while there is no space for one it
 * stays in the log, which is as good.
 *
 * A failed write fails its request alone.  What was to be logged is dirty
 * still, and the head is where it was: the next entry goes to the same place
 * under the same number.  Should the failed one be there after all, it is one
 * that might have been acknowledged; and once the next is stable it is not
 * there any more, having lost its first sector.  Nothing of what may be left of
 * it behind the next one looks like the start of an entry.  What could not be
 * put in place is in the log still.
 *
 * A failed flush is different, as nobody knows then what of all this is on the
 * disk, or ever will be: storage may drop what it could not write, and flush
 * the rest the next time.  It latches: no more is written until the image is
 * opened again or the log resumed.  The latter believes only what was flushed
 * before.  What has been put in place since is so again before the tail passes
 * it.  Entries are taken back, by destroying where each begins: an entry that
 * is written in their place might end where another of them begins, with the
 * next number.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/memalign.h"
#include "block/aio_task.h"
#include "block/vhdx/bat-entry.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/change.h"
#include "block/vhdx/file.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/ring.h"
#include "block/vhdx/space.h"
#include "trace.h"

/* Pages that one write puts in place, and such writes at a time */
#define APPLY_PAGES     64
#define APPLY_WRITES    8

/* So many entries tell how long a write takes. */
#define WRITES_KNOWN    16

/* What of the log gets space at a time */
#define FILL_BYTES      MiB

/* An entry of so many bytes at the most is laid out in a buffer that stays. */
#define BUFFER_BYTES    (16 * VHDX_LOG_SECTOR)

typedef struct VHDXLogSpan {
    uint64_t sequence;
    uint32_t offset;                /* bytes from the start of the log */
    uint32_t length;                /* bytes */
    uint32_t tail;                  /* as the entry has it */
} VHDXLogSpan;

struct VHDXLog {
    VHDXGuid guid;
    uint64_t sequence;              /* of the newest entry */
    uint64_t stable;                /* ... and of the newest known stable */
    uint64_t given_up;              /* ... of the last whose write has failed */
    uint32_t head;                  /* where the next entry goes, bytes */
    uint32_t filled;                /* bytes from the start that have space */
    uint32_t used;                  /* bytes that may not be overwritten */
    GQueue *spans;                  /* entries in those bytes, oldest first */
    uint64_t applied;               /* pages up to this entry are in place */
    uint64_t safe;                  /* ... and stable there */
    uint8_t *buf;                   /* BUFFER_BYTES, or NULL */
    unsigned writes;                /* entries, up to WRITES_KNOWN */
    int64_t write_ns;               /* what an entry's write takes, about */
};

void vhdx_ring_init(BDRVVHDXState *s)
{
    s->log = g_new0(VHDXLog, 1);
    s->log->spans = g_queue_new();
}

void vhdx_ring_free(BDRVVHDXState *s)
{
    g_queue_free_full(s->log->spans, g_free);
    qemu_vfree(s->log->buf);
    g_clear_pointer(&s->log, g_free);
}

void vhdx_ring_begin(BDRVVHDXState *s)
{
    VHDXGuid guid = vhdx_guid_new();

    vhdx_assert_commit_locked(s);
    vhdx_ring_free(s);
    vhdx_ring_init(s);
    s->log->guid = guid;
    /*
     * Below 2^62, and random: readers that opened the image under another log
     * tell by their numbers that its sectors are gone.
     */
    s->log->sequence = ldq_be_p(guid.id) >> 2;
}

VHDXGuid vhdx_ring_guid(BDRVVHDXState *s)
{
    return s->log->guid;
}

uint64_t vhdx_ring_sequence(BDRVVHDXState *s)
{
    return s->log->sequence;
}

bool vhdx_ring_is_half_full(BDRVVHDXState *s)
{
    vhdx_assert_commit_locked(s);
    return s->log->used / VHDX_LOG_SECTOR >
           s->header.log_length / VHDX_LOG_SECTOR / 2;
}

int64_t vhdx_ring_write_ns(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->log && s->log->writes == WRITES_KNOWN ? s->log->write_ns : 0;
}

bool vhdx_ring_applied_is_stable(BDRVVHDXState *s)
{
    vhdx_assert_commit_locked(s);
    return s->log->safe == s->log->applied;
}

bool vhdx_ring_has_given_up(BDRVVHDXState *s)
{
    vhdx_assert_commit_locked(s);
    return s->log->sequence < s->log->given_up;
}

/* [tail-stable] [resume-placed] */
int coroutine_fn vhdx_ring_flush_data(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t applied = s->log->applied;
    int ret = vhdx_file_flush(bs);

    VHDX_LOCK_GUARD(s);
    vhdx_cache_applied_settle(s, ret == 0);
    if (ret < 0) {
        s->log->applied = s->log->safe;
        return ret;
    }
    s->log->safe = applied;
    s->log->stable = s->log->sequence;
    return 0;
}

/* [flush-latched] */
int coroutine_fn vhdx_ring_flush(BlockDriverState *bs)
{
    int ret = vhdx_ring_flush_data(bs);
    g_autofree char *why = NULL;

    if (ret < 0) {
        why = g_strdup_printf("failed to flush metadata: %s", strerror(-ret));
        vhdx_change_latch(bs, why);
    }
    return ret;
}

/* [resume-log] */
int coroutine_fn vhdx_ring_rewind(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXLog *log = s->log;
    uint8_t *zeros = qemu_blockalign0(bs->file->bs, VHDX_LOG_SECTOR);
    VHDXLogSpan *span;
    int ret = 0;

    vhdx_assert_commit_locked(s);
    for (GList *l = log->spans->tail; l && ret == 0; l = l->prev) {
        span = l->data;
        if (span->sequence <= log->stable) {
            break;
        }
        ret = vhdx_file_pwrite(bs, s->header.log_offset + span->offset,
                               VHDX_LOG_SECTOR, zeros);
    }
    qemu_vfree(zeros);
    log->given_up = MAX(log->given_up, log->sequence);
    while (ret == 0 && log->sequence > log->stable) {
        span = g_queue_pop_tail(log->spans);
        log->sequence--;
        log->head = span->offset;
        log->used -= span->length;
        g_free(span);
    }
    trace_vhdx_ring_rewind(s, log->sequence, ret);
    return ret;
}

/* [ring-reserve] */
uint32_t vhdx_ring_room(BDRVVHDXState *s)
{
    vhdx_assert_commit_locked(s);
    return s->header.log_length - VHDX_LOG_SECTOR - s->log->used;
}

/*
 * Write zeros where the file has a hole in @bytes bytes at @offset, which hold
 * nothing.  If the node can't tell there is nothing to be done.
 */
static int coroutine_fn GRAPH_RDLOCK
hole_fill(BlockDriverState *bs, uint64_t offset, uint64_t bytes)
{
    uint8_t *zeros = NULL;
    int ret = 0;

    while (bytes && ret == 0) {
        int64_t n;
        int status = vhdx_file_extent(bs, offset, bytes, &n);

        /* Behind the end of the file there is nothing either. */
        if (!(status & BDRV_BLOCK_DATA)) {
            zeros = zeros ?: qemu_try_blockalign0(bs->file->bs, bytes);
            /* Not by a request for zeroes, which may make just another hole */
            ret = zeros ? vhdx_file_pwrite(bs, offset, n, zeros) :
                  -ENOMEM;
        }
        offset += n;
        bytes -= n;
    }
    qemu_vfree(zeros);
    return ret;
}

/* Let the log have space in the file up to @end bytes from its start. */
static int coroutine_fn GRAPH_RDLOCK
ring_fill(BlockDriverState *bs, uint32_t end)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXLog *log = s->log;

    while (log->filled < end) {
        uint32_t bytes = MIN(FILL_BYTES, s->header.log_length - log->filled);
        int ret = hole_fill(bs, s->header.log_offset + log->filled, bytes);

        if (ret < 0) {
            return ret;
        }
        log->filled += bytes;
    }
    return 0;
}

/*
 * Where the log begins for a replay of the next entry: at the oldest one whose
 * pages may not be stable in place. [tail-stable]
 */
static uint32_t ring_tail(const VHDXLog *log)
{
    for (GList *l = log->spans->head; l; l = l->next) {
        VHDXLogSpan *span = l->data;

        if (span->sequence > log->safe) {
            return span->offset;
        }
    }
    return log->head;
}

/* Write the @bytes bytes at @buf at the head, from where they may go round. */
static int coroutine_fn GRAPH_RDLOCK
ring_put(BlockDriverState *bs, const uint8_t *buf, uint64_t bytes)
{
    BDRVVHDXState *s = bs->opaque;
    uint32_t head = s->log->head;
    uint32_t first = MIN(bytes, s->header.log_length - head);
    int ret;

    ret = ring_fill(bs, head + first);
    if (ret < 0) {
        return ret;
    }
    ret = vhdx_file_pwrite(bs, s->header.log_offset + head, first, buf);
    if (ret < 0 || first == bytes) {
        return ret;
    }
    return vhdx_file_pwrite(bs, s->header.log_offset, bytes - first,
                            buf + first);
}

/* An entry's write has taken @ns: if long, that says less than if short. */
static void write_ns_note(BDRVVHDXState *s, int64_t ns)
{
    VHDXLog *log = s->log;
    int64_t more = ns - log->write_ns;

    VHDX_LOCK_GUARD(s);
    log->write_ns += log->writes && more > 0 ? more / 8 : more;
    log->writes = MIN(log->writes + 1, WRITES_KNOWN);
}

/*
 * A buffer for an entry with @count descriptors, whose sectors are zeros, or
 * NULL.  buffer_put() takes it back.
 */
static uint8_t *buffer_get(BlockDriverState *bs, uint32_t count)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXLog *log = s->log;
    uint64_t bytes = vhdx_log_entry_size(count);
    uint8_t *buf;

    if (bytes <= BUFFER_BYTES) {
        if (!log->buf) {
            log->buf = qemu_try_blockalign0(bs->file->bs, BUFFER_BYTES);
        }
        return log->buf;
    }
    buf = qemu_try_blockalign(bs->file->bs, bytes);
    if (buf) {
        memset(buf, 0, vhdx_log_desc_sectors(count) * VHDX_LOG_SECTOR);
    }
    return buf;
}

/* Be done with @buf, which has an entry with @count descriptors. */
static void buffer_put(VHDXLog *log, uint8_t *buf, uint32_t count)
{
    if (buf == log->buf) {
        memset(buf, 0, VHDX_LOG_HEADER_SIZE + count * VHDX_LOG_DESC_SIZE);
    } else {
        qemu_vfree(buf);
    }
}

/* [last-length] [entry-retried] */
int coroutine_fn vhdx_ring_write(BlockDriverState *bs, uint32_t count,
                                 const uint64_t *offsets,
                                 uint8_t *const *data)
{
    BDRVVHDXState *s = bs->opaque;
    VHDXLog *log = s->log;
    uint64_t bytes = vhdx_log_entry_size(count);
    uint8_t *buf = buffer_get(bs, count);
    VHDXLogSpan *span;
    VHDXLogEntry entry = {
        .tail = ring_tail(log),
        .sequence = log->sequence + 1,
        .log_guid = log->guid,
    };
    int64_t start;
    int ret;

    vhdx_assert_commit_locked(s);
    if (!buf) {
        return -ENOMEM;
    }
    WITH_VHDX_LOCK_GUARD(s) {
        entry.flushed_file_offset = QEMU_ALIGN_DOWN(vhdx_file_stable_size(s),
                                                    VHDX_MIB);
        /* No replay asks a node that can't grow for more than it has. */
        entry.last_file_offset = MIN(vhdx_space_end(s),
                                     QEMU_ALIGN_DOWN(vhdx_file_size(s),
                                                     VHDX_MIB));
    }
    vhdx_log_entry_encode(&entry, count, offsets, data, buf);
    start = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    ret = ring_put(bs, buf, bytes);
    write_ns_note(s, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - start);
    buffer_put(log, buf, count);
    trace_vhdx_ring_write(s, entry.sequence, log->head, entry.tail, count, ret);
    if (ret < 0) {
        log->given_up = count ? entry.sequence : log->given_up;
        return ret;
    }

    span = g_new(VHDXLogSpan, 1);
    *span = (VHDXLogSpan) {
        .sequence = entry.sequence,
        .offset = log->head,
        .length = bytes,
        .tail = entry.tail,
    };
    g_queue_push_tail(log->spans, span);
    log->sequence = entry.sequence;
    log->head = (log->head + bytes) % s->header.log_length;
    log->used += bytes;
    assert(log->used <= s->header.log_length);
    return 0;
}

/* [ring-reuse] */
void vhdx_ring_release(BDRVVHDXState *s)
{
    VHDXLog *log = s->log;
    VHDXLogSpan *last = g_queue_peek_tail(log->spans);
    VHDXLogSpan *first;

    vhdx_assert_commit_locked(s);
    while ((first = g_queue_peek_head(log->spans))->offset != last->tail) {
        log->used -= first->length;
        g_free(g_queue_pop_head(log->spans));
    }
}

/* Pages next to each other in the file that are written in place at once */
typedef struct ApplyTask {
    AioTask task;
    BlockDriverState *bs;
    VHDXPage **pages;
    unsigned count;
} ApplyTask;

/* vhdx_ring_apply() holds the graph lock for it. */
static int coroutine_fn GRAPH_RDLOCK apply_entry(AioTask *task)
{
    ApplyTask *t = container_of(task, ApplyTask, task);
    BDRVVHDXState *s = t->bs->opaque;
    QEMUIOVector qiov;
    int ret;

    qemu_iovec_init(&qiov, t->count);
    for (unsigned i = 0; i < t->count; i++) {
        qemu_iovec_add(&qiov, t->pages[i]->logged, VHDX_PAGE_SIZE);
    }
    BLKDBG_CO_EVENT(t->bs->file, BLKDBG_L2_UPDATE);
    ret = vhdx_file_pwritev(t->bs, t->pages[0]->offset, qiov.size, &qiov, 0);
    qemu_iovec_destroy(&qiov);
    if (ret < 0) {
        return ret;
    }
    VHDX_LOCK_GUARD(s);
    for (unsigned i = 0; i < t->count; i++) {
        vhdx_cache_applied(s, t->pages[i]);
    }
    return 0;
}

/* How many of the @count sorted @pages lie next to each other. */
static unsigned pages_in_row(VHDXPage **pages, unsigned count)
{
    unsigned n = 1;

    while (n < MIN(count, APPLY_PAGES) &&
           pages[n]->offset == pages[n - 1]->offset + VHDX_PAGE_SIZE) {
        n++;
    }
    return n;
}

/* [log-first] */
int coroutine_fn vhdx_ring_apply(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    g_autoptr(GPtrArray) pages = NULL;
    AioTaskPool *pool;
    unsigned n;
    int ret;

    vhdx_assert_commit_locked(s);
    assert(!s->early);
    WITH_VHDX_LOCK_GUARD(s) {
        pages = vhdx_cache_logged_pages(s);
    }

    pool = aio_task_pool_new(APPLY_WRITES);
    for (unsigned i = 0; i < pages->len && aio_task_pool_status(pool) == 0;
         i += n) {
        VHDXPage **first = (VHDXPage **)pages->pdata + i;
        ApplyTask *t = g_new(ApplyTask, 1);

        n = pages_in_row(first, pages->len - i);
        *t = (ApplyTask) {
            .task.func = apply_entry,
            .bs = bs,
            .pages = first,
            .count = n,
        };
        aio_task_pool_start_task(pool, &t->task);
    }
    aio_task_pool_wait_all(pool);
    ret = aio_task_pool_status(pool);
    aio_task_pool_free(pool);
    trace_vhdx_ring_apply(s, pages->len, ret);
    if (ret < 0) {
        return ret;
    }
    s->log->applied = s->log->sequence;
    return 0;
}
